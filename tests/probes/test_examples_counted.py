import torch

from normscope.probes import examples
from normscope.probes.examples import ExampleMoments


def test_counting_draws_equals_gathering_them(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(97, 5, 3, generator=generator).relu() + 1e3
    x[1:, 0] = 3.0  # varies only in the draws that hold the first example
    pool = ExampleMoments.of(x)
    index = pool.draws(40, 30, generator)
    counted = pool.moments(index)
    monkeypatch.setattr(examples, "_COUNTED", 0)
    gathered = pool.moments(index)
    torch.testing.assert_close(counted.mean, gathered.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(counted.m2, gathered.m2, rtol=1e-9, atol=0)
    without = (index != 0).all(1)
    assert bool(without.any())
    assert not bool(without.all())
    assert bool((counted.m2[without, 0] == 0).all())
