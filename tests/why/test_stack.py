import copy

import pytest
import torch
from torch import nn

from normscope.model.batch import Batch, Examples
from normscope.model.spec import default_loss
from normscope.surgery.remove import ChannelAffine
from normscope.why import arms, data, networks, train
from normscope.why.arms import FULL, Arm
from normscope.why.data import Data
from normscope.why.members import Single
from normscope.why.stack import Stack, _dropout, stackable

RATES = (0.03, 0.1, 0.3)
SEEDS = (3, 4, 5)
ARMS = [
    Arm("batch norm"),
    Arm("plain", norm="removed"),
    Arm("ghost 8", norm="ghost", ghost=8),
    Arm("ghost 16, batch of 40 as 20 + 20", norm="ghost", ghost=16),
    Arm("ghost 12, batch of 40 as 14 + 13 + 13", norm="ghost", ghost=12),
    Arm("ghost 30, batch of 40 whole", norm="ghost", ghost=30),
    Arm("full", norm="full"),
    Arm("lowest weights frozen", frozen=1),
]


def double(examples: Examples, count: int) -> Examples:
    whole = examples.subset(torch.arange(count)).whole
    return Examples(Batch((whole.args[0].double(),), {}, whole.target))


def make(arm: Arm, seeds=SEEDS, examples: int = 150):
    """The same networks and data as a stack and as singles, in float64, so that only a real difference shows."""
    models, datas = [], []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(arms.build(networks.mlp(64, 24, 16, 10), arm, seed).double())
        found = data.load("mlp2" if examples <= 300 else "mlp6", "noisy", arm, seed)
        datas.append(Data(double(found.train, examples), double(found.test, 60)))
    full = arm.norm == "full"
    singles = [
        Single(copy.deepcopy(model), own, default_loss(own.train.target), full=full)
        for model, own in zip(models, datas, strict=True)
    ]
    return Stack(models, datas, full=full), singles


