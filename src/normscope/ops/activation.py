"""The activations that a normalization can carry, by torch's names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from normscope.errors import InputError

# Those that the compiled kernels fuse, with the number by which they know them.
FUSED = {"none": 0, "relu": 1, "relu6": 2, "leaky_relu": 3, "silu": 4}
# The fused ones whose backward one bit per element decides.
ONE_BIT = ("relu", "relu6", "leaky_relu")
# Those that can follow a residual in a kernel.
BEHIND_RESIDUAL = ("none", *ONE_BIT)

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda z: z,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}
NAMES = (*_FUNCTIONS, "leaky_relu")


def require(name: str) -> str:
    """`name`, if it is an activation's.

    Raises:
        InputError: It is not.
    """
    if name not in NAMES:
        raise InputError(f"expected an activation out of {', '.join(sorted(NAMES))}; got {name!r}")
    return name


def applied(z: Tensor, name: str, slope: float) -> Tensor:
    """The activation of `z`; `slope` is leaky ReLU's below zero."""
    return F.leaky_relu(z, slope) if name == "leaky_relu" else _FUNCTIONS[name](z)
