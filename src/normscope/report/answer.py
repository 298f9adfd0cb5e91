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
_NUMBERS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


@dataclass(frozen=True)
class Part:
    """One sentence of the answer: its opening words and the verdicts that it names."""

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
    """The sentences after the first, one for each outcome that occurs, strongest first."""
    numbered = list(enumerate(study.verdicts, start=1))
    found = []
    for outcome, (one, many) in _LEADS.items():
        group = tuple((index, item) for index, item in numbered if item.outcome == outcome)
        if group:
            lead = one if len(group) == 1 else many.format(count=_count(len(group)))
            found.append(Part(outcome, lead, group))
    return found


def _count(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)