def trajectory(members, seeds, rates, steps=25):
    seen = []

    def observe(_step, current):
        seen.append([output.clone() for output in current.outputs("test")])

    train.train(members, seeds=seeds, rates=rates, steps=steps, batch=40, decay=True, updates=1.25, observe=observe)
    return seen


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_a_whole_training_of_a_stack_is_that_of_every_member_alone(arm):
    stack, singles = make(arm)
    together = trajectory(stack, SEEDS, RATES)
    for at, single in enumerate(singles):
        alone = trajectory(single, SEEDS[at : at + 1], RATES[at : at + 1])
        for step, (outputs, (output,)) in enumerate(zip(together, alone, strict=True)):
            torch.testing.assert_close(outputs[at], output, rtol=1e-8, atol=1e-9, msg=lambda m, s=step: f"{s}: {m}")
        for (name, value), other in zip(
            stack.models()[at].named_parameters(), single.models()[0].parameters(), strict=True
        ):
            torch.testing.assert_close(value, other, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_losses_gradients_and_running_statistics_of_one_step_are_equal(arm):
    stack, singles = make(arm)
    index = torch.stack([torch.randperm(150, generator=torch.Generator().manual_seed(seed))[:40] for seed in SEEDS])
    weights = torch.tensor([0.5, -2.0, 1.5], dtype=torch.float64)
    stack.gradients(index, weights)
    templates = stack.models()
    for at, single in enumerate(singles):
        single.gradients(index[at : at + 1], weights[at : at + 1])
        for (name, value), other in zip(templates[at].named_buffers(), single.model.buffers(), strict=True):
            if "running" in name:
                torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-12)
        expected = torch.cat([value.grad.flatten() for value in single.parameters()])
        (flat,) = stack.parameters()
        torch.testing.assert_close(flat.grad[at], expected, rtol=1e-9, atol=1e-12)
        losses = stack.losses(index)
        torch.testing.assert_close(losses[at], single.losses(index[at : at + 1])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arm", ARMS[:3], ids=lambda arm: arm.name)
def test_members_that_leave_do_not_touch_those_that_stay(arm):
    whole, _ = make(arm)
    fewer, _ = make(arm)
    seen = []

    def observe(step, members):
        seen.append(len(members.datas))
        return [0, 2] if step == 6 else [1] if step == 12 else None

    arguments = {"seeds": SEEDS, "rates": RATES, "steps": 20, "batch": 40, "every": 3}
    train.train(whole, **arguments)
    train.train(fewer, **arguments, observe=observe)
    assert seen == [3, 3, 3, 2, 2, 1, 1, 1]
    (left,), last = fewer.models(), whole.models()[2]
    for (name, value), other in zip(left.state_dict().items(), last.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_keeps_its_share_and_the_mean_and_never_the_same_units(p):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(0), nn.Dropout(p))
    x = torch.ones(3, 50, 101, requires_grad=True)
    first, second = _dropout(x, p), _dropout(x, p)
    count = x.numel()
    for y in (first, second, model.train()(x).view(x.shape)):
        kept = y != 0
        assert abs(int(kept.sum()) - (1 - p) * count) < 4 * (p * (1 - p) * count) ** 0.5
        torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)))
    both = int(((first != 0) & (second != 0)).sum())
    assert abs(both - (1 - p) ** 2 * count) < 4 * (count / 4) ** 0.5
    (gradient,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(gradient, first)


def test_more_training_examples_than_give_full_statistics_are_left_out_alike():
    stack, singles = make(Arm("full", norm="full"), examples=FULL + 100)
    index = torch.stack([torch.randperm(FULL + 100)[:40] for _ in SEEDS])
    losses = stack.losses(index)
    for at, single in enumerate(singles):
        torch.testing.assert_close(losses[at], single.losses(index[at : at + 1])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("arm", [*ARMS, Arm("dropped", norm="full", dropout=0.5)], ids=lambda arm: arm.name)
def test_population_statistics_are_those_of_the_training_set_and_leave_again(arm):
    stack, singles = make(arm)
    trajectory(stack, SEEDS, RATES, steps=5)
    before = [output.clone() for output in stack.outputs("test")]
    with stack.population():
        exact = [output.clone() for output in stack.outputs("test")]
        train_outputs = [output.clone() for output in stack.outputs("train")]
    for was, now in zip(before, stack.outputs("test"), strict=True):
        assert torch.equal(was, now)
    for at, single in enumerate(singles):
        single.model.load_state_dict(stack.models()[at].state_dict())
        with single.population():
            torch.testing.assert_close(exact[at], single.outputs("test")[0], rtol=1e-9, atol=1e-10)
        assert torch.equal(single.outputs("test")[0], stack.outputs("test")[at]) or torch.allclose(
            single.outputs("test")[0], stack.outputs("test")[at], rtol=1e-10
        )
    if arm.norm == "kept":
        # Training mode on the whole set normalizes by the same biased statistics.
        templates = stack.models()
        inputs = stack.datas[1].train.whole.args[0]
        torch.testing.assert_close(train_outputs[1], templates[1].train()(inputs), rtol=1e-9, atol=1e-10)


def test_an_exception_among_population_statistics_leaves_the_running_ones():
    stack, _ = make(Arm("batch norm"))
    before = stack.outputs("test")[0].clone()
    with pytest.raises(KeyError), stack.population():
        raise KeyError
    assert torch.equal(before, stack.outputs("test")[0])


def test_noise_of_the_statistics_is_the_same_draw_for_draw():
    arm = Arm("noisy", norm="full", ghost=12, noise=(0.2, 0.3))
    stack, (single,) = make(arm, seeds=(1,))
    index = torch.randperm(150, generator=torch.Generator().manual_seed(0))[:40].unsqueeze(0)
    torch.manual_seed(7)
    noisy = stack.losses(index)
    torch.manual_seed(7)
    torch.testing.assert_close(noisy, single.losses(index), rtol=1e-6, atol=1e-7)
    torch.manual_seed(8)
    assert abs(float((stack.losses(index) - noisy).detach())) > 1e-4
    assert torch.equal(stack.outputs("test")[0], stack.outputs("test")[0])


def test_dropout_stands_at_the_same_place_on_in_training_and_off_in_evaluation(monkeypatch):
    def halved(x, p=0.5, training=True, inplace=False):
        assert not inplace
        return x * (1 - p) if training else x

    monkeypatch.setattr(nn.functional, "dropout", halved)
    monkeypatch.setattr("normscope.why.stack._dropout", halved)
    for norm in ("kept", "removed"):
        stack, singles = make(Arm("dropped", norm=norm, dropout=0.4))
        together = trajectory(stack, SEEDS, RATES, steps=4)
        alone = trajectory(singles[0], SEEDS[:1], RATES[:1], steps=4)
        torch.testing.assert_close(together[-1][0], alone[-1][0], rtol=1e-9, atol=1e-10)
        bare, _ = make(Arm("bare", norm=norm))
        assert not torch.allclose(together[-1][0], trajectory(bare, SEEDS, RATES, steps=4)[-1][0])


def test_a_member_that_diverges_stays_alone():
    stack, singles = make(Arm("plain", norm="removed"))
    together = trajectory(stack, SEEDS, (0.03, 1e20, 0.3), steps=8)
    alone = trajectory(singles[2], SEEDS[2:], (0.3,), steps=8)
    assert not bool(together[-1][1].isfinite().all())
    torch.testing.assert_close(together[-1][2], alone[-1][0], rtol=1e-9, atol=1e-10)


def test_only_what_the_stack_knows_is_stackable():
    assert stackable(networks.mlp(4, 3, 2))
    assert stackable(nn.Sequential(nn.Sequential(ChannelAffine(torch.ones(2), torch.zeros(2)), nn.Dropout(0.1))))
    assert not stackable(networks.conv(3, 4, 4))
    assert not stackable(nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Tanh())))
    assert not stackable(nn.Sequential(nn.Linear(2, 2, bias=False)))
    assert not stackable(nn.Sequential(nn.BatchNorm1d(2, affine=False)))
    assert not stackable(nn.Sequential(nn.BatchNorm1d(2, momentum=None)))
    assert not stackable(nn.Linear(2, 2))
