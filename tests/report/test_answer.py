import dataclasses

import pytest

from normscope.records import Regime, Study, Verdict
from normscope.report import answer


def made(*outcomes):
    verdicts = tuple(Verdict(str(place), f"title {place}", "", outcome, "") for place, outcome in enumerate(outcomes))
    return Study("q", "n", "d", "c", {}, {}, verdicts)


def test_the_opening_counts_what_was_tested_and_what_was_decided():
    assert answer.opening(made()) == "No claim was tested."
    assert answer.opening(made("not applicable")) == "None of the claims applies to this network."
    assert answer.opening(made("supported")) == "One claim was put to the test and decided."
    assert (
        answer.opening(made("supported", "inconclusive", "not applicable"))
        == "Two claims were put to the test; one was decided."
    )
    assert answer.opening(made("inconclusive")) == "One claim was put to the test; none was decided."
    assert answer.opening(made(*["refuted"] * 13)) == "13 claims were put to the test and decided."


def test_each_outcome_is_one_sentence_in_the_order_of_strength():
    found = answer.parts(made("inconclusive", "refuted", "supported", "refuted"))
    assert [(part.outcome, part.lead) for part in found] == [
        ("supported", "One holds"),
        ("refuted", "Two are refuted"),
        ("inconclusive", "One stays open, since the intervals do not decide"),
    ]
    assert [number for number, _ in found[1].verdicts] == [2, 4]


def test_the_answer_follows_the_verdicts_and_nothing_else(study):
    changed = dataclasses.replace(study, question="other", command="other", runs=())
    assert answer.parts(changed) == answer.parts(study)


@pytest.mark.parametrize(
    ("outcomes", "said", "lead"),
    [
        (("supported", "refuted", "inconclusive"), "supported in 1, refuted in 1 of 3 regimes", "since regimes differ"),
        (("inconclusive", "inconclusive"), "open in both regimes", "since the intervals do not decide"),
        (("inconclusive",), "", "since the intervals do not decide"),
    ],
)
def test_what_stays_open_says_why(outcomes, said, lead):
    regimes = tuple(Regime(f"regime {place}", outcome, None) for place, outcome in enumerate(outcomes))
    verdict = Verdict("c", "t", "", "inconclusive", "", regimes=regimes)
    assert answer.regimes(verdict) == said
    study = dataclasses.replace(made(), verdicts=(verdict,))
    assert [part.lead for part in answer.parts(study)] == [f"One stays open, {lead}"]


def test_a_decided_claim_needs_no_reason():
    regimes = (Regime("a", "supported", None), Regime("b", "supported", None))
    assert answer.regimes(Verdict("c", "t", "", "supported", "", regimes=regimes)) == ""
