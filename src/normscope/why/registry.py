"""Which claims there are, in the order of the lecture; a claim joins by one line here."""

from __future__ import annotations

import importlib

from normscope.errors import InputError
from normscope.why import ghosts, rates
from normscope.why.claim import Claim, Task
from normscope.why.job import Job, Numbers

KEYS = (
    "faster-optimization",
    "same-range",
    "covariate-shift",
    "internal-shift",
    "decoupled-layers",
    "mini-batch-noise",
    "slight-regularization",
    "larger-batch-less-regularization",
    "additive-and-multiplicative",
    "dropout-regularizes",
    "single-units",
)


def claim(key: str) -> Claim:
    """The claim called `key`.

    Raises:
        InputError: There is none; the nearest name is suggested.
    """
    if key not in KEYS:
        import difflib

        near = difflib.get_close_matches(key, KEYS, 1, 0.0)[0]
        raise InputError(f"expected a claim among {', '.join(KEYS)}; came {key!r}, did you mean {near!r}?")
    module = importlib.import_module(f"normscope.why.claims.{key.replace('-', '_')}")
    found: Claim = module.CLAIM
    return found


def execute(task: Task, job: Job) -> list[Numbers]:
    """Do one job, in a worker: the claim's own `run`, or runs that several claims share."""
    shared = {rates.KEY: rates.run, ghosts.KEY: ghosts.run}
    run = shared[job.claim] if job.claim in shared else claim(job.claim).run
    return run(task, job)
