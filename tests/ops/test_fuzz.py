"""The first cases of `benchmarks/fuzz.py`, and that a wrong kernel would be found."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normscope.ops import cpu

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"

pytestmark = pytest.mark.skipif(cpu.EXTENSION.module is None, reason=cpu.EXTENSION.reason)


def test_random_layers_compute_what_the_reference_does():
    done = subprocess.run(
        [sys.executable, FUZZ, "--cases", "600", "--seed", "5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 cases, nothing differs" in done.stdout
    for covered in ("evaluate", "phases", "last", "bfloat16", "nan", "expanded", *cpu.EXTENSION.levels):
        assert f"{covered} " in done.stdout


@pytest.mark.parametrize("planted", ["forward", "backward", "update"])
def test_a_kernel_that_errs_in_the_fifth_digit_of_one_number_is_found(planted, monkeypatch):
    monkeypatch.syspath_prepend(str(FUZZ.parent))
    from fuzzing import check, draw

    right = getattr(cpu, planted)

    def wrong(*args, **options):
        right(*args, **options)
        target = args[{"forward": 1, "backward": 2, "update": 1}[planted]]
        if target is not None:
            target.detach()[(-1,) * target.dim()] *= 1 + (2**-6 if target.dtype == torch.bfloat16 else 5e-5)

    cases = [draw.drawn(seed, cpu.EXTENSION.levels) for seed in range(60)]
    assert not any(check.verdict(case) for case in cases)
    monkeypatch.setattr(cpu, planted, wrong)
    assert any(check.verdict(case) for case in cases)
