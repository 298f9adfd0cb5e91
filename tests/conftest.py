import os
import subprocess
import sys

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture
def python():
    """Runs code in a process that imports what this one does, also where an editable installation is kept out."""

    def run(code, **variables):
        path = os.pathsep.join(part for part in sys.path if part)
        return subprocess.run(
            [sys.executable, *(["-S"] if sys.flags.no_site else []), "-c", code],
            env={**os.environ, "PYTHONPATH": path, **variables}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run
