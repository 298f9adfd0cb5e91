"""The one trainer: seeded mini-batches, SGD with momentum, a learning rate for each member."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from normscope.why.members import Members

MOMENTUM = 0.9

Observer = Callable[[int, Members], bool | None]


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
        observe: Called as observe(step, members) before step 0, every `every` steps, and after the last;
            training stops when it returns True.
        every: Steps between observations.
    """
    optimizer = torch.optim.SGD(members.parameters(), lr=1.0, momentum=MOMENTUM)
    orders = [Order(len(data.train), batch, seed, order) for data, seed in zip(members.datas, seeds, strict=True)]
    factors = torch.tensor(list(rates), dtype=torch.float32)
    torch.manual_seed(30_000 + seeds[0])
    done = 0
    for step in range(steps):
        if observe is not None and step % every == 0 and observe(step, members):
            return
        if decay:
            optimizer.param_groups[0]["lr"] = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / steps))))
        while done < int((step + 1) * updates):
            update(members, optimizer, torch.stack([order.next() for order in orders]), factors)
            done += 1
    if observe is not None:
        observe(steps, members)


def update(members: Members, optimizer: torch.optim.Optimizer, index: Tensor, factors: Tensor) -> None:
    """One optimizer update of every member on the examples at `index` [K, batch]."""
    optimizer.zero_grad(set_to_none=True)
    members.losses(index).sum().backward()
    members.scale_gradients(factors)
    optimizer.step()
