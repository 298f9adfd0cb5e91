import math

import pytest
import torch
from torch import nn

from normscope import records
from normscope.model.batch import Batch
from normscope.why import registry
from normscope.why.arms import BATCH_NORM, PLAIN
from normscope.why.claim import Plan, Task
from normscope.why.claims import internal_shift
from normscope.why.claims.internal_shift import CLAIM
from normscope.why.job import Job

BEST = {"plain": 0.03, "batch norm": 0.1}
SEEDS = Plan("standard", tuple(range(8)), (100,))


def made_up(own, one, cosine=0.05):
    """Batch norm shifts that many times as much as plain, at its own rate and at plain's."""

    def numbers(job, seed, rate):
        normed = job.arm.name == "batch norm"
        factor = (own if rate == BEST["batch norm"] else one) * (1 + 0.02 * (seed % 3)) if normed else 1.0
        turned = 0.9 + (math.copysign(cosine, 1 - factor) if normed else 0.0)
        level = {"path": factor, "moments": factor / 10, "gradient": factor, "cosine": turned, "reached": True}
        return {name: level for name, _, _ in internal_shift._LEVELS}

    return numbers


@pytest.mark.parametrize(
    ("own", "one", "outcome"),
    [(0.5, 0.5, "supported"), (2.0, 2.0, "refuted"), (2.0, 0.5, "inconclusive"), (0.5, 2.0, "inconclusive")],
)
def test_both_rates_have_to_agree(fill, own, one, outcome):
    results = fill(CLAIM, Task(), SEEDS, BEST, made_up(own, one))
    verdict = CLAIM.conclude(Task(), SEEDS, results)
    assert verdict.outcome == outcome
    assert verdict.effect.estimate == pytest.approx(own, rel=0.05)
    assert [round(regime.effect.estimate, 1) for regime in verdict.regimes[:2]] == [one, one]
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


def test_a_gradient_that_vanished_leaves_it_inconclusive(fill):
    def numbers(job, seed, rate):
        found = made_up(0.5, 0.5)(job, seed, rate)
        return found | {"low": found["low"] | {"gradient": None}} if seed == 2 else found

    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, BEST, numbers))
    assert verdict.regimes[1].outcome == "inconclusive"
    assert verdict.outcome == "inconclusive"


def test_the_path_is_the_sum_of_changes_per_example_in_deviations():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
    batch = Batch((torch.randn(64, 2, generator=torch.Generator().manual_seed(0)),), {}, None)
    path = internal_shift._Path()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        path.follow(model, batch)
        assert path.examples == 0
        model[0].weight.mul_(2)
        path.follow(model, batch)
        x = batch.args[0].double()
        expected = float((x.square().sum() / (x - x.mean(0)).square().sum()).sqrt())
        assert path.examples == pytest.approx(expected, rel=1e-6)
        model[0].weight.div_(2)
        path.follow(model, batch)
        assert path.examples == pytest.approx(1.5 * expected, rel=1e-6)


def test_the_path_grows_on_the_way_down_and_moments_move_less_by_construction():
    options = (("level early", 1.5), ("level mid-training", 0.3))

    def trained(arm):
        return registry.execute(Task(), Job(CLAIM.key, "mlp6", arm, ((0, 0.03), (1, 0.03)), 120, 64, options=options))

    plain, normed = trained(PLAIN), trained(BATCH_NORM)
    for a, b in zip(plain, normed, strict=True):
        assert 0 < a["early"]["path"] < a["mid-training"]["path"]
        assert b["mid-training"]["moments"] < 0.2 * a["mid-training"]["moments"]
        assert b["mid-training"]["path"] < a["mid-training"]["path"]
        assert all(-1 <= numbers["early"]["cosine"] <= 1 for numbers in (a, b))


def test_on_a_network_of_ones_own(tabular, conduct, quick):
    task = tabular()
    verdict = CLAIM.conclude(task, quick, conduct(CLAIM, task, quick))
    assert len(verdict.regimes) == 6
    assert all(math.isfinite(value) for regime in verdict.regimes for value in regime.effect.per_seed)


def test_one_layer_feeds_no_other():
    assert "one batch-norm layer" in CLAIM.applies(Task(layers=1))
    assert CLAIM.applies(Task(layers=2)) == ""
