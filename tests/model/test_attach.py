import copy
import pickle
import random

import numpy as np
import pytest
import torch
from torch import nn

from normscope.model import attach
from normscope.model.find import NormLayer, find


def hooks(model):
    return [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._forward_hooks_with_kwargs), m._compiled_call_impl)
        for m in model.modules()
    ]


def generators():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def same_generators(left, right):
    return torch.equal(left[0], right[0]) and bool((left[1] == right[1]).all()) and left[2] == right[2]


@pytest.mark.parametrize("keyword", [False, True])
def test_on_forward_sees_input_and_output_and_may_replace_it(images, keyword):
    layer = nn.BatchNorm2d(2)
    found = find(nn.Sequential(layer)).layers
    seen = []

    def double(at, module, x, y):
        seen.append((at.name, module, x, y))
        return 2 * y

    expected = copy.deepcopy(layer)(images)
    with attach.on_forward(found, double):
        output = layer(input=images) if keyword else layer(images)
    ((name, module, x, y),) = seen
    assert (name, module is layer, x is images) == ("0", True, True)
    assert torch.equal(y, expected)
    assert torch.equal(output, 2 * expected)
    assert hooks(layer) == [(0, 0, 0, None)]


@pytest.mark.parametrize("keyword", [False, True])
def test_before_forward_may_replace_the_input(images, keyword):
    layer = nn.BatchNorm2d(2)
    expected = copy.deepcopy(layer)(images + 1)
    with attach.before_forward(find(nn.Sequential(layer)).layers, lambda _l, _m, x: x + 1):
        output = layer(input=images) if keyword else layer(images)
    assert torch.equal(output, expected)


def test_hooks_are_gone_after_an_exception(net, images):
    before = hooks(net)
    layers = find(net).layers

    def fail(*_):
        raise RuntimeError("planted")

    for context in (attach.on_forward, attach.before_forward, attach.on_normalized):
        with pytest.raises(RuntimeError, match="planted"), context(layers, fail):
            net(images)
        assert hooks(net) == before
    with pytest.raises(RuntimeError, match="planted"), attach.on_module(net, fail):
        net(images)
    with pytest.raises(RuntimeError, match="planted"), attach.around_call(net, fail, lambda *_: None):
        net(images)
    assert hooks(net) == before


def test_on_normalized_sees_before_a_built_in_activation(net, images):
    seen = {}
    with attach.on_normalized(find(net).layers, lambda layer, _m, z: seen.setdefault(layer.name, z.detach().clone())):
        output = net(images)
    assert float(seen["5"].min()) < 0
    assert torch.equal(seen["5"].relu(), output)
    torch.testing.assert_close(seen["1"].mean((0, 2, 3)), torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the tracer's own doing
@pytest.mark.parametrize("how", ["eager", "wrapped", "in place"])
def test_around_call_also_when_compiled(net, images, how):
    model = torch.compile(net, backend="eager") if how == "wrapped" else net
    if how == "in place":
        net.compile(backend="eager")
    before = hooks(model)
    calls = []
    with attach.around_call(model, lambda: calls.append("in"), lambda args, kwargs: calls.append((args, kwargs))):
        model(images)
        model(images)
    model(images)
    assert calls == ["in", ((images,), {}), "in", ((images,), {})]
    assert hooks(model) == before


def test_around_call_ends_also_when_the_forward_raises(net):
    calls = []
    with (
        pytest.raises(RuntimeError),
        attach.around_call(net, lambda: calls.append("in"), lambda *_: calls.append("out")),
    ):
        net(torch.zeros(1, 7))
    assert calls == ["in", "out"]


def test_functional_calls_are_named(kinds, images):
    model = kinds["functional"](2)
    with attach.functional_calls(find(model).layers) as unsupported:
        model(images)
    assert [part.reason for part in unsupported] == [
        "1 call(s) of functional batch norm in a forward belong to no module"
    ]


def test_functional_calls_inside_of_layers_are_theirs(kinds, images):
    model = nn.Sequential(kinds["timm"](2), kinds["foreign"](2), kinds["frozen"](2))
    with attach.functional_calls(find(model).layers) as unsupported:
        model(images)
    assert unsupported == []


def test_preserved_puts_everything_back(net, images):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        net(images).square().mean().backward()
        optimizer.step()
    net[1].eval()
    grads = [p.grad for p in net.parameters()]
    before = copy.deepcopy((net.state_dict(), grads, optimizer.state_dict(), [m.training for m in net.modules()]))
    state = generators()

    def change():
        net.train()
        optimizer.param_groups[0]["lr"] = 7.0
        net(images).square().sum().backward()
        optimizer.step()
        net[0].weight.requires_grad_(requires_grad=False)
        optimizer.zero_grad()
        np.random.rand()  # noqa: NPY002
        random.getrandbits(8)
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"), attach.preserved(net, optimizer):
        change()
    after = (net.state_dict(), grads, optimizer.state_dict(), [m.training for m in net.modules()])
    for left, right in zip(before[0].values(), after[0].values(), strict=True):
        assert torch.equal(left, right)
    for left, right in zip(before[1], (p.grad for p in net.parameters()), strict=True):
        assert torch.equal(left, right)
    assert all(p.grad is g for p, g in zip(net.parameters(), grads, strict=True))
    assert all(p.requires_grad for p in net.parameters())
    assert before[2]["param_groups"] == after[2]["param_groups"]
    for key, entry in before[2]["state"].items():
        assert torch.equal(entry["momentum_buffer"], after[2]["state"][key]["momentum_buffer"])
    assert before[3] == after[3]
    assert same_generators(state, generators())


def test_preserved_catches_a_planted_change(net, images):
    """The comparison above can fail: without `preserved`, the same forward changes buffers and generators."""
    before, state = copy.deepcopy(net.state_dict()), generators()
    net(images)
    assert any(not torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert not same_generators(state, generators())


def test_preserved_buffers_keeps_replaced_and_missing_buffers():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False))
    original = model[0].running_mean
    with attach.preserved_buffers(model):
        model[0].running_mean = torch.full((2,), 5.0)
        model[1]._buffers["running_mean"] = torch.ones(2)
    assert model[0].running_mean is original
    assert torch.equal(original, torch.zeros(2))
    assert model[1].running_mean is None


