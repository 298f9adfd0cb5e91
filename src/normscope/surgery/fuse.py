"""Batch norm + activation, and batch norm + residual + activation, become one layer; proven on a batch first.

Where torch.fx traces the network, every such chain in its graph is fused. Where it does not, only an activation module
that directly follows: inside torch.nn.Sequential, and wherever one recorded forward proves that the activation is the
only reader of a batch norm's output. Names stay, so checkpoints load both ways.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError, UnsupportedError
from normscope.model.attach import preserved_rng
from normscope.model.spec import raised
from normscope.surgery.chains import FusedAway, Left, activation_module, fused_from, plain_from, record, require_plain
from normscope.surgery.change import copied
from normscope.surgery.rewrite import fuse_graph, trace, unfuse_graph


@dataclass(frozen=True)
class Fusion:
    """What `fuse` made.

    Attributes:
        model: The new network; the one given is untouched.
        fused: Names of the batch norms that became fused layers.
        left: Batch norms left alone, each with the reason.
        how: 'graph' (a torch.fx.GraphModule) or 'modules' (the network's own forward with modules exchanged).
    """

    model: nn.Module
    fused: tuple[str, ...]
    left: tuple[Left, ...]
    how: str


def fuse(model: nn.Module, *batch: Any) -> Fusion:
    """Fuse batch norms with what follows them.

    Args:
        model: Any network; it is not changed.
        batch: The positional arguments of one forward, at least two samples.

    Returns:
        The fused copy and what was and was not fused. Outputs and buffers in training and evaluation, and gradients,
        agree with the original's on the batch, in float64 where the network lets itself be converted. Where `how` is
        'modules' that is proof for a forward that takes the same way for every batch.

    Raises:
        InputError: Not a network, or its numbers on the batch are not finite.
        SpecError: The network raised on the batch.
        UnsupportedError: It cannot be copied, or the fused network's numbers are not the original's.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a torch.nn.Module to fuse, got {type(model).__name__}")
    expected = _original(model, batch)
    graph = trace(copied(model))
    if graph is not None:
        fused, left = fuse_graph(graph)
        if not _difference(expected, graph, batch):
            return Fusion(graph, fused, left, "graph")
    twin = copied(model)
    fused, left = _fuse_modules(twin, batch)
    difference = _difference(expected, twin, batch)
    if difference:
        raise UnsupportedError(
            f"expected the fused network to compute what the original does, but {difference}; a forward that depends on"
            " its data, or that changes tensors in place, cannot be fused"
        )
    return Fusion(twin, fused, left, "modules")


def unfuse(model: nn.Module) -> nn.Module:
    """A copy with torch.nn.BatchNorm and activations instead of fused layers; the state_dict stays the same.

    Args:
        model: What `fuse` made, trained or not; it is not changed.
    """
    twin = copy.deepcopy(model)
    if isinstance(twin, torch.fx.GraphModule):
        return unfuse_graph(twin)
    for name, module in list(twin.named_modules()):
        if isinstance(module, FusedAway):
            twin.set_submodule(name, module.activation[0])
            twin.set_submodule(module.partner, plain_from(twin.get_submodule(module.partner)))
    return twin


def _fuse_modules(model: nn.Module, batch: tuple[Any, ...]) -> tuple[tuple[str, ...], tuple[Left, ...]]:
    fused, left = [], []
    for name, follower in record(model, batch).items():
        layer = model.get_submodule(name)
        reason = require_plain(layer) or follower.objection
        after = None if reason else model.get_submodule(follower.name)
        activation = None if after is None else activation_module(after)
        if activation is None:
            left.append(Left(name, reason or f"what follows it is a {type(after).__name__}, which cannot be fused"))
            continue
        away = FusedAway(model.get_submodule(follower.name), name)
        model.set_submodule(name, fused_from(layer, *activation))
        model.set_submodule(follower.name, away)
        fused.append(name)
    return tuple(fused), tuple(left)


@dataclass(frozen=True)
class _Expected:
    """What the original computes on the batch, and whether in float64."""

    numbers: dict[str, Tensor]
    exact: bool


def _original(model: nn.Module, batch: tuple[Any, ...]) -> _Expected:
    """The original's behaviour; in its own dtype where it does not let itself be converted."""
    try:
        expected = _Expected(_behaviour(copied(model).double(), _converted(batch)), exact=True)
    except UnsupportedError:
        raise
    except Exception:
        try:
            expected = _Expected(_behaviour(copied(model), batch), exact=False)
        except Exception as error:
            raise raised(error, "the network, in evaluation or training on the batch given,") from error
    for name, value in expected.numbers.items():
        if not value.isfinite().all():
            raise InputError(f"expected a batch on which two networks can be compared, but the {name} is not finite")
    return expected


def _difference(expected: _Expected, fused: nn.Module, batch: tuple[Any, ...]) -> str:
    """In words, the first number in which a network differs from the original; empty when they agree."""
    want = expected.numbers
    try:
        twin = copy.deepcopy(fused)
        got = _behaviour(twin.double(), _converted(batch)) if expected.exact else _behaviour(twin, batch)
    except Exception as error:
        return f"it does not run: {error}"
    if want.keys() != got.keys():
        return f"these are missing on one side: {', '.join(sorted(want.keys() ^ got.keys()))}"
    for name, value in want.items():
        scale = float(value.abs().max()) if value.numel() else 0.0
        gap = float((value - got[name]).abs().max()) if value.numel() else 0.0
        if not gap <= (1e-7 if expected.exact else 1e-3) * max(scale, 1.0):
            return f"{name} differs by {gap:.2g} at a size of {scale:.2g}"
    return ""


def _converted(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _converted(item) for key, item in value.items()}
    return type(value)(_converted(item) for item in value) if isinstance(value, list | tuple) else value


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [leaf for item in items for leaf in _leaves(item)]


def _behaviour(model: nn.Module, batch: tuple[Any, ...]) -> dict[str, Tensor]:
    """Outputs, gradients for a random cotangent, and buffers: in evaluation, in training, in evaluation again."""
    numbers: dict[str, Tensor] = {}
    with preserved_rng():
        for step, training in enumerate((False, True, False)):
            model.train(training)
            torch.manual_seed(step)
            outputs = [y for y in _leaves(model(*batch)) if y.is_floating_point()]
            mode = "training" if training else "evaluation"
            numbers |= {f"output {n} of {mode} {step}": y.detach().clone() for n, y in enumerate(outputs)}
            parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
            loss = sum((y * torch.randn_like(y)).sum() for y in outputs)
            if parameters and isinstance(loss, Tensor) and loss.requires_grad:
                grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
                numbers |= {
                    f"gradient of {name} in {mode} {step}": grad
                    for name, grad in zip(parameters, grads, strict=True)
                    if grad is not None
                }
    return numbers | {f"buffer {name}": value.clone().double() for name, value in model.named_buffers()}
