"""One `normscope why` from its options to its record; loads no torch in this process."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import normscope
from normscope import records
from normscope.errors import InputError
from normscope.model.given import Spec
from normscope.why import registry, run
from normscope.why.claim import Claim, Effort, Plan, Task
from normscope.why.job import MOMENTUM
from normscope.why.store import Store

_SEEDS = {"quick": 3, "standard": 8, "thorough": 16}
_SELECTION = {"quick": 2, "standard": 4, "thorough": 4}
_OWN_SELECTION = {"quick": 1, "standard": 2, "thorough": 4}
_FEWEST = 3
T = TypeVar("T")
R = TypeVar("R")
# Files on which no run's numbers depend.
_ELSEWHERE = ("cli.py", "calibrate.py", "progress.py")
# Packages whose version changes numbers.
_PACKAGES = ("torch", "numpy", "scipy")


@dataclass(frozen=True)
class Options:
    """What a person asked for.

    Attributes:
        spec: A user's own network and data; None for the embedded ones.
        effort: How many seeds and steps.
        claims: Keys; empty for all.
        seeds: Number of seeds; None for the effort's.
        budget: Minutes that it may take; None for no bound.
        jobs: Worker processes.
        out: Folder of the record, the page and the finished runs.
        command: The command that makes the record again.
    """

    spec: Spec | None = None
    effort: Effort = "standard"
    claims: tuple[str, ...] = ()
    seeds: int | None = None
    budget: float | None = None
    jobs: int = 1
    out: Path = Path("normscope-why")
    command: str = "normscope why"


def plan_of(options: Options, seeds: int | None = None) -> Plan:
    """How many seeds confirm and how many choose rates."""
    count = seeds or options.seeds or _SEEDS[options.effort]
    choosing = (_OWN_SELECTION if options.spec else _SELECTION)[options.effort]
    return Plan(options.effort, tuple(range(count)), tuple(range(100, 100 + choosing)))


def fit_budget(options: Options, task: Task, claims: Sequence[Claim]) -> Plan:
    """The plan with as many seeds as the budget allows.

    Raises:
        InputError: Even `_FEWEST` seeds do not fit.
    """
    plan = plan_of(options)
    if options.budget is None:
        return plan
    while run.estimate(task, plan, claims, options.jobs) > 60 * options.budget:
        if len(plan.seeds) <= _FEWEST:
            need = run.estimate(task, plan, claims, options.jobs) / 60
            raise InputError(
                f"expected a --budget of at least {need:.1f} minutes for these claims at --effort {options.effort} with"
                f" {len(plan.seeds)} seeds, came {options.budget:g}; name fewer --claims or a lower --effort"
            )
        plan = plan_of(options, len(plan.seeds) - 1)
    return plan


def salt(task: Task) -> str:
    """Hash of everything but the job that a run's numbers depend on: code, data, network, versions, processor."""
    digest = hashlib.sha256(f"{task.fingerprint}\n{task.spec}\n{sorted(versions(task).items())}".encode())
    root = Path(normscope.__file__).parent
    for file in sorted(root.rglob("*.py")):
        if not {"report", "check"} & set(file.relative_to(root).parts) and file.name not in _ELSEWHERE:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def versions(task: Task) -> dict[str, str]:
    """Versions of what numbers depend on, and the models of the processor and of the CUDA device, if one trains."""
    accelerator = {"accelerator": task.accelerator} if task.accelerator else {}
    return {
        "normscope": normscope.__version__,
        "kernels": task.kernels,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "processor": processor(),
        **accelerator,
    }


def processor() -> str:
    """The processor's model, as the system names it."""
    return cpuinfo("model name") or platform.processor() or platform.machine()


def cpuinfo(field: str) -> str:
    """What Linux says of the first processor in this field; empty where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def look(options: Options) -> Task:
    """The task, looked at in a worker: every mistake of the input is raised here, before anything is written."""
    from joblib import Parallel, delayed

    from normscope.why import worker

    # A look at a user's own task may end in an error, which would cut short what another worker is at.
    others = [] if options.spec else [delayed(worker.warm)()] * (options.jobs - 1)
    run_all = Parallel(n_jobs=max(2, options.jobs), pre_dispatch="all")
    task: Task = run_all([delayed(worker.look)(Task(spec=options.spec)), *others])[0]
    return task


def study(
    options: Options,
    begin: Callable[[Task, Plan, float, int], None],
    tell: Callable[[run.Progress], None],
) -> records.Study:
    """Run what is asked and return its record.

    Args:
        options: What a person asked for.
        begin: Hears the task, the plan, the estimated seconds and the number of kept runs before anything runs.
        tell: Hears of every finished run.

    Raises:
        InputError: The input is not usable, or the folder cannot be written.
    """
    start = time.monotonic()
    asked = [registry.claim(key) for key in options.claims or registry.KEYS]
    _check_writable(options.out)
    task = look(options)
    reasons = {claim.key: claim.applies(task) for claim in asked}
    claims = [claim for claim in asked if not reasons[claim.key]]
    plan = fit_budget(options, task, claims)
    work = run.Study(task, plan, claims, Store(options.out / "runs", salt(task)))
    for name in ("run.json", "page.html"):
        records.sweep(options.out, name)
    work.todo()
    begin(task, plan, run.wall(work.left(), options.jobs), len(work.finished))
    work.run(options.jobs, tell)
    verdicts = tuple(
        claim.inapplicable(reasons[claim.key]) if reasons[claim.key] else claim.conclude(task, plan, work.results)
        for claim in asked
    )
    store = work.store
    runs = tuple(
        records.Run(store.path(job).stem, job.claim, job.spec(), {"members": members}, seconds)
        for job, (members, seconds) in sorted(work.finished.items(), key=lambda item: store.path(item[0]).stem)
    )
    return records.Study(
        question="Why does batch norm work" + (" in this network?" if task.own else "?"),
        network=task.describe,
        data=task.data,
        command=options.command,
        settings=_settings(options, plan, task),
        versions=versions(task),
        verdicts=verdicts,
        runs=runs,
        notes=(*task.notes, *_caveat(plan)),
        seconds=time.monotonic() - start,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def side_by_side(workers: int) -> Callable[[Callable[[T], R], list[T]], list[R]]:
    """A `map` over the worker processes."""
    from joblib import Parallel, delayed

    return lambda work, items: list(Parallel(n_jobs=workers)(delayed(work)(item) for item in items))


def _caveat(plan: Plan) -> tuple[str, ...]:
    """What a reader of a rough look must know."""
    usual = _SEEDS["standard"]
    if len(plan.seeds) >= usual:
        return ()
    rough = f"a rough look, from {len(plan.seeds)} seeds: intervals are wide"
    return (f"{rough}, and what stays open here may be decided by more (--effort standard takes {usual})",)


def _settings(options: Options, plan: Plan, task: Task) -> dict[str, object]:
    return {
        "effort": options.effort,
        "seeds": list(plan.seeds),
        "seeds that choose learning rates": list(plan.selection),
        "claims": list(options.claims) or "all",
        "optimizer": f"SGD, momentum {MOMENTUM:g}, no weight decay",
        "jobs": options.jobs,
        "device": task.spec.device if task.spec else "cpu",
        "mixed precision": bool(task.spec and task.spec.amp),
        "own network": None if task.spec is None else {k: v for k, v in vars(task.spec).items() if v},
    }


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}; name another with --out") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write into {folder}; name another folder with --out")
