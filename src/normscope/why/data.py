"""The embedded digits and a user's own data, split by seed; their regimes and their shifts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from normscope.model import spec as specs
from normscope.model.batch import Batch, Examples
from normscope.model.given import Spec
from normscope.why.arms import Arm

# Share of wrong labels in the regime 'noisy'.
LABEL_NOISE = 0.2
_OWN_HELD_OUT = 0.25


@dataclass(frozen=True)
class Data:
    """One seed's split.

    Attributes:
        train: What the network is trained on, label noise included.
        test: Held out, clean labels.
        shifted: A user's own shifted examples, where there are some.
    """

    train: Examples
    test: Examples
    shifted: Examples | None = None


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """Handwritten digits: images [1797, 64] from 0 to 1, ink is 1; labels [1797].

    The test part of UCI's 'optical recognition of handwritten digits' (bibliography key alpaydin1998, CC BY 4.0), the
    same numbers as scikit-learn's `load_digits`, which takes longer to import than to train on.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        return torch.from_numpy(file["images"]).float() / 16, torch.from_numpy(file["labels"]).long()


@lru_cache(maxsize=2)
def own(spec: Spec) -> tuple[Examples, Examples | None, Examples | None]:
    """(training, held-out, shifted) examples of a user's task, loaded once in a process."""
    return *specs.load_data(spec), specs.load_shifted(spec)


def load(network: str, regime: str, arm: Arm, seed: int, spec: Spec | None = None) -> Data:
    """The data of one run.

    Args:
        network: 'mlp6', 'mlp2' (300 training examples), 'conv' (black strokes on white, RGB) or 'own'.
        regime: 'clean', or 'noisy' where `LABEL_NOISE` of the training labels are wrong.
        arm: How inputs are scaled and how many examples are used.
        seed: Splits, draws label noise.
        spec: The user's task, for 'own'.
    """
    generator = torch.Generator().manual_seed(10_000 + seed)
    if network == "own":
        assert spec is not None
        data = _split_own(spec, generator)
    else:
        data = _split_digits(network, generator, arm.examples if network == "mlp2" else 1.0)
    if arm.examples < 1:
        data = Data(data.train.subset(torch.arange(int(arm.examples * len(data.train)))), data.test, data.shifted)
    if regime == "noisy":
        data = Data(_mislabel(data.train, generator), data.test, data.shifted)
    if arm.inputs == "standardized" or (arm.inputs == "given" and network != "own"):
        scale = standardizer(data.train)
        data = Data(scale(data.train), scale(data.test), None if data.shifted is None else scale(data.shifted))
    return data


def _split_digits(network: str, generator: torch.Generator, share: float) -> Data:
    x, y = digits()
    order = torch.randperm(len(x), generator=generator)
    if network == "conv":
        x = 1 - x.view(-1, 1, 8, 8).expand(-1, 3, -1, -1)
    size = round(300 * max(1.0, share)) if network == "mlp2" else 1297
    whole = Examples(Batch((x,), {}, y))
    return Data(whole.subset(order[:size]), whole.subset(order[size:]))


def _split_own(spec: Spec, generator: torch.Generator) -> Data:
    train, held, shifted = own(spec)
    if held is None:
        order = torch.randperm(len(train), generator=generator)
        cut = max(1, round(_OWN_HELD_OUT * len(train)))
        train, held = train.subset(order[cut:]), train.subset(order[:cut])
    return Data(train, held, shifted)


def _mislabel(examples: Examples, generator: torch.Generator) -> Examples:
    """`LABEL_NOISE` of the targets replaced: another class at random, or another example's value in a regression."""
    target = examples.target.clone()
    count = round(LABEL_NOISE * len(target))
    where = torch.randperm(len(target), generator=generator)[:count]
    if target.is_floating_point() or target.dim() > 1:
        target[where] = target[where.roll(1)]
    else:
        classes = int(target.max()) + 1
        target[where] = (target[where] + torch.randint(1, max(2, classes), (count,), generator=generator)) % classes
    return Examples(Batch(examples.whole.args, examples.whole.kwargs, target))


def standardizer(train: Examples) -> Callable[[Examples], Examples]:
    """A function that standardizes real inputs by the moments of `train`: per channel of images, per feature of tables.

    Features without spread are only centred.
    """
    from normscope.moments import Moments

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        found = Moments.of(x)
        spread = found.deviation()
        spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
        shape = [1, -1] + [1] * (x.dim() - 2)
        return found.mean.view(shape).to(x.dtype), spread.view(shape).to(x.dtype)

    known = {key: moments(x) for key, x in train.whole.leaves if x.is_floating_point() and x.dim() > 1}

    def scaled(key: str, x: Tensor) -> Tensor:
        return (x - known[key][0]) / known[key][1] if key in known else x

    def apply(examples: Examples) -> Examples:
        whole = examples.whole
        args = tuple(scaled(f"input {at}", x) for at, x in enumerate(whole.args))
        return Examples(Batch(args, {k: scaled(k, x) for k, x in whole.kwargs.items()}, whole.target))

    return apply
