"""What a rule is: its code, what it needs, why the fault hurts, the fix, and whether the fix is safe."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from normscope.errors import InputError
from normscope.records import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from normscope.check.evidence import Evidence

Need = Literal["model", "data", "loss", "optimizer", "step", "serving"]

HOW: dict[Need, str] = {
    "model": "the network itself: give MODEL beside --checkpoint",
    "data": "training data: give --data",
    "loss": "labelled data and a loss: give --data with targets",
    "optimizer": "the optimizer: call normscope.check(model, optimizer=...)",
    "step": "a training step: call normscope.check(model, optimizer=..., step=...)",
    "serving": "data from where the network is used: give --serving-data",
}


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        code: 'BN001' and so on; never changes its meaning.
        title: A few words.
        needs: What must be there for it to run; the state of the layers always is.
        why: Why the fault hurts.
        fix: What to do.
        look: Reads the evidence and yields findings.
        threshold: Where the line is drawn, and from which theory.
        repair: The operation of `normscope.check.repair` that --fix applies; '' where none is safe.
        style: Whether it costs speed or memory only, or is a convention.
        sources: Keys of the bibliography.
        quotes: Error texts and questions that people search for.
    """

    code: str
    title: str
    needs: tuple[Need, ...]
    why: str
    fix: str
    look: Callable[[Evidence], Iterable[Finding]]
    threshold: str
    repair: str = ""
    style: bool = False
    sources: tuple[str, ...] = ()
    quotes: tuple[str, ...] = ()

    def found(self, layer: str, message: str, **numbers: float | None) -> Finding:
        """A finding of this rule at `layer`, with the numbers that show it."""
        return Finding(
            self.code,
            self.title,
            layer,
            message,
            tuple((name.replace("_", " "), None if value is None else float(value)) for name, value in numbers.items()),
            f"{self.why} Seen as: {'; '.join(self.quotes)}." if self.quotes else self.why,
            self.fix,
            bool(self.repair),
            self.style,
            self.sources,
        )


# One line for each rule: the module that defines RULE.
_MODULES = (
    "bn001_stale",
    "bn002_few_values",
    "bn003_gap",
    "bn004_bias",
    "bn005_decay",
    "bn006_dropout",
    "bn007_thaw",
    "bn008_poisoned",
    "bn009_collapsed",
    "bn010_mixture",
    "bn011_twice",
    "bn012_momentum",
    "bn013_half",
    "bn014_tracked",
    "bn015_averaged",
    "bn016_accumulation",
    "bn017_padding",
    "bn018_shift",
    "bn019_unfolded",
    "bn020_channels_last",
)


@lru_cache(maxsize=1)
def rules() -> tuple[Rule, ...]:
    """Every rule, in the order of the codes."""
    return tuple(importlib.import_module(f"normscope.check.rules.{name}").RULE for name in _MODULES)


def rule(code: str) -> Rule:
    """The rule with this code.

    Raises:
        InputError: There is none.
    """
    known = {one.code: one for one in rules()}
    if code.upper() not in known:
        raise InputError(f"expected the code of a rule, {rules()[0].code} to {rules()[-1].code}, came {code!r}")
    return known[code.upper()]


def chosen(select: Iterable[str] = (), ignore: Iterable[str] = ()) -> Iterator[Rule]:
    """The rules named in `select`, all where it is empty, without those in `ignore`; a prefix names several.

    Raises:
        InputError: A name that fits no rule.
    """
    wanted, unwanted = [part.upper() for part in select], [part.upper() for part in ignore]
    for part in wanted + unwanted:
        if not any(one.code.startswith(part) for one in rules()):
            rule(part)
    for one in rules():
        if (not wanted or one.code.startswith(tuple(wanted))) and not one.code.startswith(tuple(unwanted or ["-"])):
            yield one
