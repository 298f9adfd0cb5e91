import copy

import pytest
import torch
from torch import nn

from normscope import nn as layers
from normscope.errors import InputError
from normscope.surgery.convert import convert


@pytest.mark.parametrize("kind", ["ghost", "renorm", "batch", "frozen"])
def test_there_and_back_keeps_every_number(kit, kind):
    model = kit.trained_a_little(kit.sequential(), kit.images(20)[0])
    saved = kit.state(model)
    there = convert(model, kind)
    assert len(there.changes) == 3
    assert kit.same(model, saved)
    back = convert(there.model, "batch")
    assert [type(back.model[at]) for at in (1, 4, 10)] == [nn.BatchNorm2d, nn.BatchNorm2d, nn.BatchNorm1d]
    assert kit.same(back.model, saved)
    assert all(p.requires_grad for p in back.model.parameters())
    assert back.model[1].training
    x = kit.images(8)[0]
    assert torch.equal(back.model.eval()(x), model.eval()(x))


def test_ghost_layers_have_the_size_and_evaluate_alike(kit):
    model = kit.trained_a_little(kit.sequential(), kit.images(20)[0])
    done = convert(model, "ghost", ghost_size=4).model
    assert isinstance(done[1], layers.GhostBatchNorm2d)
    assert isinstance(done[10], layers.GhostBatchNorm1d)
    assert done[1].ghost_size == 4
    x = kit.images(8)[0]
    assert torch.equal(done.eval()(x), model.eval()(x))


def test_renorm_layers_train_towards_the_statistics_that_they_took_over(kit):
    model = kit.trained_a_little(kit.sequential(), kit.images(20)[0])
    done = convert(model, "renorm").model
    assert [type(done[at]) for at in (1, 4, 10)] == [layers.BatchRenorm2d, layers.BatchRenorm2d, layers.BatchRenorm1d]
    x = kit.images(8)[0]
    assert torch.equal(done.eval()(x), model.eval()(x))
    first, plain = done[1].train(), model[1].train()
    first.ramp = None
    y = torch.randn(16, first.num_features, 3, 3)
    tracked = copy.deepcopy(model[1]).eval()
    assert torch.allclose(first(y), tracked(y), atol=1e-5)
    assert not torch.allclose(plain(y), tracked(y), atol=1e-3)


def test_renorm_needs_tracked_statistics():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    done = convert(model, "renorm")
    assert [change.name for change in done.changes] == ["0"]
    assert "tracks no statistics" in done.left_alone[0].reason
    assert done.left_alone[0].name == "1"


def test_group_norm_divides_the_channels_loads_the_checkpoint_and_comes_back(kit):
    model = kit.trained_a_little(kit.sequential(), kit.images(20)[0])
    done = convert(model, "group", groups=4).model
    assert [done[at].num_groups for at in (1, 4, 10)] == [4, 3, 1]
    assert torch.equal(done[1].weight, model[1].weight)
    done.load_state_dict(model.state_dict())
    back = convert(done, "batch").model
    assert type(back[1]) is nn.BatchNorm2d
    assert torch.equal(back[1].bias, model[1].bias)
    assert torch.equal(back[1].running_mean, torch.zeros(8))


def test_in_place_keeps_the_optimizer_going(kit):
    model = kit.sequential()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = kit.images(8)
    before = {id(p) for p in model.parameters()}
    convert(model, "ghost", inplace=True)
    assert {id(p) for p in model.parameters()} == before
    weight = model[1].weight.detach().clone()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert not torch.equal(model[1].weight, weight)


@pytest.mark.parametrize("kind", ["ghost", "renorm", "group"])
def test_out_of_place_the_optimizer_moves_to_the_copy_with_its_state(kit, kind):
    model = kit.sequential()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = kit.images(8)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    momentum = optimizer.state[model[1].weight]["momentum_buffer"].clone()
    done = convert(model, kind, optimizer=optimizer)
    assert torch.equal(optimizer.state[done.model[1].weight]["momentum_buffer"], momentum)
    saved = kit.state(model)
    optimizer.zero_grad()
    nn.functional.cross_entropy(done.model(x), y).backward()
    optimizer.step()
    assert kit.same(model, saved)
    assert not torch.equal(done.model[1].weight, model[1].weight)
    done.undo()
    assert all(a is b for a, b in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))


def test_a_shared_module_is_converted_once(kit):
    model = kit.Reused()
    model.alias = model.norm
    done = convert(model, "ghost").model
    assert done.alias is done.norm
    assert isinstance(done.norm, layers.GhostBatchNorm1d)


def test_a_layer_of_unknown_dimension_is_named():
    done = convert(nn.Sequential(nn.SyncBatchNorm(3)), "ghost")
    assert "does not tell how many dimensions" in done.left_alone[0].reason


def test_clear_words(kit):
    with pytest.raises(InputError, match="came 'layer'"):
        convert(kit.sequential(), "layer")
    with pytest.raises(InputError, match="at least one batch-norm layer"):
        convert(nn.Linear(2, 2), "ghost")
