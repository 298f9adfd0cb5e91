import base64
import dataclasses
import itertools
import json
import re
from html.parser import HTMLParser

import pytest

from normscope.records import Effect, Figure, Run, Series, Study, from_json
from normscope.report import render_study
from normscope.report.page import LIMIT

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """A page's elements with their attributes and text, its tags checked to be closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.faults = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "attrs": dict(attrs), "text": "", "path": [item["tag"] for item in self.open]}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(
            {"tag": tag, "attrs": dict(attrs), "text": "", "path": [item["tag"] for item in self.open]}
        )

    def handle_endtag(self, tag):
        if not self.open or self.open[-1]["tag"] != tag:
            self.faults.append(tag)
        else:
            self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]


@pytest.fixture(scope="session")
def parsed(page):
    return Page(page)


def fetching(text):
    """Every address in `text` that a browser would ask the network for."""
    found = []
    for element in Page(text).elements:
        for name, value in element["attrs"].items():
            harmless = (value or "").startswith(("#", "data:")) or (name == "href" and element["tag"] == "a")
            if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"} and not harmless:
                found.append(value)
            if name == "style" and "url(" in value.replace("url(#", ""):
                found.append(value)
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    return found + [item for sheet in style for item in re.findall(r"@import|url\([^)]*\)", sheet)]


def test_every_element_is_closed(parsed):
    assert not parsed.faults
    assert not parsed.open


def test_no_request_to_the_network(page):
    assert fetching(page) == []
    assert "default-src 'none'" in page
    assert "<script" not in page


@pytest.mark.parametrize(
    "planted",
    [
        '<img src="https://example.org/x.png">',
        '<link rel="stylesheet" href="style.css">',
        "<style>@import 'x'</style>",
        '<p style="background:url(https://example.org)"></p>',
    ],
)
def test_a_planted_request_is_found(page, planted):
    assert fetching(page.replace("</main>", planted + "</main>"))


def test_under_two_megabytes(page):
    assert len(page.encode()) < LIMIT


def test_the_page_is_the_same_at_any_time(small):
    assert render_study(small) == render_study(small)


def test_everything_hostile_is_escaped(page, hostile):
    assert hostile not in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<!--" not in page


def test_each_claim_shows_its_parts(study, parsed):
    text = parsed.all("body")[0]["text"]
    for verdict in study.verdicts:
        parts = [verdict.title, verdict.sentence, verdict.summary, verdict.meaning, *verdict.construction]
        parts += [word for pair in verdict.protocol for word in pair]
        parts += [regime.name for regime in verdict.regimes] + [regime.note for regime in verdict.regimes]
        parts += [control.name for control in verdict.controls] + [figure.title for figure in verdict.figures]
        assert [part for part in parts if part not in text] == []
    for part in (study.question, study.network, study.data, *study.notes, "2.0.1"[:0], *study.versions.values()):
        assert part in text
    assert " ".join(text.split()).count(study.command) == 1
    assert "1 − 0.95³ = 14 %" in text
    assert "a work that is in no bibliography" in text


def test_verdicts_are_words_and_not_colour_alone(parsed):
    chips = [item["text"].split(maxsplit=1) for item in parsed.elements if "chip" in item["attrs"].get("class", "")]
    assert {word for _, word in chips} == {"supported", "refuted", "inconclusive", "by construction", "not applicable"}
    assert len({icon for icon, _ in chips}) == 5


def test_a_screen_reader_finds_its_way(parsed):
    assert parsed.all("html")[0]["attrs"]["lang"] == "en"
    for landmark in ("header", "main", "footer"):
        assert len(parsed.all(landmark)) == 1
    assert len(parsed.all("h1")) == 1
    assert all(item["attrs"].get("scope") in {"col", "row"} for item in parsed.all("th"))
    skip = parsed.all("a")[0]["attrs"]["href"]
    assert skip == f"#{parsed.all('main')[0]['attrs']['id']}"
    assert all("tabindex" in item["attrs"] for item in parsed.elements if item["attrs"].get("role") == "region")
    levels = [int(item["tag"][1]) for item in parsed.elements if re.fullmatch("h[1-6]", item["tag"])]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_ids_are_unique_and_every_inner_link_leads_somewhere(parsed):
    ids = [item["attrs"]["id"] for item in parsed.elements if "id" in item["attrs"]]
    assert len(ids) == len(set(ids))
    named = [item["attrs"][key] for item in parsed.elements for key in ("aria-labelledby",) if key in item["attrs"]]
    links = [item["attrs"]["href"][1:] for item in parsed.elements if item["attrs"].get("href", "").startswith("#")]
    assert set(links) | {name for names in named for name in names.split()} <= set(ids)


def test_each_figure_has_a_title_a_description_and_a_table_behind_it(study, parsed):
    count = sum(len(verdict.figures) for verdict in study.verdicts)
    assert len(parsed.all("figure")) == len(parsed.all("details")) == count
    plots = [item for item in parsed.all("svg") if "plot" in item["attrs"]["class"]]
    assert len(plots) == 2 * count
    assert all(item["attrs"]["role"] == "img" for item in plots)
    rows = [item for item in parsed.all("tr") if "details" in item["path"]]
    assert len(rows) > count


def test_the_download_is_the_record(study, parsed):
    link = next(item for item in parsed.all("a") if "download" in item["attrs"])
    body = base64.b64decode(link["attrs"]["href"].removeprefix("data:application/json;base64,")).decode()
    found = from_json(body, Study)
    assert found.runs == study.runs
    assert [item.title for item in found.verdicts] == [item.title for item in study.verdicts]


def test_large_runs_are_left_out_of_the_download_and_the_page_says_so(small):
    runs = tuple(Run(f"k{place}", "c", {}, {"losses": [0.123456789] * 1000}, 1.0) for place in range(300))
    text = render_study(dataclasses.replace(small, runs=runs))
    assert len(text.encode()) < LIMIT
    assert "The raw numbers of the 300 runs are left out" in text
    body = json.loads(base64.b64decode(re.search(r"application/json;base64,([^\"]+)", text).group(1)))
    assert body["runs"] == []
    assert body["verdicts"]


def test_figures_with_very_many_points_are_thinned_until_the_page_fits(small, monkeypatch):
    monkeypatch.setattr("normscope.report.page.LIMIT", 100_000)
    steps = tuple(range(600))
    series = tuple(Series(f"s{place}", "points", steps, tuple(float(y) for y in steps)) for place in range(2))
    verdict = dataclasses.replace(small.verdicts[0], figures=(Figure("t", "d", "x", "y", series),))
    text = render_study(dataclasses.replace(small, verdicts=(verdict,)))
    assert len(text.encode()) < 100_000
    assert text.count("<use") > 2 * 2 * 100
    assert "more rows stand in the record" in text


def test_an_empty_study_is_still_a_page():
    text = render_study(Study("Why?", "", "", "", {}, {}, ()))
    assert "No claim was tested." in text
    assert not Page(text).faults


def test_an_effect_without_an_interval_or_a_number_is_shown_as_such(study):
    lone = Effect("lone", 2.0, float("-inf"), float("inf"), 1.25, 1.0, "x", (2.0,), (1,))
    verdict = dataclasses.replace(study.verdicts[3], effect=lone, figures=())
    text = render_study(dataclasses.replace(study, verdicts=(verdict,)))
    assert "no interval" in text
    assert "nan" not in Page(text).all("body")[0]["text"].lower().replace("nanny", "")
    assert "inf]" not in text
