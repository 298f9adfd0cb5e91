"""normscope: see, on your own network, why batch norm works, what it does wrong, and what to do about it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module that defines it. Resolved on first use: importing the package imports nothing heavy.
_HOMES = {
    "CheckReport": "records",
    "Finding": "records",
    "InputError": "errors",
    "Measurement": "records",
    "Moments": "moments",
    "NormscopeError": "errors",
    "Scope": "probes.scope",
    "adapt": "surgery.adapt",
    "backend": "ops.backend",
    "check": "",
    "convert": "surgery.convert",
    "fold": "surgery.fold",
    "freeze": "surgery.freeze",
    "fuse": "surgery.fuse",
    "gap": "check.gap",
    "guard_statistics": "surgery.statistics",
    "hold_statistics": "surgery.statistics",
    "nn": "",
    "recalibrate": "surgery.recalibrate",
    "unfreeze": "surgery.freeze",
    "unfuse": "surgery.fuse",
    "use_backend": "ops.backend",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604  (names only)

if TYPE_CHECKING:
    from normscope import nn as nn
    from normscope.check.gap import gap as gap
    from normscope.check.run import check as check
    from normscope.errors import InputError as InputError
    from normscope.errors import NormscopeError as NormscopeError
    from normscope.moments import Moments as Moments
    from normscope.ops.backend import backend as backend
    from normscope.ops.backend import use_backend as use_backend
    from normscope.probes.scope import Scope as Scope
    from normscope.records import CheckReport as CheckReport
    from normscope.records import Finding as Finding
    from normscope.records import Measurement as Measurement
    from normscope.surgery.adapt import adapt as adapt
    from normscope.surgery.convert import convert as convert
    from normscope.surgery.fold import fold as fold
    from normscope.surgery.freeze import freeze as freeze
    from normscope.surgery.freeze import unfreeze as unfreeze
    from normscope.surgery.fuse import fuse as fuse
    from normscope.surgery.fuse import unfuse as unfuse
    from normscope.surgery.recalibrate import recalibrate as recalibrate
    from normscope.surgery.statistics import guard_statistics as guard_statistics
    from normscope.surgery.statistics import hold_statistics as hold_statistics


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'normscope' has no attribute {name!r}")
    home = _HOMES[name]
    value = (
        getattr(importlib.import_module(f"normscope.{home}"), name)
        if home
        else importlib.import_module(f"normscope.{name}")
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
