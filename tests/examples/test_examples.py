import dataclasses
import runpy
from pathlib import Path

import pytest
import torch

from normscope.model.given import Spec
from normscope.records import Verdict
from normscope.why import registry
from normscope.why.claim import Plan, Task
from normscope.why.inspect import inspect
from normscope.why.job import Results

FOLDER = Path(__file__).resolve().parents[2] / "examples"
SMALLEST = Plan("quick", (0, 1), (100,))


def task_of(name, *, shifted=False):
    parts = [f"{FOLDER / name}.py:{part}" for part in ("make_model", "make_data", "make_shifted")]
    return Task(spec=Spec(parts[0], parts[1], shifted=parts[2] if shifted else None))


@pytest.fixture(scope="module", params=["conv_images", "tabular_regression"])
def task(request):
    return inspect(task_of(request.param, shifted=request.param == "conv_images"))


def test_examples_are_what_they_say(task):
    images = "conv_images" in task.spec.model
    assert task.images == images
    assert task.kind == ("classification" if images else "regression")
    assert (task.layers, task.batch) == ((3, 64) if images else (2, 32))
    assert task.has_shifted == images
    assert task.notes == ()


@pytest.mark.parametrize("key", registry.KEYS)
def test_claims_run_on_the_examples(task, key):
    claim = registry.claim(key)
    if reason := claim.applies(task):
        assert claim.inapplicable(reason).summary == reason
        return
    results = Results()
    while todo := [job for job in dict.fromkeys(claim.plan(task, SMALLEST, results)) if not results.has(job)]:
        for job in todo:
            short = dataclasses.replace(job, steps=min(job.steps, 3))
            results.add(job, registry.execute(task, short))
    verdict = claim.conclude(task, SMALLEST, results)
    assert isinstance(verdict, Verdict)
    assert verdict.outcome in {"supported", "refuted", "inconclusive"}
    assert verdict.figures
    assert verdict.meaning


def test_scope_in_a_loop_prints_noise_beside_theory(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    torch.manual_seed(0)
    runpy.run_path(str(FOLDER / "library.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    said = next(line for line in lines if line.startswith("noise power"))
    measured, expected = map(float, said.split()[-2:])
    assert measured == pytest.approx(expected, rel=0.3)
