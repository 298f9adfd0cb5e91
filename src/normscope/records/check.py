"""What `normscope check` found: findings, the split of the train/eval gap, and what was mended."""

from __future__ import annotations

from dataclasses import dataclass, field


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
