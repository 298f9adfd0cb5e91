"""Statistics adapted to shifted, unlabelled data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from normscope.errors import InputError
from normscope.model.find import NormLayer, Unsupported, find
from normscope.model.population import place
from normscope.surgery.change import Change, Surgery, own
from normscope.surgery.forward import Forward
from normscope.surgery.mixed import Trait, give, take
from normscope.surgery.population import Population, Sample
from normscope.surgery.recalibrate import measurable, require_finite, saved
from normscope.surgery.statistics import hold_statistics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn


class ByBatch(Trait):
    """The class of an adapted layer: normalizes by the batch in eval mode too; no buffer moves."""

    prefix = "Adapted"

    def forward(self, x: Tensor) -> Any:
        """The layer's train-mode output, its buffers held."""
        module = cast("nn.Module", self)
        was = module.training
        with hold_statistics(module):
            module.training = True
            try:
                return super().forward(x)  # type: ignore[misc]
            finally:
                module.training = was


def adapt(
    model: nn.Module,
    loader: Iterable[Any] | None = None,
    *,
    method: Literal["blend", "batch"] = "blend",
    source_count: float = 16.0,
    max_examples: int | None = None,
    forward_fn: Forward | None = None,
    inplace: bool = False,
) -> Surgery:
    """Adapt running statistics to data from where the network is used, without labels (schneider2020, benz2021).

    'blend': mean and variance become (N * source + n * target) / (N + n), n examples of the target data, N
    `source_count`; every layer is measured behind layers that are blended already. 'batch': layers normalize by each
    batch in eval mode too, which needs no data now and large batches later.

    Args:
        model: Any network with batch norm, 1d, 2d or 3d.
        loader: Batches of the target data, with or without targets, which are not looked at; for 'blend'.
        method: 'blend' or 'batch'.
        source_count: N: how many target examples the stored statistics count for.
        max_examples: Target examples used, at most.
        forward_fn: (model, batch) -> output, for batches of another form.
        inplace: Change the network itself.

    Raises:
        InputError: No batch norm, no data, an unknown method, or data that make a statistic NaN or inf.
    """
    if method not in ("blend", "batch"):
        raise InputError(f"expected method 'blend' or 'batch', came {method!r}")
    if method == "blend" and loader is None:
        raise InputError("expected a loader of target data for method 'blend', came none")
    if not source_count >= 0:
        raise InputError(f"expected source_count to be 0 or more examples, came {source_count}")
    found = find(model).require()
    target = own(model, inplace=inplace)
    layers, alone = measurable(find(target).layers)
    if method == "batch":
        return _to_batch(target, layers, found.unsupported + alone)
    assert loader is not None
    population = Population(target, layers, forward_fn)
    _blend(population, loader, source_count, max_examples)
    seen = [layer for layer in layers if layer.name in population.samples]
    revert = saved(layers)
    n = population.examples
    for layer in seen:
        place(layer.module, *_mixed(layer, population.samples[layer.name], source_count, n))
    changes = tuple(Change(layer.name, "source statistics", f"blended, {source_count:g} + {n}") for layer in seen)
    return Surgery(target, changes, found.unsupported + alone, revert)


def _to_batch(model: nn.Module, layers: tuple[NormLayer, ...], alone: tuple[Unsupported, ...]) -> Surgery:
    fresh = [layer for layer in layers if not isinstance(layer.module, ByBatch)]
    for layer in fresh:
        give(ByBatch, layer.module)

    def revert() -> None:
        for layer in fresh:
            take(layer.module)

    changes = tuple(Change(layer.name, "running statistics", "statistics of each batch") for layer in fresh)
    return Surgery(model, changes, alone, revert)


def _blend(population: Population, loader: Iterable[Any], source: float, limit: int | None) -> None:
    def choose(layer: NormLayer, sample: Sample) -> tuple[Tensor, Tensor]:
        known = population.samples.get(layer.name)
        return _mixed(layer, sample if known is None else known.merge(sample), source, None)

    for raw in population.pools(loader, limit, "the target data"):
        population.add(raw, choose)
    require_finite(population)


def _mixed(layer: NormLayer, sample: Sample, source: float, examples: int | None) -> tuple[Tensor, Tensor]:
    """(N * source + n * target) / (N + n) for mean and variance, in float64."""
    n = float(sample.examples if examples is None else examples)
    mean: Any = layer.module.running_mean
    variance: Any = layer.module.running_var
    new = sample.moments
    kept = source / (source + n)
    return (
        kept * mean.double() + (1 - kept) * new.mean,
        kept * variance.double() + (1 - kept) * new.variance("biased"),
    )
