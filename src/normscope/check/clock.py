"""How long a check will take: each kind of forward pass timed a few times before it starts."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from normscope.model.preserve import mode, preserved_buffers, preserved_rng, seed_all
from normscope.surgery.forward import as_batch, device_of, run, score
from normscope.surgery.pools import head, pooled
from normscope.surgery.population import biased, choosing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normscope.check.evidence import Evidence
    from normscope.check.plan import Passes

# A kind of pass is timed over so many seconds or passes: the median, as a first pass is slow.
_SECONDS, _PASSES = 0.3, 5
# A pool is timed over this part of it.
_PART = 4


def seconds(evidence: Evidence, passes: Passes, now: Callable[[], float] = time.perf_counter) -> float:
    """Of `passes`, from what one of each kind takes by the clock `now`; these passes are counted by `evidence`."""
    subject = evidence.subject
    training = _timed(evidence, subject.batches, now, measured=True)
    held, plain = training, 0.0
    if passes.held_out or passes.plain:
        plain = _timed(evidence, subject.held_out, now, measured=False)
        if _length(evidence, subject.held_out[0]) != evidence.batch:
            held = _timed(evidence, subject.held_out, now, measured=True)
    serving = training if not subject.serving else training * _length(evidence, subject.serving[0]) / evidence.batch
    return (
        training * passes.training
        + sum(passes.pooled) * _of_a_pool(evidence, passes, training, now)
        + held * passes.held_out
        + plain * passes.plain
        + serving * passes.serving
    )


def _of_a_pool(evidence: Evidence, passes: Passes, training: float, now: Callable[[], float]) -> float:
    """Seconds for each example of a pooled pass, which caches serve worse: by a pass over part of the first pool."""
    few = max(passes.pooled, default=0) // _PART
    if evidence.subject.forward is not None or few <= evidence.batch:
        return training / evidence.batch
    part = head(next(pooled(evidence.subject.batches, evidence.pool_size))[0], few)
    return _timed(evidence, [part], now, measured=True) / len(part)


def _timed(evidence: Evidence, batches: Sequence[Any], now: Callable[[], float], *, measured: bool) -> float:
    """Seconds of one forward of a batch and its loss; `measured` with every layer's moments taken."""
    subject, device, took = evidence.subject, device_of(evidence.model), list[float]()
    held = torch.no_grad(), mode(evidence.model, training=False), preserved_buffers(evidence.model)
    with held[0], held[1], held[2], choosing(evidence.layers if measured else (), biased):
        for raw in batches[:_PASSES]:
            if sum(took) > _SECONDS:
                break
            evidence.forwards += 1
            start = now()
            with preserved_rng():
                seed_all(0)
                if subject.loss is None:
                    run(evidence.model, raw, subject.forward)
                else:
                    score(evidence.model, raw, subject.loss, subject.forward)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            took.append(now() - start)
    return statistics.median(took)


def _length(evidence: Evidence, raw: Any) -> int:
    return evidence.batch if evidence.subject.forward is not None else len(as_batch(raw))
