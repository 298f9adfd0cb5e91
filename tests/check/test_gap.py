import math

import pytest
import torch
from torch import nn

from normscope.check import gap as gaps
from normscope.check.gap import Losses, gap, layers_of, plan
from normscope.errors import InputError
from normscope.model.find import find
from normscope.surgery.population import Population

LOSS = nn.functional.cross_entropy


def shares(found):
    return {share.name: share.value for share in found.causes}


def in_mode(model, loader, *, training):
    """Mean loss in torch's own train or eval mode, dropout aside."""
    model = model.train(training)
    with torch.no_grad():
        total = [float(LOSS(model(x), y)) for x, y in loader]
    return sum(total) / len(total)


def test_ends_are_torchs_own_modes_and_shares_add_up(kit, loader):
    model = kit.healthy()
    model[1].running_var.mul_(3)
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    found = gap(model, loader, LOSS, max_forwards=400)
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    assert found.evaluation - found.train == pytest.approx(sum(shares(found).values()), abs=1e-12)
    few = loader[: len(loader)]
    assert found.evaluation == pytest.approx(in_mode(model, few, training=False), abs=1e-6)
    assert found.train == pytest.approx(in_mode(model, few, training=True), abs=1e-6)


def test_a_clean_network_owes_its_gap_to_small_batches_alone(kit, loader):
    found = shares(gap(kit.healthy(), loader, LOSS))
    rest = sum(abs(value) for name, value in found.items() if name != gaps.SMALL)
    assert rest < 0.02 * abs(found[gaps.SMALL])


def test_planted_causes_come_out_in_their_amounts(kit, loader):
    """The loss of a linear read-out of one layer is quadratic in what the layer is off by: amounts are known."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 6, bias=False), nn.BatchNorm1d(6, affine=False))
    flat = [(x.flatten(1), torch.zeros(len(x), 6)) for x, _ in loader]

    def mean_square(output, _target):
        return output.square().mean()

    clean = kit.healthy(model, flat)
    stale = 0.5
    clean[1].running_mean.add_(stale * clean[1].running_var.sqrt())
    found = shares(gap(clean, flat, mean_square))
    # E[x_hat^2] is 1 in train mode; a mean that is off by .5 deviations adds .25.
    assert found[gaps.STALE] == pytest.approx(stale**2, rel=0.05)
    assert abs(found[gaps.SMALL]) < 0.02


def test_a_shift_and_a_stale_average_are_told_apart(kit, loader):
    model = kit.healthy()
    x, y = kit.data(640, seed=4)
    serving = kit.batches(2 * x + 1, y)
    shifted = gap(model, serving, LOSS, training=loader)
    assert abs(shares(shifted).get(gaps.STALE, 0)) < 0.05 * abs(shares(shifted)[gaps.SHIFT])
    model[1].running_var.mul_(9)
    both = shares(gap(model, serving, LOSS, training=loader))
    assert abs(both[gaps.STALE]) > 10 * abs(shares(shifted).get(gaps.STALE, 0))
    assert gaps.SHIFT in both


def test_buffers_as_made_are_stale_even_where_no_value_seen_comes_near_them(loader):
    far = [(x.flatten(1) + 50, y) for x, y in loader]
    model = nn.Sequential(nn.BatchNorm1d(48), nn.Linear(48, 10))
    assert gaps.IMPOSSIBLE not in shares(gap(model, far, LOSS))
    model[0].running_mean[0] = 1e-3
    assert gaps.IMPOSSIBLE in shares(gap(model, far, LOSS))


def test_impossible_buffers_have_a_share_of_their_own(kit, loader):
    model = kit.healthy()
    model[5].running_mean[:4] += 1000
    found = shares(gap(model, loader, LOSS))
    assert abs(found[gaps.IMPOSSIBLE]) > 10 * abs(found.get(gaps.STALE, 0))


def test_nan_buffers_are_noted_and_the_rest_is_split(kit, loader):
    model = kit.healthy()
    model[5].running_var[1] = float("nan")
    found = gap(model, loader, LOSS)
    assert found.evaluation is None
    assert "5: 1 of 16 channels have NaN" in found.notes[0]
    assert all(math.isfinite(share.value) for share in found.causes)


def test_dropout_is_a_cause(kit, loader):
    model = nn.Sequential(*kit.network()[:6], nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))
    found = gap(kit.healthy(model), loader, LOSS, max_forwards=900)
    assert shares(found)[gaps.DROPOUT] < 0
    assert gaps.DROPOUT in {share.name for share in found.layers}


def test_by_layer_adds_up_and_finds_the_layer(kit, loader):
    model = kit.healthy()
    model[5].running_var.mul_(20)
    found = gap(model, loader, LOSS)
    by_layer = {share.name: share.value for share in found.layers}
    assert by_layer.keys() == {"1", "5"}
    assert abs(by_layer["5"]) > 2 * abs(by_layer["1"])
    layers = find(model).layers
    population = Population(model, layers)
    for raw in population.pools(loader):
        population.add(raw)
    losses = Losses(model, layers_of(population.samples, None, layers)[0], loader[:2], LOSS)
    whole = losses.by_layer(frozenset(losses.parts)).mean() - losses.by_layer(frozenset()).mean()
    assert sum(by_layer.values()) == pytest.approx(float(whole), abs=1e-9)


@pytest.mark.parametrize("limit", [None, 16, 60, 300])
def test_the_plan_is_what_is_run_and_stays_within_its_bound(kit, loader, limit):
    model = kit.healthy()
    made = plan(2, 2, len(loader), limit)
    found = gap(model, loader, LOSS, max_forwards=limit)
    assert found.forwards == made.forwards
    assert limit is None or made.forwards <= limit


def test_a_bound_that_allows_nothing_is_an_input_error(kit, loader):
    with pytest.raises(InputError, match="at least 4 forward passes"):
        gap(kit.healthy(), loader, LOSS, max_forwards=3)
