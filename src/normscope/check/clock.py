"""How long a check will take: each kind of forward pass timed as it starts."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from normscope.model.preserve import mode, preserved_buffers, preserved_rng, seed_all
from normscope.surgery.forward import as_batch, device_of, run, score
from normscope.surgery.population import biased, choosing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from normscope.check.evidence import Evidence
    from normscope.check.plan import Passes

# Passes of a kind that are timed: the median, as a first one is slow.
_PASSES = 3


def trials(evidence: Evidence, passes: Passes) -> int:
    """Passes that `seconds` takes to time the others; those of the first measurement are no trial."""
    kinds = [evidence.subject.batches]
    if passes.held_out or passes.plain:
        kinds += [evidence.subject.held_out] * (1 + _other_size(evidence))
    return sum(min(_PASSES, len(batches)) for batches in kinds)


def seconds(evidence: Evidence, passes: Passes, now: Callable[[], float] = time.perf_counter) -> float:
    """What is left of `passes` after the first measurement, which is taken here, by the clock `now`."""
    subject, (first, pools) = evidence.subject, passes.first
    training = _timed(evidence, subject.batches, now, measured=True)
    held, plain = training, 0.0
    if passes.held_out or passes.plain:
        plain = _timed(evidence, subject.held_out, now, measured=False)
        if _other_size(evidence):
            held = _timed(evidence, subject.held_out, now, measured=True)
    serving = training if not subject.serving else training * _length(evidence, subject.serving[0]) / evidence.batch
    pool = training / evidence.batch
    if first:
        start = now()
        getattr(evidence, first)
        pool = (now() - start) / sum(pools)
    return (
        training * passes.training
        + pool * sum(passes.pooled)
        + held * passes.held_out
        + plain * passes.plain
        + serving * passes.serving
    )


def _other_size(evidence: Evidence) -> bool:
    return _length(evidence, evidence.subject.held_out[0]) != evidence.batch


def _timed(evidence: Evidence, batches: Sequence[Any], now: Callable[[], float], *, measured: bool) -> float:
    """Seconds of one forward of a batch and its loss; `measured` with every layer's moments taken."""
    subject, device, took = evidence.subject, device_of(evidence.model), list[float]()
    held = torch.no_grad(), mode(evidence.model, training=False), preserved_buffers(evidence.model)
    with held[0], held[1], held[2], choosing(evidence.layers if measured else (), biased):
        for raw in batches[:_PASSES]:
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
