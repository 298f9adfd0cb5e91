import itertools
import json

from normscope.records import CheckReport, Finding, Fixed, GapSplit, Share
from normscope.report import findings
from normscope.report.waterfall import waterfall

FAULT = Finding(
    "BN001", "stale <b>", "layer1.bn", "off by 2", (("mean off", 2.0),), "it hurts", "recalibrate", safe=True
)
STYLE = Finding("BN004", "bias", "conv", "a bias", (("parameters", None),), "wasteful", "bias=False", style=True)
GAP = GapSplit(
    1.0,
    1.5,
    (Share("mini-batch statistics", -0.2, -0.3, -0.1), Share("stale average", 0.7, 0.6, 0.8)),
    (Share("a", 0.4, 0.3, 0.5), Share("b", 0.1)),
    40,
    ("a note",),
)
REPORT = CheckReport(
    "a network",
    (FAULT, STYLE),
    ("BN001", "BN004"),
    (("BN002", "needs data"),),
    gap=GAP,
    forwards=40,
    fixes=(Fixed("recalibrate", ("BN001",), None, 0.5, kept=True, note="12 layers"),),
    versions={"normscope": "0"},
    seconds=1.0,
)


def test_text_has_what_was_found_why_and_what_to_do():
    text = findings.as_text(REPORT)
    for words in (
        "layer1.bn: off by 2",
        "why: it hurts",
        "fix (safe with --fix)",
        "+0.7  stale average",
        "not run: BN002",
    ):
        assert words in text
    assert text.splitlines()[-1].startswith("1 fault and 1 of style found by 2 rules; 40 forward passes")


def test_sarif_has_one_result_for_each_finding():
    run = json.loads(findings.as_sarif(REPORT))["runs"][0]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [("BN001", "warning"), ("BN004", "note")]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["BN001", "BN004"]
    assert run["results"][0]["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "layer1.bn"


def test_the_waterfall_ends_where_the_gap_does():
    rows = waterfall(GAP)
    assert [row.name for row in rows] == ["train mode", "mini-batch statistics", "stale average", "eval mode"]
    assert [row.kind for row in rows] == ["level", "down", "up", "level"]
    assert [row.text for row in rows] == ["1", "−0.2", "+0.7", "1.5"]
    assert rows[0].end == 1.0
    assert abs(rows[-1].end - 1.5) < 1e-12
    assert rows[2].interval == "+0.6 to +0.8"
    for before, row in itertools.pairwise(rows[1:-1]):
        assert before.end == row.start
    for row in rows:
        assert 0 <= row.left <= row.left + row.width <= 100


def test_a_loss_that_is_no_number_has_no_waterfall():
    assert waterfall(GapSplit(float("nan"), None, (Share("a", 1.0),), (), 1)) == ()
    assert waterfall(GapSplit(1.0, None, (Share("a", 1.0),), (), 1))[-1].name == "eval mode, were its buffers finite"


def test_the_page_escapes_and_shows_both_figures():
    page = findings.render_check(REPORT)
    assert "stale <b>" not in page.lower()
    assert "Stale &lt;b&gt;" in page
    for words in ("cause by cause", "The gap by layer", "Fixes that were tried", "BN002 needs data", "a note"):
        assert words in page


def test_nothing_found_is_said():
    clean = CheckReport("a network", (), ("BN001",), ())
    assert findings.as_text(clean).splitlines()[-1] == "no faults found by 1 rule"
    assert "No faults found" in findings.render_check(clean)
