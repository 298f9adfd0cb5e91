import dataclasses

from normscope.records import Study, Verdict
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
        ("inconclusive", "One stays open"),
    ]
    assert [number for number, _ in found[1].verdicts] == [2, 4]


def test_the_answer_follows_the_verdicts_and_nothing_else(study):
    changed = dataclasses.replace(study, question="other", command="other", runs=())
    assert answer.parts(changed) == answer.parts(study)
