"""What `normscope why` found: effects, verdicts, and the study that holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from normscope.records.figure import Figure

Outcome = Literal["supported", "refuted", "inconclusive", "not applicable", "by construction"]


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