def test_replayable_repeats_draws_and_runs_compiled_parts_eagerly(net, images):
    compiled = torch.compile(net, backend="eager")
    compiled(images)
    before = copy.deepcopy(net.state_dict())
    seen, outputs = [], []
    with attach.on_forward(find(compiled).layers, lambda layer, *_: seen.append(layer.name)):
        for _ in range(2):
            with attach.replayable(compiled):
                outputs.append(compiled(images))
    assert seen == ["1", "5", "1", "5"]
    assert torch.equal(*outputs)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))


def test_mode_puts_every_flag_back(net):
    net[1].eval()
    flags = [m.training for m in net.modules()]

    def fail():
        assert not any(m.training for m in net.modules())
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"), attach.mode(net, training=False):
        fail()
    assert [m.training for m in net.modules()] == flags


def test_a_layer_called_without_arguments_is_no_error():
    class Constant(nn.Module):
        def forward(self):
            return torch.ones(1)

    model, seen = Constant(), []
    with attach.on_forward([NormLayer("c", model, "site")], lambda _l, _m, x, y: seen.append((x, y))):
        model()
    assert seen[0][0] is None


def test_a_pending_backward_does_not_see_the_buffers_change(net, images):
    """Between a forward and its backward: the graph holds the running statistics, and checks that they stay."""
    loss = net(images).square().mean()
    with attach.replayable(net):
        net(images)
    loss.backward()
    loss = net(images).square().mean()
    with torch.no_grad():
        net[1].running_mean.copy_(net[1].running_mean.clone())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_buffers_changed_past_their_module_are_put_back():
    model = nn.Sequential(nn.BatchNorm1d(2))
    alias = model[0].running_mean
    with attach.preserved_buffers(model):
        alias.add_(3)
    assert model[0].running_mean is alias
    assert torch.equal(alias, torch.zeros(2))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_copies_and_pickles_of_a_network_carry_hooks_that_do_nothing(images, copied):
    model, calls = nn.Sequential(nn.BatchNorm2d(2)), []
    layers = find(model).layers
    with (
        attach.on_forward(layers, lambda *_: calls.append("forward")),
        attach.before_forward(layers, lambda *_: calls.append("before")),
        attach.on_module(model, lambda *_: calls.append("module")),
        attach.around_call(model, lambda: calls.append("in"), lambda *_: calls.append("out")),
    ):
        twin = copied(model)
        output = twin(images)
    assert calls == []
    assert torch.equal(output, model(images))
    assert b"normscope" not in pickle.dumps(twin)
