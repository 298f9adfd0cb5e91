import copy

import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.surgery.adapt import adapt
from normscope.surgery.recalibrate import recalibrate


def test_blended_statistics_are_schneiders_formula():
    model = nn.Sequential(nn.BatchNorm1d(2))
    model[0].running_mean.copy_(torch.tensor([1.0, -1.0]))
    model[0].running_var.copy_(torch.tensor([4.0, 9.0]))
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)) * 5 + 7
    done = adapt(model, list(x.split(10)), source_count=20)
    old_mean, old_var = model[0].running_mean, model[0].running_var
    torch.testing.assert_close(done.model[0].running_mean, (20 * old_mean + 30 * x.mean(0)) / 50)
    torch.testing.assert_close(done.model[0].running_var, (20 * old_var + 30 * x.var(0, correction=0)) / 50)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_shift_of_scale_and_offset_is_undone(dims):
    torch.manual_seed(0)
    conv, norm = (getattr(nn, f"{kind}{dims}d") for kind in ("Conv", "BatchNorm"))
    model = nn.Sequential(conv(2, 4, 1), norm(4), nn.ReLU(), conv(4, 4, 1), norm(4))
    x = torch.randn(256, 2, *[3] * dims, generator=torch.Generator().manual_seed(1))
    model = recalibrate(model, [x]).model.eval()
    shifted = 3 * x + 2
    far = (model(shifted) - model(x)).square().mean()
    for done in (adapt(model, [shifted], source_count=0), adapt(model, method="batch")):
        assert (done.model.eval()(shifted) - model(x)).square().mean() < 1e-3 * far


def test_the_blend_of_a_deep_layer_is_measured_behind_blended_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 3), nn.BatchNorm1d(3))
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(1)) * 4 + 3
    done = adapt(model, [x], source_count=64).model.eval()
    fed = done[1](done[0](x))
    torch.testing.assert_close(done[2].running_mean, fed.mean(0) / 2, rtol=1e-4, atol=1e-5)


def test_batch_statistics_move_no_buffer_and_are_undone(kit):
    model = kit.trained_a_little(kit.sequential(), kit.images(20)[0])
    saved = kit.state(model)
    done = adapt(model, method="batch")
    x = kit.images(16)[0]
    out = done.model.eval()(x)
    assert kit.same(done.model, saved)
    reference = copy.deepcopy(model).eval()
    for at in (1, 4, 10):
        reference[at].train()
    torch.testing.assert_close(out, reference(x))
    assert type(done.undo()[1]) is nn.BatchNorm2d


def test_out_of_place_and_undo(kit):
    model = kit.sequential()
    saved = kit.state(model)
    done = adapt(model, [kit.images(16)[0]])
    assert kit.same(model, saved)
    assert not kit.same(done.model, saved)
    assert kit.same(done.undo(), saved)


def test_labels_are_not_looked_at(kit):
    x, y = kit.images(32)
    with_labels, without = adapt(kit.sequential(), [(x, y)]), adapt(kit.sequential(), [x])
    assert kit.same(with_labels.model, kit.state(without.model))


def test_clear_words(kit):
    with pytest.raises(InputError, match="'blend' or 'batch', came 'tent'"):
        adapt(kit.sequential(), [], method="tent")
    with pytest.raises(InputError, match="a loader of target data"):
        adapt(kit.sequential())
    with pytest.raises(InputError, match="expected the target data to yield batches"):
        adapt(kit.sequential(), [])
    with pytest.raises(InputError, match="source_count to be 0 or more"):
        adapt(kit.sequential(), [kit.images(4)[0]], source_count=-1)
