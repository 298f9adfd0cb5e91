"""The paragraph that answers the question, put together from the verdicts alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from normscope.report import words

if TYPE_CHECKING:
    from normscope.records import Study, Verdict

_LEADS = {
    "supported": ("One holds", "{count} hold"),
    "refuted": ("One is refuted", "{count} are refuted"),
    "inconclusive": ("One stays open", "{count} stay open"),
    "by construction": ("One holds by construction", "{count} hold by construction"),
    "not applicable": ("One does not apply here", "{count} do not apply here"),
}
# Why a claim stays open.
_WHYS = (", since regimes differ", ", since the intervals do not decide")
_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


@dataclass(frozen=True)
class Part:
    """One line of the answer: its opening words and the verdicts that it names."""

    outcome: str
    lead: str
    verdicts: tuple[tuple[int, Verdict], ...]


def opening(study: Study) -> str:
    """The answer's first sentence: how many of the tested claims were decided."""
    tested = [item for item in study.verdicts if item.outcome != "not applicable"]
    decided = sum(item.outcome in words.DECIDED for item in tested)
    if not study.verdicts:
        return "No claim was tested."
    if not tested:
        return "None of the claims applies to this network."
    noun = "claim" if len(tested) == 1 else "claims"
    if decided == len(tested):
        verb = "was" if decided == 1 else "were"
        return f"{_count(len(tested))} {noun} {verb} put to the test and decided."
    verb = "was" if len(tested) == 1 else "were"
    decision = {0: "none was decided", 1: "one was decided"}.get(decided, f"{_count(decided).lower()} were decided")
    return f"{_count(len(tested))} {noun} {verb} put to the test; {decision}."


def parts(study: Study) -> list[Part]:
    """What comes after the first sentence, by outcome, strongest first; what stays open, by the reason why."""
    numbered = list(enumerate(study.verdicts, start=1))
    found = []
    for outcome, (one, many) in _LEADS.items():
        for why in _WHYS if outcome == "inconclusive" else ("",):
            group = tuple((at, item) for at, item in numbered if item.outcome == outcome and why in ("", _why(item)))
            if group:
                lead = one if len(group) == 1 else many.format(count=_count(len(group)))
                found.append(Part(outcome, lead + why, group))
    return found


def regimes(verdict: Verdict) -> str:
    """What an inconclusive verdict's regimes say, in a few words; '' where there is nothing to add."""
    outcomes = [regime.outcome for regime in verdict.regimes]
    if verdict.outcome != "inconclusive" or len(outcomes) < 2:
        return ""
    said = [f"{word} in {outcomes.count(word)}" for word in words.DECIDED if word in outcomes]
    every = "both" if len(outcomes) == 2 else f"all {len(outcomes)}"
    return f"{', '.join(said)} of {len(outcomes)} regimes" if said else f"open in {every} regimes"


def _why(verdict: Verdict) -> str:
    return _WHYS[0] if len({regime.outcome for regime in verdict.regimes}) > 1 else _WHYS[1]


def _count(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)
