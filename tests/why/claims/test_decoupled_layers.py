import math

import pytest

from normscope import records
from normscope.why import registry
from normscope.why.arms import BATCH_NORM, PLAIN, Arm
from normscope.why.claim import Plan, Task
from normscope.why.claims import decoupled_layers
from normscope.why.claims.decoupled_layers import CLAIM
from normscope.why.job import Job

BEST = {"plain": 0.03, "batch norm": 0.1}
SEEDS = Plan("standard", tuple(range(8)), (100,))


def made_up(noise, step, step_at_one_rate):
    """Batch norm moves the loss that many times as far as plain, by what moved the layers below."""

    def numbers(job, seed, rate):
        normed = job.arm.name == "batch norm"
        steps = step if rate == BEST["batch norm"] else step_at_one_rate
        wobble = 1 + 0.02 * (seed % 3) * normed

        def moved(factor):
            value = wobble * (factor if normed else 1.0)
            return {"loss": value, "moments": 0.1, "representation": value, "by_layer": [value, value]}

        level = {"noise": moved(noise), "step": moved(steps), "loss": 0.3, "reached": True}
        return {name: level for stage in decoupled_layers._STAGES.values() for name, _, _ in stage}

    return numbers


@pytest.mark.parametrize(
    ("ratios", "outcome"),
    [
        ((0.5, 0.5, 0.5), "supported"),
        ((2.0, 2.0, 2.0), "refuted"),
        ((1.0, 1.0, 1.0), "refuted"),
        ((0.5, 2.0, 0.5), "inconclusive"),
        ((0.5, 0.5, 2.0), "inconclusive"),
    ],
)
def test_the_verdict_turns_with_the_numbers(fill, ratios, outcome):
    results = fill(CLAIM, Task(), SEEDS, BEST, made_up(*ratios))
    verdict = CLAIM.conclude(Task(), SEEDS, results)
    assert verdict.outcome == outcome
    assert verdict.effect.estimate == pytest.approx(ratios[0], rel=0.05)
    assert verdict.effect.smallest == pytest.approx(0.8)
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict
    assert "by construction" in verdict.construction[0]


def test_early_and_mid_training_are_shown_apart(fill):
    def numbers(job, seed, rate):
        early = made_up(2.0, 2.0, 2.0)(job, seed, rate)
        return {
            name: numbers if name.startswith("mid") else early[name]
            for name, numbers in made_up(0.5, 0.5, 0.5)(job, seed, rate).items()
        }

    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, BEST, numbers))
    assert [regime.outcome for regime in verdict.regimes] == [
        "refuted",
        "supported",
        "refuted",
        "supported",
        "supported",
    ]
    assert verdict.outcome == "inconclusive"


def trained(arm, rate):
    options = (("level early", 1.5), ("level mid-training", 0.3))
    return registry.execute(Task(), Job(CLAIM.key, "mlp6", arm, ((0, rate), (1, rate)), 120, 64, options=options))


def test_input_moments_move_less_by_construction_and_noise_below_moves_the_loss():
    plain, normed = trained(PLAIN, 0.03), trained(BATCH_NORM, 0.1)
    for a, b in zip(plain, normed, strict=True):
        assert b["mid-training"]["noise"]["moments"] < 0.3 * a["mid-training"]["noise"]["moments"]
        assert len(a["early"]["noise"]["by_layer"]) == 6
        assert all(numbers["early"][kind]["loss"] > 0 for numbers in (a, b) for kind in ("noise", "step"))


def test_frozen_layers_below_loosen_the_layers_above():
    free, frozen = trained(PLAIN, 0.03), trained(Arm("f", norm="removed", frozen=3), 0.03)
    for what in ("noise", "step"):
        ratio = sum(
            math.log(b["early"][what]["loss"] / a["early"][what]["loss"]) for a, b in zip(free, frozen, strict=True)
        )
        assert ratio < 0


@pytest.mark.parametrize("kind", ["tabular", "images"])
def test_on_a_network_of_ones_own(kind, request, conduct, quick):
    task = request.getfixturevalue(kind)
    task = task() if callable(task) else task
    verdict = CLAIM.conclude(task, quick, conduct(CLAIM, task, quick))
    assert len(verdict.regimes) == 5
    assert all(math.isfinite(value) for regime in verdict.regimes for value in regime.effect.per_seed)


def test_one_layer_has_none_below_to_be_decoupled_from():
    assert "one batch-norm layer" in CLAIM.applies(Task(layers=1))
    assert CLAIM.applies(Task(layers=2)) == ""
