import copy

import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.model.attach import before_forward
from normscope.model.find import find
from normscope.model.preserve import mode
from normscope.surgery.recalibrate import compare, recalibrate


def exact(model, x):
    """Mean and Bessel variance of each layer's input, the whole data one batch, in float64, dropout off."""
    twin = copy.deepcopy(model).double().eval()
    for layer in find(twin).layers:
        layer.module.train()
    out = {}

    def seen(layer, _module, value):
        rows = value.detach().movedim(1, 0).flatten(1)
        out[layer.name] = (rows.mean(1), rows.var(1))

    with torch.no_grad(), before_forward(find(twin).layers, seen):
        twin(x.double())
    return out


def error(model, truth):
    worst = 0.0
    for layer in find(model).layers:
        mean, var = truth[layer.name]
        worst = max(
            worst,
            float(((layer.module.running_mean.double() - mean) / var.sqrt()).abs().max()),
            float((layer.module.running_var.double() / var).log().abs().max()),
        )
    return worst


def test_the_whole_data_gives_the_exact_population_statistics(kit):
    model = kit.sequential()
    x, y = kit.images(150)
    done = recalibrate(model, kit.batches(x, y, 32), tolerance=1e-9)
    assert error(done.model, exact(model, x)) < 1e-5
    assert (done.examples, done.forwards, done.reached) == (150, 1, False)


def test_stops_once_the_standard_error_is_under_the_tolerance_and_the_error_is_of_that_size(kit):
    model = kit.sequential()
    x, y = kit.images(4000)
    done = recalibrate(model, kit.batches(x, y, 32), tolerance=0.05)
    assert done.reached
    assert done.examples < 2000
    assert done.standard_error <= 0.05
    truth = exact(model, x)
    for layer in find(done.model).layers:
        mean, var = truth[layer.name]
        off = float(((layer.module.running_mean.double() - mean) / var.sqrt()).square().mean().sqrt())
        assert off < 3 * done.standard_error


def test_out_of_place_by_default_and_undo_restores(kit):
    model = kit.trained_a_little(kit.sequential(), kit.images(20)[0])
    saved = kit.state(model)
    x, y = kit.images(64)
    done = recalibrate(model, kit.batches(x, y, 16))
    assert kit.same(model, saved)
    assert not kit.same(done.model, saved)
    assert kit.same(done.undo(), saved)
    recalibrate(model, kit.batches(x, y, 16), inplace=True)
    assert not kit.same(model, saved)


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "unlabelled dict"])
def test_any_batch_form(kit, form):
    class Named(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, image):
            return self.inner(image)

    model = Named(kit.sequential())
    x, y = kit.images(48)
    forms = {
        "tensor": [(a) for a, _ in kit.batches(x, y, 16)],
        "tuple": kit.batches(x, y, 16),
        "dict": [{"image": a, "label": b} for a, b in kit.batches(x, y, 16)],
        "unlabelled dict": [{"image": a} for a, _ in kit.batches(x, y, 16)],
    }
    assert error(recalibrate(model, forms[form]).model, exact(model, x)) < 1e-5


def test_forward_fn_takes_batches_of_its_own_form_one_by_one(kit):
    model = kit.sequential()
    x, _ = kit.images(48)
    done = recalibrate(model, [("id", part) for part in x.split(16)], forward_fn=lambda m, raw: m(raw[1]))
    assert done.forwards == 3
    first = find(done.model).layers[0]
    mean, var = exact(model, x)[first.name]
    torch.testing.assert_close(first.module.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first.module.running_var.double(), var, rtol=1e-5, atol=1e-6)


