import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from normscope.surgery.statistics import guard_statistics, hold_statistics


def test_outputs_are_those_of_train_mode_and_no_buffer_moves(kit):
    model = kit.sequential()
    model[8].p = 0.0
    saved, x = kit.state(model), kit.images(8)[0]
    twin = copy.deepcopy(model)
    buffers = dict(model.named_buffers())
    with hold_statistics(model):
        first, second = model(x), model(x)
        assert kit.same(model, saved)
    assert torch.equal(first, second)
    assert torch.equal(first, twin(x))
    assert kit.same(model, saved)
    assert all(value is buffers[name] for name, value in model.named_buffers())
    model(x)
    assert not kit.same(model, saved)


def test_buffers_stay_through_an_exception(kit):
    model = kit.sequential()
    saved = kit.state(model)

    def moved_then_failed():
        with hold_statistics(model):
            model(kit.images(8)[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        moved_then_failed()
    assert kit.same(model, saved)
    assert not model[1]._forward_hooks


def test_a_backward_through_a_held_forward_works(kit):
    model = kit.sequential()
    x, y = kit.images(8)
    with hold_statistics(model):
        loss = nn.functional.cross_entropy(model(x), y) + nn.functional.cross_entropy(model(x + 1), y)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("held", [False, True])
def test_checkpoint_recomputation_updates_once_only_when_held(kit, held):
    model = kit.sequential()
    block = model[:6]
    contexts = {"context_fn": lambda: (nullcontext(), hold_statistics(block))} if held else {}
    x = kit.images(8)[0].requires_grad_()
    model[6:](checkpoint(block, x, use_reentrant=False, **contexts)).sum().backward()
    assert int(model[1].num_batches_tracked) == (1 if held else 2)


def test_buffers_of_other_layers_are_held_too():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen += 1
            return x

    model = nn.Sequential(Counter(), nn.BatchNorm1d(2))
    with hold_statistics(model):
        model(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    assert float(model[0].seen) == 0


def step(kit, model, optimizer, guard, *, spoil=None, do_step=True):
    x, y = kit.images(8)
    if spoil == "input":
        x = x * float("inf")
    with guard:
        loss = guard.watch(nn.functional.cross_entropy(model(x), y))
        loss.backward()
        if spoil == "gradient":
            model[0].weight.grad[0] = float("nan")
        if do_step:
            optimizer.step()
    return guard.rolled_back


def test_a_good_step_moves_the_buffers(kit):
    model = kit.sequential()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    saved = kit.state(model[1])
    assert step(kit, model, optimizer, guard_statistics(model, optimizer)) is None
    assert not torch.equal(model[1].running_mean, saved["running_mean"])


@pytest.mark.parametrize(
    ("spoil", "do_step", "words"),
    [
        ("input", True, "the loss is not finite"),
        ("gradient", True, r"the gradient of 0\.weight is not finite"),
        (None, False, "the optimizer's step was skipped"),
    ],
)
def test_a_bad_step_is_rolled_back(kit, spoil, do_step, words):
    model = kit.trained_a_little(kit.sequential(), kit.images(8)[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    said = step(kit, model, optimizer, guard_statistics(model, optimizer), spoil=spoil, do_step=do_step)
    assert said == words.replace("\\", "")
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_a_step_that_raises_is_rolled_back_and_raises(kit):
    model = kit.sequential()
    saved = kit.state(model)
    guard = guard_statistics(model)

    def moved_then_failed():
        with guard:
            model(kit.images(8)[0])
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        moved_then_failed()
    assert guard.rolled_back == "the step raised RuntimeError"
    assert kit.same(model, saved)


def test_a_skip_by_the_scaler_is_seen(kit):
    model = kit.sequential()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    saved = kit.state(model)
    x, y = kit.images(8)
    with guard_statistics(model, optimizer) as guard:
        scaler.scale(100 * nn.functional.cross_entropy(model(x), y)).backward()
        for parameter in model.parameters():
            parameter.grad.nan_to_num_(posinf=float("inf"))
        scaler.step(optimizer)
        scaler.update()
    assert guard.rolled_back == "the optimizer's step was skipped"
    assert kit.same(model, saved)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    optimizer.zero_grad()
    with guard_statistics(model, optimizer) as guard:
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert guard.rolled_back is None
