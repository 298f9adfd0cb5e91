"""Networks that live on a CUDA device; skipped where there is none. What is compared is the same work on the CPU."""

import contextlib
import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import normscope
import normscope.nn
from normscope import cli
from normscope.check.run import check
from normscope.errors import NormscopeError
from normscope.moments import Moments
from normscope.ops import cpu
from normscope.probes.catalog import PROBES

DEVICE = "cuda"
EXAMPLE = Path(__file__).parents[1] / "examples" / "conv_images.py"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

LAYERS = [
    ("BatchNorm2d", {}),
    ("BatchNormAct2d", {"activation": "relu"}),
    ("BatchNormAct2d", {"activation": "silu"}),
    ("GhostBatchNorm2d", {"ghost_size": 4}),
    ("GhostBatchNorm2d", {"ghost_size": 5}),
    ("BatchRenorm2d", {"ramp": None}),
    ("FrozenBatchNorm2d", {}),
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(128, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip


def batches(device="cpu", number=6, size=16):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(number * size, 3, 8, 8, generator=generator) * 2 + 1
    y = torch.randint(0, 4, (number * size,), generator=generator)
    return [(x[i : i + size].to(device), y[i : i + size].to(device)) for i in range(0, number * size, size)]


@pytest.fixture
def exact():
    """Convolutions in float32, by algorithms that give the same bits each time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)
def test_a_layer_gives_what_it_gives_on_the_cpu_in_float64(kind, options, layout, dtype):
    ours = getattr(normscope.nn, kind)(6, **options).double()
    twin = copy.deepcopy(ours).to(DEVICE, torch.float64 if dtype == torch.float64 else torch.float32)
    x = (torch.randn(12, 6, 5, 7) * 3 + 10).to(dtype)
    dy = torch.randn(12, 6, 5, 7).to(dtype)
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-5}.get(dtype, 0.05)
    for training in (True, False):
        a = x.double().clone().requires_grad_()
        b = x.to(DEVICE, copy=True, memory_format=layout).requires_grad_()
        y, z = ours.train(training)(a), twin.train(training)(b)
        assert (z.dtype, z.device.type) == (dtype, DEVICE)
        y.backward(dy.double())
        z.backward(dy.to(DEVICE))
        torch.testing.assert_close(z.double().cpu(), y, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(b.grad.double().cpu(), a.grad, rtol=tolerance, atol=tolerance)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name].cpu().to(value.dtype), value, rtol=1e-5, atol=1e-5)


def test_a_masked_layer_counts_what_it_counts_on_the_cpu():
    ours = normscope.nn.MaskedBatchNorm1d(4)
    twin = copy.deepcopy(ours).to(DEVICE)
    x, mask = torch.randn(8, 4, 9), torch.rand(8, 9) > 0.3
    torch.testing.assert_close(twin(x.to(DEVICE), mask.to(DEVICE)).cpu(), ours(x, mask), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(twin.running_var.cpu(), ours.running_var)


def test_a_residual_is_added_before_the_activation():
    layer = normscope.nn.BatchNormAct2d(3, activation="relu")
    x, residual = torch.randn(2, 4, 3, 5, 5)
    expected = layer(x, residual)
    found = layer.to(DEVICE)(x.to(DEVICE), residual.to(DEVICE))
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_backend_says_why_the_kernels_do_not_run():
    found = normscope.backend(torch.randn(4, 3, device=DEVICE))
    assert found.name == "torch"
    assert not cpu.EXTENSION.levels or DEVICE in found.reason


def test_a_layer_on_another_device_than_its_input_raises_what_torch_raises():
    for layer, x in ((normscope.nn.BatchNorm1d(3).to(DEVICE), torch.randn(4, 3)), (
        normscope.nn.BatchNorm1d(3), torch.randn(4, 3, device=DEVICE),
    )):  # fmt: skip
        with pytest.raises(RuntimeError, match="device"):
            layer(x)


def test_a_layer_hands_out_the_moments_of_its_batch():
    layer, x = normscope.nn.BatchNorm2d(3).to(DEVICE), torch.randn(6, 3, 4, 5, device=DEVICE).requires_grad_()
    layer(x)
    found, expected = layer.batch_moments, Moments.of(x)
    torch.testing.assert_close((found.count, found.mean, found.m2), (expected.count, expected.mean, expected.m2),
                               rtol=1e-5, atol=1e-6)  # fmt: skip
    assert not found.mean.requires_grad
    copy.deepcopy(layer)


def test_moments_stay_on_their_device():
    x = torch.randn(64, 5) + 1e6
    found, expected = Moments.of(x.to(DEVICE)), Moments.of(x)
    assert found.mean.device.type == DEVICE
    torch.testing.assert_close(found.variance("biased").cpu(), expected.variance("biased"), rtol=1e-9, atol=0)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_a_compiled_layer_trains_as_an_eager_one():
    layer = normscope.nn.BatchNormAct2d(6, activation="relu").to(DEVICE)
    twin = copy.deepcopy(layer)
    x = torch.randn(8, 6, 5, 5, device=DEVICE)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), twin(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.running_var, twin.running_var)


def test_autocast_keeps_statistics_in_float32():
    layer = normscope.nn.BatchNorm2d(8).to(DEVICE)
    convolution = nn.Conv2d(3, 8, 3).to(DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        y = layer(convolution(torch.randn(4, 3, 8, 8, device=DEVICE)))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.running_mean.dtype == torch.float32


@pytest.mark.usefixtures("exact")
def test_surgery_gives_what_it_gives_on_the_cpu():
    data = batches()
    x = data[0][0]
    model = network().train()
    for images, _ in data:
        model(images)
    model.eval()
    there = copy.deepcopy(model).to(DEVICE)
    for operate in (
        lambda net: normscope.fold(net).model,
        lambda net: normscope.recalibrate(net, data, held_out=data).model,
        lambda net: normscope.adapt(net, data).model,
        lambda net: normscope.freeze(net).model,
        lambda net: normscope.convert(net, "ghost", ghost_size=8).model,
        lambda net: normscope.fuse(net, x.to(next(net.parameters()).device)).model,
    ):
        torch.manual_seed(3)
        expected = operate(model).eval()
        torch.manual_seed(3)
        found = operate(there).eval()
        assert {value.device.type for value in found.state_dict().values()} == {DEVICE}
        torch.testing.assert_close(found(x.to(DEVICE)).cpu(), expected(x), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("exact")
def test_statistics_are_held():
    model = network().to(DEVICE)
    before = copy.deepcopy(model.state_dict())
    with normscope.hold_statistics(model):
        model(batches(DEVICE)[0][0])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.usefixtures("exact")
def test_scope_measures_every_probe_and_training_stays_what_it_was():
    def trained(*, watched):
        torch.manual_seed(5)
        model = network().to(DEVICE)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

        def loss():
            return nn.functional.cross_entropy(model(x), y)

        scope = normscope.Scope(model, loss=loss, optimizer=optimizer, every=3)
        with scope if watched else contextlib.nullcontext():
            for x, y in batches(DEVICE):  # noqa: B007  (the closure reads them)
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()
                if watched:
                    scope.step()
        return model, scope, torch.rand(3, device=DEVICE)

    model, scope, drawn = trained(watched=True)
    twin, _, expected = trained(watched=False)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)
    assert torch.equal(drawn, expected)
    assert scope.not_run == {}
    assert {row["probe"] for row in scope.table()} == set(PROBES)


@pytest.mark.usefixtures("exact")
def test_check_finds_what_it_finds_on_the_cpu():
    model, data = network(), batches()
    here = check(model, data)
    there = check(model.to(DEVICE), data)
    assert [(one.code, one.layer) for one in there.findings] == [(one.code, one.layer) for one in here.findings]
    assert there.gap.evaluation == pytest.approx(here.gap.evaluation, rel=1e-3)


def study(out, claims, *options):
    """The record of `normscope why` on the example."""
    done = CliRunner().invoke(
        cli.app,
        ["why", "--model", f"{EXAMPLE}:make_model", "--data", f"{EXAMPLE}:make_data", "--effort", "quick", "--device",
         DEVICE, "--claims", claims, "--out", str(out), *options],
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    assert (out / "page.html").exists()
    return json.loads((out / "run.json").read_text())


@pytest.mark.parametrize("amp", [(), ("--amp",)], ids=str)
def test_why_runs_there(amp, tmp_path):
    record = study(tmp_path / "out", "same-range,mini-batch-noise", *amp)
    assert record["versions"]["accelerator"] == torch.cuda.get_device_name()


def test_a_repeated_study_gives_the_same_numbers(tmp_path):
    first, again = (study(tmp_path / name, "faster-optimization") for name in ("first", "again"))
    assert again["verdicts"] == first["verdicts"]


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(NormscopeError, match="cuda:99"):
        CliRunner().invoke(
            cli.app, ["check", f"{EXAMPLE}:make_model", "--device", "cuda:99"], catch_exceptions=False,
            standalone_mode=False,
        )  # fmt: skip
