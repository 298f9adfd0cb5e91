"""What the rules read: measured once, when first asked for, each measurement with its cost in forward passes."""

from __future__ import annotations

import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.check import gap as gaps
from normscope.check.doubled import blends
from normscope.check.inputs import kernel_error, unpadded
from normscope.check.offsets import layers_of
from normscope.check.small import Examples
from normscope.check.steps import Step, watch_steps
from normscope.check.trace import Trace, trace
from normscope.model.attach import before_forward, on_module
from normscope.model.find import NormLayer, canonical_name, find
from normscope.model.population import place
from normscope.model.preserve import mode, preserved, preserved_buffers
from normscope.moments import Moments
from normscope.surgery.forward import as_batch, run, score
from normscope.surgery.pools import pool_size, pooled
from normscope.surgery.population import Population, Sample, biased, choosing
from normscope.surgery.recalibrate import measurable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from normscope.check.state import NormState
    from normscope.check.subject import Subject
    from normscope.records import GapSplit
    from normscope.surgery.population import Choose


@dataclass
class Evidence:
    """Lazily measured facts about a `Subject`; `forwards` counts the passes that they took.

    `gap_planned` are the passes that the gap's split was said to take: causes that only measuring shows share these.
    """

    subject: Subject
    forwards: int = 0
    gap_planned: int | None = None
    steps_wanted: int = 3

    @property
    def norms(self) -> tuple[NormState, ...]:
        """The layers that keep running statistics."""
        return tuple(norm for norm in self.subject.norms if norm.mean is not None)

    @property
    def model(self) -> nn.Module:
        """The live network; rules that read it declare the need."""
        assert self.subject.model is not None
        return self.subject.model

    @cached_property
    def layers(self) -> tuple[NormLayer, ...]:
        """The live layers that keep running statistics of their own."""
        return measurable(find(self.model).layers)[0]

    @property
    def batch(self) -> int:
        """The size of a training batch: the first one's; as the first layer sees it where batches are of any form."""
        if self.subject.forward is None:
            return len(as_batch(self.subject.batches[0]))
        seen = [call.shape[0] for norm in self.norms[:1] for call in self.trace.of(norm.name)[:1]]
        return self.subject.sizes[0] if self.subject.sizes[0] > 1 else max([1, *seen])

    def rows(self, name: str) -> int:
        """Rows that a layer is fed for each example: more than 1 where positions were folded into the batch."""
        call = next(iter(self.trace.of(name)), None)
        return 1 if call is None else max(1, call.shape[0] // max(1, self.batch))

    @cached_property
    def dropouts(self) -> tuple[nn.Module, ...]:
        """Dropout layers that drop."""
        return tuple(m for m in self.model.modules() if isinstance(m, gaps.DROPOUTS) and m.p > 0)

    @cached_property
    def trace(self) -> Trace:
        """Who feeds whom, and on what shapes; one forward."""
        self.forwards += 1
        with torch.no_grad(), mode(self.model, training=False), preserved_buffers(self.model):
            return trace(self.model, lambda: run(self.model, self.subject.batches[0], self.subject.forward))

    @cached_property
    def population(self) -> dict[str, Sample]:
        """Moments of each layer's input on the training data, dropout off."""
        return self._collect(self.subject.batches, biased)

    @cached_property
    def trained_on(self) -> dict[str, Sample]:
        """The same with dropout on, as training sees it; the same figures where nothing is dropped."""
        if not self.dropouts:
            return self.population
        return self._collect(self.subject.batches, biased, dropping=True)

    @cached_property
    def served(self) -> dict[str, Sample]:
        """Moments of each layer's input on the serving data, every layer normalizing by the training population."""
        known = {name: _pair(sample) for name, sample in self.population.items()}

        def deployed(layer: NormLayer, _sample: Sample) -> tuple[Tensor, Tensor] | None:
            return known.get(layer.name)

        return self._collect(self.subject.serving, deployed)

    def _collect(self, batches: Sequence[Any], choose: Choose, *, dropping: bool = False) -> dict[str, Sample]:
        population = Population(self.model, self.layers, self.subject.forward)
        for raw, _ in pooled(batches, self.pool_size):
            population.add(raw, choose, training=self.dropouts if dropping else ())
        self.forwards += population.forwards
        return population.samples

    @cached_property
    def pool_size(self) -> int:
        """Examples in one pooled forward; one forward to find out."""
        self.forwards += self.subject.forward is None
        return pool_size(self.model, self.layers, self.subject.batches[0], self.subject.forward)

    @cached_property
    def has_padding(self) -> bool:
        """Whether the inputs look like padded sequences."""
        return self.subject.forward is None and unpadded(self.subject.batches[0]) is not None

    @contextmanager
    def _by_population(self) -> Iterator[None]:
        """The network in eval mode, its layers normalizing by population statistics."""
        with torch.no_grad(), mode(self.model, training=False), preserved_buffers(self.model):
            for layer in self.layers:
                if layer.name in self.population:
                    place(layer.module, *_pair(self.population[layer.name]))
            yield

    @cached_property
    def examples(self) -> dict[str, Examples]:
        """Each layer's inputs example by example, behind population statistics; one pooled forward."""
        found: dict[str, Examples] = {}

        def seen(layer: NormLayer, _module: nn.Module, x: Tensor) -> None:
            found.setdefault(layer.name, Examples.of(x))

        first = next(pooled(self.subject.batches, self.pool_size))[0]
        _ = self.population  # before the buffers are exchanged
        with self._by_population(), before_forward(self.layers, seen):
            run(self.model, first, self.subject.forward)
        self.forwards += 1
        return found

    @cached_property
    def per_batch(self) -> tuple[dict[str, list[Sample]], ...]:
        """For every training batch, the moments of each call of each layer, in train mode without dropout."""
        rows = []
        for raw in self.subject.batches:
            calls: dict[str, list[Sample]] = {}

            def pick(layer: NormLayer, sample: Sample, calls: dict[str, list[Sample]] = calls) -> Any:
                calls.setdefault(layer.name, []).append(sample)
                return biased(layer, sample)

            held = torch.no_grad(), mode(self.model, training=False), preserved_buffers(self.model)
            with held[0], held[1], held[2], choosing(self.layers, pick):
                run(self.model, raw, self.subject.forward)
            self.forwards += 1
            rows.append(calls)
        return tuple(rows)

    @cached_property
    def dropout_inputs(self) -> dict[str, Moments]:
        """Moments of each unit that an element-wise dropout layer is fed, on the first batch; one forward."""
        found: dict[str, Moments] = {}
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                if isinstance(module, nn.Dropout):

                    def seen(args: Any, _kwargs: Any, _output: Any, name: str = canonical_name(name)) -> None:
                        found[name] = Moments.of(args[0], dim=-1)

                    stack.enter_context(on_module(module, seen))
            self._forward_once()
        return found

    @cached_property
    def padded(self) -> dict[str, tuple[Sample, Sample, float]]:
        """Sequence layers: their input on the first batch with padding, without, and the padded share; one forward."""
        mask = unpadded(self.subject.batches[0]) if self.subject.forward is None else None
        if mask is None:
            return {}
        found: dict[str, tuple[Sample, Sample, float]] = {}

        def seen(layer: NormLayer, _module: nn.Module, x: Tensor) -> None:
            if x.dim() == 3 and x.shape[:1] + x.shape[2:] == mask.shape:
                share = 1 - float(mask.double().mean())
                found[layer.name] = (Sample.of(x), Sample.of(x, mask), share)

        with before_forward(self.layers, seen):
            self._forward_once()
        return found

    @cached_property
    def kernel_errors(self) -> dict[str, tuple[float, float, float]]:
        """channels_last inputs on the CPU: error of torch's log deviation, its sampling error, mean over deviation."""
        wide = {c.name for c in self.trace.calls if c.channels_last}
        found: dict[str, tuple[float, float, float]] = {}

        def seen(layer: NormLayer, _module: nn.Module, x: Tensor) -> None:
            if layer.name in wide and x.device.type == "cpu" and x.dtype == torch.float32:
                found[layer.name] = kernel_error(x, layer.eps)

        layers = tuple(layer for layer in self.layers if layer.name in wide)
        if layers:
            with before_forward(layers, seen):
                self._forward_once()
        return found

    def _forward_once(self) -> None:
        self.forwards += 1
        with torch.no_grad(), mode(self.model, training=False), preserved_buffers(self.model):
            run(self.model, self.subject.batches[0], self.subject.forward)

    @cached_property
    def losses(self) -> Losses:
        """Loss of every held-out batch in eval mode, in train mode without dropout, and with population statistics."""
        deployed, by_batch = self._losses(), self._losses(biased)
        with self._by_population():
            return Losses(deployed, by_batch, self._losses())

    def _losses(self, choose: Choose | None = None) -> tuple[float, ...]:
        assert self.subject.loss is not None
        values = []
        held = torch.no_grad(), mode(self.model, training=False), preserved_buffers(self.model)
        with held[0], held[1], held[2], choosing(self.layers if choose else (), choose or biased):
            for raw in self.subject.held_out:
                values.append(score(self.model, raw, self.subject.loss, self.subject.forward))
                self.forwards += 1
        return tuple(values)

    @cached_property
    def gap(self) -> GapSplit:
        """The gap between train and eval mode, split."""
        assert self.subject.loss is not None
        serving = [raw for raw in self.subject.serving if _labelled(raw)]
        batches = serving or list(self.subject.batches)
        here = self._collect(serving, biased) if serving else self.population
        doubled = blends(self.steps, self.layers, self.population) if self.subject.step is not None else None
        measured, notes = layers_of(here, self.population if serving else None, self.layers, doubled)
        losses = gaps.Losses(self.model, measured, batches, self.subject.loss, self.subject.forward)
        causes, parts = len(losses.causes), len(losses.parts)
        made = gaps.plan(causes, parts, len(batches), self.subject.gap_forwards)
        if self.gap_planned is not None and made.forwards > self.gap_planned:
            made = gaps.plan(causes, parts, len(batches), max(self.gap_planned, 2**causes))
        found = gaps.split(losses, batches, made, notes)
        self.forwards += losses.forwards
        return found

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What a few training steps did to each layer; the network and optimizer are put back."""
        assert self.subject.step is not None
        with preserved(self.model, self.subject.optimizer), warnings.catch_warnings():
            return watch_steps(find(self.model).layers, self.subject.step, self.subject.optimizer, self.steps_wanted)


@dataclass(frozen=True)
class Losses:
    """Loss of every held-out batch: as deployed, by mini-batch statistics, by population statistics."""

    deployed: tuple[float, ...]
    by_batch: tuple[float, ...]
    by_population: tuple[float, ...]


def _pair(sample: Sample) -> tuple[Tensor, Tensor]:
    return sample.moments.mean, sample.moments.variance("biased")


def _labelled(raw: Any) -> bool:
    return as_batch(raw).target is not None
