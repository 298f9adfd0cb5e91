"""Which module fed which in one forward, followed by the identity of tensors."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.model.attach import on_module
from normscope.model.find import canonical_name, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Call:
    """One call of a module without children.

    Attributes:
        name: The module.
        module: The live module.
        shape: Of its first input.
        channels_last: Whether that input lay in memory with the channels last, and not also contiguously.
        fed_by: Index of the call whose output this input is, the very tensor; None where it came from elsewhere.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    channels_last: bool
    fed_by: int | None


@dataclass(frozen=True)
class Trace:
    """The calls of one forward, in order."""

    calls: tuple[Call, ...]

    def of(self, name: str) -> tuple[Call, ...]:
        """The calls of one module."""
        return tuple(call for call in self.calls if call.name == name)

    def before(self, call: Call) -> Call | None:
        """The call that fed `call`."""
        return None if call.fed_by is None else self.calls[call.fed_by]

    def readers(self, call: Call) -> tuple[Call, ...]:
        """The calls that `call` fed."""
        at = self.calls.index(call)
        return tuple(other for other in self.calls if other.fed_by == at)


def trace(model: nn.Module, forward: Callable[[], object]) -> Trace:
    """The calls of `forward`, which runs `model` once."""
    calls: list[Call] = []
    produced: dict[int, int] = {}
    kept: list[Any] = []  # tensors stay alive, so that no address is used twice

    def seen(name: str, module: nn.Module, args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
        x = next((value for value in args if isinstance(value, Tensor)), None)
        if x is None:
            return
        last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        calls.append(Call(name, module, tuple(x.shape), last, produced.get(id(x))))
        kept.append((x, output))
        if isinstance(output, Tensor):
            produced[id(output)] = len(calls) - 1

    with ExitStack() as stack:
        for name, module in model.named_modules():
            leaf = not any(True for _ in module.children()) or kind_of(module) is not None
            if leaf and not isinstance(module, torch.jit.ScriptModule):
                stack.enter_context(on_module(module, partial(seen, canonical_name(name), module)))
        forward()
    return Trace(tuple(calls))
