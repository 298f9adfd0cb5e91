import copy
import pickle

import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.surgery.freeze import freeze, unfreeze


def test_frozen_layers_do_not_move_in_training(kit):
    model = freeze(kit.trained_a_little(kit.sequential(), kit.images(20)[0])).model
    saved = kit.state(model)
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    x, y = kit.images(16)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, saved[key])}
    assert moved == {"0.weight", "3.weight", "3.bias", "9.weight", "9.bias"}


def test_affine_can_stay_trainable(kit):
    model = freeze(kit.sequential(), affine=False).model
    assert all(p.requires_grad for p in model.parameters())
    assert not model.train()[1].training


def test_names_state_dict_and_isinstance_stay(kit):
    model = kit.sequential()
    frozen = freeze(model).model
    assert frozen.state_dict().keys() == model.state_dict().keys()
    assert isinstance(frozen[1], nn.BatchNorm2d)
    frozen.load_state_dict(model.state_dict())


def test_survives_pickle_and_deepcopy(kit):
    frozen = freeze(kit.sequential()).model
    by_pickle = pickle.loads(pickle.dumps(frozen))  # noqa: S301  (our own bytes)
    for twin in (copy.deepcopy(frozen), by_pickle):
        twin.train()
        assert not twin[1].training
        assert unfreeze(twin).model.train()[1].training


def test_unfreeze_puts_back_what_was(kit):
    model = kit.sequential()
    model[1].weight.requires_grad = False
    frozen = freeze(model).model.train()
    back = unfreeze(frozen).model
    assert [p.requires_grad for p in back.parameters()] == [p.requires_grad for p in model.parameters()]
    assert type(back[1]) is nn.BatchNorm2d
    assert back[1].training


def test_undo_in_place(kit):
    model = kit.sequential()
    done = freeze(model, inplace=True)
    assert not model[1].training
    done.undo()
    assert type(model[1]) is nn.BatchNorm2d
    assert all(p.requires_grad for p in model.parameters())


def test_some_layers_by_name_of_layer_or_of_parent(kit):
    model = nn.ModuleDict({"stem": kit.sequential(), "head": nn.BatchNorm1d(5)})
    assert [c.name for c in freeze(model, ["stem.1", "head"]).changes] == ["stem.1", "head"]
    assert [c.name for c in freeze(model, ["stem"]).changes] == ["stem.1", "stem.4", "stem.10"]
    with pytest.raises(InputError, match=r"came 'stem\.2'; try stem\.1"):
        freeze(model, ["stem.2"])


def test_frozen_twice_is_said(kit):
    once = freeze(kit.sequential()).model
    assert [part.reason for part in freeze(once).left_alone] == ["is frozen already"] * 3
    assert [part.reason for part in unfreeze(kit.sequential()).left_alone] == ["was not frozen by freeze"] * 3
