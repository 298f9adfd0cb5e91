import pytest
import torch

from normscope.check.distance import distance
from normscope.surgery.population import Sample


def test_never_updated_is_seen_in_the_checkpoint_alone(kit):
    model = kit.healthy()
    model[1].running_mean.zero_()
    model[1].running_var.fill_(1)
    assert kit.found("BN001", model.state_dict()) == ["1"]


def test_a_fresh_network_is_not_reported(kit):
    assert kit.found("BN001", kit.network().state_dict()) == []


def test_a_gamma_that_starts_at_random_is_no_training(kit):
    """As in DCGAN: gamma from N(1, .02), beta 0."""
    model = kit.network()
    torch.nn.init.normal_(model[1].weight, 1, 0.02)
    assert kit.found("BN001", model.state_dict()) == []
    torch.nn.init.normal_(model[1].bias, 0, 0.02)
    assert kit.found("BN001", model.state_dict()) == ["1"]


def test_where_eps_rules_on_both_sides_the_variance_is_of_no_account():
    sample = Sample.of(1e-6 * torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)))
    mean = sample.moments.mean
    assert not distance(sample, mean, torch.full((3,), 5e-6), 32, 1e-5).beyond_a_batch
    assert distance(sample, mean, torch.full((3,), 0.5), 32, 1e-5).beyond_a_batch


@pytest.mark.parametrize("factor", [1.7, 0.5])
def test_a_scale_that_is_off_is_found_with_data_and_only_there(kit, loader, factor):
    model = kit.healthy()
    model[5].running_var.mul_(factor**2)
    assert kit.found("BN001", model, loader) == ["5"]
    assert kit.found("BN001", model) == []


def test_a_moved_mean_is_found(kit, loader):
    model = kit.healthy()
    model[1].running_mean.add_(model[1].running_var.sqrt())
    assert "1" in kit.found("BN001", model, loader)


def test_an_average_over_twenty_batches_is_fine(kit, loader):
    model = kit.healthy()
    model.train()
    with torch.no_grad():
        for _ in range(5):
            for x, _y in loader:
                model(x)
    assert kit.found("BN001", model, loader) == []


def test_the_line_is_the_error_of_one_mini_batch():
    generator = torch.Generator().manual_seed(0)
    sample = Sample.of(torch.randn(20000, 4, generator=generator))
    mean, variance = sample.moments.mean, sample.moments.variance("biased")
    for off, beyond in ((0.9, False), (1.2, True)):
        found = distance(sample, mean + off * variance.sqrt() / 32**0.5, variance, 32, 0.0)
        assert found.batch_mean == pytest.approx(32**-0.5, rel=1e-6)
        assert found.batch_scale == pytest.approx((2 * 32) ** -0.5, rel=0.05)
        assert found.beyond_a_batch is beyond
