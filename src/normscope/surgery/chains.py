"""What can be fused: which batch norms, which activations; exchanging one layer for another; a recorded forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normscope import nn as norm_layers
from normscope.model.attach import preserved
from normscope.ops.activation import applied

_FUSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: norm_layers.BatchNormAct1d,
    nn.BatchNorm2d: norm_layers.BatchNormAct2d,
    nn.BatchNorm3d: norm_layers.BatchNormAct3d,
    norm_layers.BatchNorm1d: norm_layers.BatchNormAct1d,
    norm_layers.BatchNorm2d: norm_layers.BatchNormAct2d,
    norm_layers.BatchNorm3d: norm_layers.BatchNormAct3d,
}
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    norm_layers.BatchNormAct1d: nn.BatchNorm1d,
    norm_layers.BatchNormAct2d: nn.BatchNorm2d,
    norm_layers.BatchNormAct3d: nn.BatchNorm3d,
}


@dataclass(frozen=True)
class Left:
    """A batch norm that was left alone, and why."""

    name: str
    reason: str


class FusedAway(nn.Identity):
    """Stands where an activation was that a fused layer now applies."""

    def __init__(self, activation: nn.Module, partner: str) -> None:
        super().__init__()
        self.activation = (activation,)  # in a tuple, so that it is not a submodule
        self.partner = partner


def is_batch_norm(module: nn.Module) -> bool:
    """Whether `module` is exactly one of torch's or the package's plain batch norms."""
    return type(module) in _FUSED


def require_plain(layer: nn.Module) -> str:
    """Why a batch norm cannot be exchanged; empty when it can."""
    if not is_batch_norm(layer):
        return f"a {type(layer).__name__} computes something of its own"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return "it has hooks, which would see something else"
    return ""


def activation_module(module: nn.Module) -> tuple[str, float] | None:
    """Name and negative slope of an activation module that can be fused, else None.

    A module of another class counts where it has nothing of its own and computes what one of torch's does.
    """
    if type(module) is nn.LeakyReLU:
        return "leaky_relu", module.negative_slope
    names: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.SiLU: "silu"}
    name = names.get(type(module)) or _known_by_its_values(module, tuple(names.values()))
    return (name, 0.01) if name else None


def _known_by_its_values(module: nn.Module, names: tuple[str, ...]) -> str:
    """Which of `names` a user's module computes, in both modes; empty where none, or where it holds anything."""
    if module.state_dict() or any(module.children()) or module._forward_hooks or module._forward_pre_hooks:
        return ""
    z = torch.linspace(-9, 9, 4 * 37, dtype=torch.float64).view(2, 2, 37, 1)
    try:
        with preserved(module), torch.no_grad():
            found = [module.train(training)(z.clone()) for training in (False, True)]
        return next((n for n in names if all(torch.equal(applied(z, n, 0.0), value) for value in found)), "")
    except Exception:
        return ""


def _exchanged(layer: Any, kind: type[nn.Module], **options: Any) -> nn.Module:
    """A layer of `kind` that has taken over the parameters, buffers and mode of `layer`."""
    new: Any = kind(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False, **options)
    new.affine, new.track_running_stats = layer.affine, layer.track_running_stats
    new._parameters = dict(layer._parameters)
    new._buffers = dict(layer._buffers)
    new.training = layer.training
    return new  # type: ignore[no-any-return]


def fused_from(layer: nn.Module, activation: str, slope: float) -> nn.Module:
    """The fused layer in place of a batch norm."""
    return _exchanged(layer, _FUSED[type(layer)], activation=activation, negative_slope=slope)


def plain_from(layer: nn.Module) -> nn.Module:
    """Torch's batch norm in place of a fused layer."""
    return _exchanged(layer, _PLAIN[type(layer)])


@dataclass
class Follower:
    """What a recorded forward saw of a batch norm's output: the module that alone read it, or why there is none."""

    name: str = ""
    objection: str = ""


class _Readers(TorchFunctionMode):
    """Counts who reads the outputs of batch norms, and inside which module."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, str] = {}
        self.kept: list[Tensor] = []
        self.readers: dict[str, list[str]] = {}
        self.inside: list[str] = []
        self.calls: dict[str, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":
            for value in torch.utils._pytree.tree_leaves((args, kwargs or {})):
                if isinstance(value, Tensor) and id(value) in self.outputs:
                    self.readers[self.outputs[id(value)]].append(self.inside[-1] if self.inside else "")
        return func(*args, **(kwargs or {}))


def _watch(model: nn.Module, seen: _Readers) -> list[Any]:
    handles = []
    for name, module in model.named_modules():
        if any(module.children()):
            continue

        def enter(_m: nn.Module, _a: Any, name: str = name) -> None:
            seen.inside.append(name)
            seen.calls[name] = seen.calls.get(name, 0) + 1

        def leave(module: nn.Module, _a: Any, output: Any, name: str = name) -> None:
            seen.inside.pop()
            if is_batch_norm(module) and isinstance(output, Tensor):
                seen.outputs[id(output)] = name
                seen.kept.append(output)
                seen.readers.setdefault(name, [])

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    return handles


def record(model: nn.Module, batch: tuple[Any, ...]) -> dict[str, Follower]:
    """What follows each batch norm in one training forward; the model is left as it was."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    seen = _Readers()
    with preserved(model):
        handles = _watch(model, seen)
        try:
            model.train()
            with seen:
                model(*batch)
        finally:
            for handle in handles:
                handle.remove()
    return {name: _follower(name, seen) for name in names}


def _follower(name: str, seen: _Readers) -> Follower:
    if seen.calls.get(name, 0) != 1:
        return Follower(objection=f"it ran {seen.calls.get(name, 0)} times in the recorded forward")
    readers = seen.readers.get(name, [])
    if len(readers) != 1 or not readers[0]:
        return Follower(objection="no activation module is the only reader of its output")
    if seen.calls[readers[0]] != 1:
        return Follower(objection=f"the activation {readers[0]} serves several layers")
    return Follower(readers[0])
