import math

import pytest

from normscope import records
from normscope.why import ghosts
from normscope.why.claim import Plan, Task
from normscope.why.claims.dropout_regularizes import CLAIM, HALF

SEEDS = Plan("standard", tuple(range(8)), (100,))


def losses(clean, noisy, ratio=1.0):
    """Test losses with dropout 0.5 that differ from those with batch norm's noise; variance ratios off the formula."""

    def numbers(job, seed, _rate):
        shift = (clean if job.regime == "clean" else noisy) if job.arm == HALF else 0.0
        test = 0.3 + shift + 0.03 * math.sin(seed) + 0.001 * math.sin(3 * seed + len(job.arm.name))
        found = {"test": test, "train": 0.01, "metric": 0.9, "running": test + 0.01}
        if job.arm.dropout:
            keep = 1 - job.arm.dropout
            found["shift"] = [["4", ratio * keep * (1 + 0.001 * math.sin(seed)), keep]]
        return found

    return numbers


@pytest.mark.parametrize(
    ("clean", "noisy", "outcomes", "outcome"),
    [
        (-0.03, -0.2, ["supported", "supported"], "supported"),
        (0.02, 0.02, ["refuted", "refuted"], "refuted"),
        (0.02, -0.2, ["refuted", "supported"], "inconclusive"),
    ],
)
def test_the_verdict_turns_with_the_numbers(fill, clean, noisy, outcomes, outcome):
    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, losses(clean, noisy)))
    assert [regime.outcome for regime in verdict.regimes] == outcomes
    assert verdict.outcome == outcome
    assert verdict.effect.estimate == pytest.approx(clean, abs=1e-3)
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


@pytest.mark.parametrize(("ratio", "agrees"), [(1.0, True), (1.1, False)])
def test_the_variance_ratio_is_held_against_its_formula(fill, ratio, agrees):
    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, losses(0.0, 0.0, ratio)))
    found = [each for each in verdict.controls if "measured / formula" in each.name]
    assert [each.estimate for each in found] == pytest.approx([ratio, ratio], rel=2e-3)
    assert all((each.high < each.smallest) == agrees for each in found)
    points = {series.name: series for series in verdict.figures[1].series}
    assert set(points) == {"dropout 0.5", "dropout 0.2", "measured = formula"}


def test_without_a_batch_norm_behind_dropout_it_says_that_nothing_shifts(fill):
    def numbers(job, seed, rate):
        found = losses(-0.03, -0.2)(job, seed, rate)
        return found | {"shift": []} if job.arm.dropout else found

    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, numbers))
    assert "no variance shift" in verdict.meaning
    assert len(verdict.figures) == 1


def test_it_runs_on_the_embedded_network_and_the_formula_holds_there(conduct, quick, monkeypatch):
    monkeypatch.setattr(ghosts, "steps", lambda _task, _study: 15)
    results = conduct(CLAIM, Task(), quick)
    verdict = CLAIM.conclude(Task(), quick, results)
    ((layer, measured, formula),) = results.get(ghosts.KEY, "mlp2", HALF, 0, ghosts.RATE)["shift"]
    assert layer.startswith("4")
    assert measured == pytest.approx(formula, rel=0.02)
    assert 0.3 < measured < 0.97
    running, exact = (ghosts.values(Task(), quick, results, HALF, "clean", what)[0] for what in ("running", "test"))
    assert running != exact
    assert "put dropout behind the last batch norm" in verdict.meaning


@pytest.mark.parametrize("kind", ["tabular", "images"])
def test_it_runs_on_a_users_own_network(request, conduct, quick, monkeypatch, kind):
    monkeypatch.setattr(ghosts.rates, "steps", lambda _task, _study: 10)
    task = request.getfixturevalue(kind)
    task = task() if callable(task) else task
    verdict = CLAIM.conclude(task, quick, conduct(CLAIM, task, quick))
    assert all(math.isfinite(value) and value != 0 for value in verdict.effect.per_seed)
    found = [each for each in verdict.controls if "measured / formula" in each.name]
    assert [each.estimate for each in found] == pytest.approx([1.0], rel=0.03)


def test_where_it_does_not_apply():
    assert CLAIM.applies(Task()) == ""
    assert "cannot be cut" in CLAIM.applies(Task(spec=object(), batch=12, examples=500))
