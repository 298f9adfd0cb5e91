import json
import math

import pytest
import torch

from normscope.why import bench, matched, rates
from normscope.why.arms import BATCH_NORM, PLAIN, Arm
from normscope.why.claim import Plan, Task
from normscope.why.job import Job, Results

TASK = Task()
LEVELS = (matched.START, ("half", 1.2, 0.5), ("never", -1.0, 2.0))


def job(arm=BATCH_NORM, steps=40, seeds=(0, 1)):
    members = tuple((seed, 0.1) for seed in seeds)
    options = (("every", 2), *((f"level {name}", loss) for name, loss, _ in LEVELS))
    return Job("k", "mlp6", arm, members, steps, 64, options=options)


def loss_of(model, batch, _at):
    return {"seen": float(torch.nn.functional.cross_entropy(batch(model), batch.target).detach())}


def test_each_level_is_measured_once_where_the_loss_first_falls_to_it():
    asked = []

    def measure(model, batch, at):
        asked.append(at)
        return loss_of(model, batch, at)

    found = matched.run(TASK, job(), measure)
    assert sorted(asked) == [0, 0, 0, 1, 1, 1]
    for numbers in found:
        start, half, never = (numbers[name] for name, _, _ in LEVELS)
        assert (start["step"], start["reached"]) == (0, True)
        assert 0 < half["step"] < 40
        assert half["loss"] <= 1.2 < start["loss"]
        assert (never["step"], never["reached"]) == (40, False)
        assert half["seen"] == pytest.approx(half["loss"], rel=1e-4)
    assert matched.unreached(found, "never") == 2
    assert matched.unreached(found, "half") == 0


def test_training_ends_when_every_member_is_through():
    steps = []
    short = Job("k", "mlp6", PLAIN, ((0, 0.03),), 200, 64, options=(("every", 1), ("level half", 1.2)))
    matched.run(TASK, short, loss_of, along=lambda *_: steps.append(1))
    assert len(steps) < 60


def test_measuring_does_not_change_what_comes_later():
    few = matched.run(TASK, job(), lambda *_: {})
    many = matched.run(TASK, job(), loss_of, along=lambda *_: None)
    assert [n["half"]["loss"] for n in few] == [n["half"]["loss"] for n in many]


def test_a_pace_scales_the_rates_of_every_member():
    slow = matched.paced(job(Arm("slow", norm="removed", pace=0.5)))
    assert slow.members == ((0, 0.05), (1, 0.05))
    assert matched.paced(job()) == job()


def test_a_job_survives_json():
    one = job()
    again = Job.of(json.loads(json.dumps(one.spec())))
    assert again == one
    assert hash(again) == hash(one)


def test_levels_of_an_own_network_lie_between_its_start_and_the_slower_end(tabular_results):
    task, plan, results = tabular_results
    wanted = (matched.START, ("half", 9.9, 0.5), ("end", 9.9, 1.0))
    found = matched.levels(task, plan, results, (PLAIN, BATCH_NORM), wanted)
    assert found == [("before training", matched.START[1]), ("half", pytest.approx(2.2)), ("end", pytest.approx(0.4))]
    assert matched.levels(task, plan, Results(), (PLAIN, BATCH_NORM), wanted) is None


@pytest.fixture
def tabular_results():
    from normscope.why.claim import Task

    task, plan, results = Task(spec=object()), Plan("quick", (0,), (100,)), Results()
    for arm, end in ((PLAIN, 0.4), (BATCH_NORM, 0.1)):
        for one in rates.jobs(task, plan, "own", (arm,)):
            curve = {"step": [0, 9], "loss": [4.0, end if one.rates[0] == 0.1 else 3.0], "metric": [0, 0]}
            results.add(one, [curve for _ in one.members])
    return task, plan, results


@pytest.mark.parametrize(("plain", "normed", "half"), [(None, 0.0, 3.0), (4.5, 0.0, 3.0), (5.0, None, -math.inf)])
def test_levels_where_an_arm_learns_nothing_or_diverges(plain, normed, half):
    task, plan, results = Task(spec=object()), Plan("quick", (0,), (100,)), Results()
    for arm, end in ((PLAIN, plain), (BATCH_NORM, normed)):
        for one in rates.jobs(task, plan, "own", (arm,)):
            results.add(one, [{"step": [0, 9], "loss": [4.0, end], "metric": [0, 0]} for _ in one.members])
    assert matched.levels(task, plan, results, (PLAIN, BATCH_NORM), (("half", 9.9, 0.5),)) == [("half", half)]


def test_log_ratios_are_signed_and_missing_values_stay_missing():
    found = matched.log_ratios([2.0, None, 1.0, 0.0], [1.0, 1.0, 4.0, 1.0])
    assert found[0] == pytest.approx(math.log(2))
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(-math.log(4))
    assert math.isnan(found[3])


def test_a_shrinking_effect_is_shown_as_batch_norm_over_plain():
    effect = matched.shrinking("x", [math.log(2.0), math.log(2.0)], (0, 1), math.log(1.25))
    assert effect.estimate == pytest.approx(0.5)
    assert effect.smallest == pytest.approx(0.8)


def test_frozen_layers_keep_their_weights_and_the_others_train():
    frozen = job(Arm("f", norm="removed", frozen=2), steps=3, seeds=(0,))
    before = [w.detach().clone() for w in bench.make_model(TASK, frozen, 0).parameters() if w.dim() == 2]
    members = bench.make_members(TASK, frozen)
    bench.run_training(TASK, frozen, members)
    after = [w for w in members.models()[0].parameters() if w.dim() == 2]
    moved = [bool((a != b).any()) for a, b in zip(after, before, strict=True)]
    assert moved == [False, False, True, True, True, True, True]
    assert [w.requires_grad for w in after] == moved
