import copy

import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.probes.order import order_of
from normscope.probes.santurkar import gradient_shift, landscape, measurements


def gradients(model, task):
    with torch.random.fork_rng():
        loss = nn.functional.cross_entropy(model(task.x), task.y)
        return dict(
            zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True)
        )


@pytest.mark.usefixtures("unchanged")
def test_gradient_shift_equals_the_definition_written_out(task):
    """Definition 2.1: gradient of W_i before and after the layers below took their step, all else at t."""
    found = gradient_shift(task.model, task.loss, task.optimizer)
    assert list(found) == ["4", "8", "11"]
    before = gradients(copy.deepcopy(task.model), task)
    twin = copy.deepcopy(task.model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    optimizer.load_state_dict(copy.deepcopy(task.optimizer.state_dict()))
    for parameter, gradient in zip(twin.parameters(), before.values(), strict=True):
        parameter.grad = gradient
    optimizer.step()
    for name, below in (("4", ("0", "1")), ("8", ("0", "1", "4", "5")), ("11", ("0", "1", "4", "5", "8", "9"))):
        mixed = copy.deepcopy(task.model)
        for part in below:
            mixed[int(part)].load_state_dict(twin[int(part)].state_dict())
        after = gradients(mixed, task)
        own = [key for key in before if key.split(".")[0] == name]
        g, h = (torch.cat([grads[key].flatten() for key in own]).double() for grads in (before, after))
        assert found[name].absolute == pytest.approx(float((g - h).norm()), rel=1e-4)
        assert found[name].relative == pytest.approx(float((g - h).norm() / g.norm()), rel=1e-4)
        assert found[name].cosine == pytest.approx(float(nn.functional.cosine_similarity(g, h, 0)), abs=1e-6)


def test_no_step_no_shift(task):
    still = torch.optim.SGD(task.model.parameters(), lr=0.0)
    for shift in gradient_shift(task.model, task.loss, still).values():
        assert shift.relative == 0
        assert shift.cosine == pytest.approx(1)


def test_a_longer_step_shifts_more(task):
    def total(rate):
        optimizer = torch.optim.SGD(task.model.parameters(), lr=rate)
        return sum(shift.relative for shift in gradient_shift(task.model, task.loss, optimizer).values())

    assert total(0.001) < total(0.01) < total(0.1)


def test_stages_of_ones_own(task):
    stages = order_of(task.model, task.run).stages()
    both = gradient_shift(task.model, task.loss, task.optimizer, [stages[0], stages[3]])
    assert list(both) == ["11"]
    assert gradient_shift(task.model, task.loss, task.optimizer, []) == {}


class Bowl(nn.Module):
    """Loss 0.5 sum c_i w_i^2, for which every number of the landscape is known."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
        self.norm = nn.BatchNorm1d(1)

    def forward(self):
        return 0.5 * (torch.tensor([3.0, 1.0], dtype=torch.float64) * self.w.square()).sum()


def test_landscape_of_a_quadratic():
    model = Bowl()
    found = landscape(model, model, [0.1, 0.5])
    curve, w = torch.tensor([3.0, 1.0], dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    g = curve * w
    losses = [float(0.5 * (curve * (w - s * g).square()).sum()) for s in (0.1, 0.5)]
    assert found.start == pytest.approx(3.5)
    assert found.losses == pytest.approx(losses)
    assert found.variation == pytest.approx(abs(losses[0] - losses[1]))
    changes = [float((curve * s * g).norm()) for s in (0.1, 0.5)]
    assert found.changes == pytest.approx(changes)
    assert found.predictiveness == pytest.approx(changes[1])
    # beta is the same at every step of a quadratic, and at most its largest curvature
    assert found.smoothness == pytest.approx(float((curve * g).norm() / g.norm()))
    assert found.smoothness <= 3
    assert torch.equal(model.w.detach(), w)


@pytest.mark.usefixtures("unchanged")
def test_landscape_leaves_the_network_as_it_was(task):
    landscape(task.model, task.loss, [0.01, 0.1])


@pytest.mark.parametrize("steps", [[], [0.0], [-1.0, 1.0]])
def test_steps_must_be_positive(task, steps):
    with pytest.raises(InputError, match="step sizes greater than 0"):
        landscape(task.model, task.loss, steps)


def test_measurements(task):
    rows = measurements(
        gradient_shift(task.model, task.loss, task.optimizer), landscape(task.model, task.loss, [0.1]), step=5
    )
    assert {row.probe for row in rows} == {"gradient shift", "landscape"}
    assert {row.step for row in rows} == {5}
    assert len(rows) == 3 * 2 + 3
