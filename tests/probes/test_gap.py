import pytest
import torch
from torch import nn

from normscope.errors import InputError, UnsupportedError
from normscope.probes.gap import gap, measurements


@pytest.mark.usefixtures("unchanged")
def test_equals_the_loss_in_each_mode(task):
    found = gap(task.model, task.loss)
    state = torch.get_rng_state()
    task.model.eval()
    evaluation = task.loss().item()
    task.model.train()
    torch.set_rng_state(state)
    assert found.evaluation == evaluation
    assert found.difference == found.evaluation - found.training
    assert len({found.training, found.evaluation, found.batch_norm}) == 3


def test_statistics_of_the_very_batch_close_the_part_of_batch_norm(task):
    """Plant exact running statistics: batch norm's part of the gap goes, dropout's stays."""
    task.model[3].p = 0.0
    for module in task.model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    task.run()
    x = task.x
    for module in task.model:
        x_in, x = x, module(x)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                module.running_var.copy_(x_in.movedim(1, 0).flatten(1).var(1, correction=0))
    task.model[3].p = 0.5
    found = gap(task.model, task.loss)
    assert abs(found.batch_norm_difference) < 1e-5
    assert abs(found.difference) > 1e-3


def test_a_metric_may_return_a_float(task):
    found = gap(task.model, lambda: float((task.run().argmax(1) == task.y).float().mean()))
    assert 0 <= found.training <= 1
    assert len(measurements(found, 3)) == 4


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("value", [None, "0.5x", torch.zeros(2)])
def test_a_metric_must_be_one_number(task, value):
    with pytest.raises(InputError, match="expected the metric to return one number"):
        gap(task.model, lambda: value)


def test_no_batch_norm_is_an_error():
    with pytest.raises(UnsupportedError):
        gap(nn.Linear(1, 1), lambda: 0.0)
