import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from normscope.model.find import find
from normscope.moments import Moments
from normscope.probes.batch import SAVED
from normscope.probes.collect import Collector


def collector(model):
    return Collector(model, find(model).layers)


def expected_at(task, name, x=None):
    """Moments of the input of a layer for one training forward, on a copy."""
    model, seen = copy.deepcopy(task.model), {}
    for index, module in enumerate(model):
        module.register_forward_pre_hook(lambda _m, args, index=index: seen.update({str(index): args[0]}))
    with torch.random.fork_rng():
        model(task.x if x is None else x)
    return Moments.of(seen[name])


@pytest.mark.parametrize("name", ["1", "5", "9"])
def test_reads_the_training_pass(task, name):
    expected = expected_at(task, name)
    listener = collector(task.model)
    with listener.attached():
        task.loss().backward()
    reading = listener.take()[name]
    assert reading.source == SAVED
    torch.testing.assert_close(reading.moments.mean, expected.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(reading.moments.m2, expected.m2, rtol=1e-5, atol=0)
    assert listener.take() == {}


def test_passes_of_one_step_are_one_sample(task):
    """Gradient accumulation: the layer saw all of the micro-batches."""
    task.model[3].p = 0.0
    listener = collector(task.model)
    with listener.attached():
        for part in task.x.split(8):
            task.model(part)
    moments = listener.take()["1"].moments
    torch.testing.assert_close(moments.mean, Moments.of(task.model[0](task.x)).mean, rtol=1e-5, atol=1e-6)
    assert float(moments.count) == 24 * 25


def test_validation_does_not_mix_with_training(task):
    listener = collector(task.model)
    with listener.attached():
        task.loss().backward()
        task.model.eval()
        with torch.no_grad():
            task.model(task.x + 100)
        task.model.train()
        both = listener.take()
        with torch.no_grad():
            task.model(task.x)
        alone = listener.take()
    assert float(both["1"].moments.count) == float(alone["1"].moments.count) == 24 * 25
    assert float(both["1"].moments.mean.abs().max()) < 10
    assert alone["1"].source.startswith("recomputed")


def test_a_layer_called_directly_is_read_at_once(task):
    listener = collector(task.model)
    with listener.attached():
        task.model[:2](task.x)
    assert list(listener.take()) == ["1"]


def test_copies_of_the_network_are_not_listened_to(task):
    listener = collector(task.model)
    with listener.attached():
        copy.deepcopy(task.model)(task.x)
        assert listener.take() == {}


def test_checkpointed_parts_are_read_once(task):
    listener = collector(task.model)
    with listener.attached():
        y = checkpoint(task.model, task.x, use_reentrant=False)
        y.square().sum().backward()
    assert float(listener.take()["1"].moments.count) == 24 * 25


def test_not_listening_reads_nothing(task):
    listener = collector(task.model)
    with listener.attached():
        listener.listen(listening=False)
        task.run()
    assert listener.take() == {}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the tracer's own doing
@pytest.mark.parametrize("how", ["wrapped", "in place", "part"])
@pytest.mark.parametrize("first", [False, True])
def test_a_compiled_network_is_replayed_without_a_trace(task, how, first):
    """Compiled before Scope or (lazily) inside of it: the same moments, no graph break, the network untouched."""
    task.model[3].p = 0.0
    expected = expected_at(task, "5")
    eager = copy.deepcopy(task.model)
    model = task.model
    if how == "wrapped":
        model = torch.compile(task.model, backend="eager", fullgraph=True)
    elif how == "in place":
        model.compile(backend="eager")  # torch finds no whole graph in a bare Sequential
    else:
        model = nn.Sequential(torch.compile(task.model, backend="eager", fullgraph=True))
    if not first:
        model(task.x)
        eager(task.x)
    rng = torch.get_rng_state()
    listener = collector(model)
    with listener.attached():
        y = model(task.x)
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(y, eager(task.x))
    found = listener.take()
    assert [name.removeprefix("0.") if how == "part" else name for name in found] == ["1", "5", "9"]
    reading = found["0.5" if how == "part" else "5"]
    assert reading.source == "recomputed: compiled network, replayed"
    torch.testing.assert_close(reading.moments.mean, expected.mean, rtol=1e-4, atol=1e-6)
    for left, right in zip(task.model.state_dict().values(), eager.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_data_parallel_and_distributed_wrappers(task, tmp_path):
    # Of a copy: it moves the network to a CUDA device where there is one.
    listener = collector(nn.DataParallel(copy.deepcopy(task.model)))
    torch.manual_seed(0)
    with listener.attached():
        listener._model(task.x)
    assert list(listener.take()) == ["1", "5", "9"]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        task.model[3].p = 0.0
        expected = expected_at(task, "5")
        wrapped = nn.parallel.DistributedDataParallel(task.model)
        listener = collector(wrapped)
        with listener.attached():
            wrapped(task.x).square().sum().backward()
        reading = listener.take()["5"]
    finally:
        torch.distributed.destroy_process_group()
    assert reading.source == SAVED
    torch.testing.assert_close(reading.moments.mean, expected.mean, rtol=1e-4, atol=1e-6)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x):
        return nn.functional.batch_norm(self.bn(x), None, None, training=True)


@pytest.mark.parametrize("compiled", [False, True])
def test_functional_batch_norm_is_named(task, compiled):
    model = Functional()
    listener = collector(torch.compile(model, backend="eager") if compiled else model)
    with listener.attached():
        for _ in range(2):
            listener._model(task.x)
    assert [part.reason for part in listener.unsupported] == [
        "1 call(s) of functional batch norm in a forward belong to no module"
    ]


def test_a_forward_that_raises_leaves_it_listening(task):
    listener = collector(task.model)
    with listener.attached():
        with pytest.raises(RuntimeError):
            task.model(torch.zeros(1, 2))
        task.run()
        assert float(listener.take()["9"].moments.count) == 24
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in task.model.modules())


def test_function_transforms_are_passed_over(task):
    task.model.eval()
    listener = collector(task.model)
    with listener.attached():
        torch.func.vmap(task.model)(task.x[:, None])
    assert listener.take() == {}


class Second(nn.BatchNorm1d):
    """A layer that is called with something else than a tensor first."""

    def forward(self, pair):
        return super().forward(pair[1])


def test_an_input_that_is_no_tensor_does_not_stop_the_training():
    model = nn.Sequential(Second(3))
    listener = collector(model)
    with listener.attached():
        model((None, torch.randn(4, 3)))
    assert listener.take() == {}
