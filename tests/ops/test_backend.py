import os
from types import SimpleNamespace

import pytest
import torch

import normscope
from normscope.errors import InputError, UnsupportedError
from normscope.ops import cpu
from normscope.ops.backend import backend, use_backend

X = torch.randn(4, 3, 64, 64)


@pytest.mark.skipif("NORMSCOPE_REQUIRE_KERNELS" not in os.environ, reason="set where the kernels must have been built")
def test_the_kernels_were_built_and_are_used():
    assert cpu.EXTENSION.module is not None, cpu.EXTENSION.reason
    assert cpu.EXTENSION.module.openmp
    assert normscope.backend(X).name == "compiled"


@pytest.mark.parametrize(
    "planted",
    ["import sys; sys.modules['normscope.ops._kernels'] = None", "from normscope.ops import aten; aten.FEW = 1 << 40"],
    ids=["not built", "not used"],
)
def test_the_test_above_fails_where_kernels_are_required_and_not_built_or_not_used(planted, python):
    words = ["-q", "-p", "no:cacheprovider", f"{__file__}::test_the_kernels_were_built_and_are_used"]
    code = f"{planted}; import sys, pytest; sys.exit(pytest.main({words!r}))"
    done = python(code, NORMSCOPE_REQUIRE_KERNELS="1")
    assert done.returncode == 1
    assert "1 failed" in done.stdout


def test_a_reason_is_given_for_every_choice():
    chosen = normscope.backend(X)
    assert chosen.name == ("torch" if cpu.EXTENSION.module is None else "compiled")
    assert chosen.reason
    assert str(backend(X.to("meta"))).startswith("torch (the compiled kernels")
    half = backend(X.half())
    assert half.name == "torch"
    assert "float16" in half.reason or "not installed" in half.reason


def test_kernels_that_run_on_one_thread_say_so(monkeypatch):
    module = SimpleNamespace(openmp=False, level_names=lambda: ["baseline"])
    monkeypatch.setattr(cpu, "EXTENSION", cpu.Extension(module, ""))
    assert "on one thread" in normscope.backend(X).reason


def test_the_function_that_is_called_on_cuda_is_there_and_takes_what_it_is_given():
    given = X, None, None, torch.zeros(3), torch.ones(3), True, 0.1, 1e-5
    found = torch._batch_norm_impl_index(*given, cudnn_enabled=False)[:3]
    torch.testing.assert_close(found, torch.native_batch_norm(*given))


@pytest.mark.skipif(cpu.EXTENSION.module is None, reason=cpu.EXTENSION.reason)
def test_small_inputs_are_left_to_torch_where_that_costs_no_digits():
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    assert backend(x).name == "torch"
    assert "faster" in backend(x).reason
    with use_backend("compiled"):
        assert backend(x).name == "compiled"
    for mean in (0.0, 1e3, 1e5):
        ours, theirs = normscope.nn.BatchNorm1d(16), torch.nn.BatchNorm1d(16)
        got, want = ours(x + mean).detach(), theirs(x + mean).detach()
        exact = torch.nn.functional.batch_norm((x + mean).double(), None, None, training=True)
        assert float((got - exact).abs().max()) < 4e-6
        assert torch.equal(got, want) == (mean == 0)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
        variance = (x + mean).double().var(0, correction=0)
        torch.testing.assert_close(ours.batch_moments.variance("biased"), variance, rtol=1e-6, atol=0)


def test_a_request_holds_inside_its_context_and_is_named():
    with use_backend("reference"):
        assert str(backend(X)) == "reference (requested by use_backend)"
    assert backend(X).name != "reference"
    with pytest.raises(ZeroDivisionError), use_backend("torch"):
        raise ZeroDivisionError
    assert backend(X).reason != "requested by use_backend"


def test_a_request_that_cannot_be_met_raises_and_nothing_else_runs(monkeypatch):
    with pytest.raises(InputError, match="expected a backend out of"), use_backend("cuda"):
        pass
    monkeypatch.setattr(cpu, "EXTENSION", cpu.Extension(None, "the compiled kernels are not installed (planted)"))
    with pytest.raises(UnsupportedError, match="planted"), use_backend("compiled"):
        pass


def test_an_unknown_level_names_those_there_are():
    if cpu.EXTENSION.module is None:
        pytest.skip(cpu.EXTENSION.reason)
    with pytest.raises(UnsupportedError, match="baseline"), use_backend("compiled:x86_64_v9"):
        pass
