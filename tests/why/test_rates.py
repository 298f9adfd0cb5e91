import math

import pytest
import torch

from normscope.why import bench, rates
from normscope.why.arms import BATCH_NORM, PLAIN
from normscope.why.claim import Plan, Task
from normscope.why.job import Job, Results

PLAN = Plan("quick", (0, 1), (100, 101))
OWN = Task(spec=object(), kind="regression", batch=16)


def curve(losses, metrics, every=10):
    return {"step": [every * at for at in range(len(losses))], "loss": losses, "metric": metrics}


def filed(task, plan, network, curves):
    """Results of the whole grid; `curves` maps a rate and a seed to numbers."""
    results = Results()
    for job in rates.jobs(task, plan, network, [BATCH_NORM]):
        results.add(job, [curves(rate, seed) for seed, rate in job.members])
    return results


def test_every_arm_gets_the_same_grid_on_the_seeds_that_confirm_nothing():
    jobs = rates.jobs(Task(), Plan(), "mlp6", [PLAIN, BATCH_NORM])
    for arm in (PLAIN, BATCH_NORM):
        members = [member for job in jobs if job.arm == arm for member in job.members]
        assert sorted(members) == sorted((seed, rate) for seed in Plan().selection for rate in rates.GRID)
    assert not set(Plan().selection) & set(Plan().seeds)
    assert len(jobs) == 2
    assert all(len(job.members) == 1 for job in rates.jobs(OWN, Plan(), "own", [PLAIN]))
    assert {job.batch for job in rates.jobs(OWN, Plan(), "own", [PLAIN])} == {16}


def test_own_networks_get_a_grid_in_proportion_to_the_effort():
    sizes = [
        len({job.rates for job in rates.jobs(OWN, Plan(effort), "own", [PLAIN])})
        for effort in ("quick", "standard", "thorough")
    ]
    assert sizes == [3, 6, 7]


def test_the_best_rate_reaches_the_target_first():
    def curves(rate, _seed):
        late = {0.1: 1, 0.3: 2}.get(rate, 9)
        return curve([1.0] * 5, [0.95 if at >= late else 0.1 for at in range(5)])

    assert rates.best(Task(), PLAN, filed(Task(), PLAN, "mlp6", curves), "mlp6", BATCH_NORM) == 0.1


def test_a_rate_that_fails_on_one_seed_loses_to_one_that_never_does():
    def curves(rate, seed):
        if rate == 1.0:
            return curve([1.0] * 5, [0.0, 0.0, 0.95 if seed == 100 else 0.1, 0.1, 0.1])
        return curve([1.0] * 5, [0.0, 0.0, 0.0, 0.95, 0.95] if rate == 0.1 else [0.0] * 5)

    assert rates.best(Task(), PLAN, filed(Task(), PLAN, "mlp6", curves), "mlp6", BATCH_NORM) == 0.1


def test_where_no_rate_reaches_it_the_lowest_last_loss_decides_and_divergence_never_wins():
    def curves(rate, _seed):
        last = {0.03: 0.2, 0.3: None, 1.0: math.nan}.get(rate, 0.5)
        return curve([2.0, last], [0.1, 0.1])

    assert rates.best(Task(), PLAN, filed(Task(), PLAN, "mlp6", curves), "mlp6", BATCH_NORM) == 0.03
    assert rates.best(OWN, PLAN, filed(OWN, PLAN, "own", curves), "own", BATCH_NORM) == 0.01


def test_an_own_network_s_rate_is_not_chosen_by_one_last_look():
    falling = [2.0, 1.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.3, 3.0]

    def curves(rate, _seed):
        return curve(falling if rate == 0.1 else [2.0] * 11 + [1.0], [0.1] * 12)

    assert rates.end_loss(OWN, curves(0.1, 100)) == 0.3
    assert rates.end_loss(Task(), curves(0.1, 100)) == 3.0
    assert rates.end_loss(OWN, curve([2.0, None], [0.1, 0.1])) == math.inf
    assert rates.best(OWN, PLAN, filed(OWN, PLAN, "own", curves), "own", BATCH_NORM) == 0.1


def test_there_is_no_best_rate_until_every_run_is_there():
    results = Results()
    jobs = rates.jobs(Task(), PLAN, "mlp6", [BATCH_NORM])
    for job in jobs[:-1]:
        results.add(job, [curve([1.0], [0.1]) for _ in job.members])
    assert rates.best(Task(), PLAN, results, "mlp6", BATCH_NORM) is None


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ([0.1, 0.5, 0.9, 0.95], 20.0),
        ([0.1, 0.8, 1.0], 15.0),
        ([0.1, 0.2, 0.3], 400.0),
        ([0.95, 0.99], 1.0),
        ([None, None, 0.9], 20.0),
        ([0.1, None, 0.9], 20.0),
        ([math.nan, 0.95], 10.0),
    ],
)
def test_steps_to_the_target_lie_on_the_straight_line_between_two_looks(metrics, expected):
    assert rates.steps_to(curve([1.0] * len(metrics), metrics), 0.9, 200) == pytest.approx(expected)


def test_every_member_records_its_curve_and_leaves_when_it_is_there():
    job = Job(rates.KEY, "mlp6", BATCH_NORM, ((100, 0.1), (101, 0.1), (100, 0.3)), 200, 64)
    found = rates.run(Task(), job)
    assert all(numbers["step"] == list(range(0, 8 * len(numbers["loss"]), 8)) for numbers in found)
    assert len({numbers["step"][-1] for numbers in found}) > 1
    assert all(numbers["step"][-1] < 100 for numbers in found)
    for numbers in found:
        assert all(value < rates.TARGET for value in numbers["metric"][:-1])
    assert all(numbers["metric"][-1] >= rates.TARGET for numbers in found)
    assert found[0]["loss"][-1] < found[0]["loss"][0]
    assert not math.isclose(found[0]["loss"][0], found[1]["loss"][0])
    confirmed = rates.run(Task(), Job("faster-optimization", "mlp6", BATCH_NORM, ((100, 0.1),), 12, 64))
    assert confirmed[0]["step"] == [0, 4, 8, 12]


def test_a_run_whose_members_all_diverge_stops():
    job = Job(rates.KEY, "mlp6", PLAIN, ((100, 1e10), (101, 1e10)), 80, 64)
    found = rates.run(Task(), job)
    assert found[0]["step"][-1] <= 16
    assert rates.last_loss(found[0]) == math.inf


def test_looks_leave_the_training_as_it_is():
    job = Job(rates.KEY, "mlp6", BATCH_NORM, ((100, 0.1),), 10, 64)
    looked, blind = (bench.make_members(Task(), job) for _ in range(2))
    rates.curves(Task(), job, looked)
    bench.run_training(Task(), job, blind)
    assert all(torch.equal(a, b) for a, b in zip(looked.parameters(), blind.parameters(), strict=True))
