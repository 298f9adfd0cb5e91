"""A layer given a trait by a subclass made on the spot: parameters, names and isinstance stay, and it pickles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import nn


class Trait:
    """First base of a layer's class while it has the trait."""

    prefix = ""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle by trait and base class: the class made of both has no name to be imported by."""
        trait, base = type(self).__bases__
        return _rebuild, (trait, base), self.__dict__


_MADE: dict[tuple[type[Trait], type[nn.Module]], type[nn.Module]] = {}


def give(trait: type[Trait], module: nn.Module) -> None:
    """Give `module` the trait, in place."""
    module.__class__ = _class(trait, type(module))


def take(module: nn.Module) -> None:
    """Take the trait given last from `module`, in place."""
    module.__class__ = cast("type[nn.Module]", type(module).__bases__[1])


def _class(trait: type[Trait], base: type[nn.Module]) -> type[nn.Module]:
    key = (trait, base)
    if key not in _MADE:
        made = type(f"{trait.prefix}{base.__name__}", (trait, base), {"__doc__": base.__doc__})
        _MADE[key] = cast("type[nn.Module]", made)
    return _MADE[key]


def _rebuild(trait: type[Trait], base: type[nn.Module]) -> nn.Module:
    kind = _class(trait, base)
    return kind.__new__(kind)
