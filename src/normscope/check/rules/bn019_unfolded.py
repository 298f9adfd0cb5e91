"""Batch norm left unfolded in an exported network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from normscope.check.rule import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normscope.check.evidence import Evidence
    from normscope.records import Finding

_LINEAR = ("conv", "linear", "addmm")


def look(evidence: Evidence) -> Iterator[Finding]:
    """Graphs of torch.export, torch.fx and TorchScript, which are made to be deployed."""
    names = unfolded(evidence.model)
    if names:
        yield RULE.found(
            "",
            f"{len(names)} batch norms in eval mode stand behind a convolution or linear layer in the exported graph:"
            f" {', '.join(names[:3])}" + (", ..." if len(names) > 3 else ""),
            layers=len(names),
        )


def unfolded(model: nn.Module) -> list[str]:
    """Batch norms of an exported graph that could have been folded; none for a network that was not exported."""
    if isinstance(model, fx.GraphModule):
        return _in_graph(model)
    if isinstance(model, torch.jit.ScriptModule):
        return _in_script(model)
    return []


def _in_graph(model: fx.GraphModule) -> list[str]:
    modules = dict(model.named_modules())

    def kind(node: object) -> str:
        if not isinstance(node, fx.Node):
            return ""
        if node.op == "call_module":
            return type(modules[str(node.target)]).__name__.lower()
        return str(node.target).lower() if node.op == "call_function" else ""

    found = []
    for node in model.graph.nodes:
        name = kind(node)
        if not ("batch_norm" in name or "batchnorm" in name) or not node.args:
            continue
        live = node.op == "call_module" and modules[str(node.target)].training
        before = node.args[0]
        alone = isinstance(before, fx.Node) and len(before.users) == 1
        if not live and alone and any(word in kind(before) for word in _LINEAR):
            found.append(node.name)
    return found


def _in_script(model: torch.jit.ScriptModule) -> list[str]:
    found = []
    graph: Any = model.inlined_graph  # nodes live as long as it does
    for node in graph.findAllNodes("aten::batch_norm", recurse=True):
        value = next(iter(node.inputs()))
        alone = len(value.uses()) == 1
        if alone and any(word in value.node().kind() for word in _LINEAR) and not model.training:
            found.append(node.output().debugName())
    return found


RULE = Rule(
    "BN019",
    "unfolded layers in an exported network",
    ("model",),
    "In eval mode batch norm is a constant scale and shift, which the layer before it could do for nothing; unfolded it"
    " costs a pass over the activations.",
    "Fold before exporting: model = normscope.fold(model.eval()).model.",
    look,
    "None: read from the graph.",
    style=True,
)
