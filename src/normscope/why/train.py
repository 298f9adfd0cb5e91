"""The one trainer: seeded mini-batches, SGD with momentum, a learning rate for each member."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from normscope.why.job import MOMENTUM
from normscope.why.members import Members

# The places of the members that go on; None for all of them.
Observer = Callable[[int, Members], Sequence[int] | None]


class Order:
    """Mini-batches of one seed: every epoch a new permutation, a last short batch dropped.

    Args:
        examples: Size of the training set.
        batch: Examples in a mini-batch; at most all of them.
        seed: Of the permutations.
        order: Which of the seed's series of permutations.
    """

    def __init__(self, examples: int, batch: int, seed: int, order: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(20_000 + seed + 1_000_000 * order)
        self._examples, self._batch = examples, min(batch, examples)
        self._left = torch.empty(0, dtype=torch.long)

    def next(self) -> Tensor:
        """Indices of the next mini-batch, shape [batch]."""
        if len(self._left) < self._batch:
            self._left = torch.randperm(self._examples, generator=self._generator)
        index, self._left = self._left[: self._batch], self._left[self._batch :]
        return index


class Sgd:
    """Torch's SGD with momentum, step by step; torch.optim imports a compiler, two seconds in every worker.

    Args:
        parameters: What it updates.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._velocity: dict[nn.Parameter, Tensor] = {}

    def step(self, rate: float) -> None:
        """Move every parameter that has a gradient."""
        with torch.no_grad():
            for value in self._parameters:
                if value.grad is None:
                    continue
                moving = self._velocity.get(value)
                moving = value.grad.clone() if moving is None else moving.mul_(MOMENTUM).add_(value.grad)
                self._velocity[value] = moving
                value.add_(moving, alpha=-rate)

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the members at `places` of parameters of shape [K, ...]."""
        self._velocity = {value: moving[torch.tensor(places)] for value, moving in self._velocity.items()}


def train(
    members: Members,
    *,
    seeds: Sequence[int],
    rates: Sequence[float],
    steps: int,
    batch: int,
    decay: bool = False,
    updates: float = 1.0,
    order: int = 0,
    observe: Observer | None = None,
    every: int = 1,
) -> None:
    """Train `members` in place.

    Args:
        members: K networks with their data.
        seeds: K seeds of the order of examples.
        rates: K learning rates.
        steps: Counted steps.
        batch: Examples in a mini-batch.
        decay: Whether the rate falls to 0 along half a cosine.
        updates: Optimizer updates for each counted step, at least 1; the fraction is spread evenly.
        order: Which of each seed's orders of examples.
        observe: Called as observe(step, members) before step 0, every `every` steps, and after the last. Where it
            returns places, only the members there go on; training stops when none does.
        every: Steps between observations.
    """
    sgd = Sgd(members.parameters())
    orders = [Order(len(data.train), batch, seed, order) for data, seed in zip(members.datas, seeds, strict=True)]
    factors = torch.tensor(list(rates), dtype=torch.float32)
    torch.manual_seed(30_000 + seeds[0])
    done = 0
    for step in range(steps):
        going = observe(step, members) if observe is not None and step % every == 0 else None
        if going is not None and len(going) < len(orders):
            if not going:
                return
            members.keep(going)
            sgd.keep(going)
            orders, factors = [orders[at] for at in going], factors[torch.tensor(going)]
        while done < int((step + 1) * updates):
            update(members, sgd, torch.stack([each.next() for each in orders]), factors, _share(step, steps, decay))
            done += 1
    if observe is not None:
        observe(steps, members)


def _share(step: int, steps: int, decay: bool) -> float:
    """Part of the learning rate that is left at `step`."""
    return 0.5 * (1 + math.cos(math.pi * step / steps)) if decay else 1.0


def update(members: Members, sgd: Sgd, index: Tensor, factors: Tensor, share: float) -> None:
    """One update of every member on the examples at `index` [K, batch]."""
    members.gradients(index, factors)
    sgd.step(share)
