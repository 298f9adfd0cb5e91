"""What a measurement, a verdict or a study looks like once it is taken: frozen, plain, versioned JSON.

Standard library only: a page is rendered from records alone, long after torch has gone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from normscope.errors import InputError, RecordError

SCHEMA = 1

Outcome = Literal["supported", "refuted", "inconclusive", "not applicable", "by construction"]
T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """One number that a probe read off a live model.

    Attributes:
        probe: The probe's name, for example 'moments'.
        quantity: What was measured, in the field's words.
        layer: The layer's name; '' for the whole network.
        step: Training step, counted from 0; None outside a training loop.
        value: The number; None when it is not finite.
        unit: Its unit; '' for a pure number.
        expected: What theory says it should be, where there is a theory.
        source: How the number was read, for example 'saved by torch' or 'recomputed'.
    """

    probe: str
    quantity: str
    layer: str
    step: int | None
    value: float | None
    unit: str = ""
    expected: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Series:
    """One line, cloud of points, bar group or interval of a figure.

    Attributes:
        name: Its name in the legend and in the table behind the figure.
        kind: 'points', 'line', 'bars', 'interval' (y with low and high) or 'theory' (a dashed line).
        x: Positions; words make a categorical axis.
        y: Heights, one for each x.
        low: Lower ends, for intervals.
        high: Upper ends, for intervals.
    """

    name: str
    kind: Literal["points", "line", "bars", "interval", "theory"]
    x: tuple[float | str, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Mark:
    """A straight reference line across a figure: at `at` on the axis 'x' or 'y'."""

    axis: Literal["x", "y"]
    at: float
    label: str


@dataclass(frozen=True)
class Figure:
    """A figure as data: drawn by normscope.report, and shown as a table behind the drawing."""

    title: str
    description: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    x_log: bool = False
    y_log: bool = False


@dataclass(frozen=True)
class Effect:
    """A paired effect with its 95 % interval, in the unit that a person reads.

    Attributes:
        name: What is compared, for example 'plain / batch norm, steps to 90 % accuracy'.
        estimate: Mean over seeds (geometric for ratios).
        low: Lower end of the interval.
        high: Upper end of the interval.
        smallest: Smallest effect of interest, on the same scale and in the claimed direction.
        null: Where no effect lies: 0 for differences, 1 for ratios.
        unit: 'x' for ratios, else the unit of the difference.
        per_seed: The paired effect of each seed.
        seeds: The seeds, in the order of `per_seed`.
    """

    name: str
    estimate: float
    low: float
    high: float
    smallest: float
    null: float
    unit: str
    per_seed: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Regime:
    """A verdict in one named regime (an initialization, clean or noisy labels, a learning rate)."""

    name: str
    outcome: Outcome
    effect: Effect | None
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """What came out for one claim.

    Attributes:
        claim: Key of the claim, for example 'faster-optimization'.
        title: Its name for people.
        sentence: The statement under test, as the lecture makes it.
        outcome: The verdict over all deciding regimes.
        summary: One sentence with the numbers.
        effect: The headline effect, if one was measured.
        regimes: Every deciding regime with its own outcome.
        controls: Effects shown beside the deciding ones, which do not decide.
        construction: What holds by construction, with its numbers; never decides.
        protocol: (heading, text) pairs: arms, statistic, smallest effect, what would refute, when it does not apply.
        meaning: What it means for the network at hand.
        sources: Keys of the bibliography.
        figures: At least one for a claim that was run.
    """

    claim: str
    title: str
    sentence: str
    outcome: Outcome
    summary: str
    effect: Effect | None = None
    regimes: tuple[Regime, ...] = ()
    controls: tuple[Effect, ...] = ()
    construction: tuple[str, ...] = ()
    protocol: tuple[tuple[str, str], ...] = ()
    meaning: str = ""
    sources: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Run:
    """One finished run: what was asked for and the numbers that came."""

    key: str
    claim: str
    spec: dict[str, Any]
    numbers: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Study:
    """The record of one `normscope why`: everything that its page shows.

    Attributes:
        question: The question that the page answers.
        network: The network under test, in words, with the number of parameters and batch-norm layers.
        data: The data under test, in words.
        command: The command that makes the record again.
        settings: Effort, seeds, jobs, device, ...
        versions: normscope, torch, Python, processor, ...
        verdicts: One for each claim, in the order of the claims.
        runs: Every finished run behind the verdicts.
        notes: What a reader must know, for example layers that could not be seen.
        seconds: Wall time of the command that finished the study.
    """

    question: str
    network: str
    data: str
    command: str
    settings: dict[str, Any]
    versions: dict[str, str]
    verdicts: tuple[Verdict, ...]
    runs: tuple[Run, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    created: str = ""
    kind: str = field(default="study")


@dataclass(frozen=True)
class Share:
    """One part of a whole, with its 95 % interval where it was sampled.

    Attributes:
        name: The cause or layer.
        value: Its part, in the unit of the whole.
        low: Lower end of the interval; None where there is none.
        high: Upper end.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class GapSplit:
    """Loss in eval mode minus loss in train mode, split so that the parts add up to the whole.

    Attributes:
        train: Loss in train mode.
        evaluation: Loss in eval mode; None where it is not finite.
        causes: Shapley values over all subsets of the causes.
        layers: Shapley values over layers, by sampled permutations.
        forwards: Forward passes that were run.
        notes: What a reader must know, for example layers whose buffers are NaN.
    """

    train: float
    evaluation: float | None
    causes: tuple[Share, ...]
    layers: tuple[Share, ...]
    forwards: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One thing that batch norm does wrong in a network.

    Attributes:
        code: The rule, for example 'BN001'.
        title: The rule's name.
        layer: Where; '' for the whole network.
        message: What was found, with the numbers that show it.
        numbers: (name, value) pairs behind the message.
        why: Why it hurts.
        fix: What to do about it.
        safe: Whether --fix applies the fix.
        style: Whether this is a matter of style, which costs speed or memory and not accuracy.
        sources: Keys of the bibliography.
    """

    code: str
    title: str
    layer: str
    message: str
    numbers: tuple[tuple[str, float | None], ...]
    why: str
    fix: str
    safe: bool = False
    style: bool = False
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fixed:
    """One fix that was tried: what it did, loss on held-out data before and after, and whether it was kept."""

    name: str
    codes: tuple[str, ...]
    before: float | None
    after: float | None
    kept: bool
    note: str = ""


@dataclass(frozen=True)
class CheckReport:
    """The record of one `normscope check`.

    Attributes:
        subject: What was checked, in words.
        findings: What was found, in the order of the rules.
        ran: Codes of the rules that ran.
        skipped: (code, reason) of the rules that did not.
        gap: The difference of loss between train and eval mode, split; None where there was no data or loss.
        planned: Forward passes announced before the start.
        forwards: Forward passes that were run.
        fixes: What --fix tried.
        notes: What a reader must know.
        command: The command that makes the record again.
        versions: normscope, torch, Python.
        seconds: Wall time.
    """

    subject: str
    findings: tuple[Finding, ...]
    ran: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    gap: GapSplit | None = None
    planned: int = 0
    forwards: int = 0
    fixes: tuple[Fixed, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    created: str = ""
    kind: str = field(default="check")


def to_json(record: Any, *, compact: bool = False) -> str:
    """`record` (a dataclass of this module) as JSON text with its schema; NaN and infinities become null."""
    body = _finite({"normscope": SCHEMA, "type": type(record).__name__, **dataclasses.asdict(record)})
    style: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    return json.dumps(body, **style, ensure_ascii=False, allow_nan=False)


def from_json(text: str, kind: type[T], name: str = "the record") -> T:
    """The record of type `kind` in `text`.

    Raises:
        RecordError: Not JSON, cut short, of another schema or another type.
    """
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(
            f"{name} is not a whole record: JSON ends or breaks at character {error.pos} of {len(text)};"
            " take the file that `normscope why --out` wrote, uncut"
        ) from None
    if not isinstance(body, dict) or "normscope" not in body:
        raise RecordError(f"{name} is not a normscope record: expected an object with the key 'normscope'")
    if body["normscope"] != SCHEMA:
        raise RecordError(
            f"{name} has schema {body['normscope']}, this normscope reads schema {SCHEMA};"
            " render it with the version that wrote it, which stands under 'versions'"
        )
    if body.get("type") != kind.__name__:
        raise RecordError(f"{name} holds a {body.get('type')}, expected a {kind.__name__}")
    try:
        return typing.cast("T", _build(kind, body))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecordError(f"{name} lacks a part of a {kind.__name__}: {error}") from None


def write_atomic(path: Path, text: str | bytes) -> None:
    """Write `text` to `path` whole: aside first, then renamed over it.

    Raises:
        InputError: The folder cannot be written or the disk is full; what stood at `path` stays.
    """
    data = text.encode() if isinstance(text, str) else text
    aside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            aside = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(aside).chmod(0o666 & ~umask)
        Path(aside).replace(path)
        aside = None
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}; name a folder that can be written with --out"
        ) from None
    finally:
        if aside is not None:
            Path(aside).unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _build(kind: Any, value: Any) -> Any:
    """`value`, parsed JSON, as an instance of the annotation `kind`."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not type(None)]
        if value is None:
            return None
        nested = [option for option in options if dataclasses.is_dataclass(option)]
        return _build(nested[0], value) if nested else value
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = {item.name for item in dataclasses.fields(kind)}
        make = typing.cast("Callable[..., Any]", kind)
        return make(**{key: _build(hints[key], item) for key, item in value.items() if key in known})
    if origin is tuple:
        inner = typing.get_args(kind)
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_build(inner[0], item) for item in value)
        return tuple(_build(part, item) for part, item in zip(inner, value, strict=True))
    if kind is float and value is None:
        return float("nan")
    return value
