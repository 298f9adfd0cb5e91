import copy
import dataclasses

import pytest
import torch
from torch import nn

from normscope import records
from normscope.model.batch import Batch, Examples
from normscope.why import reliance
from normscope.why.arms import BATCH_NORM
from normscope.why.claim import Plan, Task
from normscope.why.claims import single_units
from normscope.why.claims.single_units import CLAIM
from normscope.why.data import Data

SEEDS = Plan("standard", tuple(range(8)), (100,))
SMALL = Plan("quick", (0, 1), (100,))


def made_up(clean, noisy, output=1.3):
    """Numbers in which groups of 8 rely that many times as much on single units as the whole mini-batch."""

    def numbers(job, seed, _rate):
        treated = job.arm.norm == "ghost"
        times = {"clean": clean, "noisy": noisy}[job.regime] if treated else (0.5 if job.arm.dropout else 1.0)
        value = 0.01 * times * (1 + 0.02 * (seed % 3) * (1 if treated else 0))
        return {
            "intact": 0.3,
            "rises": [2 * value, value, -value],
            "reliance": value,
            "output": output if treated else 1.0,
        }

    return numbers


@pytest.mark.parametrize(
    ("clean", "noisy", "outcome"),
    [
        (0.6, 0.7, "supported"),
        (1.4, 1.2, "refuted"),
        (0.95, 0.95, "refuted"),
        (0.6, 1.2, "inconclusive"),
        (0.795, 0.795, "inconclusive"),
    ],
)
def test_the_verdict_turns_with_the_numbers(fill, clean, noisy, outcome):
    verdict = CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, made_up(clean, noisy)))
    assert verdict.outcome == outcome
    assert verdict.effect.estimate == pytest.approx(clean, rel=0.03)
    assert verdict.effect.smallest == pytest.approx(0.8)
    dropout = [each.estimate for each in verdict.controls if "dropout" in each.name and "loss" in each.name]
    assert dropout == pytest.approx([0.5, 0.5])
    assert ("spreading over more units" in verdict.meaning) == (clean < 1)
    assert records.from_json(records.to_json(verdict), records.Verdict) == verdict


def test_a_run_that_diverged_leaves_it_open(fill):
    def numbers(job, seed, rate):
        found = made_up(0.6, 0.6)(job, seed, rate)
        lost = {"intact": None, "rises": [None] * 3, "reliance": None, "output": None}
        return lost if seed == 0 and job.arm.norm == "ghost" else found

    assert CLAIM.conclude(Task(), SEEDS, fill(CLAIM, Task(), SEEDS, {}, numbers)).outcome == "inconclusive"


class Leaning(nn.Module):
    """Says the first hidden unit, or the mean of all: relies on one, or on none."""

    def __init__(self, alone):
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.share = nn.Parameter(torch.eye(8)[0] if alone else torch.full((8,), 1 / 8))

    def forward(self, x):
        hidden = self.first(x)
        self.second(hidden)
        return (hidden * self.share).sum(1, keepdim=True)


def test_what_relies_on_one_unit_measures_as_such():
    signal = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    signal = (signal - signal.mean()) / signal.std(correction=0)
    examples = Examples(Batch((signal.expand(-1, 8) * 3 + 5,), {}, signal))
    data = Data(examples, examples)
    found = {}
    for alone in (True, False):
        model = Leaning(alone)
        before = copy.deepcopy(model.state_dict())
        found[alone] = reliance.measure(Task(kind="regression"), model, data)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert found[True]["intact"] == pytest.approx(0, abs=1e-6)
    assert found[True]["rises"] == pytest.approx([1] + [0] * 7, abs=1e-4)
    assert found[False]["rises"] == pytest.approx([1 / 64] * 8, abs=1e-4)
    assert found[True]["reliance"] == pytest.approx(8 * found[False]["reliance"], rel=1e-3)
    assert found[True]["output"] == pytest.approx(1 / 8, rel=1e-3)


def test_dropout_lessens_reliance_in_real_training(conduct, monkeypatch):
    monkeypatch.setattr(single_units, "_labels", lambda _task: {"clean": "clean labels"})
    plan = dataclasses.replace(SMALL, seeds=(0, 1))
    verdict = CLAIM.conclude(Task(), plan, conduct(CLAIM, Task(), plan))
    ratio = next(each for each in verdict.controls if "dropout" in each.name and "output" in each.name)
    assert ratio.estimate < 0.9


@pytest.mark.parametrize("kind", ["tabular", "images"])
def test_networks_of_ones_own(request, conduct, kind):
    task = request.getfixturevalue(kind)
    task = dataclasses.replace(task() if kind == "tabular" else task, batch=32)
    assert CLAIM.applies(task) == ""
    results = conduct(CLAIM, task, SMALL)
    verdict = CLAIM.conclude(task, SMALL, results)
    assert [regime.name for regime in verdict.regimes] == ["its own labels"]
    assert verdict.effect.name.startswith("groups of 8 / whole mini-batch")
    rate = single_units._rate(task, SMALL, results)
    numbers = results.get("single-units", "own", BATCH_NORM, 0, rate)
    assert len(numbers["rises"]) == (12 if kind == "tabular" else 6)


def test_small_batches_do_not_apply(tabular):
    assert "16 examples" in CLAIM.applies(dataclasses.replace(tabular(), batch=16))
