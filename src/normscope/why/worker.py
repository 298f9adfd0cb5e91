"""What happens in a worker process: one job, on threads and seeds of its own."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import warnings
from typing import Any

from normscope.errors import NormscopeError
from normscope.why import registry
from normscope.why.arms import Arm
from normscope.why.claim import Task
from normscope.why.job import Job, Numbers

_watched = False


def work(task: Task, spec: dict[str, Any]) -> tuple[dict[str, Any], list[Numbers], float]:
    """Do the job of `spec`; returns (spec, numbers of each member, processor seconds)."""
    from normscope.model.spec import raised

    settle(task)
    start = time.process_time()
    job = Job.of(spec)
    try:
        members = registry.execute(task, job)
    except NormscopeError:
        raise
    except Exception as error:
        if not task.own:
            raise
        raise raised(error, f"the network in a run of {job.claim}, arm {job.arm.name!r},") from error
    return spec, [_plain(numbers) for numbers in members], time.process_time() - start


def look(task: Task) -> Task:
    """`normscope.why.inspect.inspect`, in a worker."""
    from normscope.why.inspect import inspect

    settle(task)
    return inspect(task)


def warm() -> None:
    """What the first job of a worker would wait for, while another worker looks at the task."""
    from normscope.why import bench, data

    settle(Task())
    bench.make_model(Task(), Job("warm", "mlp2", Arm("batch norm"), ((0, 0.1),), 0, 1), 0)
    data.digits()


def settle(task: Task) -> None:
    """One thread, the same numbers each time, no answer to Ctrl-C (the parent has one), an end with the parent."""
    global _watched  # noqa: PLW0603  (once in a process)
    import torch

    torch.set_num_threads(1)
    if task.spec is not None and task.spec.device.startswith("cuda"):
        _settle_cuda()
    if not _watched and _is_worker():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    _watched = True


def _settle_cuda() -> None:
    """Algorithms that give the same numbers each time, where torch has them: on a CPU with one thread all do."""
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)  # noqa: FBT003
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", ".*deterministic", UserWarning)


def _is_worker() -> bool:
    import multiprocessing

    return multiprocessing.current_process().name != "MainProcess"


def _leave_with(parent: int) -> None:
    """End this process soon after its parent has: a killed command leaves no one behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _plain(value: Any) -> Any:
    """Numbers as JSON has them; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
