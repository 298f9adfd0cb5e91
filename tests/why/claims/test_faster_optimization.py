import math

import pytest

from normscope import records
from normscope.model.given import Spec
from normscope.why import rates
from normscope.why.claim import Plan, Task
from normscope.why.claims import faster_optimization
from normscope.why.claims.faster_optimization import CLAIM
from normscope.why.job import Relabelled, Results

SEEDS = Plan("standard", tuple(range(8)), (100, 101))


def race(waits, best=0.1):
    """Curves that reach the target after `waits[arm name]` steps, a little apart by seed; at the best rate only."""

    def numbers(job, seed, rate):
        wait = waits.get(job.arm.name)
        if wait is None or rate != best:
            return {"step": [0, job.steps], "loss": [2.3, 1.0], "metric": [0.1, 0.5]}
        wait = wait * (1 + 0.05 * math.sin(seed * 7 + len(job.arm.name)))
        return {"step": [0, wait, 2 * wait], "loss": [2.3, 0.3, 0.1], "metric": [0.1, 0.9, 0.95]}

    return numbers


def filed(task, plan, numbers):
    results = Results()
    while todo := [job for job in dict.fromkeys(CLAIM.plan(task, plan, results)) if not results.has(job)]:
        for job in todo:
            results.add(job, [numbers(job, seed, rate) for seed, rate in job.members])
    return results


def waits(given, default, raw=60.0):
    return {
        "plain": 40.0 * given,
        "batch norm": 40.0,
        "plain, torch's init": 20.0 * default,
        "batch norm, torch's init": 20.0,
        "plain, raw inputs": raw,
    }


@pytest.mark.parametrize(
    ("given", "default", "outcomes", "outcome"),
    [
        (2.0, 5.0, ["supported", "supported"], "supported"),
        (0.5, 0.6, ["refuted", "refuted"], "refuted"),
        (1.0, 1.02, ["refuted", "refuted"], "refuted"),
        (0.8, 3.0, ["refuted", "supported"], "inconclusive"),
    ],
)
def test_the_verdict_turns_with_the_numbers(given, default, outcomes, outcome):
    verdict = CLAIM.conclude(Task(), SEEDS, filed(Task(), SEEDS, race(waits(given, default))))
    assert [regime.outcome for regime in verdict.regimes] == outcomes
    assert verdict.outcome == outcome
    assert verdict.effect.estimate == pytest.approx(given, rel=0.1)
    assert verdict.controls[0].estimate == pytest.approx(60 / 40 / given, rel=0.1)
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


def test_the_interval_and_not_the_mean_has_to_reach_the_smallest_effect():
    def numbers(job, seed, rate):
        slow = 1.15 + 0.5 * (seed % 2) if job.arm.name.startswith("plain") else 1.0
        found = race({"plain": 40.0, "batch norm": 40.0, **waits(1, 1)})(job, 0, rate)
        return found | {"step": [step * slow for step in found["step"]]}

    verdict = CLAIM.conclude(Task(), SEEDS, filed(Task(), SEEDS, numbers))
    assert verdict.effect.estimate > 1.25
    assert 1.0 < verdict.effect.low < 1.25
    assert verdict.outcome == "inconclusive"


def test_each_arm_runs_at_its_own_rate():
    def numbers(job, seed, rate):
        best = 0.03 if job.arm.name.startswith("plain") else 0.3
        return race(waits(2.0, 2.0), best)(job, seed, rate)

    results = filed(Task(), SEEDS, numbers)
    jobs = [job for job in CLAIM.plan(Task(), SEEDS, results) if job.claim == CLAIM.key]
    assert {rate for job in jobs for rate in job.rates if job.arm.name == "plain"} == {0.03}
    assert {rate for job in jobs for rate in job.rates if job.arm.name == "batch norm"} == {0.3}
    assert "rates 0.03 (plain) and 0.3 (batch norm)" in CLAIM.conclude(Task(), SEEDS, results).regimes[0].note


def test_plain_runs_that_never_get_there_count_as_twice_the_cap_and_are_told():
    found = waits(2.0, 2.0) | {"plain": None}
    verdict = CLAIM.conclude(Task(), SEEDS, filed(Task(), SEEDS, race(found)))
    assert verdict.regimes[0].outcome == "supported"
    assert "8 of 8 plain runs never got there and count as 640 steps" in verdict.regimes[0].note


