"""The first cases of `benchmarks/fuzz.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

from normscope.ops import cpu

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


@pytest.mark.skipif(cpu.EXTENSION.module is None, reason=cpu.EXTENSION.reason)
def test_random_layers_compute_what_the_reference_does():
    done = subprocess.run(
        [sys.executable, FUZZ, "--cases", "300", "--seed", "5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "300 cases, nothing differs" in done.stdout
