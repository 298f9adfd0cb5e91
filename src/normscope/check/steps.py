"""What a few training steps of the user's own loop do to each batch-norm layer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.model.attach import before_forward, on_forward
from normscope.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from normscope.model.find import NormLayer


# Calls of a step after which a loop that accumulates gradients should have stepped.
_MOST = 64


@dataclass(frozen=True)
class Pass:
    """One forward of one layer inside a step.

    Attributes:
        layer: The layer.
        training: Whether it normalized by the batch.
        moved: Whether its running statistics moved.
        moments: Of its input.
        backwards: Backward passes of the step that had begun at some layer before this forward.
        step: Which call of the step, counted from 0.
    """

    layer: str
    training: bool
    moved: bool
    moments: Moments
    backwards: int
    step: int = 0


@dataclass(frozen=True)
class Step:
    """One step: the forwards of every layer, how often the optimizer stepped, and which buffers turned bad."""

    passes: tuple[Pass, ...]
    optimizer_steps: int
    poisoned: tuple[str, ...]

    def of(self, layer: str) -> tuple[Pass, ...]:
        """The forwards of one layer, in order."""
        return tuple(one for one in self.passes if one.layer == layer)


def per_layer(steps: tuple[Step, ...]) -> dict[str, tuple[list[Pass], int]]:
    """For each layer its forwards over all steps, and how many optimizer steps there were, at least 1."""
    count = max(1, sum(step.optimizer_steps for step in steps))
    names = dict.fromkeys(one.layer for step in steps for one in step.passes)
    return {
        name: (
            [replace(one, step=at) for at, step in enumerate(steps) for one in step.of(name)],
            count,
        )
        for name in names
    }


def extra(passes: list[Pass], steps: int) -> tuple[list[Pass], int]:
    """Of a layer's passes those that update its statistics, and how many of them repeat an earlier input of their step.

    Empty where there is one update per optimizer step, or where a backward lies between them: gradient accumulation.
    """
    moved = [one for one in passes if one.moved]
    again = repeated(moved)
    apart = len({(one.step, one.backwards) for one in moved}) == len(moved)
    return ([], 0) if len(moved) <= steps or (apart and not again) else (moved, again)


def repeated(passes: list[Pass]) -> int:
    """Passes whose input has exactly the moments of an earlier one in the same call of the step."""
    return sum(any(_same(one, other) for other in passes[:at]) for at, one in enumerate(passes))


def _same(one: Pass, other: Pass) -> bool:
    a, b = one.moments, other.moments
    return one.step == other.step and torch.equal(a.mean, b.mean) and torch.equal(a.m2, b.m2)


def watch_steps(
    layers: tuple[NormLayer, ...],
    step: Callable[[], object],
    optimizer: Optimizer | None,
    count: int,
) -> tuple[Step, ...]:
    """Run `step` `count` times, on until the optimizer stepped, and say what happened; the caller preserves both.

    Raises:
        InputError: The step raised, or did not run the network.
    """
    found: list[Step] = []
    while len(found) < _MOST:
        found.append(_watch(layers, step, optimizer))
        enough = len(found) >= count and (optimizer is None or any(one.optimizer_steps for one in found))
        if found[-1].poisoned or enough:
            break
    if not any(one.passes for one in found):
        raise InputError("expected the step to run the network that is checked, no batch-norm layer saw a forward")
    return tuple(found)


def _watch(layers: tuple[NormLayer, ...], step: Callable[[], object], optimizer: Optimizer | None) -> Step:
    log = _Log(layers)
    steps = [0]

    def stepped(*_args: Any) -> None:
        steps[0] += 1

    healthy = {layer.name for layer in layers if not _bad(layer.module)}
    with ExitStack() as stack, before_forward(layers, log.begin), on_forward(layers, log.end):
        if optimizer is not None:
            stack.callback(optimizer.register_step_post_hook(stepped).remove)
        try:
            step()
        except Exception as error:
            raise InputError(f"the step raised {type(error).__name__}: {error}") from error
    poisoned = tuple(layer.name for layer in layers if layer.name in healthy and _bad(layer.module))
    return Step(log.passes(), steps[0], poisoned)


class _Log:
    """The passes of one step; whether a pass moved the statistics is told when the layer's next one begins.

    A recomputation may be cut short inside the layer, once all that the backward needs is there: it has a beginning
    and no end.
    """

    def __init__(self, layers: tuple[NormLayer, ...]) -> None:
        # The tensors themselves: a layer whose buffers are held writes into copies.
        self._own = {layer.name: _statistics(layer.module) for layer in layers}
        self._open: dict[str, tuple[Pass, tuple[float, ...]]] = {}
        self._done: list[Pass] = []
        self._begun: set[int] = set()  # forwards whose backward has begun
        self._count: dict[str, int] = {}

    def begin(self, layer: NormLayer, _module: nn.Module, x: Tensor) -> None:
        self._close(layer.name)
        self._count[layer.name] = self._count.get(layer.name, 0) + 1
        one = Pass(
            layer.name, layer.normalizes_by_batch, moved=False, moments=Moments.of(x), backwards=len(self._begun)
        )
        self._open[layer.name] = (one, _updates(self._own[layer.name]))

    def end(self, layer: NormLayer, _module: nn.Module, _x: Tensor, y: Tensor) -> None:
        if isinstance(y, Tensor) and y.requires_grad:
            y.register_hook(partial(self._backward, self._count[layer.name]))

    def _backward(self, generation: int, _grad: Tensor) -> None:
        self._begun.add(generation)

    def _close(self, name: str) -> None:
        if name in self._open:
            one, before = self._open.pop(name)
            self._done.append(replace(one, moved=_updates(self._own[name]) != before))

    def passes(self) -> tuple[Pass, ...]:
        for name in list(self._open):
            self._close(name)
        return tuple(self._done)


def _statistics(module: nn.Module) -> tuple[Tensor, ...]:
    values = (getattr(module, name, None) for name in ("running_mean", "num_batches_tracked"))
    return tuple(value for value in values if isinstance(value, Tensor))


def _updates(statistics: tuple[Tensor, ...]) -> tuple[float, ...]:
    """Something that changes whenever the running statistics are written."""
    return tuple(value.detach().double().sum().item() for value in statistics)


def _bad(module: Any) -> bool:
    values = [getattr(module, name, None) for name in ("running_mean", "running_var")]
    return any(isinstance(v, Tensor) and not bool(v.isfinite().all()) for v in values)