def test_ragged_batches_count_each_value_once():
    model = nn.Sequential(nn.BatchNorm1d(2))
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(4, 2, length, generator=generator) + length for length in (3, 9, 9, 5)]
    done = recalibrate(model, parts)
    rows = torch.cat([part.movedim(1, 0).flatten(1) for part in parts], 1).double()
    torch.testing.assert_close(done.model[0].running_mean.double(), rows.mean(1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(done.model[0].running_var.double(), rows.var(1), rtol=1e-6, atol=1e-6)
    assert done.forwards == 3


def test_a_mask_keeps_padding_out():
    model = nn.Sequential(nn.BatchNorm1d(3))
    x = torch.randn(10, 3, 7, generator=torch.Generator().manual_seed(0)) + 5
    keep = torch.arange(7) < torch.tensor([2, 7, 5, 3, 4, 6, 7, 1, 2, 3])[:, None]
    x = x * keep[:, None]
    done = recalibrate(model, [x], mask=lambda batch: batch.args[0].abs().sum(1) > 0)
    rows = x.movedim(1, -1)[keep].double()
    torch.testing.assert_close(done.model[0].running_mean.double(), rows.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(done.model[0].running_var.double(), rows.var(0), rtol=1e-6, atol=1e-6)


def test_a_reused_layer_gets_statistics_that_reproduce_themselves(kit):
    model = kit.Reused()
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(3))
    done = recalibrate(model, list(x.split(50))).model.eval()
    fed = []
    with torch.no_grad(), before_forward(find(done).layers, lambda _l, _m, value: fed.append(value.clone())):
        done(x)
    rows = torch.cat(fed)
    assert len(fed) == 2
    torch.testing.assert_close(done.norm.running_mean, rows.mean(0), rtol=0, atol=2e-2)
    torch.testing.assert_close(done.norm.running_var, rows.var(0), rtol=2e-2, atol=0)


def test_held_out_loss_tells_whether_it_helped(kit):
    x, y = kit.images(300)
    model = kit.trained_a_little(kit.sequential(), x)
    good = recalibrate(model, kit.batches(x, y, 32)).model
    target = good.eval()(x).argmax(1)
    poisoned = copy.deepcopy(good)
    poisoned[1].running_var.mul_(100)
    held = kit.batches(x, target, 30)
    done = recalibrate(poisoned, kit.batches(x, y, 32), held_out=held)
    assert done.held_out.helped
    assert not done.held_out.hurt
    again = recalibrate(good, [kit.images(40, seed=9)[0] * 30], held_out=held)
    assert again.held_out.hurt


def test_compare_is_the_paired_t_interval():
    found = compare([1.0, 2.0, 4.0], [0.5, 1.75, 3.0])
    assert found.before == pytest.approx(7 / 3)
    assert (found.low, found.high) == pytest.approx(
        (-7 / 12 - 4.302653 * 0.2204793, -7 / 12 + 4.302653 * 0.2204793), rel=1e-5
    )
    assert not found.helped
    assert compare([float("nan")], [1.0]).helped
    assert compare([1.0], [float("nan")]).hurt


def test_nan_data_are_refused_and_leave_the_network_as_it_was(kit):
    model = kit.sequential()
    saved, (x, _) = kit.state(model), kit.images(16)
    x[3] = float("nan")
    with pytest.raises(InputError, match="expected finite inputs at layer 1"):
        recalibrate(model, [x], inplace=True)
    assert kit.same(model, saved)


def test_an_exception_in_the_network_leaves_it_as_it_was(kit):
    model = kit.sequential()
    model.train()
    saved = kit.state(model)

    def boom(m, raw):
        m(raw)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        recalibrate(model, [kit.images(8)[0]], forward_fn=boom, inplace=True)
    assert kit.same(model, saved)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_clear_words_for_empty_data_and_silly_tolerance(kit):
    with pytest.raises(InputError, match="expected the loader to yield batches, came none"):
        recalibrate(kit.sequential(), [])
    with pytest.raises(InputError, match="expected a positive tolerance"):
        recalibrate(kit.sequential(), [kit.images(4)[0]], tolerance=0)
    with pytest.raises(InputError, match="at least one batch-norm layer"):
        recalibrate(nn.Linear(2, 2), [torch.zeros(2, 2)])


def test_layers_without_statistics_and_layers_not_called_are_named():
    class Some(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.BatchNorm1d(2, track_running_stats=False)
            self.b = nn.BatchNorm1d(2)
            self.idle = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.b(self.a(x))

    done = recalibrate(Some(), [torch.randn(9, 2, generator=torch.Generator().manual_seed(0))])
    assert {part.name: part.reason.split(" (")[0] for part in done.left_alone} == {
        "a": "keeps no running statistics",
        "idle": "was not called on this data",
    }


def test_never_updated_layers_count_as_updated_afterwards(kit):
    done = recalibrate(kit.sequential(), [kit.images(8)[0]])
    assert int(done.model[1].num_batches_tracked) > 0


def test_max_examples_is_kept(kit):
    x, y = kit.images(200)
    done = recalibrate(kit.sequential(), kit.batches(x, y, 32), tolerance=1e-9, max_examples=70)
    assert done.examples == 70


def test_standard_error_is_honest_about_correlated_positions():
    generator = torch.Generator().manual_seed(0)
    estimates, claimed = [], []
    for _ in range(200):
        x = torch.randn(40, 1, 1, generator=generator).expand(40, 1, 25) + 0.3 * torch.randn(
            40, 1, 25, generator=generator
        )
        done = recalibrate(nn.Sequential(nn.BatchNorm1d(1)), [x])
        estimates.append(float(done.model[0].running_mean))
        claimed.append(done.standard_error)
    spread = float(torch.tensor(estimates).std()) / 1.09**0.5
    assert 0.8 < float(torch.tensor(claimed).mean()) / spread < 1.25


def test_the_training_flag_is_kept(kit):
    model = kit.sequential()
    with mode(model, training=True):
        assert recalibrate(model, [kit.images(8)[0]]).model.training
