"""Moments against float64 and against exact arithmetic."""

from fractions import Fraction

import pytest
import torch

from normscope.moments import (
    Moments,
    log_deviation_ratio,
    standardized_distance,
    standardized_distance_null,
    wasserstein,
)


def _exact(values):
    """Mean and biased variance in rational arithmetic."""
    numbers = [Fraction(float(value)) for value in values]
    mean = sum(numbers) / len(numbers)
    return float(mean), float(sum((value - mean) ** 2 for value in numbers) / len(numbers))


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_right_where_the_mean_is_a_million_deviations(ratio, dtype):
    x = (torch.randn(301, 2, dtype=torch.float64) + ratio).to(dtype)
    moments = Moments.of(x)
    for channel in range(2):
        mean, variance = _exact(x[:, channel])
        assert moments.mean[channel].item() == pytest.approx(mean, rel=1e-15, abs=1e-15)
        assert moments.variance("biased")[channel].item() == pytest.approx(variance, rel=1e-11)


@pytest.mark.parametrize("ratio", [0.0, 1e6])
def test_merging_parts_is_the_whole(ratio):
    x = torch.randn(97, 3, 5, dtype=torch.float64) + ratio
    whole = Moments.of(x)
    merged = Moments.empty(3)
    for part in x.split([1, 40, 7, 49]):
        merged = merged.merge(Moments.of(part))
    assert merged.count == whole.count == 97 * 5
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(merged.m2, whole.m2, rtol=1e-11, atol=0)


def test_the_naive_formula_would_fail_where_moments_hold():
    x = torch.randn(301, 1, dtype=torch.float64) + 1e8
    naive = x.square().mean() - x.mean().square()
    _, variance = _exact(x[:, 0])
    assert abs(naive.item() - variance) > 0.1 * variance
    assert Moments.of(x).variance("biased").item() == pytest.approx(variance, rel=1e-7)


def test_corrections_are_named_and_differ():
    moments = Moments.of(torch.tensor([[1.0], [3.0]]))
    assert moments.variance("biased").item() == 1.0
    assert moments.variance("bessel").item() == 2.0
    assert moments.standard_error().item() == 1.0
    with pytest.raises(ValueError, match="correction is 'biased' or 'bessel'"):
        moments.variance("none")


def test_too_few_values_have_no_variance():
    assert Moments.of(torch.ones(1, 2)).variance("bessel").isnan().all()
    assert Moments.empty(2).variance("biased").isnan().all()
    assert Moments.of(torch.empty(0, 3)).count == 0


def test_channels_anywhere_and_chunks_change_nothing(monkeypatch):
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    whole = Moments.of(x)
    other = Moments.of(x.movedim(1, 2), dim=2)
    torch.testing.assert_close(whole.m2, other.m2)
    monkeypatch.setattr("normscope.moments._CHUNK", 16)
    torch.testing.assert_close(Moments.of(x).m2, whole.m2)
    with pytest.raises(ValueError, match="channels on dim 3"):
        Moments.of(x, dim=3)


def test_from_variance_takes_either_correction():
    x = torch.randn(20, 3)
    moments = Moments.of(x)
    for correction in ("biased", "bessel"):
        again = Moments.from_variance(20, moments.mean, moments.variance(correction), correction)
        torch.testing.assert_close(again.m2, moments.m2)


def test_standard_errors_are_those_of_repeated_samples():
    """sd of the mean is sigma / sqrt(n); sd of log sd is sqrt((k - 1) / (4 n)), 1 / sqrt(2 n) for normal values."""
    samples = [Moments.of(torch.randn(64, 1, dtype=torch.float64)) for _ in range(3000)]
    means = torch.stack([each.mean[0] for each in samples])
    logs = torch.stack([each.deviation()[0].log() for each in samples])
    assert means.std().item() == pytest.approx(samples[0].standard_error().item(), rel=0.35)
    assert means.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert logs.std().item() == pytest.approx(samples[0].log_deviation_error()[0].item(), rel=0.05)


def test_distances_know_a_shift_from_none():
    a = Moments.of(torch.randn(4000, 2, dtype=torch.float64))
    b = Moments.of(torch.randn(4000, 2, dtype=torch.float64) * torch.tensor([1.0, 2.0]) + torch.tensor([3.0, 0.0]))
    assert standardized_distance(a, b)[0].item() == pytest.approx(3, rel=0.05)
    assert standardized_distance(a, b)[1] < 4 * standardized_distance_null(a, b)[1] * 2
    assert log_deviation_ratio(a, b)[1].item() == pytest.approx(0.693, abs=0.05)
    torch.testing.assert_close(wasserstein(a, b), torch.tensor([3.0, 1.0], dtype=torch.float64), rtol=0.06, atol=0.06)
    assert standardized_distance(a, a).eq(0).all()


def test_the_null_of_the_distance_is_its_root_mean_square_without_a_shift():
    """With a's deviation estimated from n_a values, E[1 / s^2] adds a factor (n_a - 1) / (n_a - 3)."""
    pairs = [(Moments.of(torch.randn(200, 1)), Moments.of(torch.randn(50, 1))) for _ in range(3000)]
    found = torch.stack([standardized_distance(a, b) for a, b in pairs]).square().mean().sqrt()
    assert found.item() == pytest.approx(standardized_distance_null(*pairs[0])[0].item(), rel=0.05)


@pytest.mark.parametrize("shape", [(1, 70_000, 8), (3, 2, 200_000)])
def test_more_values_than_are_widened_at_a_time(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 100
    found = Moments.of(x)
    rows = x.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean, rows.mean(1), rtol=1e-13, atol=0)
    torch.testing.assert_close(found.variance("biased"), rows.var(1, correction=0), rtol=1e-9, atol=0)
