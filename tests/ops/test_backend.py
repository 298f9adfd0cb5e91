import os

import pytest
import torch

import normscope
from normscope.errors import InputError, UnsupportedError
from normscope.ops import cpu
from normscope.ops.backend import backend, use_backend

X = torch.randn(4, 3, 5, 5)


@pytest.mark.skipif("NORMSCOPE_REQUIRE_KERNELS" not in os.environ, reason="set where the kernels must have been built")
def test_the_kernels_were_built_and_are_used():
    assert cpu.EXTENSION.module is not None, cpu.EXTENSION.reason
    assert cpu.EXTENSION.module.openmp
    assert normscope.backend(X).name == "compiled"


def test_a_reason_is_given_for_every_choice():
    chosen = normscope.backend(X)
    assert chosen.name == ("torch" if cpu.EXTENSION.module is None else "compiled")
    assert chosen.reason
    assert str(backend(X.to("meta"))).startswith("torch (the compiled kernels")
    half = backend(X.half())
    assert half.name == "torch"
    assert "float16" in half.reason or "not installed" in half.reason


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
