import re

import pytest
from torch import nn

from normscope.check.clock import seconds
from normscope.check.evidence import Evidence
from normscope.check.plan import passes_of
from normscope.check.rule import chosen
from normscope.check.run import check, gathered, missing


class Charged(nn.Module):
    """A network that takes a second for each example, by a clock of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.clock = inner, 0.0

    def forward(self, x):
        self.clock += len(x)
        return self.inner(x)


@pytest.mark.parametrize("given", [{}, {"serving": True}, {"held_out": True}, {"dropout": True}])
def test_the_time_said_is_the_time_taken(kit, given):
    inner = kit.healthy()
    model = Charged(nn.Sequential(nn.Dropout(0.1), inner) if "dropout" in given else inner)
    loader = kit.batches(*kit.data())
    options = {"serving": loader[:10]} if "serving" in given else {}
    options |= {"held_out": kit.batches(*kit.data(seed=1), 64)} if "held_out" in given else {}
    subject = gathered(model, loader, max_forwards=200, **options)
    rules = tuple(one for one in chosen() if missing(one, subject) is None)
    evidence = Evidence(subject)
    said = seconds(evidence, passes_of(evidence, rules, gap=True), lambda: model.clock) + model.clock
    model.clock = 0.0
    report = check(model, loader, max_forwards=200, announce=[].append, **options)
    assert model.clock == pytest.approx(said, rel=0.02)
    assert report.forwards == report.planned


def test_the_time_is_said_in_words(kit, loader):
    model, said = kit.healthy(), []
    check(model, loader, max_forwards=32, announce=said.append, **kit.stepping(model))
    assert re.fullmatch(r"\d+ forward passes, beside your training steps", said[0])
    assert re.fullmatch(r"about \d+\.\d s", said[1])
