"""Two ways to do the same, timed in turn: ratios of neighbours, their median and quartiles, and who else was running.

OpenMP's threads wait by spinning: with another busy process on the machine a step of two threads can take six times
as long, in whichever of the two it falls. A pair during which others took more than a twentieth of the processors is
therefore measured again.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_STAT = Path("/proc/stat")
MOST_FOREIGN = 0.05


def foreign() -> float:
    """Seconds of processor time that others have taken so far, the hypervisor's other guests included; 0 if unknown."""
    if not _STAT.is_file():
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, _STAT.read_text().split()[1:9])
    taken = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return taken - sum(os.times()[:2])


def quartiles(values: list[float]) -> list[float]:
    """The first and the third."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return [low, high]


def ratios(first: Callable[[], float], second: Callable[[], float], repeats: int, limit: float = 90) -> dict[str, Any]:
    """How many times longer `first` takes than `second`, each of which gives its own seconds.

    Args:
        first: What is compared.
        second: What it is compared with; who begins alternates.
        repeats: Pairs that count.
        limit: Seconds after which no more are tried.

    Returns:
        Median and quartiles of the undisturbed pairs, of all where fewer than three were undisturbed.
    """
    begin = time.perf_counter()
    for _ in range(2):  # until the allocator has found its size
        first(), second()
    pairs: list[tuple[float, float, float]] = []
    while len(_undisturbed(pairs)) < repeats and time.perf_counter() - begin < limit:
        before, start = foreign(), time.perf_counter()
        if len(pairs) % 2:
            other = second()
            pair = first(), other
        else:
            pair = first(), second()
        elapsed = time.perf_counter() - start
        pairs.append(((foreign() - before) / (elapsed * (os.cpu_count() or 1)), *pair))
    kept = _undisturbed(pairs)
    if len(kept) < 3:
        kept = pairs
    found = [a / b for _, a, b in kept]
    return {
        "ratio": statistics.median(found),
        "spread": quartiles(found),
        "milliseconds": 1e3 * statistics.median(b for *_, b in kept),
        "pairs": len(kept),
        "disturbed": sum(share > MOST_FOREIGN for share, *_ in kept),
    }


def _undisturbed(pairs: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    return [pair for pair in pairs if pair[0] <= MOST_FOREIGN]
