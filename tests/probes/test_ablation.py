import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.probes.ablation import ablation, measurements


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("to", ["zero", "mean"])
def test_equals_the_network_with_the_unit_clamped(task, to):
    task.model.eval()
    found = ablation(task.model, task.loss, ("bn", task.model[5]), to=to)
    z = task.model[:6](task.x).detach()
    for unit in found.units:
        clamped = z.clone()
        clamped[:, unit] = 0 if to == "zero" else z[:, unit].mean()
        expected = nn.functional.cross_entropy(task.model[6:](clamped), task.y).item()
        assert found.losses[unit] == pytest.approx(expected, abs=1e-6)
    assert found.intact == pytest.approx(task.loss().item(), abs=1e-7)
    task.model.train()


def test_a_network_that_relies_on_one_unit_is_seen(task):
    task.model.eval()
    with torch.no_grad():
        task.model[11].weight[:, :] = 0
        task.model[11].weight[0, 3] = 5
    found = ablation(task.model, task.loss, ("relu", task.model[10]))
    assert [unit for unit, change in zip(found.units, found.changes, strict=True) if change != 0] == [3]
    assert found.worst == max(0, found.changes[3])
    assert found.mean == pytest.approx(found.changes[3] / 8)
    assert [row.value for row in measurements("relu", found)] == [found.mean, found.worst]


def test_chosen_units(task):
    found = ablation(task.model, task.loss, ("bn", task.model[1]), units=(2, 0))
    assert found.units == (2, 0)
    assert len(found.losses) == 2


@pytest.mark.parametrize("units", [(), (4,), (-1,)])
def test_units_that_are_not_there(task, units):
    with pytest.raises(InputError, match="from 0 to 3"):
        ablation(task.model, task.loss, ("bn", task.model[1]), units=units)


def test_a_site_that_does_not_run(task):
    with pytest.raises(InputError, match="expected 'spare' to run"):
        ablation(task.model, task.loss, ("spare", nn.Linear(1, 1)))
