import pytest
import torch
from torch import nn


@pytest.mark.parametrize(
    ("buffer", "value"), [("running_mean", float("nan")), ("running_var", float("inf")), ("running_var", -1e-3)]
)
def test_impossible_statistics_are_seen_in_the_checkpoint_alone(kit, buffer, value):
    model = kit.healthy()
    getattr(model[5], buffer)[3] = value
    assert kit.found("BN008", model.state_dict()) == ["5"]


def test_the_step_that_poisons_is_named_and_undone(kit):
    model = kit.healthy()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = kit.data(32)
    calls = [0]

    def step():
        calls[0] += 1
        model.train()
        nn.functional.cross_entropy(model(x * (float("inf") if calls[0] == 2 else 1)), y).backward()
        optimizer.step()

    report = kit.check(model, select=["BN008"], optimizer=optimizer, step=step)
    assert "in training step 2" in report.findings[0].message
    assert model[1].running_mean.isfinite().all()
