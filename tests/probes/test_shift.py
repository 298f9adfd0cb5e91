import pytest
import torch

from normscope.errors import InputError
from normscope.moments import wasserstein
from normscope.probes.examples import ExampleMoments, example_moments
from normscope.probes.shift import measurements, shift


def images(count, seed, gain=1.0, offset=0.0):
    """Images whose pixels are strongly correlated: one number per image and channel, and a little pixel noise."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randn(count, 4, 1, generator=generator)
    pixels = torch.randn(count, 4, 36, generator=generator)
    return ExampleMoments.of((level + 0.5 * pixels) * gain + offset)


def test_numbers_of_a_planted_shift():
    source, target = images(4000, 0), images(4000, 1, gain=2.0, offset=1.5)
    found = shift({"l": source}, {"l": target}, resamples=20)["l"]
    deviation = float(source.moments().deviation().mean())
    assert found.distance == pytest.approx(1.5 / deviation, rel=0.05)
    assert found.log_ratio == pytest.approx(0.693, rel=0.05)
    expected = wasserstein(source.moments(), target.moments()).square().mean().sqrt()
    assert found.wasserstein == pytest.approx(float(expected))
    assert found.distance > 10 * found.distance_null
    assert found.log_ratio > 10 * found.log_ratio_null


def test_without_a_shift_one_in_twenty_lies_above_its_null():
    """150 pairs of samples of one law: the 95 % null must be passed about 5 % of the time, not by every pair."""
    above = 0
    naive = 0
    for seed in range(150):
        source, target = images(60, 2 * seed), images(40, 2 * seed + 1)
        found = shift({"l": source}, {"l": target}, resamples=100, seed=seed)["l"]
        above += found.distance > found.distance_null
        naive += found.distance > 2 * (1 / (60 * 36) + 1 / (40 * 36)) ** 0.5
    assert above <= 18  # 7.5 expected, sd 2.7
    assert naive > 100  # what counting pixels as draws would have called a shift


def test_the_null_shrinks_with_the_square_root_of_the_sample():
    nulls = []
    for count in (50, 800):
        source, target = images(count, 0), images(count, 1)
        nulls.append(shift({"l": source}, {"l": target})["l"].distance_null)
    assert nulls[0] / nulls[1] == pytest.approx(4, rel=0.35)


@pytest.mark.usefixtures("unchanged")
def test_on_a_network_by_layer(task):
    def at(gain):
        def run():
            task.model(gain * task.x)

        return run

    task.model.eval()
    source = example_moments(task.model, at(1.0))
    found = shift(source, example_moments(task.model, at(3.0)))
    same = shift(source, source)
    task.model.train()
    assert list(found) == ["1", "5", "9"]
    assert all(item.wasserstein > item.wasserstein_null for item in found.values())
    assert all(item.distance == 0 for item in same.values())
    assert len(measurements(found)) == 9


def test_layers_must_agree():
    with pytest.raises(InputError, match=r"differ by \['b'\]"):
        shift({"a": images(4, 0)}, {"a": images(4, 0), "b": images(4, 0)})
