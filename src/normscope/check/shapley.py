"""Shapley values: what each of several players adds to a whole, exact over all subsets or by sampled orders."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from normscope.records import Share
from normscope.surgery.recalibrate import student

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


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
