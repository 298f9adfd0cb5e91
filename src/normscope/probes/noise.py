"""The noise that normalizing by a mini-batch adds, per layer: batch mean, batch deviation, and what they do to x_hat.

x_hat_B = a x_hat_pop + b with a = sigma / s_B (multiplicative) and b = (mu - mu_B) / s_B (additive); B counts examples.
Bibliography keys: shekhovtsov2018, luo2019, srivastava2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from normscope.model.attach import mode, on_normalized, replayable
from normscope.model.find import NormLayer, find
from normscope.probes.population import population_mode
from normscope.probes.summary import mean, root_mean_square
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from normscope.probes.examples import ExampleMoments
    from normscope.probes.replay import Run


@dataclass(frozen=True)
class Noise:
    """Noise of one layer at one batch size, upstream noise-free; averages over the channels that vary in every batch.

    Attributes:
        batch: Examples per batch.
        mean: sd(mu_B) / sigma, root mean square over channels.
        mean_theory: sqrt(rho / B), rho the share of the variance that lies between examples; 1/sqrt(B) for vectors.
        deviation: sd(s_B) / sigma, root mean square over channels.
        deviation_theory: sqrt((k - 1) / (4 B)), k the kurtosis of the examples as draws.
        effective: sigma^2 / Var(mu_B), the effective batch size: how many independent values would be as noisy.
        multiplicative: Var(a).
        additive: Var(b).
        power: r = E[(x_hat_B - x_hat_pop)^2] / E[x_hat_pop^2].
        power_theory: (rho + (k - 1) / 4) / B, to first order.
        correlation: corr(a, b), mean over channels; to first order that of mu_B and s_B^2.
        correlation_theory: skew / sqrt(k - 1) of the examples as draws, mean over channels.
    """

    batch: int
    mean: float
    mean_theory: float
    deviation: float
    deviation_theory: float
    effective: float
    multiplicative: float
    additive: float
    power: float
    power_theory: float
    correlation: float
    correlation_theory: float

    @property
    def dropout_rate(self) -> float:
        """The drop probability q = r / (1 + r) whose noise has the same power."""
        return dropout_equivalent(self.power)


def dropout_equivalent(power: float) -> float:
    """The drop probability q whose multiplicative noise q / (1 - q) has relative power r: q = r / (1 + r)."""
    return power / (1 + power)


def noise_of(pool: ExampleMoments, batch: int, repeats: int = 200, seed: int = 0) -> Noise:
    """Noise of one layer for batches drawn with replacement from `pool`, which is the population.

    The batch statistics are those that a forward pass of the drawn examples would have, put together from the moments
    of the examples.

    Args:
        pool: The examples at the layer.
        batch: Examples per batch, at least 2.
        repeats: Batches drawn.
        seed: Of the draws.
    """
    whole = pool.moments()
    sigma, mu = whole.deviation(), whole.mean
    live = sigma > 1e-12 * whole.mean.abs().clamp_min(1e-30)
    index = pool.draws(batch, repeats, torch.Generator().manual_seed(seed))
    drawn = pool.moments(index)
    shift = ((drawn.mean - mu) / sigma)[:, live]
    scale = (drawn.deviation() / sigma)[:, live]
    kept = (scale > 0).all(0)
    shift, scale = shift[:, kept], scale[:, kept]
    if not shift.numel():
        return Noise(batch, *[math.nan] * 11)
    between, kurtosis, correlation = (value[live][kept] for value in _draw_theory(pool))
    a, b = 1 / scale, -shift / scale
    second = scale.square() + shift.square()
    power = ((a - 1).square() * second + 2 * (a - 1) * b * shift + b.square()).mean(0)
    return Noise(
        batch,
        root_mean_square(shift.std(0)),
        root_mean_square((between / batch).sqrt()),
        root_mean_square(scale.std(0)),
        root_mean_square(((kurtosis - 1) / (4 * batch)).sqrt()),
        1 / mean(shift.var(0)),
        mean(a.var(0)),
        mean(b.var(0)),
        mean(power),
        mean((between + (kurtosis - 1) / 4) / batch),
        mean(_correlation(a, b)),
        mean(correlation),
    )


def _draw_theory(pool: ExampleMoments) -> tuple[Tensor, Tensor, Tensor]:
    """Per channel: rho, kurtosis and corr(mean, variance), with whole examples as the independent draws.

    For one value per example they are 1, the kurtosis of the values and skew / sqrt(k - 1).
    """
    variance = pool.moments().variance("biased")
    means = pool.mean - pool.mean.mean(0)
    squares = pool.squares() - variance
    spread, other = means.square().mean(0), squares.square().mean(0)
    return (
        spread / variance,
        1 + other / variance.square(),
        (means * squares).mean(0) / (spread * other).sqrt(),
    )


def _correlation(left: Tensor, right: Tensor) -> Tensor:
    left, right = left - left.mean(0), right - right.mean(0)
    return (left * right).sum(0) / (left.square().sum(0) * right.square().sum(0)).sqrt()


def noise(
    model: nn.Module, run: Run, batches: Sequence[int], repeats: int = 200, seed: int = 0
) -> dict[str, tuple[Noise, ...]]:
    """Mini-batch noise of every batch-norm layer alone: the layers below use the statistics of the pool.

    Args:
        model: The network that `run` runs; left as it is.
        run: Runs one forward pass of the whole pool in a single batch.
        batches: Batch sizes in examples.
        repeats: Batches drawn with replacement for each size.
        seed: Of the draws.

    Returns:
        By layer, one `Noise` for each of `batches`.

    Raises:
        UnsupportedError: No batch norm found.
    """
    with population_mode(model, run) as pools:
        return {name: tuple(noise_of(pool, batch, repeats, seed) for batch in batches) for name, pool in pools.items()}


def accumulated(
    model: nn.Module,
    run: Run,
    run_batch: Callable[[Tensor], object],
    examples: int,
    batch: int,
    *,
    repeats: int = 50,
    seed: int = 0,
) -> dict[str, float]:
    """Noise power r of every layer's output with all layers below it noisy too, as in training without dropout.

    r = E[(y_B - y_pop)^2] / Var(y_pop) over units, y the normalized output with the layer's affine: the scale of gamma
    cancels, and where a layer stands alone this is `Noise.power`.

    Args:
        model: The network that `run` runs; left as it is.
        run: Runs one forward pass of the whole pool in a single batch.
        run_batch: Runs one forward pass of the pool's examples at these indices, shape [batch].
        examples: Size of the pool.
        batch: Examples per batch.
        repeats: Batches drawn with replacement.
        seed: Of the draws.

    Returns:
        By layer, the power; `dropout_equivalent` makes a rate of it.
    """
    layers = [layer for layer in find(model).require().layers if layer.kind != "frozen"]
    generator = torch.Generator().manual_seed(seed)
    error: dict[str, Tensor] = {}
    with population_mode(model, run) as pools:
        variance = {layer.name: _output_variance(layer, pools[layer.name]) for layer in layers if layer.name in pools}
        for _ in range(repeats):
            draw = partial(run_batch, torch.randint(examples, (batch,), generator=generator))
            quiet = _outputs(model, layers, draw, training=False)
            noisy = _outputs(model, layers, draw, training=True)
            for name, value in noisy.items():
                gap = (value.double() - quiet[name].double()).square().movedim(1, 0).flatten(1).mean(1)
                error[name] = error.get(name, torch.zeros_like(gap)) + gap / repeats
    return {name: mean(value / variance[name]) for name, value in error.items()}


def _output_variance(layer: NormLayer, pool: ExampleMoments) -> Tensor:
    variance = pool.moments().variance("biased")
    weight = getattr(layer.module, "weight", None)
    gamma = weight.detach().double().square() if isinstance(weight, Tensor) else torch.ones_like(variance)
    return gamma * variance / (variance + layer.eps)


def _outputs(model: nn.Module, layers: Sequence[NormLayer], run: Run, *, training: bool) -> dict[str, Tensor]:
    """What leaves each of `layers`, only these in the given mode: dropout stays off."""
    found: dict[str, Tensor] = {}

    def seen(layer: NormLayer, _module: nn.Module, normalized: Tensor) -> None:
        found[layer.name] = normalized.detach()

    with mode(model, training=False), replayable(model), on_normalized(tuple(layers), seen), torch.no_grad():
        for layer in layers:
            layer.module.training = training
        run()
    return found


def measurements(found: Mapping[str, Sequence[Noise]], step: int | None = None) -> list[Measurement]:
    """Each layer's noise beside its theory."""
    out = []
    for name, sizes in found.items():
        for item in sizes:
            rows = (
                ("relative deviation of the batch mean", item.mean, item.mean_theory),
                ("relative deviation of the batch deviation", item.deviation, item.deviation_theory),
                ("effective batch size", item.effective, None),
                ("multiplicative noise Var(a)", item.multiplicative, None),
                ("additive noise Var(b)", item.additive, None),
                ("noise power", item.power, item.power_theory),
                ("dropout-equivalent rate", item.dropout_rate, None),
                ("correlation of a and b", item.correlation, item.correlation_theory),
            )
            out += [
                Measurement("noise", f"{quantity}, {item.batch} examples", name, step, value, expected=expected)
                for quantity, value, expected in rows
            ]
    return out
