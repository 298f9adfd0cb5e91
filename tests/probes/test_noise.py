import math

import pytest
import torch
from torch import nn

from normscope.probes.examples import ExampleMoments
from normscope.probes.noise import accumulated, dropout_equivalent, measurements, noise, noise_of
from normscope.probes.population import population_mode


def pool(shape, seed=0, shape_of=lambda x: x):
    return ExampleMoments.of(shape_of(torch.randn(shape, generator=torch.Generator().manual_seed(seed))))


def test_normal_values_fit_the_theory_and_the_slope_is_minus_one_half():
    normal = pool((4096, 64))
    sizes = (8, 32, 128, 512)
    found = [noise_of(normal, size, repeats=400) for size in sizes]
    for item in found:
        assert item.mean == pytest.approx(1 / math.sqrt(item.batch), rel=0.03)
        assert item.mean_theory == pytest.approx(1 / math.sqrt(item.batch), rel=0.02)
        assert item.effective == pytest.approx(item.batch, rel=0.05)
        assert item.deviation_theory == pytest.approx(1 / math.sqrt(2 * item.batch), rel=0.03)
        assert abs(item.correlation) < 0.02
    for item in found[1:]:
        assert item.deviation == pytest.approx(item.deviation_theory, rel=0.04)
        assert item.power == pytest.approx(item.power_theory, rel=0.1)
        # r = (k + 3) / (4 B) with k = 3
        assert item.power == pytest.approx(1.5 / item.batch, rel=0.1)
    logs = torch.tensor([[math.log(item.batch), math.log(item.mean)] for item in found])
    centred = logs - logs.mean(0)
    slope = float((centred[:, 0] * centred[:, 1]).sum() / centred[:, 0].square().sum())
    assert slope == pytest.approx(-0.5, abs=0.02)


def test_exact_mean_of_the_multiplicative_part_at_small_batches():
    """E[sigma/s] = sqrt(B/2) Gamma((B-2)/2) / Gamma((B-1)/2) = 1.089 at B = 16 for normal values."""
    normal = pool((20000, 32))
    whole = normal.moments()
    drawn = normal.moments(normal.draws(16, 2000, torch.Generator().manual_seed(0)))
    exact = math.sqrt(8) * math.gamma(7) / math.gamma(7.5)
    assert exact == pytest.approx(1.089, abs=1e-3)
    assert float((whole.deviation() / drawn.deviation()).mean()) == pytest.approx(exact, rel=0.01)


def test_rectified_values_tie_mean_and_deviation():
    """corr(a, b) = skew / sqrt(k - 1) to first order in 1/B: 0.78 after a ReLU."""
    rectified = pool((8192, 64), shape_of=torch.relu)
    small, item = (noise_of(rectified, size, repeats=400) for size in (32, 512))
    assert item.correlation_theory == pytest.approx(0.78, abs=0.02)
    assert item.correlation == pytest.approx(item.correlation_theory, abs=0.01)
    assert item.correlation < small.correlation < item.correlation + 0.1
    assert item.deviation == pytest.approx(item.deviation_theory, rel=0.04)


def test_positions_of_one_image_are_not_independent():
    """All pixels equal: 64 positions are as noisy as one. All independent: they count in full."""
    generator = torch.Generator().manual_seed(0)
    constant = torch.randn(2048, 16, 1, generator=generator).expand(-1, -1, 64)
    white = torch.randn(2048, 16, 64, generator=generator)
    assert noise_of(ExampleMoments.of(constant), 16, 400).effective == pytest.approx(16, rel=0.1)
    assert noise_of(ExampleMoments.of(white), 16, 400).effective == pytest.approx(16 * 64, rel=0.1)
    half = noise_of(ExampleMoments.of((constant + white) / math.sqrt(2)), 16, 400)
    # N HW / (1 + (HW - 1) rho), rho = 1/2
    assert half.effective == pytest.approx(16 * 64 / (1 + 63 / 2), rel=0.1)
    assert half.mean == pytest.approx(half.mean_theory, rel=0.05)
    assert half.deviation == pytest.approx(half.deviation_theory, rel=0.06)


def test_dropout_equivalent_has_the_same_power():
    for rate in (0.1, 0.5):
        keep = 1 - rate
        assert dropout_equivalent((1 - keep) / keep) == pytest.approx(rate)


@pytest.mark.usefixtures("unchanged")
def test_power_is_what_a_forward_pass_of_the_layer_shows(task):
    """The resampled figure against brute force: real batches through the layer, upstream in population mode."""
    (item,) = noise(task.model, task.run, [8], repeats=4000)["5"]
    outputs = []
    generator = torch.Generator().manual_seed(3)
    layer = nn.BatchNorm2d(6, affine=False, eps=1e-12)
    with population_mode(task.model, task.run):
        z = task.model[:5](task.x)
        clean = (z - z.mean((0, 2, 3), keepdim=True)) / z.std((0, 2, 3), keepdim=True, correction=0)
        for _ in range(2000):
            index = torch.randint(24, (8,), generator=generator)
            outputs.append((layer(z[index]) - clean[index]).square().mean())
    assert item.power == pytest.approx(float(torch.stack(outputs).mean()), rel=0.04)
    assert item.dropout_rate == pytest.approx(item.power / (1 + item.power))


def test_noise_accumulates_over_depth(new_task):
    torch.manual_seed(0)
    layers = [part for _ in range(5) for part in (nn.Linear(25, 25), nn.BatchNorm1d(25), nn.ReLU())]
    task = new_task(nn.Sequential(nn.Flatten(), *layers, nn.Linear(25, 3)), examples=128)
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    alone = noise(task.model, task.run, [16], repeats=1000)
    together = accumulated(task.model, task.run, lambda index: task.model(task.x[index]), 128, 16, repeats=100)
    assert list(together) == list(alone)
    first, *_, last = alone
    assert together[first] == pytest.approx(alone[first][0].power, rel=0.1)
    assert together[last] > 1.5 * alone[last][0].power
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())


def test_channels_that_never_vary_are_left_out():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    alive = noise_of(ExampleMoments.of(x), 16)
    x = torch.cat([x, torch.full((64, 1), 7.0)], 1)
    assert noise_of(ExampleMoments.of(x), 16).mean == pytest.approx(alive.mean)
    assert math.isnan(noise_of(ExampleMoments.of(torch.ones(8, 2)), 4).power)


def test_large_means_do_not_hide_the_noise():
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here, there = noise_of(ExampleMoments.of(x), 16), noise_of(ExampleMoments.of(x + 1e6), 16)
    assert there.power == pytest.approx(here.power, rel=1e-6)


def test_measurements_carry_the_theory(task):
    rows = measurements(noise(task.model, task.run, [8, 16]), 1)
    assert len(rows) == 3 * 2 * 8
    first = next(row for row in rows if row.quantity.startswith("relative deviation of the batch mean"))
    assert first.expected is not None


def test_the_whole_pool_as_a_batch_has_no_noise(task):
    """The control: where the batch is the population, training and population mode agree."""
    quiet = accumulated(task.model, task.run, lambda _index: task.model(task.x), 24, 24, repeats=1)
    assert all(value < 1e-9 for value in quiet.values())
