"""Running statistics re-estimated as population statistics at the network's present weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.model.find import NormLayer, Unsupported, find
from normscope.model.population import place
from normscope.model.preserve import mode, preserved_buffers
from normscope.model.spec import Score, default_loss
from normscope.surgery.change import Change, Surgery, own
from normscope.surgery.forward import Forward, as_batch, score
from normscope.surgery.population import Mask, Population, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True)
class LayerChange:
    """What recalibration did to one layer.

    Attributes:
        name: The layer.
        mean_moved: Root mean square over channels of the moved mean, in population deviations; None where the old
            mean was not finite.
        scale_moved: Root mean square of log(new deviation / old deviation); None where the old variance was not
            finite and positive.
        standard_error: Of the new figures, in deviations.
    """

    name: str
    mean_moved: float | None
    scale_moved: float | None
    standard_error: float


@dataclass(frozen=True)
class Comparison:
    """Loss on held-out data before and after, with the 95 % interval of the paired difference over batches."""

    before: float
    after: float
    low: float
    high: float

    @property
    def helped(self) -> bool:
        """Whether the loss fell, beyond its interval, or was not finite before."""
        return math.isfinite(self.after) and (not math.isfinite(self.before) or self.high < 0)

    @property
    def hurt(self) -> bool:
        """Whether the loss rose beyond its interval, or is not finite now."""
        return math.isfinite(self.before) and (not math.isfinite(self.after) or self.low > 0)


@dataclass(frozen=True)
class Recalibration(Surgery):
    """A network with population statistics.

    Attributes:
        layers: What moved, layer by layer.
        examples: Examples that the statistics rest on.
        forwards: Forward passes that were run.
        standard_error: The worst layer's, in deviations.
        reached: Whether the tolerance was reached; False where the loader ended first.
        held_out: Loss before and after, where held-out data were given.
    """

    layers: tuple[LayerChange, ...] = ()
    examples: int = 0
    forwards: int = 0
    standard_error: float = math.inf
    reached: bool = False
    held_out: Comparison | None = None


def recalibrate(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    tolerance: float = 0.02,
    max_examples: int | None = None,
    held_out: Iterable[Any] | None = None,
    loss: Score | None = None,
    forward_fn: Forward | None = None,
    mask: Mask | None = None,
    inplace: bool = False,
) -> Recalibration:
    """Replace running averages by population statistics, measured at the present weights (wu2021).

    Population variance = E[biased variance] + Var[mean], by merging `Moments`; the Bessel-corrected one is stored.
    Batches of one form are pooled into larger forwards, dropout is off, and every layer is measured behind layers
    that normalize by the pool's own statistics: what the network is fed when it is deployed.

    Args:
        model: Any network with batch norm; left unchanged unless `inplace`.
        loader: Training inputs, with or without targets, in any form that `normscope.model.batch.split` knows, or in
            any form at all with `forward_fn`.
        tolerance: Stops once the standard error of every layer, in deviations, root mean square over channels, is
            below; counted in examples, since values of one example are correlated.
        max_examples: Stops there at the latest.
        held_out: Batches with targets to compare the loss on.
        loss: (output, target) -> scalar; cross-entropy for integer targets, squared error for real ones by default.
        forward_fn: (model, batch) -> output, for batches of another form; batches are then not pooled.
        mask: batch -> bool tensor, shape [examples, *positions], True where a position counts; applied at layers
            whose input has these positions. The batch is pooled: a `Batch`, unless `forward_fn` is given.
        inplace: Write into the network itself.

    Returns:
        The network with a report of what moved and whether it helped.

    Raises:
        InputError: No batch norm, no data, or data that make a statistic NaN or inf; the network is left as it was.
    """
    if not tolerance > 0:
        raise InputError(f"expected a positive tolerance in deviations, for example 0.02, came {tolerance}")
    found = find(model).require()
    target = own(model, inplace=inplace)
    layers, alone = measurable(find(target).layers)
    population = Population(target, layers, forward_fn, mask)
    seen = [0]
    reached = _collect(population, _counting(loader, seen), tolerance, max_examples)
    require_finite(population)
    before = None if held_out is None else _losses(target, held_out, loss, forward_fn)
    revert = saved(layers)
    report = tuple(
        _install(layer, population.samples[layer.name], seen[0]) for layer in layers if layer.name in population.samples
    )
    unseen = tuple(
        Unsupported(layer.name, "was not called on this data")
        for layer in layers
        if layer.name not in population.samples
    )

    after = None if held_out is None else _losses(target, held_out, loss, forward_fn)
    return Recalibration(
        target,
        tuple(Change(row.name, "running average", "population statistics") for row in report),
        found.unsupported + alone + unseen,
        revert,
        report,
        population.examples,
        population.forwards,
        population.worst_error(),
        reached,
        None if before is None or after is None else compare(before, after),
    )


_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def saved(layers: tuple[NormLayer, ...]) -> Callable[[], None]:
    """What puts the present statistics of `layers` back."""
    saved = [(layer.module, [_copy(layer.module, key) for key in _BUFFERS]) for layer in layers]

    def revert() -> None:
        for module, values in saved:
            for key, value in zip(_BUFFERS, values, strict=True):
                if value is not None:
                    getattr(module, key).copy_(value)

    return revert


def _copy(module: nn.Module, key: str) -> Tensor | None:
    value = getattr(module, key, None)
    return value.detach().clone() if isinstance(value, Tensor) else None


def measurable(layers: tuple[NormLayer, ...]) -> tuple[tuple[NormLayer, ...], tuple[Unsupported, ...]]:
    """The layers that keep running statistics of their own, and the others with the reason."""
    alone = []
    for layer in layers:
        if layer.kind == "frozen":
            alone.append(Unsupported(layer.name, "frozen: its statistics are constants of the network"))
        elif not isinstance(getattr(layer.module, "running_mean", None), Tensor):
            alone.append(Unsupported(layer.name, "keeps no running statistics (track_running_stats=False)"))
    names = {part.name for part in alone}
    return tuple(layer for layer in layers if layer.name not in names), tuple(alone)


def _collect(population: Population, loader: Iterable[Any], tolerance: float, limit: int | None) -> bool:
    for raw in population.pools(loader, limit):
        population.add(raw)
        if population.worst_error() <= tolerance:
            return True
    return False


def require_finite(population: Population) -> None:
    """Nothing, if every moment is finite.

    Raises:
        InputError: One is not.
    """
    for name, sample in population.samples.items():
        if not bool(sample.moments.mean.isfinite().all() and sample.moments.m2.isfinite().all()):
            raise InputError(
                f"expected finite inputs at layer {name}, its statistics on this data are NaN or inf; check the data"
                " and the weights of the layers before it (the running statistics were left as they were)"
            )


def _counting(loader: Iterable[Any], seen: list[int]) -> Iterator[Any]:
    """What `loader` yields, counted into `seen[0]`."""
    for raw in loader:
        seen[0] += 1
        yield raw


def _install(layer: NormLayer, sample: Sample, batches: int) -> LayerChange:
    """Write the population statistics; a single value per channel has no Bessel variance and keeps the biased one."""
    moments = sample.moments
    mean, deviation = moments.mean, moments.deviation()
    old_mean = _copy(layer.module, "running_mean")
    old_variance = _copy(layer.module, "running_var")
    assert old_mean is not None
    assert old_variance is not None
    live = deviation > 0
    moved = ((old_mean.double() - mean) / deviation)[live].square().mean().sqrt()
    scale = (0.5 * old_variance.double().log() - deviation.log())[live].square().mean().sqrt()
    place(layer.module, mean, moments.variance("bessel" if float(moments.count) > 1 else "biased"))
    tracked = getattr(layer.module, "num_batches_tracked", None)
    if isinstance(tracked, Tensor) and int(tracked) == 0:
        tracked.fill_(batches)
    return LayerChange(layer.name, _finite(moved), _finite(scale), sample.worst_error())


def _finite(value: Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None


def _losses(model: nn.Module, data: Iterable[Any], loss: Score | None, forward: Forward | None) -> list[float]:
    """Loss of every batch in eval mode.

    Raises:
        InputError: No batch, or a batch without a target.
    """
    values = []
    with torch.no_grad(), mode(model, training=False), preserved_buffers(model):
        for raw in data:
            target = as_batch(raw).target
            chosen = loss or (None if target is None else default_loss(target)) or nn.functional.mse_loss
            values.append(score(model, raw, chosen, forward))
    if not values:
        raise InputError("expected held-out data with at least one batch, came none; is its iterator used up?")
    return values


def student(level: float, degrees: int) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit  # lighter than scipy.stats, and not needed for a checkpoint

    return float(stdtrit(degrees, level))


def compare(before: list[float], after: list[float]) -> Comparison:
    """Paired t interval, 95 %, over batches; unbounded for a single batch."""
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    n, center = len(gaps), math.fsum(gaps) / len(gaps)
    spread = math.sqrt(math.fsum((gap - center) ** 2 for gap in gaps) / (n - 1) / n) if n > 1 else math.inf
    half = student(0.975, n - 1) * spread if n > 1 else math.inf
    return Comparison(math.fsum(before) / n, math.fsum(after) / n, center - half, center + half)
