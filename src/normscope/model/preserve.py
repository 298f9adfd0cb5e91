"""Putting a live model, its optimizer and the generators back exactly as they were."""

from __future__ import annotations

import random
import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _clone(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_clone(item) for item in value)
    return value


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Put the states of torch's (CPU and started CUDA devices), NumPy's and Python's generators back on leaving."""
    cpu, numpy, python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def seed_all(seed: int) -> None:
    """Seed torch's generators, as torch.manual_seed does, which formats a traceback wherever CUDA was not started."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def preserved_buffers(model: nn.Module) -> Iterator[None]:
    """Put every buffer (running statistics, num_batches_tracked, ...) back on leaving: same tensors, same values.

    Inside, the modules work on copies: a graph that waits for its backward may hold the originals, and autograd would
    see them change. What reached an original by another way than its module is put back in place.
    """
    slots = [(module, name, value) for module in model.modules() for name, value in module._buffers.items()]
    copies = {id(value): value.detach().clone() for _, _, value in slots if value is not None}
    kept = {id(value): (value, value.detach().clone(), _version(value)) for _, _, value in slots if value is not None}
    for module, name, value in slots:
        module._buffers[name] = None if value is None else copies[id(value)]
    try:
        yield
    finally:
        for module, name, value in slots:
            module._buffers[name] = value
        with torch.no_grad():
            for value, saved, version in kept.values():
                if _version(value) != version:
                    value.copy_(saved)


def _version(value: Tensor) -> int:
    """How often `value` was changed in place; inference tensors do not count and cannot be changed."""
    return -1 if value.is_inference() else value._version


@contextmanager
def preserved(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[None]:
    """Leave `model` exactly as it was: parameters, buffers, .grad, flags, optimizer state and generators.

    Tensors keep their identity; only their values are put back.
    """
    flags = [(module, module.training) for module in model.modules()]
    parameters = list(dict.fromkeys(model.parameters()))
    values = [value.detach().clone() for value in parameters]
    requires = [value.requires_grad for value in parameters]
    grads = [(value.grad, None if value.grad is None else value.grad.detach().clone()) for value in parameters]
    state = None
    if optimizer is not None:
        state = [(key, dict(entry), _clone(dict(entry))) for key, entry in optimizer.state.items()]
        groups = [dict(group) for group in optimizer.param_groups]
    with preserved_rng(), preserved_buffers(model):
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value, (grad, saved), needed in zip(parameters, values, grads, requires, strict=True):
                    parameter.requires_grad_(needed)
                    parameter.copy_(value)
                    parameter.grad = grad
                    if grad is not None and saved is not None:
                        grad.copy_(saved)
            for module, training in flags:
                module.training = training
            if optimizer is not None and state is not None:
                _restore_optimizer(optimizer, state, groups)


def _restore_optimizer(
    optimizer: torch.optim.Optimizer,
    state: list[tuple[Any, dict[str, Any], dict[str, Any]]],
    groups: list[dict[str, Any]],
) -> None:
    optimizer.state.clear()
    for key, live, saved in state:
        for name, value in live.items():
            if isinstance(value, Tensor):
                with torch.no_grad():
                    value.copy_(saved[name])
            else:
                live[name] = saved[name]
        optimizer.state[key] = live
    for group, was in zip(optimizer.param_groups, groups, strict=True):
        group.clear()
        group.update(was)


@contextmanager
def replayable(model: nn.Module) -> Iterator[None]:
    """Let a closure run any number of times without a trace: same random draws each time, buffers put back.

    Compiled parts run eagerly, so that hooks are seen, and DistributedDataParallel does not wait for a backward
    pass that never comes: gradients taken inside are those of this process.
    """
    local = getattr(model, "no_sync", nullcontext)
    # The compiler is slow to import and there is nothing to force where nobody has.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    with eager, local(), preserved_rng(), preserved_buffers(model):
        yield


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set train or eval mode for a while; each module's own flag is put back on leaving."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.train(training)
        yield
    finally:
        for module, was in flags:
            module.training = was
