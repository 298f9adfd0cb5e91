"""Batch norm folded into the convolution or linear layer before it, for evaluation."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from normscope.errors import UnsupportedError
from normscope.model.find import Unsupported, find
from normscope.surgery.change import Change, Surgery, own, swap

_Linear = _ConvNd | nn.Linear
# Headroom over the rounding error of the layers themselves that a folded layer may show.
_SLACK = 8.0


def fold(model: nn.Module, *, inplace: bool = False) -> Surgery:
    """Fold each batch norm into the convolution, transposed convolution or linear layer whose only reader it is.

    weight' = weight * gamma / sqrt(running_var + eps); bias' = beta + (bias - running_mean) * gamma / sqrt(...), in
    float64. Train and eval mode of the result agree: the statistics are constants now. Each folded layer is run beside
    the pair that it replaces, on data of its own, before it is put in. The pairs are found by torch.fx, in the network
    or, where its forward does not trace, in the largest parts whose forwards do, and inside nn.Sequential.

    Returns:
        The network, with Identity where batch norm was; what was not folded, by name and with the reason.

    Raises:
        UnsupportedError: No batch norm at all, or a folded layer that does not agree with the pair it replaces.
    """
    found = find(model).require()
    target = own(model, inplace=inplace)
    names = dict(target.named_modules())
    pairs, reasons = _pairs(target)
    new: dict[nn.Module, nn.Module] = {}
    changes, alone = [], list(found.unsupported)
    for layer in find(target).layers:
        linear = pairs.get(layer.name)
        reason = reasons.get(layer.name) or _unsafe(names, linear, layer.module, new)
        if reason is not None or linear is None:
            alone.append(Unsupported(layer.name, reason or "no convolution or linear layer feeds it directly"))
            continue
        source = names[linear]
        assert isinstance(source, _ConvNd | nn.Linear)
        folded = _folded(source, layer.module)
        _verify(linear, layer.name, source, layer.module, folded)
        new[source], new[layer.module] = folded, nn.Identity()
        changes.append(Change(layer.name, f"{linear} -> {type(layer.module).__name__}", f"folded into {linear}"))
    return Surgery(target, tuple(changes), tuple(alone), swap(target, new))


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # a read of running_mean in a forward must show up in the graph


def pairs_of(model: nn.Module) -> dict[str, str]:
    """Batch norm -> the convolution or linear layer that alone feeds it, by name; empty where none is known to."""
    return _pairs(model)[0]


def _pairs(model: nn.Module, prefix: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """Batch norm -> linear layer that alone feeds it, and batch norm -> why not, by name behind `prefix`."""
    try:
        graph = _Tracer().trace(model)
    except Exception:
        return _in_parts(model, prefix)
    pairs, reasons = _in_graph(model, graph)
    return {prefix + norm: prefix + linear for norm, linear in pairs.items()}, {
        prefix + norm: reason for norm, reason in reasons.items()
    }


def _in_parts(model: nn.Module, prefix: str) -> tuple[dict[str, str], dict[str, str]]:
    """The same of a module whose forward does not trace."""
    pairs: dict[str, str] = {}
    reasons: dict[str, str] = {}
    children = list(model.named_children())
    for name, child in children:
        if isinstance(child, _BatchNorm):
            reasons[prefix + name] = f"torch.fx cannot trace the forward of {type(model).__name__}, which calls it"
        elif any(True for _ in child.children()):
            found, why = _pairs(child, f"{prefix}{name}.")
            pairs, reasons = pairs | found, reasons | why
    if isinstance(model, nn.Sequential):
        for (first, before), (second, after) in itertools.pairwise(children):
            if isinstance(before, _ConvNd | nn.Linear) and isinstance(after, _BatchNorm):
                pairs[prefix + second] = prefix + first
                reasons.pop(prefix + second)
    return pairs, reasons


def _in_graph(model: nn.Module, graph: fx.Graph) -> tuple[dict[str, str], dict[str, str]]:
    pairs: dict[str, str] = {}
    reasons: dict[str, str] = {}
    modules = dict(model.named_modules())
    calls: dict[str, int] = {}
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], _BatchNorm):
            continue
        name, before = str(node.target), node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or not _is_linear(before, modules):
            reasons[name] = _why_not_fed(node, modules)
        elif str(before.target) in read or name in read:
            reasons[name] = f"the parameters of {before.target} or of {name} are read elsewhere too"
        elif len(before.users) > 1:
            reasons[name] = f"the output of {before.target} is read elsewhere too, without batch norm"
        elif calls[name] > 1 or calls[str(before.target)] > 1:
            reasons[name] = f"{name if calls[name] > 1 else before.target} is called more than once per forward"
        else:
            pairs[name] = str(before.target)
    return pairs, reasons


def _is_linear(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], _ConvNd | nn.Linear)


def _why_not_fed(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    after = [user for user in node.users if user.op == "call_module"]
    reader = modules[str(after[0].target)] if len(node.users) == 1 and after else None
    if isinstance(reader, _ConvNd) and any(p != 0 for p in reader.padding):
        return f"stands before {after[0].target}, which pads with zeros: folding forward would change the border"
    return "no convolution or linear layer feeds it directly"


def _unsafe(
    names: dict[str, nn.Module], linear: str | None, norm: Any, taken: dict[nn.Module, nn.Module]
) -> str | None:
    if type(norm).forward not in _KNOWN_FORWARDS and not type(norm).__module__.startswith("normscope."):
        return f"a {type(norm).__name__} has a forward of its own, which may do more than normalize"
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return "keeps no running statistics: it normalizes by the batch in eval mode too"
    if not bool(norm.running_var.isfinite().all() and (norm.running_var >= 0).all()):
        return "its running variance has NaN, inf or negative numbers: recalibrate first"
    if linear is None:
        return None
    source = names[linear]
    if source in taken:
        return f"{linear} feeds more than one batch norm"
    if hasattr(source, "parametrizations"):
        return f"the weight of {linear} is parametrized (weight norm, spectral norm): remove the parametrization first"
    if source._forward_hooks or source._forward_pre_hooks or norm._forward_hooks or norm._forward_pre_hooks:
        return f"{linear} or the batch norm has hooks, which would see other values"
    shared = [
        name
        for name, module in names.items()
        if module is not source and any(p is source.weight for p in module._parameters.values())
    ]
    if shared:
        return f"the weight of {linear} is shared with {shared[0]}"
    if norm.num_features != (source.out_features if isinstance(source, nn.Linear) else source.out_channels):
        return f"{linear} has another number of output channels"
    return None


_KNOWN_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def _folded(source: _Linear, norm: Any) -> _Linear:
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    bias = torch.zeros_like(scale) if source.bias is None else source.bias.detach().double()
    shift = (bias - norm.running_mean.double()) * scale
    shift = shift if norm.bias is None else shift + norm.bias.detach().double()
    folded = copy.deepcopy(source)
    weight = source.weight.detach()
    folded.weight = nn.Parameter(
        (weight.double() * _spread(source, scale)).to(weight.dtype), source.weight.requires_grad
    )
    folded.bias = nn.Parameter(shift.to(weight.dtype), source.weight.requires_grad)
    return folded


def _spread(source: _Linear, scale: Tensor) -> Tensor:
    """`scale` per output channel, shaped to multiply the weight of `source`."""
    weight = source.weight
    if isinstance(source, _ConvTransposeNd):
        # Weight is [in, out / groups, *kernel]; row i belongs to group i // (in / groups).
        rows = scale.view(source.groups, 1, -1).expand(-1, source.in_channels // source.groups, -1)
        return rows.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2))
    return scale.view(-1, *[1] * (weight.dim() - 1))


def _verify(linear: str, name: str, source: _Linear, norm: Any, folded: _Linear) -> None:
    """Compare the folded layer with the pair, both against float64, on normal inputs of the layer's own size.

    Raises:
        UnsupportedError: The folded layer is further from float64 than rounding explains.
    """
    x = _probe(source)
    with torch.no_grad():
        pair = _evaluated(source, norm, x)
        exact = _evaluated(source, norm, x.double(), double=True)
        error = (folded(x).double() - exact).abs().flatten()
        scale = exact.abs().max()
    floor = torch.finfo(x.dtype).eps * (float(scale) + _cancelled(norm))
    allowed = _SLACK * max(float((pair.double() - exact).abs().max()), floor * source.weight[0].numel() ** 0.5)
    if not float(error.max()) <= allowed:
        raise UnsupportedError(
            f"expected {linear} folded with {name} to agree within {allowed:.1e}, it differs by"
            f" {float(error.max()):.1e}; are their numbers finite?"
        )


def _cancelled(norm: Any) -> float:
    """Largest term that cancels inside the folded layer: its bias is rounded at this size."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    gamma = 1.0 if norm.weight is None else norm.weight.detach().double()
    return float((norm.running_mean.double() * scale * gamma).abs().max())


def _probe(source: _Linear) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if isinstance(source, nn.Linear):
        shape: tuple[int, ...] = (16, source.in_features)
    else:
        span = [d * (k - 1) + 3 for k, d in zip(source.kernel_size, source.dilation, strict=True)]
        shape = (2, source.in_channels, *span)
    return torch.randn(shape, generator=generator).to(source.weight.device, source.weight.dtype)


def _evaluated(source: _Linear, norm: Any, x: Tensor, *, double: bool = False) -> Tensor:
    if double:
        source, norm = copy.deepcopy(source).double(), copy.deepcopy(norm).double()
    y: Tensor = source(x)
    per_channel = [1, -1] + [1] * (y.dim() - 2)

    def wide(value: Tensor) -> Tensor:
        return value.detach().to(y.dtype).view(per_channel)

    y = (y - wide(norm.running_mean)) * (wide(norm.running_var) + norm.eps).rsqrt()
    y = y if norm.weight is None else y * wide(norm.weight)
    return y if norm.bias is None else y + wide(norm.bias)
