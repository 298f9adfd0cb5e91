import pytest
import torch
from torch import nn

from normscope.check import gap as gaps
from normscope.check.run import check


def mean_square(output, _target):
    return output.square().mean()


def linear(kit):
    """One layer whose output is the network's: the loss is quadratic in what its mean is off by."""
    torch.manual_seed(0)
    batches = [(x.flatten(1), torch.zeros(len(x), 6)) for x, _ in kit.batches(*kit.data())]
    model = nn.Sequential(nn.Linear(48, 6, bias=False), nn.BatchNorm1d(6, affine=False))
    return kit.healthy(model, batches), batches


def loop(model, batches, others):
    """A step that runs the network on `others(x)` before each batch, in train mode."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    at = [0]

    def step():
        model.train()
        x = batches[at[0] % len(batches)][0]
        at[0] += 1
        for other in others(x):
            model(other)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return {"optimizer": optimizer, "step": step}


def causes(model, batches, **options):
    found = check(model, batches, loss=mean_square, select=["BN003"], **options).gap
    return {share.name: share.value for share in found.causes}, found.evaluation - found.train


def test_a_second_forward_on_other_values_has_a_share_of_its_own(kit):
    """Two forwards in turn weigh .9 to 1 at momentum .1, and 4 units at one layer of 6 are known in deviations."""
    model, batches = linear(kit)
    shift = 4 * model[0].weight.detach().pinverse()[:, 0]
    steps = loop(model, batches, lambda x: [x + shift])
    for _ in range(100):
        steps["step"]()
    off = 0.9 / 1.9 * 4 / model[1].running_var[0].sqrt()
    found, whole = causes(model, batches, **steps)
    assert found[gaps.DOUBLED] == pytest.approx(float(off**2 / 6), rel=0.1)
    assert found[gaps.DOUBLED] > 10 * abs(found[gaps.STALE])
    assert sum(found.values()) == pytest.approx(whole, abs=1e-9)


def test_a_step_that_has_not_done_its_harm_yet_has_none(kit):
    model, batches = linear(kit)
    found, _ = causes(model, batches, **loop(model, batches, lambda _: []))
    assert gaps.DOUBLED not in found
    steps = loop(model, batches, lambda x: [5 * x + 3])
    before, _ = causes(model, batches, **steps)
    for _ in range(100):
        steps["step"]()
    after, _ = causes(model, batches, **steps)
    assert abs(before[gaps.DOUBLED]) < 0.01 * abs(after[gaps.DOUBLED])


def test_the_same_values_again_are_no_cause(kit):
    model, batches = linear(kit)
    steps = loop(model, batches, lambda x: [x])
    for _ in range(50):
        steps["step"]()
    assert gaps.DOUBLED not in causes(model, batches, **steps)[0]
