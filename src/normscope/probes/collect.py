"""Moments of every layer's input in a training loop: hooks that listen, and touch nothing."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.model.attach import around_call, functional_calls, on_forward, replayable
from normscope.model.find import NormLayer, Unsupported, is_compiled
from normscope.ops.context import tracing, transformed
from normscope.probes.batch import RECOMPUTED, Kept, Reading, judge, look, read

if TYPE_CHECKING:
    from collections.abc import Iterator


class Collector:
    """What the batch-norm layers of a network were given since the last `take`.

    A compiled network runs outside of its hooks: its batch is then replayed eagerly, without gradients and with buffers
    and generators put back.

    Args:
        model: The network.
        layers: Its batch-norm layers.
    """

    def __init__(self, model: nn.Module, layers: tuple[NormLayer, ...]) -> None:
        self.unsupported: tuple[Unsupported, ...] = ()
        self._model, self._layers = model, layers
        self._compiled = is_compiled(model)
        self._listening = True
        self._looked = any(layer.module is model for layer in layers)
        self._first: ExitStack | None = None
        self._inside = 0
        # Filled by the threads of DataParallel too, emptied by the one that called the network.
        self._waiting: list[tuple[str, bool, Kept | Reading]] = []
        self._readings: dict[tuple[str, bool], Reading] = {}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Listen to the network's forward passes until leaving."""
        with ExitStack() as stack:
            if not self._compiled:
                stack.enter_context(on_forward(self._layers, self._seen))
            stack.enter_context(around_call(self._model, self._before, self._after))
            yield

    def listen(self, *, listening: bool) -> None:
        """Whether forward passes are read: not on steps that are skipped, nor while probes run the network."""
        self._listening = listening

    def take(self) -> dict[str, Reading]:
        """What was read since the last call, by layer in the order of the network; several passes as one sample.

        Passes without gradients (validation) count only where there were none with.
        """
        learning = {name: reading for (name, grad), reading in self._readings.items() if grad}
        found = learning or {name: reading for (name, _), reading in self._readings.items()}
        self._readings = {}
        return {layer.name: found[layer.name] for layer in self._layers if layer.name in found}

    def _seen(self, layer: NormLayer, module: nn.Module, x: Tensor, output: Tensor) -> None:
        if tracing() or not self._listening or transformed() or torch._C._get_tracing_state() is not None:
            return
        # Checkpointing runs a forward again in the backward: the same values, already read.
        if torch._C._current_graph_task_id() != -1:
            return
        # A copy of the network made inside of the loop carries these hooks with it.
        if module is not layer.module and not getattr(module, "_is_replica", False):
            return
        if not isinstance(x, Tensor) or x.layout is not torch.strided or x.dim() < 2:
            return
        grad = torch.is_grad_enabled()
        with torch.no_grad():
            self._waiting.append((layer.name, grad, look(layer, module, x, output)))
            if not self._inside:
                self._settle()

    def _settle(self) -> None:
        """Judge what was kept, while the graph of the pass still holds the layers' inputs."""
        waiting, self._waiting = self._waiting, []
        for (name, grad, _), reading in zip(waiting, judge([found for _, _, found in waiting]), strict=True):
            self._keep(name, grad, reading)

    def _keep(self, name: str, grad: bool, reading: Reading) -> None:
        held = self._readings.get((name, grad))
        self._readings[name, grad] = reading if held is None else held.merge(reading)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Look, in one forward pass, for batch norms that are no layers."""
        self._looked = True
        with functional_calls(self._layers) as found:
            yield
        self.unsupported = tuple(found)

    def _before(self) -> None:
        if tracing():
            return
        self._inside += 1
        if self._looked or not self._listening or self._compiled:
            return
        self._first = ExitStack()
        self._first.enter_context(self._looking())

    def _after(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if tracing():
            return
        self._inside -= 1
        if self._first is not None:
            first, self._first = self._first, None
            first.close()
        with torch.no_grad():
            self._settle()
        if self._compiled and self._listening:
            self._replay(args, kwargs, torch.is_grad_enabled())

    def _replay(self, args: tuple[Any, ...], kwargs: dict[str, Any], grad: bool) -> None:
        def seen(layer: NormLayer, module: nn.Module, x: Tensor, output: Tensor) -> None:
            moments = read(layer, module, x, output).moments
            self._keep(layer.name, grad, Reading(moments, f"{RECOMPUTED}: compiled network, replayed"))

        self._listening = False
        try:
            with ExitStack() as stack:
                if not self._looked:
                    stack.enter_context(self._looking())
                stack.enter_context(on_forward(self._layers, seen))
                stack.enter_context(replayable(self._model))
                stack.enter_context(torch.no_grad())
                self._model(*args, **kwargs)
        finally:
            self._listening = True
