"""Fusing in a torch.fx graph: chains of batch norm, addition and activation become one call, and back."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from normscope.nn._base import NormLayer
from normscope.nn.act import _BatchNormAct
from normscope.ops.activation import ONE_BIT, applied
from normscope.surgery.chains import Left, activation_module, fused_from, is_batch_norm, plain_from, require_plain

_ADDITIONS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    "relu": "relu",
    "relu_": "relu",
    F.relu6: "relu6",
    F.leaky_relu: "leaky_relu",
    F.silu: "silu",
}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, NormLayer) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule | None:
    """The graph of `model`, or None where torch.fx cannot follow its forward."""
    tracer = _Tracer()
    try:
        graph = fx.GraphModule(model, tracer.trace(model), type(model).__name__)
    except Exception:
        return None
    for name, module in graph.named_modules():  # torch.fx makes the containers anew, in training mode
        module.training = model.get_submodule(name).training
    return graph


def _activation(node: fx.Node, graph: fx.GraphModule) -> tuple[str, float] | None:
    if node.op == "call_module":
        return activation_module(graph.get_submodule(str(node.target)))
    if node.op not in ("call_function", "call_method") or node.target not in _FUNCTIONS:
        return None
    name = _FUNCTIONS[node.target]
    if name != "leaky_relu":
        return name, 0.01
    slope = node.args[1] if len(node.args) > 1 else node.kwargs.get("negative_slope", 0.01)
    return (name, float(slope)) if isinstance(slope, int | float) else None


def _added(node: fx.Node, first: fx.Node) -> fx.Node | None:
    """The other operand, when `node` adds two different tensors and `first` is one of them."""
    if node.op not in ("call_function", "call_method") or node.target not in _ADDITIONS:
        return None
    if len(node.args) != 2 or set(node.kwargs) - {"inplace"}:
        return None
    others = [arg for arg in node.args if arg is not first]
    return others[0] if len(others) == 1 and isinstance(others[0], fx.Node) else None


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _followed(user: fx.Node, node: fx.Node, graph: fx.GraphModule) -> str:
    """Why a batch norm that `user` alone reads is left alone."""
    fused = user.op == "call_module" and isinstance(graph.get_submodule(str(user.target)), _BatchNormAct)
    if fused and user.args[1:] == (node,):
        return f"its output is the residual that {user.target} adds, which one layer can do for one of the two"
    return f"it is followed by {user.target}, not by an activation or an addition of two tensors"


def _fuse_node(node: fx.Node, graph: fx.GraphModule) -> str:
    """Fuse the chain that begins with a batch norm; empty when done, else the reason why not."""
    user = _only_user(node)
    if user is None:
        return "its output is read by several operations or by none"
    residual, activation = None, _activation(user, graph)
    last = user
    if activation is None:
        residual = _added(user, node)
        if residual is None:
            return _followed(user, node, graph)
        after = _only_user(user)
        activation = None if after is None else _activation(after, graph)
        if after is None or activation is None or activation[0] not in ONE_BIT:
            activation = ("none", 0.01)
        else:
            last = after
    name = str(node.target)
    graph.set_submodule(name, fused_from(graph.get_submodule(name), *activation))
    with graph.graph.inserting_before(last):
        args = (node.args[0],) if residual is None else (node.args[0], residual)
        call = graph.graph.call_module(name, args)
    last.replace_all_uses_with(call)
    for spent in dict.fromkeys((last, user, node)):
        graph.graph.erase_node(spent)
    return ""


def fuse_graph(graph: fx.GraphModule) -> tuple[tuple[str, ...], tuple[Left, ...]]:
    """Fuse every chain in place; the names of those fused, and those left with the reason."""
    fused, left = [], []
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    calls = [str(node.target) for node in nodes]
    for node in nodes:
        name, layer = str(node.target), graph.get_submodule(str(node.target))
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            continue
        reason = (
            require_plain(layer) if is_batch_norm(layer) else f"a {type(layer).__name__} computes something of its own"
        )
        if not reason and calls.count(name) > 1:
            reason = f"it runs {calls.count(name)} times in a forward"
        reason = reason or _fuse_node(node, graph)
        if reason:
            left.append(Left(name, reason))
        else:
            fused.append(name)
    graph.graph.lint()
    graph.recompile()
    return tuple(fused), tuple(left)


def unfuse_graph(graph: fx.GraphModule) -> fx.GraphModule:
    """Replace every fused call in place by batch norm, addition and activation."""
    for node in list(graph.graph.nodes):
        layer = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, _BatchNormAct):
            continue
        graph.set_submodule(str(node.target), plain_from(layer))
        with graph.graph.inserting_after(node):
            call = graph.graph.call_module(str(node.target), (node.args[0],))
        last = call
        if len(node.args) > 1:
            with graph.graph.inserting_after(last):
                last = graph.graph.call_function(operator.add, (last, node.args[1]))
        if layer.activation != "none":
            with graph.graph.inserting_after(last):
                last = graph.graph.call_function(applied, (last, layer.activation, layer.negative_slope))
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
    graph.graph.lint()
    graph.recompile()
    return graph
