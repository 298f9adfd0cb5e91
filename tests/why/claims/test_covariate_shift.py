import json
import math

import pytest

from normscope import records
from normscope.why import registry
from normscope.why.arms import BATCH_NORM, PLAIN, Arm
from normscope.why.claim import Plan, Task
from normscope.why.claims import covariate_shift
from normscope.why.claims.covariate_shift import CLAIM
from normscope.why.job import Job

SEEDS = Plan("standard", tuple(range(8)), (100,))


def made_up(plain, deployed, again):
    """Accuracies on shifted inputs: plain, batch norm as deployed and re-estimated; .95 on the source."""

    def numbers(job, seed, _rate):
        adapts = job.arm.name == "batch norm"
        here = (deployed if adapts else plain) - 0.005 * (seed % 3)
        there = (again if adapts else plain) - 0.005 * (seed % 3)
        look = {"deployed": here, "again": {"32": there, "128": there, "512": there}}
        looks = dict.fromkeys(job.option("looks").split(","), look)
        layers = {"1": [0.3, 0.01]} if adapts else {}
        return {"kind": "k", "source": 0.95, "base": 0.1, "looks": looks, "control": here, "layers": layers}

    return numbers


@pytest.mark.parametrize(
    ("accuracies", "outcomes"),
    [
        ((0.94, 0.75, 0.93), ("refuted", "supported", "refuted")),
        ((0.75, 0.85, 0.92), ("supported", "supported", "supported")),
        ((0.94, 0.75, 0.75), ("refuted", "refuted", "refuted")),
        ((0.94, 0.94, 0.94), ("refuted", "refuted", "refuted")),
    ],
)
def test_the_verdict_turns_with_the_numbers(fill, accuracies, outcomes):
    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, made_up(*accuracies)))
    assert (*(regime.outcome for regime in verdict.regimes), verdict.outcome) == outcomes
    plain, deployed, again = accuracies
    assert verdict.regimes[0].effect.estimate == pytest.approx(deployed - plain)
    assert verdict.regimes[1].effect.estimate == pytest.approx(again - deployed)
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


@pytest.fixture(scope="module")
def runs():
    def one(arm):
        looks = (("looks", "coloured,inverted"),)
        job = Job(CLAIM.key, "conv", arm, ((0, covariate_shift.RATE),), 60, 64, options=looks)
        return registry.execute(Task(), job)[0]

    return {arm.name: one(arm) for arm in (PLAIN, BATCH_NORM, Arm("mixed", shifted=0.2))}


def test_new_statistics_repair_colours_and_not_an_inversion(runs):
    normed = runs["batch norm"]["looks"]
    assert max(normed["coloured"]["again"].values()) > normed["coloured"]["deployed"] + 0.02
    assert set(normed["coloured"]["again"]) == {"32", "128", "512"}
    assert max(normed["inverted"]["again"].values()) < 0.3
    assert runs["batch norm"]["source"] > 0.85


def test_a_plain_network_has_no_statistics_to_re_estimate(runs):
    look = runs["plain"]["looks"]["coloured"]
    assert set(look["again"].values()) == {look["deployed"]}
    assert runs["plain"]["layers"] == {}


def test_every_layer_has_its_distance_and_a_smaller_null(runs):
    layers = runs["batch norm"]["layers"]
    assert len(layers) == 4
    assert all(seen > null > 0 for seen, null in layers.values())
    json.dumps(runs["batch norm"], allow_nan=False)


def test_training_on_some_of_the_shift_plants_robustness(runs):
    def fall(name):
        return runs[name]["source"] - runs[name]["looks"]["coloured"]["deployed"]

    assert fall("mixed") < fall("batch norm")


@pytest.mark.parametrize("shifted", [False, True])
def test_on_a_regression_of_ones_own(shifted, tabular, conduct, quick):
    task = tabular(shifted=shifted)
    results = conduct(CLAIM, task, quick)
    verdict = CLAIM.conclude(task, quick, results)
    words = "the shifted data given" if shifted else "gain 1.5/0.67 and offset 0.5/-0.5"
    assert words in verdict.summary
    assert "constant guess" in verdict.effect.unit
    assert all(math.isfinite(value) for regime in verdict.regimes for value in regime.effect.per_seed)


def test_on_images_of_ones_own(images, conduct, quick):
    verdict = CLAIM.conclude(images, quick, conduct(CLAIM, images, quick))
    assert verdict.effect.unit == "of accuracy"
    assert len(verdict.figures) == 4


def test_token_ids_have_no_shift_to_state(tokens, conduct, quick):
    verdict = CLAIM.conclude(tokens, quick, conduct(CLAIM, tokens, quick))
    assert verdict.outcome == "not applicable"
    assert "real numbers" in verdict.summary


def test_it_applies_to_every_task():
    assert CLAIM.applies(Task()) == ""
