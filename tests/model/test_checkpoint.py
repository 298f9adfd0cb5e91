import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from normscope.errors import SpecError
from normscope.model.checkpoint import load_checkpoint, read_state


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("kind", ["safetensors", "pt", "old pt", "nested"])
def test_checkpoints_load_under_every_wrapping(tmp_path, prefix, kind):
    state = {prefix + key: torch.full_like(value, 3) for key, value in network().state_dict().items()}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        whole = {"state_dict": state, "epoch": 3} if kind == "nested" else state
        torch.save(whole, path, _use_new_zipfile_serialization=kind != "old pt")
    model = network()
    load_checkpoint(model, str(path))
    assert model[0].weight.eq(3).all()
    assert model[1].running_var.eq(3).all()


def test_wrapped_networks_take_plain_checkpoints_and_averages_fit_what_they_average(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(network())
    torch.save(network().state_dict(), tmp_path / "plain.pt")
    torch.save(averaged.state_dict(), tmp_path / "averaged.pt")
    for model in (averaged, nn.DataParallel(network()), network()):
        for name in ("plain.pt", "averaged.pt"):
            for value in model.parameters():
                value.data.fill_(7)
            load_checkpoint(model, str(tmp_path / name))
            assert not any(value.eq(7).any() for value in model.parameters())


def test_a_submodule_that_is_called_module_is_no_wrapping(tmp_path):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    saved = Holder()
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    model = Holder()
    load_checkpoint(model, str(tmp_path / "w.pt"))
    assert torch.equal(model.module.weight, saved.module.weight)
    assert torch.equal(model.other.weight, saved.other.weight)


class _Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a checkpoint ran')",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(SpecError, match=r"cannot read|refused to unpickle"):
        read_state(str(path))
    torch.save({"weights": _Evil()}, path)
    with pytest.raises(SpecError, match=r"refused to unpickle .* could run code"):
        read_state(str(path))


def test_keys_that_do_not_fit_are_counted_and_the_model_is_not_half_loaded(tmp_path):
    state = network().state_dict()
    state["2.extra"] = state.pop("0.bias")
    state["1.weight"] = torch.zeros(9)
    torch.save(state, tmp_path / "w.pt")
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SpecError, match=r"1 missing \(0.bias\); 1 not in the model \(2.extra\); 1 of another shape"):
        load_checkpoint(model, str(tmp_path / "w.pt"))
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())


def test_a_checkpoint_that_is_not_there_is_cut_off_or_holds_nothing(tmp_path):
    with pytest.raises(SpecError, match="no such file"):
        read_state(str(tmp_path / "nowhere.pt"))
    torch.save({"step": 3}, tmp_path / "empty.pt")
    with pytest.raises(SpecError, match="found none"):
        read_state(str(tmp_path / "empty.pt"))
    torch.save(network().state_dict(), tmp_path / "w.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:900])
    (tmp_path / "nothing.pt").write_bytes(b"")
    (tmp_path / "half.safetensors").write_bytes(b"12345")
    for name in ("half.pt", "nothing.pt", "half.safetensors"):
        with pytest.raises(SpecError, match=r"cannot read|refused to unpickle"):
            read_state(str(tmp_path / name))
