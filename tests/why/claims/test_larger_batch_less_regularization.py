import math

import pytest

from normscope import records
from normscope.why import ghosts
from normscope.why.claim import Plan, Task
from normscope.why.claims.larger_batch_less_regularization import CLAIM, slope

SEEDS = Plan("standard", tuple(range(8)), (100,))


def losses(clean, noisy):
    """Test losses that rise by `clean` and `noisy` per doubling of the group."""

    def numbers(job, seed, _rate):
        rise = clean if job.regime == "clean" else noisy
        wobble = 0.03 * math.sin(seed) + 0.001 * math.sin(3 * seed + job.arm.ghost)
        return {"test": 0.3 + rise * math.log2(job.arm.ghost or 128) + wobble, "train": 0.01, "metric": 0.9}

    return numbers


def test_the_slope_is_that_of_least_squares():
    assert slope((8, 32, 128), (1.0, 1.5, 2.0)) == pytest.approx(0.25)
    assert slope((8, 16, 64), (0.3, 0.1, 0.2)) == pytest.approx(-0.3 / 14)


@pytest.mark.parametrize(
    ("clean", "noisy", "outcomes", "outcome"),
    [
        (0.005, 0.005, ["supported", "supported"], "supported"),
        (-0.005, -0.01, ["refuted", "refuted"], "refuted"),
        (0.0, 0.0, ["refuted", "refuted"], "refuted"),
        (0.005, -0.027, ["supported", "refuted"], "inconclusive"),
    ],
)
def test_the_verdict_turns_with_the_numbers(fill, clean, noisy, outcomes, outcome):
    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, losses(clean, noisy)))
    assert [regime.outcome for regime in verdict.regimes] == outcomes
    assert verdict.outcome == outcome
    assert verdict.effect.estimate == pytest.approx(clean, abs=3e-4)
    assert verdict.effect.smallest == pytest.approx(0.005 / 4)
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


def test_the_fitted_line_of_the_figure_goes_through_the_means(fill):
    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, losses(0.004, 0.0)))
    found = {series.name: series for series in verdict.figures[1].series}
    line, means = found["fitted line"], found["mean and 95 % interval"]
    assert line.x == (8.0, 32.0, 128.0)
    assert sum(line.y) == pytest.approx(sum(means.y))
    assert line.y[2] - line.y[0] == pytest.approx(4 * verdict.effect.estimate)


def test_thorough_looks_at_every_power_of_two_and_own_networks_end_at_their_batch():
    assert ghosts.sizes(Task(), Plan("thorough")) == (8, 16, 32, 64, 128)
    assert ghosts.sizes(Task(spec=object(), batch=50), Plan()) == (8, 32, 50)
    assert ghosts.sizes(Task(spec=object(), batch=16), Plan()) == (8, 16)


@pytest.mark.parametrize("kind", ["tabular", "images"])
def test_it_runs_on_a_users_own_network(request, conduct, quick, monkeypatch, kind):
    monkeypatch.setattr(ghosts.rates, "steps", lambda _task, _study: 10)
    task = request.getfixturevalue(kind)
    task = task() if callable(task) else task
    verdict = CLAIM.conclude(task, quick, conduct(CLAIM, task, quick))
    assert "groups of 8, 16" in verdict.regimes[0].note
    assert all(math.isfinite(value) and value != 0 for value in verdict.effect.per_seed)
    assert verdict.effect.unit == "of loss per doubling"


def test_where_it_does_not_apply():
    assert CLAIM.applies(Task()) == ""
    assert "cannot be cut" in CLAIM.applies(Task(spec=object(), batch=12, examples=500))
