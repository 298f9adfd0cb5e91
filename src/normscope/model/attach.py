"""The only file that hooks into a live model; whatever it changes is put back, after an exception too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from normscope.model.find import NormLayer, Unsupported
from normscope.model.preserve import mode, preserved, preserved_buffers, preserved_rng, replayable

__all__ = [
    "around_call",
    "before_forward",
    "functional_calls",
    "mode",
    "on_forward",
    "on_module",
    "on_normalized",
    "preserved",
    "preserved_buffers",
    "preserved_rng",
    "replayable",
]

Seen = Callable[[NormLayer, nn.Module, Tensor, Tensor], Tensor | None]
Incoming = Callable[[NormLayer, nn.Module, Tensor], Tensor | None]

_FUNCTIONAL = (nn.functional.batch_norm, torch.batch_norm, torch.native_batch_norm)


class _Hook:
    """A hook that stays with the network that it was set on: copies and pickles carry one that does nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        # Takes any arguments, returns None, and a pickled network loads where normscope is not installed.
        return getattr, (nullcontext(), "__exit__")


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

            stack.callback(layer.module.register_forward_hook(_Hook(hook), with_kwargs=True).remove)
        yield


@contextmanager
def before_forward(layers: list[NormLayer] | tuple[NormLayer, ...], incoming: Incoming) -> Iterator[None]:
    """Call `incoming(layer, module, input)` before each forward of `layers`; a tensor returned replaces the input."""
    with ExitStack() as stack:
        for layer in layers:

            def hook(
                module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], layer: NormLayer = layer
            ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
                changed = incoming(layer, module, _first(args, kwargs))
                return None if changed is None else _with_first(args, kwargs, changed)

            stack.callback(layer.module.register_forward_pre_hook(_Hook(hook), with_kwargs=True).remove)
        yield


class _Normalized(TorchFunctionMode):
    """Copies what functional batch norm returns inside of a layer, before an activation there works on it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[list[Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _FUNCTIONAL and self.inside and isinstance(output, Tensor):
            self.inside[-1].append(output.detach().clone())
        return output


@contextmanager
def on_normalized(
    layers: list[NormLayer] | tuple[NormLayer, ...], seen: Callable[[NormLayer, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Call `seen(layer, module, normalized)` after each forward of `layers`.

    `normalized` is the pre-activation: what functional batch norm returned inside of the layer if it was called there,
    once (layers with an activation built in, such as timm's), else the output of the layer.
    """
    catcher = _Normalized()

    def enter(_layer: NormLayer, _module: nn.Module, _x: Tensor) -> None:
        catcher.inside.append([])

    def leave(layer: NormLayer, module: nn.Module, _x: Tensor, output: Tensor) -> None:
        caught = catcher.inside.pop()
        seen(layer, module, caught[0] if len(caught) == 1 else output)

    with before_forward(layers, enter), on_forward(layers, leave), catcher:
        yield


@contextmanager
def on_module(module: nn.Module, seen: Callable[[tuple[Any, ...], dict[str, Any], Any], None]) -> Iterator[None]:
    """Call `seen(args, kwargs, output)` after each forward of `module`, the network itself for one."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        seen(args, kwargs, output)

    handle = module.register_forward_hook(_Hook(hook), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def around_call(
    module: nn.Module, before: Callable[[], None], after: Callable[[tuple[Any, ...], dict[str, Any]], None]
) -> Iterator[None]:
    """Call `before()` and `after(args, kwargs)` around each call of `module`, outside of what torch.compile traces.

    `after` is called when the forward raises, too.
    """
    compiled = module._compiled_call_impl
    if compiled is not None:

        def call(*args: Any, **kwargs: Any) -> Any:
            before()
            try:
                return compiled(*args, **kwargs)
            finally:
                after(args, kwargs)

        module._compiled_call_impl = call
        try:
            yield
        finally:
            module._compiled_call_impl = compiled
        return

    def enter(_: nn.Module, _args: object) -> None:
        before()

    def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _output: object) -> None:
        after(args, kwargs)

    first = module.register_forward_pre_hook(_Hook(enter), prepend=True)
    last = module.register_forward_hook(_Hook(leave), with_kwargs=True, always_call=True)
    try:
        yield
    finally:
        first.remove()
        last.remove()


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
