"""One unit of work: which network, arm, rates and seeds a claim wants trained and measured, and what came of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from normscope.why.arms import Arm

Numbers = dict[str, Any]
# Of the SGD that trains every member.
MOMENTUM = 0.9


@dataclass(frozen=True)
class Job:
    """What one worker does in one go; its key is the hash of all of it.

    Attributes:
        claim: Key of the claim (or of the selection of rates) whose `run` does the work.
        network: 'mlp6', 'mlp2', 'conv' or 'own'.
        regime: 'clean' or 'noisy' labels.
        arm: The treatment.
        members: (seed, learning rate) of each network that is trained side by side.
        steps: Training steps.
        batch: Examples in a mini-batch.
        options: What else the claim's `run` wants to know: plain JSON values.
        weight: Cost of a step against a plain training step of this network, for the estimate.
    """

    claim: str
    network: str
    arm: Arm
    members: tuple[tuple[int, float], ...]
    steps: int
    batch: int
    regime: str = "clean"
    options: tuple[tuple[str, Any], ...] = ()
    weight: float = 1.0

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seed of each member."""
        return tuple(seed for seed, _ in self.members)

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rate of each member."""
        return tuple(rate for _, rate in self.members)

    def option(self, name: str, default: Any = None) -> Any:
        """The option `name`."""
        return dict(self.options).get(name, default)

    def spec(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, spec: dict[str, Any]) -> Job:
        """The job that `spec` came from."""
        arm = Arm(**{**spec["arm"], "noise": tuple(spec["arm"]["noise"])})
        members = tuple((int(seed), float(rate)) for seed, rate in spec["members"])
        options = tuple((str(name), value) for name, value in spec["options"])
        return cls(**{**spec, "arm": arm, "members": members, "options": options})

    def key(self, salt: str) -> str:
        """Hash of the job and of `salt`: code, data and versions."""
        text = json.dumps(self.spec(), sort_keys=True)
        return hashlib.sha256(f"{salt}\n{text}".encode()).hexdigest()[:24]


@dataclass
class Results:
    """Numbers of every finished member, looked up by what was asked for."""

    _found: dict[tuple[str, str, str, str, float, int], Numbers] = field(default_factory=dict)
    _done: set[Job] = field(default_factory=set)

    def add(self, job: Job, members: Iterable[Numbers]) -> None:
        """File the numbers of every member of a finished job."""
        self._done.add(job)
        for (seed, rate), numbers in zip(job.members, members, strict=True):
            self._found[job.claim, job.network, job.regime, job.arm.name, rate, seed] = numbers

    def has(self, job: Job) -> bool:
        """Whether every member of `job` is there."""
        where = (job.claim, job.network, job.regime, job.arm.name)
        return all((*where, rate, seed) in self._found for seed, rate in job.members)

    def get(self, claim: str, network: str, arm: Arm, seed: int, rate: float, regime: str = "clean") -> Numbers | None:
        """Numbers of one member, None where it has not run."""
        return self._found.get((claim, network, regime, arm.name, rate, seed))


class Relabelled(Results):
    """Results in which arms stand in for one another: how null and planted cases are put together.

    Args:
        pool: Real results.
        stand_in: (arm name, seed) -> (arm name, seed) of the pool.
    """

    def __init__(self, pool: Results, stand_in: Callable[[str, int], tuple[str, int]]) -> None:
        super().__init__(pool._found)
        self._stand_in = stand_in

    def get(self, claim: str, network: str, arm: Arm, seed: int, rate: float, regime: str = "clean") -> Numbers | None:
        """Numbers of the pool's member that stands in for this one."""
        name, other = self._stand_in(arm.name, seed)
        return self._found.get((claim, network, regime, name, rate, other))
