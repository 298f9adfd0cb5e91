import pytest
import torch
from torch.nn import functional as F

from normscope import nn
from normscope.ops import cpu, functional, phases, reference, schema

OPTIONS = (1e-5, "relu", 0.1, 1)


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inputs(dtype=torch.float32, requires_grad=True):
    x, weight, bias, residual = draw(4, 3, 5, 5), draw(3, seed=1), draw(3, seed=2), draw(4, 3, 5, 5, seed=3)
    return [value.to(dtype).requires_grad_(requires_grad) for value in (x, weight, bias, residual)]


def test_operator_checks_of_torch():
    x, weight, bias, residual = inputs()
    torch.library.opcheck(schema.batch_norm, (x, weight, bias, None, *OPTIONS))
    torch.library.opcheck(schema.batch_norm, (x, weight, bias, residual, *OPTIONS))
    torch.library.opcheck(schema.batch_norm, (x, None, None, None, 1e-5, "none", 0.0, 2))
    plain = [value.detach() for value in (x, weight, bias)]
    found = torch.ops.normscope.moments(plain[0])
    torch.library.opcheck(torch.ops.normscope.moments, (plain[0],))
    torch.library.opcheck(
        torch.ops.normscope.normalize, (plain[0], found, 100.0, *plain[1:], residual.detach(), *OPTIONS[:3])
    )
    other, dy = residual.detach(), draw(4, 3, 5, 5, seed=8)
    for add in (False, True):
        mask = torch.ops.normscope.normalize(plain[0], found, 100.0, *plain[1:], other if add else None, *OPTIONS[:3])[
            1
        ]
        saved = (found, 100.0, *plain[1:], mask, *OPTIONS[:3])
        sums = torch.ops.normscope.backward_reduce(dy, plain[0], *saved)
        torch.library.opcheck(torch.ops.normscope.backward_reduce, (dy, plain[0], *saved))
        rest = (found, sums, *saved[1:], True, add)
        torch.library.opcheck(torch.ops.normscope.backward_input, (dy, plain[0], *rest))
        torch.library.opcheck(torch.ops.normscope.batch_norm_backward, (dy, plain[0], *saved, True, add))


def test_compile_fullgraph_trains_like_eager():
    x, cotangent = draw(8, 3, 5, 5), draw(8, 3, 5, 5, seed=9)
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(nn.BatchNorm2d(3), nn.BatchNormAct2d(3), nn.GhostBatchNorm2d(3, ghost_size=4))
        run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        leaf = x.clone().requires_grad_()
        y = run(leaf)
        grads = torch.autograd.grad(y, [leaf, *model.parameters()], cotangent)
        results.append([y, *grads, *(value.float() for value in model.state_dict().values())])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(cpu.EXTENSION.module is None, reason=cpu.EXTENSION.reason)
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch's own, when inductor is imported
def test_inductor_compiles_the_fused_layer_without_a_break():
    x, other, cotangent = (draw(8, 3, 16, 16, seed=n) for n in (1, 2, 3))
    results = []
    for compiled in (False, True):
        layer = nn.BatchNormAct2d(3)
        run = torch.compile(layer, fullgraph=True) if compiled else layer
        leaves = [x.clone().requires_grad_(), other.clone().requires_grad_()]
        y = run(*leaves)
        grads = torch.autograd.grad(y, [*leaves, *layer.parameters()], cotangent)
        results.append([y, *grads, *(value.float() for value in layer.state_dict().values())])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def test_one_compiled_graph_takes_batches_of_any_size():
    model = torch.nn.Sequential(nn.BatchNorm2d(3), nn.BatchNormAct2d(3), nn.GhostBatchNorm2d(3, ghost_size=4))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (8, 9, 14):
        x = draw(batch, 3, 5, 5)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


def test_export_of_training_and_evaluation():
    x = draw(4, 3, 5, 5)
    for training in (True, False):
        model = torch.nn.Sequential(nn.BatchNormAct2d(3)).train(training)
        expected = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU()).train(training)(x)
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)


