"""Batch norm exchanged for a relative of it, and back, with parameters, statistics and optimizer state carried over."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from normscope import nn as layers
from normscope.errors import InputError
from normscope.model.find import Unsupported, canonical_name, find
from normscope.surgery.change import Change, Surgery, own, swap
from normscope.surgery.freeze import Frozen, freeze

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.optim import Optimizer

Kind = Literal["batch", "ghost", "renorm", "group", "frozen"]
_KINDS = ("batch", "ghost", "renorm", "group", "frozen")


class Converted(nn.GroupNorm):
    """Group norm that stands where batch norm stood, and remembers how many dimensions that took.

    A checkpoint of the batch-norm network loads into it: running statistics, which it has no use for, are skipped.
    """

    def __init__(self, groups: int, norm: _BatchNorm, dims: int) -> None:
        super().__init__(groups, norm.num_features, norm.eps, norm.affine)
        self.dims, self.momentum = dims, norm.momentum

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            state_dict.pop(prefix + key, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def convert(
    model: nn.Module,
    to: Kind,
    *,
    ghost_size: int = 32,
    groups: int = 32,
    optimizer: Optimizer | None = None,
    inplace: bool = False,
) -> Surgery:
    """Exchange every batch norm, or what `convert` made of it, for another kind.

    Gamma and beta stay the same Parameters of the (copied) network, so with `inplace` an optimizer goes on as it is;
    running statistics are carried over where both kinds keep them. Back from group norm they start at 0 and 1:
    `recalibrate` next.

    Args:
        model: Any network with batch norm.
        to: 'ghost' (hoffer2017), 'renorm' (ioffe2017; its bounds open with num_batches_tracked, which is carried over),
            'group', 'frozen' (see `freeze`), or 'batch': torch's own.
        ghost_size: Examples per ghost batch.
        groups: Channel groups for 'group', at most; where they do not divide the channels, the largest divisor below.
        optimizer: Out of place, its parameters are exchanged for the copy's, its state stays; it then trains the copy.
        inplace: Change the network itself.

    Raises:
        InputError: No layer to convert, or an unknown kind.
    """
    if to not in _KINDS:
        raise InputError(f"expected one of {', '.join(_KINDS)} to convert to, came {to!r}")
    target = own(model, inplace=inplace)
    if to == "frozen":
        return _carried(freeze(target, inplace=True), optimizer, model, target)
    make = _maker(to, ghost_size, groups)
    new: dict[nn.Module, nn.Module] = {}
    changes, alone = [], list(find(target).unsupported)
    for name, module in _candidates(target):
        dims = _dims(module)
        if dims is None:
            alone.append(Unsupported(name, f"{type(module).__name__} does not tell how many dimensions it takes"))
        elif to == "renorm" and not getattr(module, "track_running_stats", True):
            alone.append(Unsupported(name, "it tracks no statistics, towards which batch renormalization corrects"))
        elif module not in new:
            new[module] = _replacement(
                make, module, dims, training=target.training if isinstance(module, Frozen) else module.training
            )
            changes.append(Change(name, type(module).__name__, type(new[module]).__name__))
    if not new and not alone:
        find(target).require()
    return _carried(Surgery(target, tuple(changes), tuple(alone), swap(target, new)), optimizer, model, target)


def _candidates(model: nn.Module) -> list[tuple[str, nn.Module]]:
    norms = {id(layer.module) for layer in find(model).layers}
    return [
        (canonical_name(name), module)
        for name, module in model.named_modules()
        if id(module) in norms or isinstance(module, Converted)
    ]


def _dims(module: nn.Module) -> int | None:
    for dims, kind in ((1, nn.BatchNorm1d), (2, nn.BatchNorm2d), (3, nn.BatchNorm3d)):
        if isinstance(module, kind):
            return dims
    return module.dims if isinstance(module, Converted) else None


def _maker(to: Kind, ghost_size: int, groups: int) -> Callable[[Any, int], nn.Module]:
    def options(old: Any) -> dict[str, Any]:
        return {
            "num_features": getattr(old, "num_features", None) or old.num_channels,
            "eps": old.eps,
            "momentum": old.momentum,
            "affine": old.affine,
            "track_running_stats": getattr(old, "track_running_stats", True),
        }

    def make(old: Any, dims: int) -> nn.Module:
        if to == "group":
            channels = options(old)["num_features"]
            fake = nn.BatchNorm1d(**options(old))
            return Converted(max(g for g in range(1, groups + 1) if channels % g == 0), fake, dims)
        if to == "batch":
            return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](**options(old))
        if to == "renorm":
            return getattr(layers, f"BatchRenorm{dims}d")(**options(old))  # type: ignore[no-any-return]
        return getattr(layers, f"GhostBatchNorm{dims}d")(**options(old), ghost_size=ghost_size)  # type: ignore[no-any-return]

    return make


def _replacement(make: Callable[[Any, int], nn.Module], old: nn.Module, dims: int, *, training: bool) -> nn.Module:
    new = make(old, dims)
    for key in ("weight", "bias"):
        if key in old._parameters:
            new._parameters[key] = old._parameters[key]
    for key, value in new._buffers.items():
        carried = old._buffers.get(key)
        if carried is not None and value is not None and carried.shape == value.shape:
            new._buffers[key] = carried.detach().clone()
        elif value is not None and isinstance(old._parameters.get("weight"), torch.Tensor):
            new._buffers[key] = value.to(old._parameters["weight"].device)  # type: ignore[union-attr]
    new.train(training)
    if isinstance(old, Frozen):
        for key, needed in old.frozen_affine:
            new._parameters[key].requires_grad_(needed)  # type: ignore[union-attr]
    return new


def _carried(surgery: Surgery, optimizer: Optimizer | None, old: nn.Module, new: nn.Module) -> Surgery:
    """`surgery`, with the parameters of `optimizer` exchanged for the copy's."""
    if optimizer is None or old is new:
        return surgery
    fresh = dict(new.named_parameters())
    mapped: dict[torch.Tensor, torch.Tensor] = {
        value: fresh[name] for name, value in old.named_parameters() if name in fresh
    }
    before = [list(group["params"]) for group in optimizer.param_groups]
    state = dict(optimizer.state)
    for group in optimizer.param_groups:
        group["params"] = [mapped.get(value, value) for value in group["params"]]
    optimizer.state.clear()
    for value, entry in state.items():
        optimizer.state[mapped.get(value, value)] = copy.copy(entry)
    inner = surgery._revert

    def revert() -> None:
        inner()
        for group, params in zip(optimizer.param_groups, before, strict=True):
            group["params"] = params
        optimizer.state.clear()
        optimizer.state.update(state)

    return Surgery(surgery.model, surgery.changes, surgery.left_alone, revert)
