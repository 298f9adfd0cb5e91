"""The gap between train and eval mode, split by cause over all subsets and by layer over sampled permutations.

Train mode and eval mode differ in several things at once. Each cause is a switch; the loss is taken with the switches
of a subset thrown, and a cause's share is its Shapley value: its mean effect over the orders in which all could be
thrown. Shares add up to the gap exactly. Statistics that are off are applied as what they are off by, in deviations:
mean' = mean + s * d, s' = s * r with s = sqrt(variance + eps), so that each cause has an effect whether or not the
mini-batch's own statistics are in use; with all switches thrown every layer normalizes by its buffers exactly.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.errors import InputError
from normscope.model.preserve import mode, preserved, preserved_rng
from normscope.records import GapSplit, Share
from normscope.surgery.population import Forward, Population, Sample, choosing, score
from normscope.surgery.recalibrate import measurable, student

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from normscope.model.find import NormLayer
    from normscope.model.spec import Score

SMALL, STALE, IMPOSSIBLE, SHIFT, DROPOUT = (
    "mini-batch statistics",
    "stale average",
    "impossible buffers",
    "train/serving shift",
    "dropout",
)
DROPOUTS = (nn.modules.dropout._DropoutNd,)


@dataclass(frozen=True)
class Offset:
    """What a layer's statistics are off by: `mean` in deviations, `ratio` of deviations, both shape [channels]."""

    mean: Tensor
    ratio: Tensor

    @classmethod
    def between(cls, start: tuple[Tensor, Tensor], end: tuple[Tensor, Tensor], eps: float) -> Offset:
        """From the (mean, variance) `start` to `end`."""
        spread = (start[1] + eps).sqrt()
        return cls((end[0] - start[0]) / spread, (end[1] + eps).sqrt() / spread)

    def only(self, where: Tensor) -> Offset:
        """The same at channels where the bool tensor `where` is True, nothing elsewhere."""
        return Offset(
            torch.where(where, self.mean, torch.zeros_like(self.mean)),
            torch.where(where, self.ratio, torch.ones_like(self.ratio)),
        )

    def apply(self, statistics: tuple[Tensor, Tensor], eps: float) -> tuple[Tensor, Tensor]:
        """(mean, variance), moved by this much."""
        spread = (statistics[1] + eps).sqrt()
        return statistics[0] + spread * self.mean, (spread * self.ratio).square() - eps

    @property
    def nothing(self) -> bool:
        """Whether it moves nothing."""
        return bool((self.mean == 0).all() and (self.ratio == 1).all())


@dataclass(frozen=True)
class Layer:
    """What the split needs to know of one layer.

    Attributes:
        layer: The live layer.
        population: (mean, biased variance) at the present weights on the data of the split.
        offsets: Cause -> what it moves the statistics by.
    """

    layer: NormLayer
    population: tuple[Tensor, Tensor]
    offsets: dict[str, Offset]


