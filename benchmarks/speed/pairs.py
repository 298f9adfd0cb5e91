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


def ratios(first: Callable[[], float], second: Callable[[], float], repeats: int) -> dict[str, Any]:
    """How many times longer `first` takes than `second`, each of which gives its own seconds.

    Args:
        first: What is compared.
        second: What it is compared with; who begins alternates.
        repeats: Pairs that count; at most three times as many are tried.
    """
    first(), second()
    pairs: list[tuple[float, float, float]] = []
    for at in range(3 * repeats):
        before, start = foreign(), time.perf_counter()
        if at % 2:
            other = second()
            pair = first(), other
        else:
            pair = first(), second()
        elapsed = time.perf_counter() - start
        pairs.append(((foreign() - before) / (elapsed * (os.cpu_count() or 1)), *pair))
        if sum(share <= MOST_FOREIGN for share, *_ in pairs) == repeats:
            break
    undisturbed = [pair for pair in pairs if pair[0] <= MOST_FOREIGN] or pairs
    found = [a / b for _, a, b in undisturbed]
    low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
    return {
        "ratio": middle,
        "spread": [low, high],
        "milliseconds": 1e3 * statistics.median(b for *_, b in undisturbed),
        "pairs": len(undisturbed),
        "disturbed": len(pairs) - len(undisturbed) if undisturbed is not pairs else len(pairs),
    }
