"""What an operation on a network gives back, and how modules are swapped and swapped back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from normscope.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from normscope.model.find import Unsupported


@dataclass(frozen=True)
class Change:
    """One part of the network that was changed: its name, what it was and what it is."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Surgery:
    """A network after an operation.

    Attributes:
        model: The changed network: a copy, or the network itself where `inplace` was asked for.
        changes: What was changed.
        left_alone: What was not, and why.
    """

    model: nn.Module
    changes: tuple[Change, ...]
    left_alone: tuple[Unsupported, ...]
    _revert: Callable[[], None] = field(repr=False, compare=False)

    def undo(self) -> nn.Module:
        """Put `model` back to what it was before the operation, and return it."""
        self._revert()
        return self.model


def own(model: nn.Module, *, inplace: bool) -> nn.Module:
    """`model` itself, or a copy of it that shares no tensor with it.

    Raises:
        UnsupportedError: The network cannot be copied.
    """
    return model if inplace else copied(model, ", or pass inplace=True")


def copied(model: nn.Module, otherwise: str = "") -> nn.Module:
    """A copy of `model` that shares no tensor with it; `otherwise` is what else the error advises.

    Raises:
        UnsupportedError: The network cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise UnsupportedError(
            f"expected a network that copy.deepcopy can copy, it raised: {str(error).splitlines()[0]};"
            f" detach tensors stored on modules{otherwise}"
        ) from error


def swap(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> Callable[[], None]:
    """Put `new[module]` in every place where `module` stands below `model`; returns what puts all back.

    Modules keep their hooks only if the caller carries them over; `model` itself cannot be swapped.
    """
    places = [
        (parent, key, child)
        for parent in list(model.modules())
        for key, child in parent._modules.items()
        if child is not None and child in new
    ]
    for parent, key, child in places:
        parent._modules[key] = new[child]

    def revert() -> None:
        for parent, key, child in places:
            parent._modules[key] = child

    return revert
