"""How often a claim's whole protocol errs, on null and planted cases from real, independently seeded trainings.

A null case puts runs of the control arm under every label; a planted case puts runs of an arm whose effect is known,
by real training, under the treated label. Every case draws its seeds from the pool anew, those that choose learning
rates too: the choice is part of the case.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import stats

from normscope.records import Effect, Verdict
from normscope.why import run
from normscope.why.arms import Arm
from normscope.why.claim import Calibration, Claim, Plan, Task
from normscope.why.job import Job, Numbers, Relabelled, Results

# Members of one job at most: what keeps a worker's memory small.
_STACK = 28
# Orders of the examples that are trained for each seed: labels that decide against each other get different ones.
_ORDERS = 3

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
        reversed: Cases whose headline interval excludes no effect on the side against the claim, whatever the verdict.
        against: Cases that came out refuted for an effect in the other direction, which is not there: with a regime
            whose interval lies on that side and is not wholly inside the smallest effect of interest.
        effect: Median estimate over the cases, as a person reads it.
        leading: Cases whose first regime, the one of the headline effect, came out supported.
        equivalence: Whether the claim is that there is no effect: a null case should be supported, a planted one not.
    """

    claim: str
    planted: float
    cases: int
    supported: int
    refuted: int
    reversed: int
    against: int
    effect: float
    leading: int = 0
    equivalence: bool = False

    @property
    def wrong(self) -> dict[str, int]:
        """Number of wrong verdicts of each kind that these cases can show."""
        if self.equivalence:
            return {"false refutation": self.refuted} if self.planted == 0 else {"false support": self.supported}
        if self.planted == 0:
            return {"false support": self.supported, "false refutation": self.against}
        return {"false refutation": self.refuted}

    @property
    def bound(self) -> float:
        """Upper 95 % bound of the largest of these error rates."""
        return max(self.upper(count) for count in self.wrong.values())

    @property
    def power(self) -> float | None:
        """Share of the cases that came out as they should; None where there is no telling (a null of a difference)."""
        if self.planted == 0:
            return self.supported / self.cases if self.equivalence else None
        return (self.refuted if self.equivalence else self.supported) / self.cases

    def upper(self, count: int) -> float:
        """Upper 95 % bound (Clopper-Pearson, one-sided) of the rate behind `count` cases."""
        return 1.0 if count >= self.cases else float(stats.beta.ppf(0.95, count + 1, self.cases - count))


@dataclass(frozen=True)
class Pool:
    """Seeds of real trainings: those that confirm and those that choose rates are never mixed."""

    seeds: tuple[int, ...]
    selection: tuple[int, ...]


class _Case(Relabelled):
    """One case: the plan's seeds stand for seeds drawn from the pool, the same for every arm: pairs stay pairs.

    Arms of one seed share its split and its initialization, as in a study, and differ in the order of the examples:
    neighbouring labels get orders of their own, at random for each seed.
    """

    def __init__(
        self, pool: Results, calibration: Calibration, planted: Arm, seeds: Pool, labels: Sequence[str], draw: str
    ) -> None:
        super().__init__(pool, self._stand_in)
        self._calibration, self._planted, self._labels = calibration, planted, list(labels)
        chance = random.Random(draw)  # noqa: S311
        self._first = min(seeds.selection)
        self._seeds = chance.sample(seeds.seeds, len(seeds.seeds))
        self._selection = chance.sample(seeds.selection, len(seeds.selection))
        self._orders = min(_ORDERS, len(self._labels))
        self._turns = {seed: chance.randrange(self._orders) for seed in (*seeds.seeds, *seeds.selection)}

    def seed(self, seed: int) -> int:
        """The pool's seed that stands for `seed`."""
        return self._seeds[seed] if seed < self._first else self._selection[seed - self._first]

    def arm(self, name: str, seed: int) -> Arm:
        """The arm whose run stands for `seed` under the label `name`."""
        treated = name in (self._calibration.treated.name, *self._calibration.also)
        base = self._planted if treated else self._calibration.control
        order = (self._labels.index(name) + self._turns[self.seed(seed)]) % self._orders
        return dataclasses.replace(base, name=f"{base.name}, order {order}", order=order)

    def _stand_in(self, name: str, seed: int) -> tuple[str, int]:
        return self.arm(name, seed).name, self.seed(seed)


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
    labels = list(dict.fromkeys(job.arm.name for job in run.all_jobs(task, plan, [claim])))
    found = []
    for multiple, planted in kinds:
        drawn = [_Case(results, calibration, planted, pool, labels, f"{seed}/{multiple}/{at}") for at in range(cases)]
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
                for seed, rate in job.members:
                    arm, stand_in = case.arm(job.arm.name, seed), case.seed(seed)
                    template = dataclasses.replace(job, arm=arm, members=())
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
    reversed_ = [verdict for verdict in verdicts if verdict.effect is not None and _reversed(verdict.effect)]
    against = sum(verdict.outcome == "refuted" and any(map(_by_sign, _deciding(verdict))) for verdict in verdicts)
    known = [effect.estimate for effect in effects if math.isfinite(effect.estimate)]
    middle = statistics.median(known) if known else math.nan
    same = claim.calibration is not None and claim.calibration.equivalence
    leading = sum(bool(each.regimes) and each.regimes[0].outcome == "supported" for each in verdicts)
    found = (outcomes["supported"], outcomes["refuted"], len(reversed_), against, middle, leading, same)
    return Rate(claim.key, multiple, len(verdicts), *found)


def _reversed(effect: Effect) -> bool:
    """Whether the interval lies on the side of no effect that speaks against the claim."""
    return effect.high < effect.null if effect.smallest > effect.null else effect.low > effect.null


def _deciding(verdict: Verdict) -> list[Effect]:
    found = [regime.effect for regime in verdict.regimes if regime.outcome == "refuted"] or [verdict.effect]
    return [effect for effect in found if effect is not None]


def _by_sign(effect: Effect) -> bool:
    """Whether only its sign can refute: it is reversed, and not wholly inside the smallest effect of interest."""
    scale = math.log if effect.null == 1 else float
    return _reversed(effect) and max(abs(scale(effect.low)), abs(scale(effect.high))) >= abs(scale(effect.smallest))


def pool_of(size: int, choosing: int) -> Pool:
    """A pool of `size` seeds that confirm and `choosing` that choose rates."""
    return Pool(tuple(range(size)), tuple(range(1000, 1000 + choosing)))


def plan_of(pool: Pool, seeds: int = 8, choosing: int = 4) -> Plan:
    """The plan of every case: the standard effort's, with selection seeds named as the pool names them."""
    return Plan("standard", tuple(range(seeds)), tuple(range(min(pool.selection), min(pool.selection) + choosing)))
