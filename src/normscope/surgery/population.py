"""Population moments of what each batch-norm layer is fed, at the present weights, with their standard errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.model.find import NormLayer
from normscope.model.population import normalized_by
from normscope.model.preserve import mode, preserved_buffers, preserved_rng
from normscope.moments import Moments
from normscope.surgery.forward import Forward, as_batch, run
from normscope.surgery.pools import head, pool_size, pooled

Mask = Callable[[Any], Tensor]
# (layer, moments of this call) -> mean and variance to normalize this call by, or None to leave the layer as it is.
Choose = Callable[[NormLayer, "Sample"], tuple[Tensor, Tensor] | None]


@dataclass(frozen=True)
class Sample:
    """Moments of values that come in examples, and how far each example pulls them.

    Values of one example are correlated, so standard errors count examples, not values.

    Attributes:
        moments: Over all values.
        examples: Number of examples.
        mean_pull: Sum over examples of (n_i (mean_i - mean))^2, shape [channels].
        variance_pull: Sum over examples of (n_i (q_i - variance))^2, q_i the mean square of example i about the mean.
        low: Smallest value, shape [channels].
        high: Largest value, shape [channels].
    """

    moments: Moments
    examples: int
    mean_pull: Tensor
    variance_pull: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None = None) -> Sample:
        """Of `x`, [examples, channels, *positions]; `mask`, [examples, *positions], is True where values count."""
        n, channels = x.shape[0], x.shape[1]
        values = x.detach().movedim(1, 0)
        values = values.flatten(1) if mask is None else values[:, mask]
        low, high = (end.double() for end in values.aminmax(dim=1))
        if mask is not None:
            parts = [
                Moments.of(row.movedim(0, -1)[keep]) for row, keep in zip(x, mask, strict=True) if bool(keep.any())
            ]
            count = torch.stack([part.count for part in parts])[:, None]
            mean, m2 = torch.stack([part.mean for part in parts]), torch.stack([part.m2 for part in parts])
        else:
            rows = Moments.of(x.reshape(1, n * channels, -1))
            count = rows.count.expand(n)[:, None]
            mean, m2 = rows.mean.view(n, channels), rows.m2.view(n, channels)
        total = count.sum()
        center = (count * mean).sum(0) / total
        moments = Moments(total, center, (m2 + count * (mean - center).square()).sum(0))
        square = m2 + count * (mean - center).square()
        pull = (square - count * moments.variance("biased")).square().sum(0)
        return cls(moments, len(mean), (count * (mean - center)).square().sum(0), pull, low, high)

    def merge(self, other: Sample) -> Sample:
        """Of both samples together."""
        return Sample(
            self.moments.merge(other.moments),
            self.examples + other.examples,
            self.mean_pull + other.mean_pull,
            self.variance_pull + other.variance_pull,
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )

    def standard_error(self) -> Tensor:
        """Standard error of the mean, in deviations, shape [channels]; 0 for a constant channel."""
        variance = self.moments.variance("biased")
        error = self.mean_pull.sqrt() / self.moments.count
        return torch.where(variance > 0, error / variance.sqrt(), torch.zeros_like(error))

    def log_deviation_error(self) -> Tensor:
        """Standard error of log(deviation), shape [channels]; 0 for a constant channel."""
        variance = self.moments.variance("biased")
        error = self.variance_pull.sqrt() / (2 * self.moments.count)
        return torch.where(variance > 0, error / variance, torch.zeros_like(error))

    def worst_error(self) -> float:
        """Root mean square over channels of the larger of both standard errors."""
        both = torch.stack([self.standard_error(), self.log_deviation_error()]).square().mean(1)
        return float(both.max().sqrt())

    @property
    def per_batch(self) -> tuple[Tensor, Tensor]:
        """Variance of one example's pull on the mean (in variances) and on log(deviation), both shape [channels].

        Divided by the batch size, what a mini-batch's own statistics err by.
        """
        n = max(1, self.examples)
        return self.standard_error().square() * n, self.log_deviation_error().square() * n


@contextmanager
def choosing(layers: Iterable[NormLayer], choose: Choose, mask: Tensor | None = None) -> Iterator[None]:
    """Normalize each call of `layers` by what `choose` says, through the layers' own eval mode.

    The caller keeps the layers in eval mode and preserves the buffers.
    """

    def statistics(layer: NormLayer, x: Tensor) -> tuple[Tensor, Tensor] | None:
        fits = mask is not None and x.shape[:1] + x.shape[2:] == mask.shape
        return choose(layer, Sample.of(x, mask if fits else None))

    with normalized_by(layers, statistics):
        yield


def biased(_layer: NormLayer, sample: Sample) -> tuple[Tensor, Tensor]:
    """What a layer in train mode normalizes by: the call's own mean and biased variance."""
    return sample.moments.mean, sample.moments.variance("biased")


