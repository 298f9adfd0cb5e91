"""Which implementation runs for a tensor, and why; and the call that chooses another.

- ``compiled``: the package's C++ kernels, one copy per instruction-set level, the best of this machine unless named
  (``compiled:x86_64_v3``);
- ``torch``: torch's own batch-norm kernel;
- ``reference``: readable torch in float64, for any device and dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from normscope.errors import InputError, UnsupportedError
from normscope.ops import aten, cpu

NAMES = ("auto", "compiled", "torch", "reference")


@dataclass(frozen=True)
class Backend:
    """What runs, at which instruction-set level (empty outside of 'compiled'), and the reason in words."""

    name: str
    level: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}{':' + self.level if self.level else ''} ({self.reason})"


_requested = "auto"


def requested() -> str:
    """What `use_backend` asked for; 'auto' outside of it."""
    return _requested


def backend(x: Tensor) -> Backend:
    """Which implementation normalizes tensors like `x` by their batch statistics in eager mode, and why.

    Args:
        x: Shape [batch, channels, *spatial].
    """
    if _requested in ("torch", "reference"):
        return Backend(_requested, "", "requested by use_backend")
    objection = cpu.objection(x)
    if _requested == "auto" and aten.is_faster(x):
        return Backend("torch", "", f"torch's own kernel is faster for at most {aten.FEW} contiguous float32 elements")
    if not objection:
        levels = cpu.EXTENSION.levels
        reason = f"{x.dtype} on the CPU; levels here: {', '.join(levels)}"
        if not cpu.EXTENSION.module.openmp:
            reason += "; on one thread, built without GCC's OpenMP runtime, whose threads are torch's"
        return Backend("compiled", levels[cpu.level_in_use], reason)
    name = "torch" if takes_torch(x) else "reference"
    return Backend(name, "", objection)


def takes_torch(x: Tensor) -> bool:
    """Whether torch's kernel takes an input of this dtype and size and returns statistics in at least float32."""
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    return x.numel() > 0 and x.dtype in dtypes


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within the context, batch statistics are normalized by the backend `name`, in every thread.

    Args:
        name: 'auto', 'compiled', 'compiled:<level>', 'torch' or 'reference'.

    Raises:
        InputError: There is no such backend.
        UnsupportedError: It exists, but not in this installation or on this machine. Nothing else is used instead.
    """
    global _requested
    level = _level(name)
    before = _requested, cpu.level_in_use
    _requested, cpu.level_in_use = name.partition(":")[0], level
    try:
        yield
    finally:
        _requested, cpu.level_in_use = before


def _level(name: str) -> int:
    kind, _, level = name.partition(":")
    if kind not in NAMES or (level and kind != "compiled"):
        raise InputError(f"expected a backend out of {', '.join(NAMES)} or compiled:<level>; got {name!r}")
    levels = cpu.EXTENSION.levels
    if kind == "compiled" and not levels:
        raise UnsupportedError(f"backend 'compiled' was requested, but {cpu.EXTENSION.reason}")
    if level and level not in levels:
        raise UnsupportedError(
            f"expected an instruction-set level of this machine ({', '.join(levels)}); got {level!r}"
        )
    return levels.index(level) if level else 0
