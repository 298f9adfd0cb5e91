"""The diagnosis: what batch norm does wrong in a network, and the fix.

`normscope.check(model, data)` is a function and this package at once: calling the package runs
`normscope.check.run.check`.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Check(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`normscope.check.run.check`, whose docstring lists the arguments."""
        from normscope.check.run import check

        return check(*args, **kwargs)


sys.modules[__name__].__class__ = _Check
