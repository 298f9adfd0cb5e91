import torch

from normscope.check.rule import rules


def test_no_rule_fires_on_a_healthy_network(kit, loader):
    model = kit.healthy()
    x, y = kit.data(320, seed=3)
    report = kit.check(model, loader, serving=kit.batches(x, y), **kit.stepping(model), max_forwards=64)
    assert [(f.code, f.layer, f.message) for f in report.findings] == []
    assert len(report.ran) == len(rules())


def test_nor_does_looking_change_the_network(kit, loader):
    model = kit.healthy()
    optimizer = kit.stepping(model)
    model.eval()
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    kit.check(model, loader, **optimizer, max_forwards=64)
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not model.training
    assert not optimizer["optimizer"].state
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)
