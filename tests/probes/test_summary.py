import math

import torch

from normscope.probes.summary import mean, root_mean_square


def test_only_finite_values_count():
    values = torch.tensor([3.0, -4.0, math.inf, math.nan])
    assert mean(values) == -0.5
    assert root_mean_square(values) == math.sqrt(12.5)
    assert math.isnan(mean(values[2:]))
    assert math.isnan(root_mean_square(values[:0]))
