"""Which layers of a network are batch norm: torch's own, subclasses, and foreign ones recognized by their structure."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from normscope.errors import UnsupportedError

# What DataParallel, DistributedDataParallel and torch.compile put in front of every name.
_WRAPPERS = ("module", "_orig_mod")


@dataclass(frozen=True)
class NormLayer:
    """One batch-norm layer of a network.

    Attributes:
        name: Its name as the unwrapped network gives it ('layer1.0.bn1').
        module: The live module.
        kind: 'torch' (torch's classes and their subclasses), 'foreign' (recognized by structure) or
            'frozen' (recognized by structure, with affine numbers that are buffers).
        aliases: Other names of the same shared module.
    """

    name: str
    module: nn.Module
    kind: str
    aliases: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels; 0 while a lazy layer has seen no data."""
        for name in ("running_mean", "weight"):
            value = getattr(self.module, name, None)
            if isinstance(value, Tensor) and not torch.nn.parameter.is_lazy(value):
                return int(value.numel())
        return int(getattr(self.module, "num_features", 0))

    @property
    def eps(self) -> float:
        """What is added to the variance; torch's default where the layer names none."""
        return float(getattr(self.module, "eps", 1e-5))

    @property
    def normalizes_by_batch(self) -> bool:
        """Whether the layer would use the mini-batch's own statistics as it stands now."""
        if self.kind == "frozen":
            return False
        return self.module.training or getattr(self.module, "running_mean", None) is None


@dataclass(frozen=True)
class Unsupported:
    """A part of the network that normalizes, or may, and cannot be seen."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """The batch-norm layers of a network, in the order of registration, and what could not be looked into."""

    layers: tuple[NormLayer, ...]
    unsupported: tuple[Unsupported, ...] = field(default=())

    def require(self) -> Found:
        """Itself, if there is a layer.

        Raises:
            UnsupportedError: There is none.
        """
        if self.layers:
            return self
        hidden = "; ".join(f"{part.name or 'the network'}: {part.reason}" for part in self.unsupported)
        raise UnsupportedError(
            "expected a network with at least one batch-norm layer, found none"
            + (f" that can be seen ({hidden})" if hidden else "")
            + "; normscope looks for torch.nn.BatchNorm1d/2d/3d, their subclasses and look-alikes"
        )


def canonical_name(name: str) -> str:
    """`name` without what DataParallel, DistributedDataParallel and torch.compile put before it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def kind_of(module: nn.Module) -> str | None:
    """'torch', 'foreign' or 'frozen' when `module` is a batch norm, else None.

    Foreign layers are known by a pair of equally long one-dimensional running statistics; when gamma and beta are
    buffers too the layer is frozen, as in torchvision and detectron2.
    """
    if isinstance(module, _BatchNorm):
        return "torch"
    if isinstance(module, _InstanceNorm | torch.jit.ScriptModule):
        return None
    mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
    if not (isinstance(mean, Tensor) and isinstance(var, Tensor) and mean.dim() == 1):
        return None
    if mean.shape != var.shape:
        return None
    return "frozen" if {"weight", "bias"} <= set(module._buffers) else "foreign"


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile wraps `model` or a part of it: hooks inside of that part are not called."""
    return any("_orig_mod" in module._modules or module._compiled_call_impl is not None for module in model.modules())


def find(model: nn.Module) -> Found:
    """Every batch-norm layer of `model`, wrappers looked through, shared modules listed once with their other names.

    Layers that call torch.nn.functional.batch_norm directly have no module of their own: `normscope.model.attach`
    sees those calls when the network runs and reports them as unsupported.
    """
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    hidden: list[Unsupported] = []
    for raw, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, torch.jit.ScriptModule):
            if not any(not part.name or canonical_name(raw).startswith(part.name + ".") for part in hidden):
                hidden.append(
                    Unsupported(canonical_name(raw), "a ScriptModule runs outside Python and cannot be probed")
                )
            continue
        if kind_of(module) is not None:
            modules[id(module)] = module
            names.setdefault(id(module), []).append(canonical_name(raw))
    layers = tuple(
        NormLayer(found[0], modules[key], str(kind_of(modules[key])), tuple(dict.fromkeys(found[1:])))
        for key, found in names.items()
    )
    return Found(layers, tuple(hidden))