class Population:
    """Collects the moments that each layer is fed, every layer before it normalized by the pool's own statistics.

    Dropout is off and the layers run their eval forward, so the moments are those of the deployed network. `choose`
    says what a layer is normalized by while it is measured.
    """

    def __init__(
        self, model: nn.Module, layers: tuple[NormLayer, ...], forward: Forward | None = None, mask: Mask | None = None
    ) -> None:
        self.samples: dict[str, Sample] = {}
        self.forwards = 0
        self.examples = 0
        self._model, self._layers, self._forward, self._mask = model, layers, forward, mask

    def pools(self, loader: Iterable[Any], limit: int | None = None, name: str = "the loader") -> Iterator[Any]:
        """Batches of `loader`, neighbours of one form pooled; the caller adds each one before it asks for the next.

        Args:
            loader: Batches of any form.
            limit: Examples at most.
            name: What an empty loader is called.

        Raises:
            SpecError: The loader yields nothing.
        """
        iterator = iter(loader)
        first = next(iterator, None)
        size = 0 if first is None else pool_size(self._model, self._layers, first, self._forward)
        batches = itertools.chain([] if first is None else [first], iterator)
        for raw, examples in pooled(batches, size if limit is None else min(size, limit), name):
            left = None if limit is None or not examples else limit - self.examples
            yield raw if left is None or examples <= left else head(as_batch(raw), left)
            if limit is not None and self.examples >= limit:
                return

    def add(self, raw: Any, choose: Choose = biased, training: Iterable[nn.Module] = ()) -> None:
        """One pooled batch; a layer that is called more than once per forward is settled by repeated passes.

        Args:
            raw: A batch of `pools`.
            choose: What a layer is normalized by while it is measured.
            training: Modules that run in train mode, dropout for one.
        """
        fixed: dict[str, Sample] = {}
        for _ in range(4):
            calls: dict[str, list[Sample]] = {}
            self._pass(raw, calls, fixed, choose, tuple(training))
            merged = {name: _merge(parts) for name, parts in calls.items()}
            fixed = {name: merged[name] for name, parts in calls.items() if len(parts) > 1}
            if not fixed:
                break
        for name, sample in merged.items():
            self.samples[name] = self.samples[name].merge(sample) if name in self.samples else sample
        self.examples += max((parts[0].examples for parts in calls.values()), default=0)

    def _pass(
        self,
        raw: Any,
        calls: dict[str, list[Sample]],
        fixed: dict[str, Sample],
        choose: Choose,
        training: tuple[nn.Module, ...],
    ) -> None:
        def pick(layer: NormLayer, sample: Sample) -> tuple[Tensor, Tensor] | None:
            calls.setdefault(layer.name, []).append(sample)
            return choose(layer, fixed.get(layer.name, sample))

        mask = None if self._mask is None else self._mask(raw)
        self.forwards += 1
        held = torch.no_grad(), mode(self._model, training=False), preserved_buffers(self._model)
        with held[0], held[1], held[2], preserved_rng(), choosing(self._layers, pick, mask):
            for module in training:
                module.training = True
            torch.manual_seed(self.forwards)
            run(self._model, raw, self._forward)

    def worst_error(self) -> float:
        """The largest standard error among layers, in deviations; infinite before any data."""
        return max((sample.worst_error() for sample in self.samples.values()), default=float("inf"))


def _merge(parts: list[Sample]) -> Sample:
    total = parts[0]
    for part in parts[1:]:
        total = total.merge(part)
    return total
