"""What a claim is: a sentence, its source, and a protocol that is fixed before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from normscope.bibliography import cite
from normscope.model.given import Spec
from normscope.records import Verdict
from normscope.why.arms import Arm
from normscope.why.job import Job, Numbers, Results

Effort = Literal["quick", "standard", "thorough"]


@dataclass(frozen=True)
class Task:
    """The network and data under test, as the parent process knows them (it never loads torch).

    Attributes:
        spec: Where a user's own network and data are; None for the embedded ones.
        kind: 'classification' or 'regression'.
        examples: Training examples.
        classes: Number of classes; 0 for a regression.
        images: Whether the first input has channels and space.
        channels: Channels of the first input.
        layers: Number of batch-norm layers.
        batch: Batch size for a user's own network.
        describe: The network in words.
        data: The data in words.
        fingerprint: Hash of the data.
        kernels: Which compiled kernels the workers load.
        accelerator: The model of the CUDA device that trains; empty without one.
        step_seconds: Measured seconds of one training step, by network.
        notes: What a reader must know, for example parts that could not be seen.
    """

    spec: Spec | None = None
    kind: Literal["classification", "regression"] = "classification"
    examples: int = 1297
    classes: int = 10
    images: bool = True
    channels: int = 3
    layers: int = 6
    batch: int = 64
    describe: str = ""
    data: str = ""
    fingerprint: str = ""
    kernels: str = ""
    accelerator: str = ""
    step_seconds: dict[str, float] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()
    has_shifted: bool = False
    largest_dropout: float = 0.0

    @property
    def own(self) -> bool:
        """Whether it is a user's own."""
        return self.spec is not None

    def network(self, embedded: str) -> str:
        """'own' for a user's task, else the embedded network that a claim asks for."""
        return "own" if self.own else embedded


@dataclass(frozen=True)
class Plan:
    """How much is done: seeds that confirm, other seeds that choose learning rates, and the effort behind them."""

    effort: Effort = "standard"
    seeds: tuple[int, ...] = tuple(range(8))
    selection: tuple[int, ...] = tuple(range(100, 104))

    def steps(self, quick: int, standard: int, thorough: int) -> int:
        """The number for the effort."""
        return {"quick": quick, "standard": standard, "thorough": thorough}[self.effort]


@dataclass(frozen=True)
class Calibration:
    """How null and planted cases of a claim are made from real trainings.

    Attributes:
        control: The arm whose runs stand on both sides of a null case.
        treated: The arm of the claim that a planted arm stands in for.
        planted: (multiple of the smallest effect, arm that plants it by real training).
        network: The network on which the pool is trained.
        also: Names of the claim's other arms that count as treated (the same treatment in another regime).
        equivalence: Whether the claim is that a number equals its theory. The null case is then one in which it does, a
            planted arm at the multiple 1 stands on the edge of the margin and one at 2 beyond it: the null refuted or
            the edge supported is an error, and 2 refuted is power.
    """

    control: Arm
    treated: Arm
    planted: tuple[tuple[float, Arm], ...]
    network: str
    also: tuple[str, ...] = ()
    equivalence: bool = False


@dataclass(frozen=True)
class Claim:
    """One reason given for batch norm, and how it is tested.

    `plan` returns every job that the results so far call for (learning rates are chosen before they are confirmed);
    `run` does one job in a worker and returns numbers for each member; `conclude` turns results into a verdict and
    must not need torch.

    Attributes:
        key: 'faster-optimization'.
        title: For people.
        sentence: The statement, as the lecture makes it.
        sources: Keys of the bibliography.
        arms: The arms, in words.
        statistic: What is measured, in words.
        smallest: The smallest effect of interest, in words and numbers.
        refuted_by: What would refute it.
        not_when: When it does not apply.
        applies: '' or the reason why the claim does not apply to a task.
        plan: Jobs still to do.
        run: One job -> numbers of each member.
        conclude: Results -> verdict.
        calibration: How its error rates are measured; None where the claim has its own way.
    """

    key: str
    title: str
    sentence: str
    sources: tuple[str, ...]
    arms: str
    statistic: str
    smallest: str
    refuted_by: str
    not_when: str
    applies: Callable[[Task], str]
    plan: Callable[[Task, Plan, Results], list[Job]]
    run: Callable[[Task, Job], list[Numbers]]
    conclude: Callable[[Task, Plan, Results], Verdict]
    calibration: Calibration | None = None

    @property
    def protocol(self) -> tuple[tuple[str, str], ...]:
        """(heading, text) of everything that is fixed before a run."""
        return (
            ("Arms", self.arms),
            ("Statistic", self.statistic),
            ("Smallest effect of interest", self.smallest),
            ("Refuted by", self.refuted_by),
            ("Does not apply", self.not_when),
        )

    @property
    def statement(self) -> str:
        """All of it as text, for a person who wants to read it before anything runs."""
        lines = [self.title, "", f"Sentence: {self.sentence}", *(f"{name}: {text}" for name, text in self.protocol)]
        return "\n".join([*lines, *(f"Source: {cite(key)}" for key in self.sources)])

    def verdict(self, **parts: object) -> Verdict:
        """A verdict of this claim: `parts` are the fields of the record that the results fill."""
        return Verdict(
            claim=self.key,
            title=self.title,
            sentence=self.sentence,
            protocol=self.protocol,
            sources=self.sources,
            **parts,  # type: ignore[arg-type]
        )

    def inapplicable(self, reason: str) -> Verdict:
        """The verdict where the claim does not apply."""
        return self.verdict(outcome="not applicable", summary=reason)
