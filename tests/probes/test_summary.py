import math

import pytest
import torch

from normscope.moments import Moments
from normscope.probes.summary import Layers, joined, mean, root_mean_square


def test_only_finite_values_count():
    values = torch.tensor([3.0, -4.0, math.inf, math.nan])
    assert mean(values) == -0.5
    assert root_mean_square(values) == math.sqrt(12.5)
    assert math.isnan(mean(values[2:]))
    assert math.isnan(root_mean_square(values[:0]))


def test_layers_as_one_vector_give_what_each_gives_alone():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.rand(size, generator=generator, dtype=torch.float64) for size in (5, 1, 8)]
    parts[0][2] = 0.0
    parts[2][3] = math.inf
    layers, flat = Layers.of(parts), torch.cat(parts)
    assert layers.root_mean_square(flat) == pytest.approx([root_mean_square(part) for part in parts])
    assert layers.median(flat) == [float(part.median()) for part in parts]
    parts[2][3] = 0.5
    spreads = layers.spread(torch.cat(parts))
    assert spreads[0] == pytest.approx(float(parts[0][parts[0] > 0].log().std()))
    assert math.isnan(spreads[1])
    assert spreads[2] == pytest.approx(float(parts[2].log().std()))


def test_joined_moments_are_the_moments_of_each():
    generator = torch.Generator().manual_seed(0)
    parts = [Moments.of(torch.randn(n, c, generator=generator)) for n, c in ((4, 2), (9, 3))]
    whole = joined(parts)
    assert torch.equal(whole.variance("bessel")[2:], parts[1].variance("bessel"))
    assert torch.equal(whole.standard_error()[:2], parts[0].standard_error())
