"""Claims x arms x seeds over processes: every finished run is kept as it arrives, so that nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from normscope.why import rates
from normscope.why.arms import Arm
from normscope.why.claim import Claim, Plan, Task
from normscope.why.job import Job, Numbers, Results
from normscope.why.store import Store

# Seconds that it takes to start workers and to draw a page.
_AROUND = 7.0


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        done: Estimated processor seconds of the finished runs.
        total: Of all runs.
        runs: Number of finished runs.
        label: What has just finished.
    """

    done: float
    total: float
    runs: int
    label: str


class _Guess(Results):
    """Results in which every search for a rate has ended in a tie: enough for `plan` to name every job."""

    def get(self, claim: str, network: str, arm: Arm, seed: int, rate: float, regime: str = "clean") -> Numbers | None:
        found = super().get(claim, network, arm, seed, rate, regime)
        return {"step": [0], "loss": [1.0], "metric": [0.0]} if found is None and claim == rates.KEY else found


def all_jobs(task: Task, plan: Plan, claims: Sequence[Claim]) -> list[Job]:
    """Every job of a study, learning rates guessed: for estimates."""
    found = [job for claim in claims for job in claim.plan(task, plan, _Guess())]
    return list(dict.fromkeys(found))


def seconds_of(task: Task, job: Job) -> float:
    """Estimated processor seconds of a job."""
    return job.steps * len(job.members) * job.weight * task.step_seconds.get(job.network, 0.005)


def estimate(task: Task, plan: Plan, claims: Sequence[Claim], workers: int) -> float:
    """Estimated wall seconds of a study that starts from nothing."""
    return wall(sum(seconds_of(task, job) for job in all_jobs(task, plan, claims)), workers)


def wall(seconds: float, workers: int) -> float:
    """Wall seconds, start and page included, of runs that take so many processor seconds."""
    return _AROUND + seconds / workers


class Study:
    """The jobs of some claims and what has come of them.

    Args:
        task: What is under test.
        plan: How much is done.
        claims: What is asked.
        store: Where finished runs are kept.
    """

    def __init__(self, task: Task, plan: Plan, claims: Sequence[Claim], store: Store) -> None:
        self.task, self.plan, self.claims, self.store = task, plan, claims, store
        self.results = Results()
        self.finished: dict[Job, tuple[list[Numbers], float]] = {}
        self._total = sum(seconds_of(task, job) for job in all_jobs(task, plan, claims))

    def todo(self) -> list[Job]:
        """Jobs that the results so far call for and that no file holds, the costliest first."""
        found = [job for claim in self.claims for job in claim.plan(self.task, self.plan, self.results)]
        missing = []
        for job in dict.fromkeys(found):
            if job in self.finished:
                continue
            kept = self.store.load(job)
            if kept is None:
                missing.append(job)
            else:
                self._file(job, *kept)
        return sorted(missing, key=lambda job: -seconds_of(self.task, job))

    def left(self) -> float:
        """Estimated processor seconds of the runs that are still to come."""
        return max(0.0, self._total - self._done())

    def _done(self) -> float:
        return sum(seconds_of(self.task, job) for job in self.finished)

    def _file(self, job: Job, members: list[Numbers], seconds: float) -> None:
        self.finished[job] = (members, seconds)
        self.results.add(job, members)

    def run(self, workers: int, tell: Callable[[Progress], None]) -> None:
        """Do what is to do; `tell` hears of every finished run."""
        from joblib import Parallel, delayed

        from normscope.why.worker import work

        self.store.sweep()
        with Parallel(n_jobs=workers, return_as="generator_unordered", pre_dispatch="all") as parallel:
            before = -1
            while len(self.finished) != before:
                before = len(self.finished)
                todo = self.todo()
                self._tell(tell, "")
                for spec, members, seconds in parallel(delayed(work)(self.task, job.spec()) for job in todo):
                    job = Job.of(spec)
                    self.store.save(job, members, seconds)
                    self._file(job, members, seconds)
                    self._tell(tell, f"{job.claim}: {job.arm.name}")

    def _tell(self, tell: Callable[[Progress], None], label: str) -> None:
        done = self._done()
        tell(Progress(done, max(self._total, done), len(self.finished), label))