@pytest.mark.parametrize("name", ["BatchNorm2d", "BatchNormAct2d"])
def test_autocast(name):
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), getattr(nn, name)(4))
    x = draw(4, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert layer[1].weight.grad.dtype == torch.float32
    assert layer[1].running_mean.dtype == torch.float32


def test_vmap_over_an_ensemble_with_batched_running_statistics():
    layers = [nn.BatchNorm2d(3) for _ in range(4)]
    for number, layer in enumerate(layers):
        layer.weight.data.copy_(draw(3, seed=number))
    parameters, buffers = torch.func.stack_module_state(layers)
    x, base = draw(4, 6, 3, 2, 2, seed=9), nn.BatchNorm2d(3)

    def call(parameters, buffers, x):
        return torch.func.functional_call(base, (parameters, buffers), (x,))

    y = torch.func.vmap(call)(parameters, buffers, x)
    for number, layer in enumerate(layers):
        torch.testing.assert_close(y[number], layer(x[number]))
        torch.testing.assert_close(buffers["running_var"][number], layer.running_var)

    def loss(parameters, buffers, x):
        return (call(parameters, buffers, x) ** 3).sum()

    grads = torch.func.vmap(torch.func.grad(loss))(parameters, buffers, x)
    for number, layer in enumerate(layers):
        expected = torch.autograd.grad((layer(x[number]) ** 3).sum(), layer.weight)[0]
        torch.testing.assert_close(grads["weight"][number], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("activation", "residual"), [("none", False), ("silu", False), ("leaky_relu", True)])
@pytest.mark.parametrize("training", [True, False])
def test_double_backward(activation, residual, training):
    x, weight, bias, other = inputs(torch.float64)
    statistics = torch.stack([draw(3).double(), draw(3).double().square() + 1])

    def forward(x, weight, bias, other):
        epilogue = functional.Epilogue(activation, 0.1, other if residual else None)
        if training:
            return functional.train(x, weight, bias, 1e-2, epilogue)[0]
        return functional.evaluate(x, *statistics, weight, bias, 1e-2, epilogue)

    small = [
        value[:, :, :2, :1].detach().requires_grad_() if value.dim() > 1 else value
        for value in (x, weight, bias, other)
    ]
    assert torch.autograd.gradcheck(forward, small)
    assert torch.autograd.gradgradcheck(forward, small)


def test_tensors_that_escaped_from_a_transform_train_like_others():
    escaped = []

    def keep(*values):
        escaped.extend(values)
        return sum(value.sum() for value in values)

    values = inputs(requires_grad=False)
    torch.func.grad(keep, argnums=(0, 1, 2, 3))(*values)
    assert any(torch._C._functorch.is_functorch_wrapped_tensor(value) for value in escaped)
    epilogues = [functional.Epilogue("relu", 0.0, source[3]) for source in (values, escaped)]
    want, got = (
        functional.train(*source[:3], 1e-5, epilogue)[0]
        for source, epilogue in zip((values, escaped), epilogues, strict=True)
    )
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "rows"])
@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_phases_over_two_parts_equal_the_whole(layout, activation):
    """What synchronized batch norm does: moments merged and sums added up between the phases."""
    shape = (6, 5) if layout == "rows" else (6, 5, 7, 9)
    x, dy, weight, bias = draw(*shape) + 2, draw(*shape, seed=1), draw(5, seed=2), draw(5, seed=3)
    if layout == "channels_last":
        x, dy = (value.to(memory_format=torch.channels_last) for value in (x, dy))
    y, found, mask = phases.batch_norm(x, weight, bias, None, 1e-5, activation, 0.0, 1)
    dx, sums, _ = phases.backward(
        dy, x, found, x.numel() / 5, weight, bias, mask, 1e-5, activation, 0.0, batch_statistics=True, residual=False
    )

    parts = [phases.moments(part) for part in x.split(2)]
    pooled = functional.merged([functional.Statistics(p, x.numel() // 15) for p in parts])
    moments, count = torch.stack([pooled.mean, pooled.m2])[:, None], float(pooled.count)
    pieces = [phases.normalize(p, moments, count, weight, bias, None, 1e-5, activation, 0.0)[0] for p in x.split(2)]
    torch.testing.assert_close(torch.cat(pieces), y)
    total = sum(
        phases.backward_reduce(d, p, moments, count, weight, bias, mask, 1e-5, activation, 0.0)
        for d, p in zip(dy.split(2), x.split(2), strict=True)
    )
    torch.testing.assert_close(total, sums, rtol=1e-5, atol=1e-5)
    pieces = [
        phases.backward_input(
            d,
            p,
            moments,
            total,
            count,
            weight,
            bias,
            mask,
            1e-5,
            activation,
            0.0,
            batch_statistics=True,
            residual=False,
        )[0]
        for d, p in zip(dy.split(2), x.split(2), strict=True)
    ]
    torch.testing.assert_close(torch.cat(pieces), dx)


def kept_beside_the_input(x, run):
    """Bytes of storage that a forward keeps for its backward, those of `x` left out."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    kept.pop(x.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.mark.skipif(cpu.EXTENSION.module is None, reason=cpu.EXTENSION.reason)
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu", "silu"])
@pytest.mark.parametrize("training", [True, False])
def test_memory_kept_for_the_backward_is_the_input_and_per_channel_numbers(training, activation, dtype, form):
    x, residual = (
        draw(8, 16, 32, 32, seed=n).to(dtype).contiguous(memory_format=form).requires_grad_() for n in (0, 1)
    )
    layer = nn.BatchNormAct2d(16, activation=activation).train(training)
    per_channel = 16 * 8 * 8
    assert kept_beside_the_input(x, lambda: layer(x)) < per_channel
    if activation != "silu":  # with a residual one bit an element more
        assert kept_beside_the_input(x, lambda: layer(x, residual)) < per_channel + x.numel() // 8 + 64
    plain = torch.nn.BatchNorm2d(16).train(training)
    theirs = kept_beside_the_input(x, lambda: F.relu(plain(x)))
    assert theirs >= x.numel() * x.element_size()  # the test sees an activation that is kept


def test_reference_and_functions_agree_on_every_backend():
    from normscope.ops.backend import use_backend

    x, weight, bias, _ = inputs(requires_grad=False)
    expected = F.relu(reference.train(x, weight, bias, 1e-5)[0])
    for name in ("auto", "torch", "reference"):
        with use_backend(name):
            y, found = functional.train(x, weight, bias, 1e-5, functional.Epilogue("relu"))
            torch.testing.assert_close(y, expected)
            torch.testing.assert_close(
                found.m2[0].double(), reference.train(x, None, None, 1e-5)[1].m2, rtol=1e-5, atol=0
            )
