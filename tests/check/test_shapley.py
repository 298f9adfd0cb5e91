import itertools

import pytest
import torch

from normscope.check.shapley import sampled_shapley, shapley


def test_shapley_of_a_known_game():
    weights = {"a": 1.0, "b": 2.0, "c": 4.0}

    def value(subset):
        return torch.tensor(sum(weights[name] for name in subset) + (3.0 if {"a", "b"} <= subset else 0.0))

    assert {name: float(v) for name, v in shapley(("a", "b", "c"), value).items()} == {"a": 2.5, "b": 3.5, "c": 4.0}


def test_sampled_shapley_is_unbiased_and_adds_up():
    generator = torch.Generator().manual_seed(0)
    names = ("a", "b", "c", "d")
    table = {
        frozenset(subset): float(torch.randn((), generator=generator))
        for size in range(5)
        for subset in itertools.combinations(names, size)
    }
    exact = shapley(names, lambda subset: torch.tensor(table[subset], dtype=torch.float64))
    walks = sampled_shapley(names, lambda subset: table[subset], 400)
    for name in names:
        values = torch.tensor(walks[name], dtype=torch.float64)
        error = float(values.std() / len(values) ** 0.5)
        assert abs(float(values.mean()) - float(exact[name])) < 4 * error
    assert sum(sum(v) for v in walks.values()) / 200 == pytest.approx(table[frozenset(names)] - table[frozenset()])
