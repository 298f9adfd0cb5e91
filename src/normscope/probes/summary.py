"""One number for many channels; channels that never vary have no standardized number and are left out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean(values: Tensor) -> float:
    """Mean of the finite `values`; NaN if there is none."""
    finite = values[values.isfinite()]
    return float(finite.mean()) if finite.numel() else math.nan


def root_mean_square(values: Tensor) -> float:
    """Root mean square of the finite `values`; NaN if there is none."""
    return math.sqrt(mean(values.square()))
