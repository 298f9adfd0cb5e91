from contextlib import nullcontext

import pytest
from torch import nn
from torch.utils.checkpoint import checkpoint

from normscope.surgery.statistics import hold_statistics


@pytest.mark.parametrize("held", [False, True])
def test_checkpoint_recomputation_is_found_unless_held(kit, held):
    model = kit.healthy()
    block = model[:3]
    contexts = {"context_fn": lambda: (nullcontext(), hold_statistics(block))} if held else {}

    def forward(x):
        return model[3:](checkpoint(block, x, use_reentrant=False, **contexts))

    report = kit.check(model, select=["BN011"], **kit.stepping(model, forward))
    assert [finding.layer for finding in report.findings] == ([] if held else ["1"])
    if not held:
        assert "activation checkpointing" in report.findings[0].message


def test_two_forwards_before_a_backward_are_found(kit):
    model = kit.healthy()
    report = kit.check(model, select=["BN011"], **kit.stepping(model, lambda x: model(x) + model(2 * x)))
    assert [finding.layer for finding in report.findings] == ["1", "5"]
    assert "before one backward" in report.findings[0].message


def test_gradient_accumulation_is_another_rules(kit):
    model = kit.healthy()
    assert kit.found("BN011", model, **kit.stepping(model, every=2)) == []


def test_a_recomputation_that_stops_inside_the_layer_is_found(kit):
    class Recomputed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    model = kit.healthy()
    model[5] = Recomputed(model[5])
    assert kit.found("BN011", model, **kit.stepping(model)) == ["5.inner"]
