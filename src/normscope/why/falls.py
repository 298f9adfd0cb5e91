"""What runs under covariate shift say: falls from source to shifted inputs, and what other statistics win back."""

from __future__ import annotations

import dataclasses
import math
import statistics

from normscope.why.claim import Task
from normscope.why.job import Numbers

# Unlabelled examples that statistics are re-estimated on; `MAIN` of them decide.
SIZES, MAIN = (32, 128, 512), 128


def main(look: Numbers) -> float:
    """What re-estimated statistics reach: on `MAIN` examples, or on the most that there are."""
    again = look["again"]
    return number(again.get(str(MAIN), again[max(again, key=int)]))


def number(value: float | None) -> float:
    """`value`, NaN where a run had none."""
    return math.nan if value is None else float(value)


@dataclasses.dataclass(frozen=True)
class Falls:
    """Numbers of both arms as falls and gains, in the unit of the verdict.

    Attributes:
        plain: Numbers of each seed without batch norm.
        normed: The same with batch norm.
        scale: What one unit is worth: 1 for accuracies, else what the plain network learned beyond a constant guess.
        unit: Its name.
    """

    plain: list[Numbers]
    normed: list[Numbers]
    scale: float
    unit: str

    @classmethod
    def of(cls, task: Task, plain: list[Numbers], normed: list[Numbers]) -> Falls:
        """Of the runs without and with batch norm, by seed."""
        if task.kind == "classification" and (task.spec is None or task.spec.metric is None):
            return cls(plain, normed, 1.0, "of accuracy")
        learned = [number(n["source"]) - number(n["base"]) for n in plain]
        scale = abs(statistics.median(learned))
        return cls(plain, normed, scale if scale > 0 else math.nan, "of the metric's gain over a constant guess")

    def robustness(self, look: str) -> list[float]:
        """How much less batch norm falls than plain, as deployed."""
        return [
            (self._fall(a, look) - self._fall(b, look)) / self.scale
            for a, b in zip(self.plain, self.normed, strict=True)
        ]

    def fall(self, look: str, *, normed: bool) -> list[float]:
        """From source to `look`, as deployed."""
        return [self._fall(numbers, look) / self.scale for numbers in (self.normed if normed else self.plain)]

    def gain(self, look: str) -> list[float]:
        """What re-estimated statistics win back; a network without statistics wins nothing."""
        return [
            (self._gain(b, look) - self._gain(a, look)) / self.scale
            for a, b in zip(self.plain, self.normed, strict=True)
        ]

    def control(self, look: str) -> list[float]:
        """What statistics re-estimated on examples of the source win back."""
        return [(number(n["control"]) - number(n["looks"][look]["deployed"])) / self.scale for n in self.normed]

    def _fall(self, numbers: Numbers, look: str) -> float:
        return number(numbers["source"]) - number(numbers["looks"][look]["deployed"])

    def _gain(self, numbers: Numbers, look: str) -> float:
        return main(numbers["looks"][look]) - number(numbers["looks"][look]["deployed"])
