import pytest


@pytest.mark.parametrize("count", [0, 200, -1])
def test_counts_that_disagree_are_found(kit, count):
    model = kit.healthy()
    model[1].num_batches_tracked.fill_(count)
    assert kit.found("BN014", model) != []
    assert kit.found("BN014", kit.healthy()) == []
