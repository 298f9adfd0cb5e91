from normscope.surgery.freeze import freeze


def test_eval_inside_train_will_thaw(kit):
    model = kit.healthy().train()
    model[1].eval()
    assert kit.found("BN007", model) == ["1"]


def test_the_step_shows_whether_it_does(kit):
    model = kit.healthy().train()
    model[1].eval()
    report = kit.check(model, select=["BN007"], **kit.stepping(model))
    assert "moved in a training step all the same" in report.findings[0].message


def test_requires_grad_does_not_freeze(kit):
    model = kit.healthy().train()
    model[5].weight.requires_grad = False
    model[5].bias.requires_grad = False
    assert kit.found("BN007", model) == ["5"]
    assert kit.found("BN007", model, **kit.stepping(model)) == ["5"]


def test_frozen_by_freeze_is_fine(kit):
    model = freeze(kit.healthy()).model.train()
    assert kit.found("BN007", model) == []
    assert kit.found("BN007", model, **kit.stepping(model)) == []


def test_a_network_in_eval_mode_is_fine(kit):
    assert kit.found("BN007", kit.healthy().eval()) == []
