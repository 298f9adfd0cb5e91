import pickle
import textwrap

import pytest
import torch
from safetensors.torch import save_file
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


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("kind", ["safetensors", "pt", "nested"])
def test_checkpoints_load_under_every_wrapping(task, tmp_path, prefix, kind):
    state = {prefix + key: torch.full_like(value, 3) for key, value in specs.load_model(task()).state_dict().items()}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "nested" else state, path)
    model = specs.load_model(task(checkpoint=str(path)))
    assert model[0].weight.eq(3).all()
    assert model[1].running_var.eq(3).all()


class _Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint ran')",))


def test_a_checkpoint_that_would_run_code_is_refused(task, tmp_path):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(SpecError, match=r"cannot read|refused to unpickle"):
        specs.load_model(task(checkpoint=str(path)))
    torch.save({"weights": _Evil()}, path)
    with pytest.raises(SpecError, match=r"refused to unpickle .* could run code"):
        specs.load_model(task(checkpoint=str(path)))


def test_keys_that_do_not_fit_are_counted_and_the_model_is_not_half_loaded(task, tmp_path):
    state = specs.load_model(task()).state_dict()
    state["2.extra"] = state.pop("0.bias")
    state["1.weight"] = torch.zeros(9)
    torch.save(state, tmp_path / "w.pt")
    model = specs.load_model(task(), 5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SpecError, match=r"1 missing \(0.bias\); 1 not in the model \(2.extra\); 1 of another shape"):
        specs.load_checkpoint(model, str(tmp_path / "w.pt"))
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_that_is_not_there_or_holds_nothing(tmp_path):
    with pytest.raises(SpecError, match="no such file"):
        specs.read_state(str(tmp_path / "nowhere.pt"))
    torch.save({"step": 3}, tmp_path / "empty.pt")
    with pytest.raises(SpecError, match="found none"):
        specs.read_state(str(tmp_path / "empty.pt"))


def test_targets_choose_loss_and_metric(task):
    whole, real = torch.tensor([0, 1]), torch.tensor([0.5, 1.5])
    assert specs.load_loss(task(), whole) is nn.functional.cross_entropy
    assert specs.load_metric(task(), whole)(torch.eye(2), whole) == 1
    assert specs.load_loss(task(), real)(torch.tensor([[0.5], [2.5]]), real) == 0.5
    assert specs.load_metric(task(), real)(torch.tensor([0.5, 2.5]), real) == -0.5


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(SpecError, match="expected --device to be one of cpu"):
        specs.device_of("gpu")
