"""The gap between train and eval mode, split by cause over all subsets and by layer over sampled permutations.

Train mode and eval mode differ in several things at once. Each cause is a switch; the loss is taken with the switches
of a subset thrown, and a cause's share is its Shapley value: its mean effect over the orders in which all could be
thrown. Shares add up to the gap exactly; with all switches thrown every layer normalizes by its buffers exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.check.offsets import DOUBLED, IMPOSSIBLE, SHIFT, STALE, Layer, layers_of, statistics
from normscope.check.shapley import sampled_shapley, shapley, share
from normscope.errors import InputError
from normscope.model.preserve import mode, preserved_buffers, preserved_rng, seed_all
from normscope.records import GapSplit, Share
from normscope.surgery.forward import Forward, score
from normscope.surgery.population import Population, Sample, choosing
from normscope.surgery.recalibrate import measurable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from normscope.model.find import NormLayer
    from normscope.model.spec import Score

SMALL, DROPOUT = "mini-batch statistics", "dropout"
DROPOUTS = (nn.modules.dropout._DropoutNd,)


class Losses:
    """Loss of every batch with the switches of a subset of causes, or the layers of a subset, thrown."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        batches: Sequence[Any],
        loss: Score,
        forward: Forward | None = None,
    ) -> None:
        self.forwards = 0
        self._model, self._layers, self._batches = model, layers, batches
        self._loss, self._forward = loss, forward
        self._dropouts = [m for m in model.modules() if isinstance(m, DROPOUTS) and m.p > 0]

    @property
    def causes(self) -> tuple[str, ...]:
        """The causes that can play a part in this network."""
        names = {name for layer in self._layers for name in layer.offsets}
        return (
            SMALL,
            *(n for n in (STALE, DOUBLED, IMPOSSIBLE, SHIFT) if n in names),
            *([DROPOUT] if self._dropouts else []),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The layers, and dropout where there is any."""
        return (*(layer.layer.name for layer in self._layers), *([DROPOUT] if self._dropouts else []))

    def by_cause(self, thrown: frozenset[str], batches: Sequence[Any] | None = None) -> Tensor:
        """Loss of every batch, shape [batches], float64, with the causes of `thrown` in their eval state."""
        return self._run(dict.fromkeys((x.layer.name for x in self._layers), thrown), DROPOUT in thrown, batches)

    def by_layer(self, thrown: frozenset[str], batches: Sequence[Any] | None = None) -> Tensor:
        """Loss of every batch with the layers of `thrown` in their eval state, the others by the mini-batch."""
        every = frozenset({SMALL, STALE, DOUBLED, IMPOSSIBLE, SHIFT})
        per_layer = {x.layer.name: every if x.layer.name in thrown else frozenset[str]() for x in self._layers}
        return self._run(per_layer, DROPOUT in thrown, batches)

    def _run(self, thrown: dict[str, frozenset[str]], still: bool, batches: Sequence[Any] | None) -> Tensor:
        known = {layer.layer.name: layer for layer in self._layers}

        def choose(layer: NormLayer, sample: Sample) -> tuple[Tensor, Tensor]:
            mine, causes = known[layer.name], thrown[layer.name]
            used = mine.population if SMALL in causes else statistics(sample)
            for name in (SHIFT, DOUBLED, STALE, IMPOSSIBLE):
                if name in causes and name in mine.offsets:
                    used = mine.offsets[name].apply(used, layer.eps)
            return used

        values = []
        held = torch.no_grad(), preserved_buffers(self._model), mode(self._model, training=False)
        with held[0], held[1], held[2], choosing([x.layer for x in self._layers], choose):
            for module in self._dropouts:
                module.training = not still
            for at, raw in enumerate(self._batches if batches is None else batches):
                self.forwards += 1
                values.append(self._one(raw, at))
        return torch.tensor(values, dtype=torch.float64)

    def _one(self, raw: Any, seed: int) -> float:
        with preserved_rng():
            seed_all(seed)
            return score(self._model, raw, self._loss, self._forward)


@dataclass(frozen=True)
class Plan:
    """How many forward passes a split will take.

    Attributes:
        causes: The causes that will be split.
        batches: Batches that each subset of causes is evaluated on.
        permutations: Orders of layers; 0 for no split by layer.
        layer_batches: Batches for the split by layer.
        forwards: All forward passes of the split itself.
    """

    causes: int
    batches: int
    permutations: int
    layer_batches: int
    forwards: int


def plan(causes: int, parts: int, batches: int, limit: int | None) -> Plan:
    """The largest split within `limit` forward passes: first all causes on as many batches, then orders of layers.

    Raises:
        InputError: The limit does not allow even one batch.
    """
    subsets = 2**causes
    if limit is not None and limit < subsets:
        raise InputError(
            f"expected a limit of at least {subsets} forward passes to split the gap among {causes} causes,"
            f" came {limit}"
        )
    n = batches if limit is None else max(1, min(batches, limit // 2 // subsets or 1))
    left = (limit if limit is not None else 8 * subsets * n) - subsets * n
    per_layer = min(n, 2)
    walk = per_layer * 2 * max(0, parts - 1)
    pairs = 0 if parts < 2 else min(8, (left - 2 * per_layer) // walk)
    pairs = pairs if pairs >= 2 else 0
    walks = pairs * walk + (2 * per_layer if pairs else 0)
    if limit is not None:
        n = max(1, min(batches, (limit - walks) // subsets))
    return Plan(causes, n, 2 * pairs, per_layer if pairs else 0, subsets * n + walks)


def split(losses: Losses, batches: Sequence[Any], made: Plan, notes: tuple[str, ...] = ()) -> GapSplit:
    """The gap by cause and, if planned, by layer.

    Args:
        losses: What to evaluate.
        batches: Labelled batches.
        made: How much to evaluate.
        notes: Carried into the record.
    """
    some = batches[: made.batches]
    ends: dict[str, Tensor] = {}

    def by_cause(thrown: frozenset[str]) -> Tensor:
        value = losses.by_cause(thrown, some)
        ends["all" if len(thrown) == len(losses.causes) else "none" if not thrown else ""] = value
        return value

    shares = shapley(losses.causes, by_cause)
    rows: tuple[Share, ...] = ()
    if made.permutations:
        few = batches[: made.layer_batches]
        walks = sampled_shapley(
            losses.parts, lambda thrown: float(losses.by_layer(thrown, few).mean()), made.permutations
        )
        rows = tuple(share(name, values) for name, values in walks.items())
    if rows and made.layer_batches < made.batches:
        notes = (*notes, f"the split by layer was taken on {made.layer_batches} of {made.batches} batches")
    evaluation = float(ends["all"].mean())
    result = GapSplit(
        float(ends["none"].mean()),
        evaluation if math.isfinite(evaluation) else None,
        tuple(share(name, values.tolist()) for name, values in shares.items()),
        rows,
        losses.forwards,
        notes,
    )
    return replace(result, evaluation=None) if any("NaN, inf" in note for note in notes) else result


def gap(
    model: nn.Module,
    data: Iterable[Any],
    loss: Score,
    *,
    training: Iterable[Any] | None = None,
    forward_fn: Forward | None = None,
    max_forwards: int | None = None,
) -> GapSplit:
    """Loss in eval mode minus loss in train mode on `data`, split by cause and by layer.

    Args:
        model: Any network with batch norm; left as it is.
        data: Labelled batches of the size used in training; from where the network is served, with `training`.
        loss: (output, target) -> scalar.
        training: Training batches, which tell a shift between training and serving from a stale average.
        forward_fn: (model, batch) -> output, for batches of another form.
        max_forwards: Bound on the passes of the split; `plan` says beforehand how many there will be.
    """
    from normscope.model.find import find

    batches = list(data)
    layers, _ = measurable(find(model).require().layers)

    def population(source: Iterable[Any]) -> dict[str, Sample]:
        collected = Population(model, layers, forward_fn)
        for raw in collected.pools(source):
            collected.add(raw)
        return collected.samples

    measured, notes = layers_of(population(batches), None if training is None else population(training), layers)
    losses = Losses(model, measured, batches, loss, forward_fn)
    return split(losses, batches, plan(len(losses.causes), len(losses.parts), len(batches), max_forwards), notes)
