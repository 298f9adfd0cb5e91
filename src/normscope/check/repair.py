"""The safe fixes: what each does to a network, tried on a copy, judged on held-out data, kept or not."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch

from normscope.check.rule import rule
from normscope.errors import InputError
from normscope.model.find import find
from normscope.model.preserve import mode, preserved_buffers
from normscope.records import Fixed
from normscope.surgery.forward import score
from normscope.surgery.pools import pool_size, pooled
from normscope.surgery.recalibrate import compare, measurable, recalibrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

    from normscope.check.subject import Subject
    from normscope.model.spec import Score
    from normscope.records import Finding


def _recalibrate(model: nn.Module, subject: Subject) -> str:
    if not subject.batches:
        raise InputError("it needs training data: give --data")
    done = recalibrate(model, subject.batches, forward_fn=subject.forward, inplace=True)
    return f"{counted(len(done.layers), 'layer')}, {done.examples} examples, standard error {done.standard_error:.2g}"


def _widen(model: nn.Module, _subject: Subject) -> str:
    half = [
        layer.module
        for layer in find(model).layers
        if getattr(layer.module, "running_mean", None) is not None
        and layer.module.running_mean.dtype in (torch.float16, torch.bfloat16)
    ]
    for module in half:
        module.float()
    return f"{counted(len(half), 'layer')} to float32"


def counted(number: int, what: str) -> str:
    """'1 layer', '2 layers'."""
    return f"{number} {what}{'s' * (number != 1)}"


_REPAIRS: dict[str, Callable[[nn.Module, Subject], str]] = {"widen": _widen, "recalibrate": _recalibrate}


def repair(subject: Subject, findings: Iterable[Finding]) -> tuple[nn.Module, tuple[Fixed, ...]]:
    """A copy of the network with the safe fixes for `findings` that did not make the held-out loss worse.

    The losses are taken on the held-out batches of `subject`, which recalibration does not see when they are others
    than the training batches. Without a loss a fix is kept untested, and says so.
    """
    assert subject.model is not None
    model = copy.deepcopy(subject.model)
    tried = []
    for name, codes in repairs_for(findings).items():
        model, fixed = _try(model, subject, name, codes, _REPAIRS[name])
        tried.append(fixed)
    return model, tuple(tried)


def repairs_for(findings: Iterable[Finding]) -> dict[str, tuple[str, ...]]:
    """The safe fixes for `findings`, in the order in which they are applied, each with the codes it is for."""
    codes = sorted({finding.code for finding in findings})
    wanted = {name: tuple(code for code in codes if rule(code).repair == name) for name in _REPAIRS}
    return {name: found for name, found in wanted.items() if found}


def repair_forwards(subject: Subject, wanted: Iterable[str]) -> int:
    """Forward passes that trying the fixes takes; fewer where recalibration is exact enough before the data end."""
    assert subject.model is not None
    names = tuple(wanted)
    total = 2 * len(subject.held_out) * len(names) * ((subject.loss is not None) + (subject.metric is not None))
    if "recalibrate" in names and subject.batches:
        layers = measurable(find(subject.model).layers)[0]
        size = pool_size(subject.model, layers, subject.batches[0], subject.forward)
        total += 1 + sum(1 for _ in pooled(subject.batches, size))
    return total


def _try(
    model: nn.Module, subject: Subject, name: str, codes: tuple[str, ...], apply: Callable[[nn.Module, Subject], str]
) -> tuple[nn.Module, Fixed]:
    changed = copy.deepcopy(model)
    try:
        note = apply(changed, subject)
    except InputError as error:
        return model, Fixed(name, codes, None, None, kept=False, note=str(error))
    if subject.loss is None or not subject.held_out:
        return changed, Fixed(
            name, codes, None, None, kept=True, note=f"{note}; no labelled data to compare the loss on"
        )
    before, after = losses(model, subject), losses(changed, subject)
    result = compare(before, after)
    old, new = (value if math.isfinite(value) else None for value in (result.before, result.after))
    if subject.metric is not None:
        scores = [math.fsum(_scores(one, subject, subject.metric, "metric")) / len(before) for one in (model, changed)]
        note = f"{note}; metric {scores[0]:.4g} -> {scores[1]:.4g}"
    worse = not math.isfinite(result.after) or (
        math.isfinite(result.before) and result.after > result.before + _slack(before)
    )
    if worse:
        return model, Fixed(
            name, codes, old, new, kept=False, note=f"{note}; not kept: it made the held-out loss worse"
        )
    return changed, Fixed(name, codes, old, new, kept=True, note=note)


def _slack(before: list[float]) -> float:
    """Rounding in a mean of losses."""
    return 1e-6 * abs(math.fsum(before) / len(before))


def losses(model: nn.Module, subject: Subject) -> list[float]:
    """Loss of every held-out batch in eval mode."""
    assert subject.loss is not None
    return _scores(model, subject, subject.loss, "loss")


def _scores(model: nn.Module, subject: Subject, loss: Score, name: str) -> list[float]:
    with torch.no_grad(), mode(model, training=False), preserved_buffers(model):
        return [score(model, raw, loss, subject.forward, name) for raw in subject.held_out]
