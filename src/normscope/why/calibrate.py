"""How often a claim's whole protocol errs, on null and planted cases from real, independently seeded trainings.

A null case puts runs of the control arm under every label; a planted case puts runs of an arm whose effect is known,
by real training, under the treated label. Each arm of a case draws its own seeds from the pool, without replacement,
so the choice of learning rates is part of the case.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import stats

from normscope.records import Verdict
from normscope.why.arms import Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Relabelled, Results

# Members of one job at most: what keeps a worker's memory small.
_STACK = 28

Execute = Callable[[list[Job]], list[tuple[Job, list[Numbers]]]]


@dataclass(frozen=True)
class Rate:
    """Verdicts over the cases of one kind.

    Attributes:
        claim: Key of the claim.
        planted: Multiple of the smallest effect of interest; 0 for null cases.
        cases: Number of cases.
        supported: Cases that came out supported.
        refuted: Cases that came out refuted, for whatever reason.
        reversed: Cases whose interval excludes no effect on the side against the claim.
        effect: Mean estimate over the cases, as a person reads it.
    """

    claim: str
    planted: float
    cases: int
    supported: int
    refuted: int
    reversed: int
    effect: float

    def upper(self, count: int) -> float:
        """Upper 95 % bound (Clopper-Pearson, one-sided) of the rate behind `count` cases."""
        return 1.0 if count >= self.cases else float(stats.beta.ppf(0.95, count + 1, self.cases - count))


@dataclass(frozen=True)
class Pool:
    """Seeds of real trainings: those that confirm and those that choose rates are never mixed."""

    seeds: tuple[int, ...]
    selection: tuple[int, ...]


class _Case(Relabelled):
    """One case: every arm's seeds stand for seeds drawn from the pool."""

    def __init__(self, pool: Results, calibration: Calibration, planted: Arm, seeds: Pool, draw: random.Random) -> None:
        super().__init__(pool, self._stand_in)
        self._calibration, self._planted, self._pool, self._draw = calibration, planted, seeds, draw
        self._orders: dict[tuple[str, bool], list[int]] = {}

    def arm(self, name: str) -> Arm:
        """The arm whose runs stand under the label `name`."""
        treated = name in (self._calibration.treated.name, *self._calibration.also)
        return self._planted if treated else self._calibration.control

    def _stand_in(self, name: str, seed: int) -> tuple[str, int]:
        return self.arm(name).name, self.seed(name, seed)

    def seed(self, name: str, seed: int) -> int:
        """The pool's seed that stands for `seed` of the arm `name`."""
        choosing = seed >= min(self._pool.selection)
        source = self._pool.selection if choosing else self._pool.seeds
        first = min(self._pool.selection) if choosing else 0
        order = self._orders.get((name, choosing))
        if order is None:
            order = self._orders[name, choosing] = self._draw_order(name, source)
        return order[seed - first]

    def _draw_order(self, name: str, source: Sequence[int]) -> list[int]:
        """Seeds for one arm; arms that share the pool's arm get different ones while there are enough."""
        taken = {
            value
            for (other, _), order in self._orders.items()
            if self.arm(other) == self.arm(name)
            for value in order[: len(source) // 4]
        }
        fresh = [value for value in source if value not in taken]
        rest = [value for value in source if value in taken]
        self._draw.shuffle(fresh)
        self._draw.shuffle(rest)
        return fresh + rest


def calibrate(
    claim: Claim, task: Task, plan: Plan, pool: Pool, cases: int, execute: Execute, seed: int = 0
) -> list[Rate]:
    """Error rates and power of one claim.

    Args:
        claim: A claim with a calibration.
        task: The embedded task.
        plan: Seeds of each case: `plan.seeds` from 0 on, `plan.selection` from the pool's first on.
        pool: Seeds that are really trained.
        cases: Cases of each kind.
        execute: Does jobs and returns their numbers, from a store where they are kept.
        seed: Of the draws.

    Returns:
        One `Rate` for the null and one for each planted effect.
    """
    calibration = claim.calibration
    assert calibration is not None, f"{claim.key} has no calibration"
    results = Results()
    kinds = [(0.0, calibration.control), *calibration.planted]
    found = []
    for multiple, planted in kinds:
        drawn = [
            _Case(results, calibration, planted, pool, random.Random(f"{seed}/{multiple}/{at}"))  # noqa: S311
            for at in range(cases)
        ]
        _train_pool(claim, task, plan, drawn, results, execute)
        found.append(_count(claim, multiple, [claim.conclude(task, plan, case) for case in drawn]))
    return found


def _train_pool(
    claim: Claim, task: Task, plan: Plan, cases: Sequence[_Case], results: Results, execute: Execute
) -> None:
    """Train what the cases look up and the pool does not hold, until nothing is missing."""
    while True:
        wanted: dict[Job, set[tuple[int, float]]] = {}
        for case in cases:
            for job in claim.plan(task, plan, case):
                arm = case.arm(job.arm.name)
                template = dataclasses.replace(job, arm=arm, members=())
                for seed, rate in job.members:
                    stand_in = case.seed(job.arm.name, seed)
                    if results.get(job.claim, job.network, arm, stand_in, rate, job.regime) is None:
                        wanted.setdefault(template, set()).add((stand_in, rate))
        jobs = [
            dataclasses.replace(template, members=tuple(part))
            for template, members in wanted.items()
            for part in _parts(sorted(members), _STACK if template.network.startswith("mlp") else 1)
        ]
        if not jobs:
            return
        for job, numbers in execute(jobs):
            results.add(job, numbers)


def _parts(members: list[tuple[int, float]], size: int) -> list[list[tuple[int, float]]]:
    return [members[at : at + size] for at in range(0, len(members), size)]


def _count(claim: Claim, multiple: float, verdicts: Sequence[Verdict]) -> Rate:
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    effects = [verdict.effect for verdict in verdicts if verdict.effect is not None]
    against = sum(
        effect.high < effect.null if effect.smallest > effect.null else effect.low > effect.null for effect in effects
    )
    mean = sum(effect.estimate for effect in effects) / max(1, len(effects))
    return Rate(claim.key, multiple, len(verdicts), outcomes["supported"], outcomes["refuted"], against, mean)


def pool_of(size: int, choosing: int) -> Pool:
    """A pool of `size` seeds that confirm and `choosing` that choose rates."""
    return Pool(tuple(range(size)), tuple(range(1000, 1000 + choosing)))


def plan_of(pool: Pool, seeds: int = 8, choosing: int = 4) -> Plan:
    """The plan of every case: the standard effort's, with selection seeds named as the pool names them."""
    return Plan("standard", tuple(range(seeds)), tuple(range(min(pool.selection), min(pool.selection) + choosing)))
