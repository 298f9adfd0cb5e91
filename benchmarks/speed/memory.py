"""What memory gives just now: it is shared with whatever else runs on a machine, and most kernels here wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

Found = TypeVar("Found")
# More than caches hold, so that a copy of it shows memory.
BYTES = 96 << 20


def taken(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Memory:
    """Memory as torch's copy meets it, and the least of it that a measurement needs.

    Args:
        floor: Bytes read and written per second, in GB/s; at 0 nothing is asked.
    """

    def __init__(self, floor: float) -> None:
        self.floor = floor
        if floor:
            self.source = torch.ones(BYTES // 4)
            self.copy = self.source.clone()

    def rate(self) -> float:
        """The best of three copies, in GB/s."""
        return 2 * BYTES / min(taken(lambda: self.copy.copy_(self.source)) for _ in range(3)) / 1e9

    def quiet(self) -> bool:
        """Whether memory gives `floor` now."""
        return not self.floor or self.rate() >= self.floor

    def undisturbed(self, measured: Callable[[], Found]) -> Found:
        """What `measured` says while memory gives `floor`, right before and right after; waits until it does."""
        while True:
            while not self.quiet():
                time.sleep(0.2)
            found = measured()
            if self.quiet():
                return found
