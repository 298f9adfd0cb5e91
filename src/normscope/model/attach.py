"""The only file that hooks into a live model; whatever it changes is put back, after an exception too."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normscope.model.find import NormLayer, Unsupported

Seen = Callable[[NormLayer, nn.Module, Tensor, Tensor], Tensor | None]
Incoming = Callable[[NormLayer, nn.Module, Tensor], Tensor | None]

_FUNCTIONAL = (nn.functional.batch_norm, torch.batch_norm, torch.native_batch_norm)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)


def _with_first(args: tuple[Any, ...], kwargs: dict[str, Any], value: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (value, *args[1:]), kwargs
    return args, {**kwargs, next(iter(kwargs)): value}


@contextmanager
def on_forward(layers: list[NormLayer] | tuple[NormLayer, ...], seen: Seen) -> Iterator[None]:
    """Call `seen(layer, module, input, output)` after each forward of `layers`; what it returns replaces the output."""
    with ExitStack() as stack:
        for layer in layers:

            def hook(
                module: nn.Module,
                args: tuple[Any, ...],
                kwargs: dict[str, Any],
                output: Tensor,
                layer: NormLayer = layer,
            ) -> Tensor | None:
                return seen(layer, module, _first(args, kwargs), output)

            stack.callback(layer.module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


@contextmanager
def before_forward(layers: list[NormLayer] | tuple[NormLayer, ...], incoming: Incoming) -> Iterator[None]:
    """Call `incoming(layer, module, input)` before each forward of `layers`; a tensor returned replaces the input."""
    with ExitStack() as stack:
        for layer in layers:

            def hook(module: nn.Module, args: tuple[Any, ...], layer: NormLayer = layer) -> tuple[Any, ...] | None:
                changed = incoming(layer, module, args[0])
                return None if changed is None else (changed, *args[1:])

            stack.callback(layer.module.register_forward_pre_hook(hook).remove)
        yield


class _Normalized(TorchFunctionMode):
    """Catches what functional batch norm returns inside of a layer that goes on to an activation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[Tensor | None] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _FUNCTIONAL and self.inside:
            self.inside[-1] = output
        return output


@contextmanager
def on_normalized(
    layers: list[NormLayer] | tuple[NormLayer, ...], seen: Callable[[NormLayer, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Call `seen(layer, module, normalized)` after each forward of `layers`.

    `normalized` is the pre-activation: what functional batch norm returned inside of the layer if it was called there
    (layers with an activation built in, such as timm's), else the output of the layer.
    """
    catcher = _Normalized()

    def enter(_layer: NormLayer, _module: nn.Module, _x: Tensor) -> None:
        catcher.inside.append(None)

    def leave(layer: NormLayer, module: nn.Module, _x: Tensor, output: Tensor) -> None:
        caught = catcher.inside.pop()
        seen(layer, module, output if caught is None else caught)

    with before_forward(layers, enter), on_forward(layers, leave), catcher:
        yield


@contextmanager
def on_module(module: nn.Module, seen: Callable[[tuple[Any, ...], dict[str, Any], Any], None]) -> Iterator[None]:
    """Call `seen(args, kwargs, output)` after each forward of `module`, the network itself for one."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        seen(args, kwargs, output)

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _Functional(TorchFunctionMode):
    def __init__(self, inside: Callable[[], bool], calls: list[str]) -> None:
        super().__init__()
        self._inside, self._calls = inside, calls

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FUNCTIONAL and not self._inside():
            self._calls.append(getattr(func, "__name__", "batch_norm"))
        return func(*args, **(kwargs or {}))


@contextmanager
def functional_calls(layers: tuple[NormLayer, ...]) -> Iterator[list[Unsupported]]:
    """Yields a list that, on leaving, names the batch norms called as functions outside of `layers`."""
    depth, calls, unsupported = [0], [], []  # type: ignore[var-annotated]

    def enter(_l: NormLayer, _m: nn.Module, _x: Tensor) -> None:
        depth[0] += 1

    def leave(_l: NormLayer, _m: nn.Module, _x: Tensor, _y: Tensor) -> None:
        depth[0] -= 1

    with before_forward(layers, enter), on_forward(layers, leave), _Functional(lambda: depth[0] > 0, calls):
        yield unsupported
    if calls:
        unsupported.append(
            Unsupported("", f"{len(calls)} call(s) of functional batch norm in a forward belong to no module")
        )


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


@contextmanager
def preserved_buffers(model: nn.Module) -> Iterator[None]:
    """Put every buffer (running statistics, num_batches_tracked, ...) back on leaving: same tensors, same values."""
    slots = [(module, name, value) for module in model.modules() for name, value in module._buffers.items()]
    values = [None if value is None else value.detach().clone() for _, _, value in slots]
    try:
        yield
    finally:
        with torch.no_grad():
            for (module, name, value), saved in zip(slots, values, strict=True):
                module._buffers[name] = value
                if value is not None and saved is not None:
                    value.copy_(saved)


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
    with torch.compiler.set_stance("force_eager"), local(), preserved_rng(), preserved_buffers(model):
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
