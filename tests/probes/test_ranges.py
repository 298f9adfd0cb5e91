import math

import pytest
import torch
from torch import nn

from normscope.errors import UnsupportedError
from normscope.probes.ranges import measurements, ranges, spread


@pytest.mark.usefixtures("unchanged")
def test_training_mode_gives_gamma_by_construction(task):
    found = ranges(task.model, task.run)
    assert list(found) == ["1", "5", "9"]
    for name, deviation in found.items():
        gamma = dict(task.model.named_modules())[name].weight.detach().abs().double()
        torch.testing.assert_close(deviation, gamma, rtol=2e-3, atol=0)


def test_evaluation_mode_and_float64_oracle(task):
    task.model.eval()
    z = task.model[:6](task.x)
    expected = z.detach().double().movedim(1, 0).flatten(1).std(1, correction=0)
    torch.testing.assert_close(ranges(task.model, task.run)["5"], expected, rtol=1e-9, atol=0)


def test_sites_of_ones_own_and_several_passes(task):
    task.model.eval()
    site = ("relu", task.model[2])

    def twice():
        task.model(task.x[:7])
        task.model(task.x[7:])

    once = ranges(task.model, task.run, [site])
    torch.testing.assert_close(ranges(task.model, twice, [site]), once, rtol=1e-5, atol=0)
    assert list(once) == ["relu"]


def test_spread_is_the_deviation_of_log_sigma():
    planted = {"a": torch.tensor([1.0, math.e]), "b": torch.tensor([math.e**2, 0.0])}
    assert spread(planted) == pytest.approx(1.0)
    assert spread({"a": torch.ones(5)}) == 0
    assert math.isnan(spread({"a": torch.zeros(5)}))
    assert math.isnan(spread({}))


def test_a_widened_unit_is_seen(task):
    before = spread(ranges(task.model, task.run))
    with torch.no_grad():
        task.model[1].weight[2] *= 10
    assert spread(ranges(task.model, task.run)) > before + 0.3


def test_measurements_name_dead_units(task):
    with torch.no_grad():
        task.model[1].weight[0] = 0
    rows = {(m.quantity, m.layer): m.value for m in measurements(ranges(task.model, task.run), step=3)}
    assert rows["units that never vary", "1"] == 0.25
    assert rows["units that never vary", "5"] == 0
    assert math.isfinite(rows["spread of log deviation", ""])


def test_no_batch_norm_is_an_error():
    model = nn.Linear(2, 2)
    with pytest.raises(UnsupportedError):
        ranges(model, lambda: model(torch.zeros(3, 2)))