def layers_of(
    population: dict[str, Sample], training: dict[str, Sample] | None, layers: Iterable[NormLayer]
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The layers with their offsets, and a note for each whose buffers are not finite and were left out.

    Args:
        population: Moments of each layer's input on the data of the split.
        training: The same on training data, where the data of the split are from another place.
        layers: The layers of the network.
    """
    found, notes = [], []
    for layer in layers:
        if layer.name not in population:
            continue
        here = _statistics(population[layer.name])
        start = here if training is None else _statistics(training[layer.name])
        module: Any = layer.module
        buffers = (module.running_mean.double(), module.running_var.double())
        broken = ~(buffers[0].isfinite() & buffers[1].isfinite() & (buffers[1] >= 0))
        if bool(broken.any()):
            notes.append(
                f"{layer.name}: {int(broken.sum())} of {len(broken)} channels have NaN, inf or negative running"
                " statistics, which alone makes the eval loss meaningless; the split takes their population figures"
            )
        mended = (torch.where(broken, start[0], buffers[0]), torch.where(broken, start[1], buffers[1]))
        off = Offset.between(start, mended, layer.eps)
        impossible = _impossible(population[layer.name], mended)
        offsets = {STALE: off.only(~impossible), IMPOSSIBLE: off.only(impossible)}
        if training is not None:
            offsets[SHIFT] = Offset.between(here, start, layer.eps)
        found.append(Layer(layer, here, {name: o for name, o in offsets.items() if not o.nothing}))
    return tuple(found), tuple(notes)


def _statistics(sample: Sample) -> tuple[Tensor, Tensor]:
    return sample.moments.mean, sample.moments.variance("biased")


def _impossible(sample: Sample, buffers: tuple[Tensor, Tensor]) -> Tensor:
    """Channels whose buffers no average of the values seen could hold: outside their range (Popoviciu's bound)."""
    low, high = sample.low, sample.high
    outside = (buffers[0] < low) | (buffers[0] > high)
    bessel = sample.moments.count / (sample.moments.count - 1).clamp_min(1)
    return outside | (buffers[1] > bessel * ((high - low) / 2).square())


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
        return (SMALL, *(n for n in (STALE, IMPOSSIBLE, SHIFT) if n in names), *([DROPOUT] if self._dropouts else []))

    @property
    def parts(self) -> tuple[str, ...]:
        """The layers, and dropout where there is any."""
        return (*(layer.layer.name for layer in self._layers), *([DROPOUT] if self._dropouts else []))

    def by_cause(self, thrown: frozenset[str], batches: Sequence[Any] | None = None) -> Tensor:
        """Loss of every batch, shape [batches], float64, with the causes of `thrown` in their eval state."""
        return self._run(dict.fromkeys((x.layer.name for x in self._layers), thrown), DROPOUT in thrown, batches)

    def by_layer(self, thrown: frozenset[str], batches: Sequence[Any] | None = None) -> Tensor:
        """Loss of every batch with the layers of `thrown` in their eval state, the others by the mini-batch."""
        every = frozenset({SMALL, STALE, IMPOSSIBLE, SHIFT})
        per_layer = {x.layer.name: every if x.layer.name in thrown else frozenset[str]() for x in self._layers}
        return self._run(per_layer, DROPOUT in thrown, batches)

    def _run(self, thrown: dict[str, frozenset[str]], still: bool, batches: Sequence[Any] | None) -> Tensor:
        known = {layer.layer.name: layer for layer in self._layers}

        def choose(layer: NormLayer, sample: Sample) -> tuple[Tensor, Tensor]:
            mine, causes = known[layer.name], thrown[layer.name]
            statistics = mine.population if SMALL in causes else _statistics(sample)
            for name in (SHIFT, STALE, IMPOSSIBLE):
                if name in causes and name in mine.offsets:
                    statistics = mine.offsets[name].apply(statistics, layer.eps)
            return statistics

        values = []
        held = torch.no_grad(), preserved(self._model), mode(self._model, training=False)
        with held[0], held[1], held[2], choosing([x.layer for x in self._layers], choose):
            for module in self._dropouts:
                module.training = not still
            for at, raw in enumerate(self._batches if batches is None else batches):
                self.forwards += 1
                values.append(self._one(raw, at))
        return torch.tensor(values, dtype=torch.float64)

    def _one(self, raw: Any, seed: int) -> float:
        with preserved_rng():
            torch.manual_seed(seed)
            return score(self._model, raw, self._loss, self._forward)


def shapley(players: Sequence[str], value: Callable[[frozenset[str]], Tensor]) -> dict[str, Tensor]:
    """Shapley value of every player, exact over all subsets; the values add up to value(all) - value(none).

    Args:
        players: At most a handful: 2 ** len(players) subsets are evaluated, each once.
        value: Subset -> tensor of any shape.
    """
    worth = {
        frozenset(subset): value(frozenset(subset))
        for size in range(len(players) + 1)
        for subset in itertools.combinations(players, size)
    }
    n = len(players)
    shares = {}
    for player in players:
        total = torch.zeros_like(worth[frozenset()])
        for subset, loss in worth.items():
            if player not in subset:
                weight = math.factorial(len(subset)) * math.factorial(n - len(subset) - 1) / math.factorial(n)
                total = total + weight * (worth[subset | {player}] - loss)
        shares[player] = total
    return shares


def sampled_shapley(
    players: Sequence[str], value: Callable[[frozenset[str]], float], permutations: int, seed: int = 0
) -> dict[str, tuple[float, ...]]:
    """Marginal effects of every player along sampled orders, each followed by its reverse; they add up to the whole.

    Args:
        players: Any number.
        value: Subset -> number; evaluated 2 + permutations * (len(players) - 1) times at most.
        permutations: Orders, rounded up to even.
        seed: Of the orders.

    Returns:
        For every player one figure per order-and-reverse pair.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = {frozenset[str](): value(frozenset()), frozenset(players): value(frozenset(players))}
    effects: dict[str, list[float]] = {player: [] for player in players}
    for _ in range((permutations + 1) // 2):
        order = [players[at] for at in torch.randperm(len(players), generator=generator)]
        pair = dict.fromkeys(players, 0.0)
        for walk in (order, order[::-1]):
            before, thrown = ends[frozenset()], frozenset[str]()
            for player in walk:
                thrown |= {player}
                after = ends[thrown] if thrown in ends else value(thrown)
                pair[player] += (after - before) / 2
                before = after
        for player, effect in pair.items():
            effects[player].append(effect)
    return {player: tuple(values) for player, values in effects.items()}


def share(name: str, values: Sequence[float]) -> Share:
    """Mean of `values` with its 95 % t interval; no interval for a single one."""
    n, center = len(values), math.fsum(values) / len(values)
    if n < 2:
        return Share(name, center)
    half = student(0.975, n - 1) * math.sqrt(math.fsum((v - center) ** 2 for v in values) / (n - 1) / n)
    return Share(name, center, center - half, center + half)


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
    ends = 2 * per_layer if pairs else 0
    return Plan(causes, n, 2 * pairs, per_layer if pairs else 0, subsets * n + ends + pairs * walk)


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
