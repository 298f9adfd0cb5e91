"""One check from the network or checkpoint to the report."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import platform
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normscope.check.clock import seconds, trials
from normscope.check.evidence import Evidence
from normscope.check.plan import passes_of
from normscope.check.repair import repair, repair_forwards, repairs_for
from normscope.check.rule import HOW, chosen
from normscope.check.state import halves_of, of_checkpoint, of_model
from normscope.check.subject import Subject
from normscope.errors import InputError, NormscopeError
from normscope.model.batch import Batch
from normscope.model.preserve import preserved
from normscope.model.spec import default_loss, raised
from normscope.records import CheckReport
from normscope.report import words
from normscope.surgery.forward import as_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor
    from torch.optim import Optimizer

    from normscope.check.rule import Rule
    from normscope.model.spec import Score
    from normscope.surgery.forward import Forward

# Examples of training data that a check looks at, at most, and batches at least.
EXAMPLES, BATCHES = 2048, 8
_NO_LOSS = (
    "the loss is NaN or inf in train mode too, so there is no gap to split: look at the weights, the data and the loss"
)


@dataclass(frozen=True)
class Checked:
    """A report, and the network with the fixes that were kept; None where no fix was asked for."""

    report: CheckReport
    model: nn.Module | None = None


def check(
    model: nn.Module | Mapping[str, Tensor],
    data: Iterable[Any] | None = None,
    *,
    held_out: Iterable[Any] | None = None,
    serving: Iterable[Any] | None = None,
    loss: Score | None = None,
    optimizer: Optimizer | None = None,
    step: Callable[[], object] | None = None,
    forward_fn: Forward | None = None,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    max_forwards: int | None = None,
    announce: Callable[[str], None] | None = None,
) -> CheckReport:
    """What batch norm does wrong in a network, rule by rule, and the gap between its train and eval mode, split.

    Args:
        model: A network, or a state_dict for the rules that need nothing else; left exactly as it is.
        data: Training batches in any form that `normscope.model.batch.split` knows, of the size used in training.
        held_out: Labelled batches that the losses are taken on; the training batches by default.
        serving: Batches from where the network is used, labelled or not.
        loss: (output, target) -> scalar; cross-entropy for integer targets, squared error for real ones by default.
        optimizer: The optimizer of the training loop.
        step: Runs one step of the training loop, on `model` and `optimizer`, which are put back afterwards.
        forward_fn: (model, batch) -> output, for batches of another form.
        select: Codes of rules, or prefixes; all by default.
        ignore: Codes or prefixes left out.
        max_forwards: Bound on the forward passes of the gap's split.
        announce: Told before the work how many forward passes it will take, and after the first how long in all.

    Raises:
        InputError: No batch norm, no data in the loader, a code that is no rule.
    """
    subject = gathered(
        model,
        data,
        held_out=held_out,
        serving=serving,
        loss=loss,
        optimizer=optimizer,
        step=step,
        forward_fn=forward_fn,
        max_forwards=max_forwards,
    )
    return examine(subject, tuple(chosen(select, ignore)), announce)


def gathered(
    model: nn.Module | Mapping[str, Tensor],
    data: Iterable[Any] | None,
    *,
    held_out: Iterable[Any] | None = None,
    serving: Iterable[Any] | None = None,
    loss: Score | None = None,
    optimizer: Optimizer | None = None,
    step: Callable[[], object] | None = None,
    forward_fn: Forward | None = None,
    max_forwards: int | None = None,
) -> Subject:
    """The subject of a check: batches read from the loaders, at most `EXAMPLES` examples of each.

    Raises:
        InputError: No batch norm, an empty loader, or a step without a network.
    """
    if not isinstance(model, nn.Module):
        norms = of_checkpoint(model)
        if not norms:
            raise InputError(
                "expected a checkpoint with keys such as 'bn1.running_mean', found none: it has no batch norm"
            )
        return Subject(norms, notes=halves_of(model))
    norms = of_model(model)
    if not norms and not isinstance(model, torch.fx.GraphModule | torch.jit.ScriptModule):
        from normscope.model.find import find

        find(model).require()
    batches = () if data is None else _read(data, forward_fn, "the training data")
    labelled = bool(batches) and forward_fn is None and as_batch(batches[0]).target is not None
    if labelled and loss is None:
        target = as_batch(batches[0]).target
        assert target is not None
        loss = default_loss(target)
    return Subject(
        norms,
        model,
        batches,
        _read(held_out, forward_fn, "the held-out data") if held_out is not None else batches,
        () if serving is None else _read(serving, forward_fn, "the serving data"),
        () if data is None else _sizes(data, batches, forward_fn),
        loss if labelled else None,
        optimizer,
        step,
        forward_fn,
        max_forwards,
    )


def _read(loader: Iterable[Any], forward: Forward | None, name: str) -> tuple[Any, ...]:
    batches: list[Any] = []
    total = 0
    for raw in _items(loader, name):
        batches.append(raw if forward is not None else as_batch(raw))
        total += 0 if forward is not None else len(batches[-1])
        if len(batches) >= BATCHES and (total >= EXAMPLES or (forward is not None and len(batches) >= 4 * BATCHES)):
            break
    if not batches:
        raise InputError(f"expected {name} to yield batches, came none; is the data set empty or its iterator used up?")
    for at, batch in enumerate(batches):
        for key, x in batch.leaves if isinstance(batch, Batch) else ():
            if x.is_floating_point() and not bool(x.isfinite().all()):
                raise InputError(
                    f"expected finite numbers, {key} of batch {at} of {name} has NaN or inf; clean the data"
                )
    return tuple(batches)


def _items(loader: Iterable[Any], name: str) -> Iterator[Any]:
    """What `loader` yields, its own exceptions told as the user's."""
    try:
        yield from loader
    except NormscopeError:
        raise
    except Exception as error:
        raise raised(error, f"{name}, batch by batch,") from error