def test_a_race_that_nobody_finishes_is_no_evidence_of_no_difference():
    found = waits(2.0, 2.0) | {"plain": None, "batch norm": None}
    regime = CLAIM.conclude(Task(), SEEDS, filed(Task(), SEEDS, race(found))).regimes[0]
    assert regime.outcome == "inconclusive"
    assert "in 8 of 8 seeds neither arm got there" in regime.note


def own(checkpoint=None):
    return Task(spec=Spec("net.py:model", "net.py:data", checkpoint=checkpoint), kind="regression", batch=16)


def descent(job, _seed, _rate, ends):
    """Losses that fall from 1 to ends[norm] along a straight line over the run."""
    last = ends["plain" if job.arm.norm == "removed" else "batch norm"]
    steps = [job.steps * at / 10 for at in range(11)]
    return {"step": steps, "loss": [1 + (last - 1) * at / 10 for at in range(11)], "metric": [0.0] * 11}


@pytest.mark.parametrize(
    ("plain", "normed", "target"),
    [
        (0.5, 0.2, 0.5725),  # nine tenths of the slower arm's way
        (0.9, 0.2, 0.62),  # half of the faster arm's way: the slower one goes less far
        (math.inf, 0.2, 0.62),  # it diverges
    ],
)
def test_an_own_networks_target_is_a_loss_that_the_slower_arm_reaches(plain, normed, target):
    def numbers(job, seed, rate):
        found = descent(job, seed, rate, {"plain": plain if math.isfinite(plain) else 1.0, "batch norm": normed})
        if job.arm.norm == "removed" and not math.isfinite(plain):
            found["loss"][1:] = [None] * 10
        return found

    results = filed(own("weights.pt"), SEEDS, numbers)
    pair = faster_optimization._PAIRS["given"]
    assert faster_optimization._target_loss(own("weights.pt"), SEEDS, results, pair) == pytest.approx(target)
    verdict = CLAIM.conclude(own("weights.pt"), SEEDS, results)
    assert verdict.regimes[0].outcome == "supported"
    assert f"a training loss of {target:.3g}" in verdict.effect.name


def test_an_own_network_that_no_arm_trains_leaves_it_open():
    results = filed(own(), SEEDS, lambda *job: descent(*job, {"plain": 1.5, "batch norm": 2.0}))
    assert [regime.outcome for regime in CLAIM.conclude(own(), SEEDS, results).regimes] == ["inconclusive"] * 2


def test_initializations_are_not_changed_under_a_checkpoint():
    names = {job.arm.init for job in CLAIM.plan(own("weights.pt"), SEEDS, Results())}
    assert names == {"given"}
    assert {job.arm.init for job in CLAIM.plan(own(), SEEDS, Results())} == {"given", "he"}


def test_runs_of_one_arm_under_both_names_are_no_difference():
    results = filed(Task(), SEEDS, race(waits(2.0, 2.0)))
    null = Relabelled(results, lambda _name, seed: ("plain", seed))
    verdict = CLAIM.conclude(Task(), SEEDS, null)
    assert verdict.outcome == "refuted"
    assert verdict.effect.estimate == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["tabular", "images"])
def test_it_runs_on_a_users_own_network(request, conduct, quick, monkeypatch, kind):
    monkeypatch.setattr(rates, "steps", lambda _task, _study: 12)
    task = request.getfixturevalue(kind)
    task = task() if callable(task) else task
    verdict = CLAIM.conclude(task, quick, conduct(CLAIM, task, quick))
    assert [regime.name for regime in verdict.regimes] == ["its own initialization", "He's initialization"]
    assert all(value > 0 for value in verdict.effect.per_seed)
    assert len(verdict.figures) == 3


def test_it_runs_on_the_embedded_network(conduct, quick, monkeypatch):
    monkeypatch.setattr(rates, "steps", lambda _task, _study: 16)
    monkeypatch.setattr(rates, "TARGET", 0.5)
    monkeypatch.setattr(rates, "GRID", (0.03, 0.1))
    verdict = CLAIM.conclude(Task(), quick, conduct(CLAIM, Task(), quick))
    assert verdict.regimes[1].effect.estimate > 1.5
    assert CLAIM.applies(Task()) == ""
