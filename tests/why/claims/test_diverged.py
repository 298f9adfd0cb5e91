"""A run that diverged leaves a verdict and a page, never a crash: every number of it may be missing."""

import dataclasses

import pytest
from markupsafe import escape

from normscope import report
from normscope.records import Study
from normscope.why import registry
from normscope.why.claim import Plan, Task
from normscope.why.job import Results

_PLAN = Plan("quick", (0, 1, 2), (100, 101))


def _missing(value):
    """The shape of a run's numbers with every real number gone, as JSON has what is not finite."""
    if isinstance(value, dict):
        return {key: _missing(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_missing(item) for item in value]
    return None if isinstance(value, float) else value


def _short(claim, task):
    """A study of the claim, every run cut to four steps."""
    results = Results()
    while True:
        todo = [job for job in dict.fromkeys(claim.plan(task, _PLAN, results)) if not results.has(job)]
        if not todo:
            return results
        for job in todo:
            results.add(job, registry.execute(task, dataclasses.replace(job, steps=4)))


@pytest.mark.parametrize("key", registry.KEYS)
def test_a_seed_that_diverged_makes_no_crash(key):
    claim, task = registry.claim(key), Task()
    whole, broken, last = _short(claim, task), Results(), _PLAN.seeds[-1]
    for where, numbers in whole._found.items():
        diverged = where[0] != "rates" and where[-1] == last and "norm" in where[3]
        broken._found[where] = _missing(numbers) if diverged else numbers
    verdict = claim.conclude(task, _PLAN, broken)
    assert verdict.outcome in {"supported", "refuted", "inconclusive"}
    page = report.render_study(Study("q", "n", "d", "c", {}, {}, (verdict,)))
    assert str(escape(claim.title)) in page
