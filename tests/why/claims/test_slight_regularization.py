import math

import pytest

from normscope import records
from normscope.why import ghosts, registry
from normscope.why.claim import Plan, Task
from normscope.why.claims.slight_regularization import CLAIM, GAUSSIAN

SEEDS = Plan("standard", tuple(range(8)), (100,))


def losses(clean, noisy):
    """Test losses by arm: `clean` and `noisy` are what the noise of 32 examples adds to noise-free statistics."""

    def numbers(job, seed, _rate):
        level = 0.2 if job.regime == "clean" else 0.8
        shift = (clean if job.regime == "clean" else noisy) if job.arm.name == "ghost batches of 32" else 0.0
        wobble = 0.02 * math.sin(seed) + 0.001 * math.sin(5 * seed + len(job.arm.name))
        return {"test": level + shift + wobble, "train": 0.01, "metric": 0.9, "running": level}

    return numbers


@pytest.mark.parametrize(
    ("clean", "noisy", "outcomes", "outcome"),
    [
        (-0.02, -0.02, ["supported", "supported"], "supported"),
        (0.02, 0.02, ["refuted", "refuted"], "refuted"),
        (-0.0001, 0.0001, ["refuted", "refuted"], "refuted"),
        (-0.02, 0.04, ["supported", "refuted"], "inconclusive"),
    ],
)
def test_the_verdict_turns_with_the_numbers(fill, clean, noisy, outcomes, outcome):
    results = fill(CLAIM, Task(), SEEDS, {}, losses(clean, noisy))
    verdict = CLAIM.conclude(Task(), SEEDS, results)
    assert [regime.outcome for regime in verdict.regimes] == outcomes
    assert verdict.outcome == outcome
    assert verdict.effect.estimate == pytest.approx(clean, abs=1e-3)
    assert verdict.effect.smallest == -ghosts.SMALLEST
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


def test_a_run_that_diverged_leaves_it_open(fill):
    def numbers(job, seed, rate):
        found = losses(-0.02, -0.02)(job, seed, rate)
        return found | {"test": None} if seed == 2 and job.arm == ghosts.NOISE_FREE else found

    assert CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, numbers)).outcome == "inconclusive"


def test_the_noise_control_stands_beside_the_verdict_and_never_decides(fill):
    def numbers(job, seed, rate):
        found = losses(-0.02, -0.02)(job, seed, rate)
        return found | {"test": 9.0} if job.arm == GAUSSIAN else found

    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, numbers))
    assert verdict.outcome == "supported"
    assert [each.name for each in verdict.controls if "Gaussian" in each.name and each.estimate > 8]


def test_it_runs_on_the_embedded_network(conduct, quick, monkeypatch):
    monkeypatch.setattr(ghosts, "steps", lambda _task, _study: 12)
    results = conduct(CLAIM, Task(), quick)
    verdict = CLAIM.conclude(Task(), quick, results)
    assert verdict.outcome == "inconclusive"
    assert verdict.effect.unit == "nat"
    assert len(verdict.effect.per_seed) == 2
    assert 0.1 < ghosts.values(Task(), quick, results, ghosts.NOISE_FREE, "clean")[0] < 2.3
    clean, noisy = (
        ghosts.values(Task(), quick, results, ghosts.NOISE_FREE, regime, "train")[0] for regime in ghosts.REGIMES
    )
    assert clean < noisy
    assert "12 steps from a learning rate of 0.1" in verdict.meaning


@pytest.mark.parametrize("kind", ["tabular", "images"])
def test_it_runs_on_a_users_own_network_with_its_batch_as_the_noise(request, conduct, quick, monkeypatch, kind):
    monkeypatch.setattr(ghosts.rates, "steps", lambda _task, _study: 10)
    task = request.getfixturevalue(kind)
    task = task() if callable(task) else task
    verdict = CLAIM.conclude(task, quick, conduct(CLAIM, task, quick))
    assert "mini-batches of 16" in verdict.summary
    assert verdict.effect.unit == "of loss"
    assert verdict.effect.smallest < 0
    assert all(math.isfinite(value) for value in verdict.effect.per_seed)
    assert all(value != 0 for value in verdict.effect.per_seed)


def test_where_it_does_not_apply():
    assert CLAIM.applies(Task()) == ""
    own = Task(spec=object(), batch=64, examples=500)
    assert CLAIM.applies(own) == ""
    assert "cannot be cut into groups" in CLAIM.applies(Task(spec=object(), batch=8, examples=500))
    assert "one mini-batch" in CLAIM.applies(Task(spec=object(), batch=64, examples=64))


def test_both_claims_on_batch_norms_noise_share_their_runs():
    other = registry.claim("larger-batch-less-regularization")
    mine, theirs = (set(claim.plan(Task(), SEEDS, ghosts.Results())) for claim in (CLAIM, other))
    assert theirs < mine
