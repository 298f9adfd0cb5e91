"""Batch norm whose statistics, and if wanted affine numbers, stay as they are through model.train()."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from normscope.errors import InputError
from normscope.model.find import NormLayer, Unsupported, find
from normscope.surgery.change import Change, Surgery, own
from normscope.surgery.mixed import Trait, give, take

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


class Frozen(Trait):
    """The class of a frozen layer: train() leaves it in eval mode."""

    prefix = "Frozen"
    frozen_affine: tuple[tuple[str, bool], ...] = ()

    def train(self, mode: bool = True) -> Any:  # noqa: ARG002  (torch's signature)
        """Stay in eval mode, whatever `mode` asks for."""
        return super().train(mode=False)  # type: ignore[misc]


def freeze(
    model: nn.Module, layers: Iterable[str] | None = None, *, affine: bool = True, inplace: bool = False
) -> Surgery:
    """Freeze batch-norm layers so that model.train() does not thaw them; names, parameters and state_dict stay.

    Args:
        model: Any network with batch norm.
        layers: Names of layers, or of modules that hold them; all by default.
        affine: Whether gamma and beta stop training too (requires_grad is off; `unfreeze` puts back what it was).
        inplace: Freeze the network's own layers, so that an optimizer keeps its parameters.

    Raises:
        InputError: No batch norm, or a name that holds none.
    """
    target = own(model, inplace=inplace)
    changes, alone, frozen = [], list(find(target).require().unsupported), []
    for layer in _picked(find(target).layers, layers):
        if layer.kind == "frozen" or isinstance(layer.module, Frozen):
            alone.append(Unsupported(layer.name, "is frozen already"))
            continue
        _freeze(layer.module, affine=affine)
        frozen.append(layer.module)
        changes.append(Change(layer.name, "follows train()", "statistics" + (" and affine" * affine) + " frozen"))

    def revert() -> None:
        for module in frozen:
            _thaw(module, training=target.training)

    return Surgery(target, tuple(changes), tuple(alone), revert)


def unfreeze(model: nn.Module, layers: Iterable[str] | None = None, *, inplace: bool = False) -> Surgery:
    """Let layers that `freeze` froze follow model.train() again, with requires_grad as it was.

    Raises:
        InputError: No batch norm, or a name that holds none.
    """
    target = own(model, inplace=inplace)
    changes, alone, thawed = [], list(find(target).require().unsupported), []
    for layer in _picked(find(target).layers, layers):
        if not isinstance(layer.module, Frozen):
            why = "its affine numbers are buffers: convert it" if layer.kind == "frozen" else "was not frozen by freeze"
            alone.append(Unsupported(layer.name, why))
            continue
        affine = bool(layer.module.frozen_affine)
        _thaw(layer.module, training=target.training)
        thawed.append((layer.module, affine))
        changes.append(Change(layer.name, "frozen", "follows train()"))

    def revert() -> None:
        for module, affine in thawed:
            _freeze(module, affine=affine)

    return Surgery(target, tuple(changes), tuple(alone), revert)


def _picked(layers: tuple[NormLayer, ...], names: Iterable[str] | None) -> list[NormLayer]:
    if names is None:
        return list(layers)
    picked: list[NormLayer] = []
    for name in names:
        inside = [
            layer
            for layer in layers
            if any(one == name or one.startswith(f"{name}.") for one in (layer.name, *layer.aliases))
        ]
        if not inside:
            known = ", ".join(layer.name for layer in layers[:5])
            raise InputError(
                f"expected names of batch-norm layers or of modules that hold one, came {name!r}; try {known}"
            )
        picked += [layer for layer in inside if layer not in picked]
    return picked


def _freeze(module: nn.Module, *, affine: bool) -> None:
    module.eval()
    give(Frozen, module)
    if affine:
        parameters = dict(module.named_parameters(recurse=False))
        module.__dict__["frozen_affine"] = tuple((key, value.requires_grad) for key, value in parameters.items())
        for value in parameters.values():
            value.requires_grad = False


def _thaw(module: nn.Module, *, training: bool) -> None:
    parameters = dict(module.named_parameters(recurse=False))
    for key, needed in module.__dict__.pop("frozen_affine", ()):
        parameters[key].requires_grad_(needed)
    take(module)
    module.train(training)
