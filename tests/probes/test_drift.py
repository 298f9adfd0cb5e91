import math

import pytest
import torch

from normscope.moments import Moments
from normscope.probes.batch import input_moments
from normscope.probes.drift import drift, measurements


def moments(mean, variance):
    return Moments.from_variance(100, torch.tensor(mean), torch.tensor(variance), "biased")


def test_numbers_of_a_planted_drift():
    found = drift({"l": moments([0.0, 0.0], [1.0, 4.0])}, {"l": moments([3.0, 8.0], [1.0, 16.0])})["l"]
    assert found.distance == pytest.approx(math.sqrt((9 + 16) / 2))
    assert found.log_ratio == pytest.approx(math.log(2) / math.sqrt(2))


def test_channels_that_never_vary_are_left_out():
    found = drift({"l": moments([0.0, 0.0], [1.0, 0.0])}, {"l": moments([1.0, 5.0], [1.0, 0.0])})["l"]
    assert found.distance == 1
    dead = drift({"l": moments([0.0], [0.0])}, {"l": moments([1.0], [0.0])})["l"]
    assert math.isnan(dead.distance)


@pytest.mark.usefixtures("unchanged")
def test_same_batch_same_weights_no_drift(task):
    before, again = input_moments(task.model, task.run), input_moments(task.model, task.run)
    assert all(item.distance == item.log_ratio == 0 for item in drift(before, again).values())


def test_a_step_of_the_weights_drifts_upwards(task):
    before = input_moments(task.model, task.run)
    with torch.no_grad():
        task.model[4].weight.add_(0.5)
    found = drift(before, input_moments(task.model, task.run))
    assert found["1"].distance == 0
    assert found["5"].distance > 0.1


def test_two_batches_of_one_network_are_expected_apart():
    found = drift({"l": moments([0.0], [1.0])}, {"l": moments([1.0], [1.0])})
    rows = measurements(found, 1, {"l": 50.0})
    assert rows[0].expected == pytest.approx(0.2)
    assert measurements(found, 1)[0].expected is None
