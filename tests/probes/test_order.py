import pytest
import torch
from torch import nn

from normscope.probes.order import order_of


class Backwards(nn.Module):
    """Registered in another order than it runs, with a parameter of its own and a bypassed child."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)
        self.body = nn.Linear(3, 4)
        self.bypassed = nn.Linear(2, 2)
        self.unused = nn.Linear(5, 5)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(requires_grad=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        y = self.head(self.norm(self.body(x)).relu()) * self.scale
        return self.frozen(nn.functional.linear(y, self.bypassed.weight))


def test_order_is_that_of_the_forward_pass():
    model = Backwards()
    order = order_of(model, lambda: model(torch.randn(6, 3)))
    assert [name for name, _ in order.sites] == ["", "body", "norm", "head", "frozen"]
    # the network itself holds the scale and the weight that it uses past its module
    assert [stage.name for stage in order.stages()] == ["", "body", "head"]
    every = [id(p) for owned in order.owned for p in owned]
    assert sorted(every) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_norm_layers_belong_to_the_stage_below_them(task):
    stages = order_of(task.model, task.run).stages()
    assert [stage.name for stage in stages] == ["0", "4", "8", "11"]
    assert [len(stage.weights) for stage in stages] == [1, 1, 2, 2]
    assert [len(stage.parameters) for stage in stages] == [3, 3, 4, 2]


def test_below_lists_what_ran_before(task):
    order = order_of(task.model, task.run)
    assert order.below(task.model[0]) == []
    assert [id(p) for p in order.below(task.model[5])] == [
        id(task.model[0].weight),
        id(task.model[1].weight),
        id(task.model[1].bias),
        id(task.model[4].weight),
    ]
    assert order.below(nn.Linear(1, 1)) == []


def test_shared_modules_and_parameters_count_once():
    shared = nn.Linear(3, 3)
    tied = nn.Linear(3, 3)
    tied.weight = shared.weight
    model = nn.Sequential(shared, nn.BatchNorm1d(3), shared, tied)
    order = order_of(model, lambda: model(torch.randn(6, 3)))
    every = [id(p) for owned in order.owned for p in owned]
    assert len(every) == len(set(every)) == 5
    assert order.below(shared) == []


@pytest.mark.usefixtures("unchanged")
def test_order_leaves_the_network_as_it_was(task):
    order_of(task.model, task.run)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_parts_have_no_place():
    model = nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.Linear(3, 3)), nn.Linear(3, 3))
    order = order_of(model, lambda: model(torch.randn(6, 3)))
    assert [stage.name for stage in order.stages()] == ["0", "2"]
    assert len(order.below(model[2])) == 2
