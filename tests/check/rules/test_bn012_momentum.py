import pytest

from normscope.surgery.recalibrate import recalibrate


@pytest.mark.parametrize("momentum", [None, 0, 0.99, 1.0, -0.1])
def test_useless_momentum_is_found(kit, momentum):
    model = kit.healthy()
    model[5].momentum = momentum
    assert kit.found("BN012", model) == ["5"]


def test_initial_values_that_still_weigh_half_are_found(kit):
    model = kit.healthy()
    model[5].momentum = 0.005
    model[5].running_var.mul_(1 - 0.995**100).add_(0.995**100)
    assert kit.found("BN012", model) == ["5"]
    model[5].num_batches_tracked.fill_(1000)
    assert kit.found("BN012", model) == []


@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.3, 0.5])
def test_usual_values_are_fine(kit, momentum):
    model = kit.healthy()
    model[5].momentum = momentum
    assert kit.found("BN012", model) == []


def test_population_statistics_of_few_batches_are_fine(kit, loader):
    """What recalibration leaves behind in a network that was never run in train mode."""
    for count in (3, 10):
        done = recalibrate(kit.network(), loader[:count]).model
        assert int(done[1].num_batches_tracked) == count
        assert kit.found("BN012", done) == []
