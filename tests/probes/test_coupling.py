import copy
import math

import pytest
import torch
from torch import nn

from normscope.model.find import find
from normscope.probes.coupling import coupling_of_noise, coupling_of_step, measurements


def test_of_a_step_equals_the_network_with_only_the_layers_below_stepped(task):
    task.model.eval()
    found = coupling_of_step(task.model, task.loss, task.optimizer)
    assert list(found) == ["4", "8", "11"]
    twin = copy.deepcopy(task.model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    optimizer.load_state_dict(copy.deepcopy(task.optimizer.state_dict()))
    grads = torch.autograd.grad(nn.functional.cross_entropy(twin(task.x), task.y), list(twin.parameters()))
    for parameter, grad in zip(twin.parameters(), grads, strict=True):
        parameter.grad = grad
    optimizer.step()
    mixed = nn.Sequential(*twin[:8], *task.model[8:])
    start, after = (nn.functional.cross_entropy(m(task.x), task.y).item() for m in (task.model, mixed))
    x, y = task.model[:8](task.x).detach().double(), twin[:8](task.x).detach().double()
    deviation = x.std(0, correction=0)
    live = deviation > 0
    distance = ((x.mean(0) - y.mean(0)) / deviation)[live].square().mean().sqrt()
    moved = ((x - y).square().sum() / (x - x.mean(0)).square().sum()).sqrt()
    assert found["8"].loss == pytest.approx(after - start, abs=1e-6)
    assert found["8"].distance == pytest.approx(float(distance), rel=1e-4)
    assert found["8"].representation == pytest.approx(float(moved), rel=1e-4)


@pytest.mark.usefixtures("unchanged")
def test_leaves_the_network_as_it_was(task):
    coupling_of_step(task.model, task.loss, task.optimizer)


@pytest.mark.usefixtures("unchanged")
def test_noise_is_of_the_given_size_and_repeats(task):
    first, again = (coupling_of_noise(task.model, task.loss, scale=0.03, seed=4) for _ in range(2))
    assert first == again
    assert coupling_of_noise(task.model, task.loss, scale=0.03, seed=5) != first
    assert all(item.representation == 0 for item in coupling_of_noise(task.model, task.loss, scale=0.0).values())


def test_relative_noise_of_one_linear_layer_moves_its_output_by_that_much():
    """White inputs through a linear layer: the change of the output is the change of the weights, per example."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256, bias=False), nn.Linear(256, 2))
    x = torch.randn(4096, 64)
    found = coupling_of_noise(model, lambda: model(x).square().mean(), scale=0.03)
    assert found["1"].representation == pytest.approx(0.03, rel=0.02)
    slope = math.log(
        coupling_of_noise(model, lambda: model(x).square().mean(), scale=0.12)["1"].representation
        / found["1"].representation
    ) / math.log(4)
    assert slope == pytest.approx(1, abs=1e-3)


def test_batch_norm_pins_the_moments_that_it_normalizes(task):
    """By construction: in training mode the output of a batch norm keeps its moments whatever happens below."""
    sites = [("relu", task.model[2]), ("norm", task.model[5])]
    found = coupling_of_noise(task.model, task.loss, scale=0.3, sites=sites)
    assert found["relu"].distance < 1e-3
    assert found["norm"].distance > 0.05


def test_the_layer_itself_does_not_move(task):
    """A step of the layers above or at a site does not count: plant one there and see nothing."""
    sites = [(layer.name, layer.module) for layer in find(task.model).layers]
    still = torch.optim.SGD([task.model[8].weight, task.model[11].weight], lr=10.0)
    found = coupling_of_step(task.model, task.loss, still, sites)
    assert list(found) == ["1", "5", "9"]
    assert found["5"].representation == found["1"].representation == found["5"].loss == 0
    assert found["9"].representation > 1


def test_measurements(task):
    rows = measurements(coupling_of_noise(task.model, task.loss), "noise", 2)
    assert len(rows) == 12
    assert rows[0].quantity == "distance of the input means after noise below"


def test_an_embedding_is_left_out():
    """Its input are indices: they have no moments, and no step below moves them."""
    torch.manual_seed(0)
    first, embedding, head = nn.Linear(4, 8), nn.Embedding(10, 8), nn.Linear(8, 2)
    model = nn.ModuleList([first, embedding, head])
    x, index = torch.randn(16, 4), torch.arange(16) % 10
    found = coupling_of_noise(model, lambda: head((first(x) + embedding(index)).relu()).square().mean())
    assert list(found) == ["2"]
    assert found["2"].representation > 0
