import textwrap

import pytest
import torch
from torch import nn

from normscope.errors import SpecError
from normscope.model import spec as specs
from normscope.model.given import Spec

_TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

class Kept:
    make = staticmethod(lambda: nn.Linear(2, 1))

def make_model():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

def pair():
    return [(torch.zeros(8, 3), torch.zeros(8))], [(torch.ones(4, 3), torch.ones(4))]

def split():
    return {"train": pair()[0], "val": pair()[1]}

def tensors():
    return torch.zeros(8, 3), torch.zeros(8)

def dataset():
    return TensorDataset(torch.zeros(8, 3), torch.zeros(8))

def unlabelled():
    return [torch.zeros(8, 3)]
"""


@pytest.fixture
def task(tmp_path):
    file = tmp_path / "task.py"
    file.write_text(textwrap.dedent(_TASK))
    return lambda name="make_model", data="pair", **others: Spec(f"{file}:{name}", f"{file}:{data}", **others)


def test_a_dotted_name_and_a_module_are_found(task):
    assert isinstance(specs.load_model(task("Kept.make")), nn.Linear)
    assert specs.resolve("torch.nn:Linear", "--model") is nn.Linear


def test_the_seed_decides_the_weights_and_nothing_else_does(task):
    one, again, other = (specs.load_model(task(), seed) for seed in (1, 1, 2))
    assert one[0].weight.equal(again[0].weight)
    assert not one[0].weight.equal(other[0].weight)


@pytest.mark.parametrize(("data", "held"), [("pair", 4), ("split", 4), ("tensors", None), ("dataset", None)])
def test_every_form_of_data_is_read(task, data, held):
    train, test = specs.load_data(task(data=data))
    assert len(train) == 8
    assert (None if test is None else len(test)) == held


def test_shifted_data_may_lack_labels(task):
    place = task(data="unlabelled").data
    shifted = specs.load_shifted(task(shifted=place))
    assert shifted is not None
    assert shifted.whole.target is None
    assert specs.load_shifted(task()) is None


def test_targets_choose_loss_and_metric(task):
    whole, real = torch.tensor([0, 1]), torch.tensor([0.5, 1.5])
    assert specs.load_loss(task(), whole) is nn.functional.cross_entropy
    assert specs.load_metric(task(), whole)(torch.eye(2), whole) == 1
    assert specs.load_loss(task(), real)(torch.tensor([[0.5], [2.5]]), real) == 0.5
    assert specs.load_metric(task(), real)(torch.tensor([0.5, 2.5]), real) == -0.5


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(SpecError, match="expected --device to be one of cpu"):
        specs.device_of("gpu")
