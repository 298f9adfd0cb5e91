import pytest
import torch

from normscope.errors import InputError
from normscope.moments import Moments
from normscope.probes.examples import ExampleMoments, example_moments


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 5), (5, 3, 4, 2), (2, 1, 2, 3, 2), (3, 0, 4)])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_all_examples_together_are_the_moments_of_the_batch(shape, offset):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + offset
    found, expected = ExampleMoments.of(x).moments(), Moments.of(x)
    torch.testing.assert_close(found.count, expected.count) if shape[1] else None
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.m2, expected.m2, rtol=1e-8, atol=0)


def test_drawn_batches_are_the_moments_of_those_examples():
    x = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(0))
    pool = ExampleMoments.of(x)
    index = pool.draws(5, 6, torch.Generator().manual_seed(1))
    drawn = pool.moments(index)
    for row, rows in enumerate(index):
        expected = Moments.of(x[rows])
        torch.testing.assert_close(drawn.mean[row], expected.mean)
        torch.testing.assert_close(drawn.m2[row], expected.m2, rtol=1e-9, atol=1e-12)


def test_blocks_change_nothing(monkeypatch):
    x = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(0))
    whole = ExampleMoments.of(x)
    monkeypatch.setattr("normscope.probes.examples._CHUNK", 24)
    assert torch.equal(ExampleMoments.of(x).m2, whole.m2)


@pytest.mark.usefixtures("unchanged")
def test_batches_of_a_data_set_join(task):
    task.model.eval()
    whole = example_moments(task.model, task.run)

    def in_parts():
        for part in task.x.split(7):
            task.model(part)

    parts = example_moments(task.model, in_parts)
    task.model.train()
    assert list(whole) == list(parts) == ["1", "5", "9"]
    for name, one in whole.items():
        assert len(one) == 24
        torch.testing.assert_close(parts[name].mean, one.mean, rtol=1e-5, atol=1e-6)


def test_inputs_of_different_sizes_are_named(task):
    def run():
        task.model[:2](task.x)
        task.model[:2](task.x[:, :, :4])

    with pytest.raises(InputError, match="25 values per example, got 20"):
        example_moments(task.model, run)


def test_a_vector_is_no_layer_input():
    with pytest.raises(InputError, match=r"got shape \[3\]"):
        ExampleMoments.of(torch.zeros(3))
