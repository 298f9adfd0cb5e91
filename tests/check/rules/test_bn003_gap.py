def test_eval_worse_than_train_is_found(kit, loader):
    model = kit.healthy()
    x, _ = kit.data()
    labels = model.eval()(x).argmax(1)
    loader = kit.batches(x, labels)
    assert kit.found("BN003", model, loader, max_forwards=16) == []
    model[1].running_var.mul_(30)
    assert kit.found("BN003", model, loader, max_forwards=16) == [""]


def test_nan_in_eval_mode_is_found(kit, loader):
    model = kit.healthy()
    model[5].running_mean[2] = float("nan")
    assert kit.found("BN003", model, loader, max_forwards=16) == [""]
