"""Finished runs are kept, found again, and never half there."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from normscope import records
from normscope.errors import InputError
from normscope.why import registry, run, study
from normscope.why.arms import Arm
from normscope.why.claim import Plan, Task
from normscope.why.job import Job, Relabelled, Results
from normscope.why.store import Store

_JOB = Job("rates", "mlp2", Arm("plain", norm="removed"), ((0, 0.1), (1, 0.1)), 5, 32)


def _why(out, *words, **options):
    command = [sys.executable, "-m", "normscope", "why", "--effort", "quick", "--claims", "faster-optimization"]
    return subprocess.Popen(
        [*command, "--out", str(out), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_a_job_survives_json_and_its_key_depends_on_every_part():
    again = Job.of(json.loads(json.dumps(_JOB.spec())))
    assert again == _JOB
    assert again.key("salt") == _JOB.key("salt")
    others = [Job.of({**_JOB.spec(), "steps": 6}), Job.of({**_JOB.spec(), "regime": "noisy"})]
    others.append(Job("rates", "mlp2", Arm("plain", norm="removed", dropout=0.1), _JOB.members, 5, 32))
    assert len({job.key("salt") for job in [_JOB, *others]} | {_JOB.key("pepper")}) == 5


def test_the_store_finds_what_was_saved_and_nothing_that_is_cut(tmp_path):
    store = Store(tmp_path, "salt")
    assert store.load(_JOB) is None
    store.save(_JOB, [{"loss": [1.0, None]}, {"loss": [2.0]}], 0.5)
    assert store.load(_JOB) == ([{"loss": [1.0, None]}, {"loss": [2.0]}], 0.5)
    assert Store(tmp_path, "another").load(_JOB) is None
    path = store.path(_JOB)
    path.write_text(path.read_text()[:40])
    assert store.load(_JOB) is None


def test_what_a_kill_left_aside_is_swept_away(tmp_path):
    store = Store(tmp_path, "salt")
    store.save(_JOB, [{}, {}], 0.5)
    (tmp_path / f".{store.path(_JOB).name}.x7f").write_text("{")
    store.sweep()
    assert [path.name for path in tmp_path.iterdir()] == [store.path(_JOB).name]


def test_relabelled_results_answer_with_the_stand_in():
    pool = Results()
    pool.add(_JOB, [{"x": 1}, {"x": 2}])
    case = Relabelled(pool, lambda _name, seed: ("plain", 1 - seed))
    assert case.get("rates", "mlp2", Arm("batch norm"), 0, 0.1) == {"x": 2}
    assert case.get("rates", "mlp2", Arm("batch norm"), 1, 0.1) == {"x": 1}


def test_the_estimate_counts_jobs_that_depend_on_rates_not_yet_chosen():
    claim = registry.claim("faster-optimization")
    plan = Plan("quick", (0, 1), (100,))
    first = claim.plan(Task(), plan, Results())
    everything = run.all_jobs(Task(), plan, [claim])
    assert {job.claim for job in first} == {"rates"}
    assert {job.claim for job in everything} == {"rates", "faster-optimization"}


def test_a_budget_takes_seeds_away_and_says_when_even_that_is_too_much():
    claims = [registry.claim("faster-optimization")]
    task = Task(step_seconds={"mlp6": 0.001})
    whole = run.estimate(task, study.plan_of(study.Options()), claims, 1) / 60
    fewest = run.estimate(task, study.plan_of(study.Options(), 3), claims, 1) / 60
    between = study.fit_budget(study.Options(budget=(whole + fewest) / 2), task, claims)
    assert 3 <= len(between.seeds) < 8
    with pytest.raises(InputError, match="--budget of at least"):
        study.fit_budget(study.Options(budget=fewest / 2), task, claims)


def test_killed_at_random_it_loses_nothing_and_goes_on(tmp_path):
    """Two SIGKILLs at seeded instants; benchmarks/kill.py does twenty."""
    draw = random.Random(3)
    kept: set[str] = set()
    for _ in range(2):
        process = _why(tmp_path)
        time.sleep(draw.uniform(8, 14))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        (tmp_path / ".page.html.x7f").write_text("<html>")
        now = {path.name for path in (tmp_path / "runs").glob("*.json")}
        assert kept <= now
        assert all(json.loads((tmp_path / "runs" / name).read_text())["members"] for name in now)
        kept = now
    stamps = {name: (tmp_path / "runs" / name).stat().st_mtime_ns for name in kept}
    process = _why(tmp_path)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert {name: (tmp_path / "runs" / name).stat().st_mtime_ns for name in kept} == stamps
    record = records.from_json((tmp_path / "run.json").read_text(), records.Study)
    assert record.verdicts[0].claim == "faster-optimization"
    assert kept <= {f"{done.key}.json" for done in record.runs}
    assert not list(tmp_path.rglob(".*"))


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    process = _why(tmp_path)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "the same command goes on from there" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run.json").exists()


def test_bit_equal_at_any_number_of_jobs(tmp_path):
    found = []
    for jobs in ("1", "2"):
        process = _why(tmp_path / jobs, "--jobs", jobs, "--seeds", "2")
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
        record = records.from_json((Path(tmp_path) / jobs / "run.json").read_text(), records.Study)
        found.append({done.key: done.numbers for done in record.runs})
    assert found[0] == found[1]
