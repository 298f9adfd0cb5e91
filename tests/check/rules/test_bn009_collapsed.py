import torch


def test_a_variance_below_eps_and_a_gamma_of_zero_are_found(kit):
    model = kit.healthy()
    model[1].running_var[2] = 1e-10
    model[5].weight.data[4] = 0
    report = kit.check(model, select=["BN009"])
    assert [finding.layer for finding in report.findings] == ["1", "5"]
    assert "below eps=1e-05" in report.findings[0].message
    assert "output is constant" in report.findings[1].message


def test_one_small_channel_is_chance_and_most_of_them_are_not(kit):
    """In depthwise layers a variance below eps comes with a kernel that happens to be near 0."""
    model = kit.healthy()
    model[1].running_var[2] = 1e-7
    assert kit.found("BN009", model) == []
    model[1].running_var[:5] = 1e-7
    assert kit.found("BN009", model) == ["1"]


def test_a_channel_that_is_small_before_and_after_is_fine(kit):
    model = kit.healthy()
    model[1].running_var[2] = 1e-10
    model[1].weight.data[2] = 1e-4
    assert kit.found("BN009", model) == []


def test_a_network_as_made_with_zero_gammas_is_fine(kit):
    model = kit.network()
    torch.nn.init.zeros_(model[5].weight)
    assert kit.found("BN009", model) == []