def _sizes(loader: Any, batches: tuple[Any, ...], forward: Forward | None) -> tuple[int, ...]:
    """Batch sizes of a whole epoch where the loader tells, else of the batches that were read."""
    size, dataset = getattr(loader, "batch_size", None), getattr(loader, "dataset", None)
    try:
        total = len(dataset) if size else 0  # type: ignore[arg-type]
    except TypeError:
        total = 0
    if not total or not size:
        return tuple(len(batch) for batch in batches) if forward is None else (1,)
    rest = total % size
    whole: tuple[int, ...] = (size,) * (total // size)
    return whole + ((rest,) if rest and not getattr(loader, "drop_last", False) else ())


def missing(one: Rule, subject: Subject) -> str | None:
    """What `one` needs and is not there, as a sentence; None if all is there."""
    has = {
        "model": subject.model is not None,
        "data": bool(subject.batches),
        "loss": subject.loss is not None,
        "optimizer": subject.optimizer is not None,
        "step": subject.step is not None,
        "serving": bool(subject.serving),
    }
    lacking = [HOW[need] for need in one.needs if not has[need]]
    return "needs " + "; ".join(lacking) if lacking else None


def examine(subject: Subject, rules: tuple[Rule, ...], announce: Callable[[str], None] | None = None) -> CheckReport:
    """The report of `subject` by `rules`."""
    start = time.perf_counter()
    evidence = Evidence(subject)
    reasons = {one.code: missing(one, subject) for one in rules}
    active = tuple(one for one in rules if reasons[one.code] is None)
    live = subject.model if isinstance(subject.model, nn.Module) else nn.Module()
    with preserved(live, subject.optimizer):
        wants_gap = bool(subject.batches) and subject.loss is not None and any(one.code == "BN003" for one in active)
        passes = passes_of(evidence, active, gap=wants_gap)
        planned = passes.total + evidence.forwards
        if announce is not None and passes.total:
            planned += trials(evidence, passes)
            beside = ", beside your training steps" if subject.step is not None else ""
            announce(f"{planned} forward passes{beside}")
            left = seconds(evidence, passes)
            announce(f"about {words.duration(time.perf_counter() - start + left)}")
        found = tuple(itertools.chain.from_iterable(one.look(evidence) for one in active))
        splits = wants_gap and all(map(math.isfinite, evidence.losses.by_batch))
        gap = evidence.gap if splits else None
    notes = _notes(subject) + ((_NO_LOSS,) if wants_gap and not splits else ())
    from normscope import __version__

    versions = {"normscope": __version__, "torch": str(torch.__version__), "python": platform.python_version()}
    return CheckReport(
        subject=describe(subject),
        findings=found,
        ran=tuple(one.code for one in active),
        skipped=tuple((code, reason) for code, reason in reasons.items() if reason is not None),
        gap=gap,
        planned=planned,
        forwards=evidence.forwards,
        notes=notes,
        versions=versions,
        seconds=time.perf_counter() - start,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def _notes(subject: Subject) -> tuple[str, ...]:
    if subject.model is None:
        return subject.notes
    from normscope.model.find import find

    return subject.notes + tuple(
        f"not looked into: {part.name or 'the network'}, {part.reason}" for part in find(subject.model).unsupported
    )


def describe(subject: Subject) -> str:
    """The subject in words."""
    layers = f"{len(subject.norms)} batch-norm layer{'s' * (len(subject.norms) != 1)}"
    if subject.model is None:
        return f"a checkpoint with {layers}"
    parameters = sum(value.numel() for value in subject.model.parameters())
    size = sum(len(batch) for batch in subject.batches if isinstance(batch, Batch))
    data = f", {size} training examples in {len(subject.batches)} batches" if subject.batches else ""
    return f"{type(subject.model).__name__} with {parameters:,} parameters and {layers}{data}"


def fix(
    subject: Subject, rules: tuple[Rule, ...], report: CheckReport, announce: Callable[[str], None] | None = None
) -> Checked:
    """Apply the safe fixes for what `report` found, check again, and keep none that made the held-out loss worse.

    Raises:
        InputError: A checkpoint without its network.
    """
    if subject.model is None:
        raise InputError("expected MODEL beside --checkpoint to fix it: a checkpoint alone cannot be evaluated")
    if announce is not None and (wanted := repairs_for(report.findings)):
        announce(f"{repair_forwards(subject, wanted) + report.planned} forward passes to fix and check again")
    model, tried = repair(subject, report.findings)
    again = examine(replace(subject, norms=of_model(model), model=model, optimizer=None, step=None), rules)
    left = {(one.code, one.layer) for one in again.findings}
    fixable = [one for one in report.findings if one.safe]
    gone = sum((one.code, one.layer) not in left for one in fixable)
    note = f"after the fixes that were kept, {gone} of {len(fixable)} fixable findings are gone"
    return Checked(replace(report, fixes=tried, notes=(*report.notes, *((note,) if tried else ()))), model)
