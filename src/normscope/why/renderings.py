"""Other looks of the same examples: black strokes on white redrawn in colours, and a stated gain and offset."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from normscope.model.batch import Batch, Examples
from normscope.moments import Moments

# Gain, and offset in deviations, of even and of odd channels: what is done to data without a shift of their own.
GAINS, OFFSETS = (1.5, 0.67), (0.5, -0.5)

Draw = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


def _each(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random colour for each image, shape [images, 3, 1, 1], from 0 to 1."""
    return torch.rand(len(images), 3, 1, 1, generator=generator)


def _coloured(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return 0.3 * _each(images, generator), 1 - 0.3 * _each(images, generator)


def _strokes(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return 0.6 * _each(images, generator), torch.ones(1, 3, 1, 1)


def _background(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.zeros(1, 3, 1, 1), 1 - 0.5 * _each(images, generator)


def _pair(_images: Tensor, _generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.tensor([0.1, 0.2, 0.5]).view(1, 3, 1, 1), torch.tensor([0.9, 0.8, 0.5]).view(1, 3, 1, 1)


def _inverted(_images: Tensor, _generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)


# Name -> (colour of the strokes, colour of the background); the last cannot be repaired by other statistics.
RENDERINGS: dict[str, Draw] = {
    "coloured": _coloured,
    "coloured strokes": _strokes,
    "coloured background": _background,
    "one pair of colours": _pair,
    "inverted": _inverted,
}


def render(examples: Examples, name: str, seed: int) -> Examples:
    """Black strokes on white, [examples, 3, height, width] from 0 to 1, in the colours of the rendering `name`."""
    images = examples.whole.args[0]
    stroke, background = RENDERINGS[name](images, torch.Generator().manual_seed(40_000 + seed))
    return Examples(Batch((background + (stroke - background) * (1 - images),), {}, examples.whole.target))


def shiftable(examples: Examples) -> bool:
    """Whether an input has real numbers in channels or features."""
    return any(x.is_floating_point() and x.dim() > 1 for _, x in examples.whole.leaves)


def gain_and_offset(examples: Examples, like: Examples) -> Examples:
    """Channel or feature c of `examples` as mean + gain_c (x - mean) + offset_c * deviation, by the moments of `like`.

    Gains and offsets are `GAINS` and `OFFSETS`, by turns.
    """
    known = dict(like.whole.leaves)

    def moved(key: str, x: Tensor) -> Tensor:
        if not (x.is_floating_point() and x.dim() > 1):
            return x
        moments = Moments.of(known[key])
        shape = [1, -1] + [1] * (x.dim() - 2)
        odd = torch.arange(x.shape[1]) % 2
        gain, offset = (torch.tensor(pair).to(x)[odd].view(shape) for pair in (GAINS, OFFSETS))
        mean, deviation = moments.mean.view(shape).to(x), moments.deviation().view(shape).to(x)
        return mean + gain * (x - mean) + offset * deviation

    whole = examples.whole
    args = tuple(moved(f"input {at}", x) for at, x in enumerate(whole.args))
    return Examples(Batch(args, {key: moved(key, x) for key, x in whole.kwargs.items()}, whole.target))
