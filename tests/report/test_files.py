import dataclasses
import re
import subprocess
import sys

import pytest

from normscope.errors import InputError, RecordError
from normscope.records import Measurement, to_json
from normscope.report import load_study, render_study, report, write_figures


@pytest.fixture
def record(small, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(to_json(small), encoding="utf-8")
    return path


def test_a_page_from_the_file_is_the_page_from_the_small(small, record, tmp_path):
    written = report(record)
    assert written == tmp_path / "run.html"
    text = written.read_text(encoding="utf-8")
    clean = render_study(load_study(record))
    assert text == clean
    assert small.question in text


def test_figures_come_as_svg_and_png_with_safe_names(small, record, tmp_path):
    written = report(record, tmp_path / "deep" / "page.html", tmp_path / "figures")
    count = sum(len(verdict.figures) for verdict in small.verdicts)
    assert written == tmp_path / "deep" / "page.html"
    assert len(list((tmp_path / "figures").glob("*.png"))) == count
    assert len(list((tmp_path / "figures").glob("*.svg"))) == count
    assert (tmp_path / "figures" / "01-mini-batch-noise-1.svg").read_text().startswith("<svg")


def test_a_claim_named_like_a_path_stays_in_the_folder(small, tmp_path):
    verdict = dataclasses.replace(small.verdicts[0], claim="../../escape")
    written = write_figures(dataclasses.replace(small, verdicts=(verdict,)), tmp_path / "f")
    assert {path.parent for path in written} == {tmp_path / "f"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*No such file"),
        (b"", "is not a whole record"),
        (b"{}", "is not a normscope record"),
        (b"[1, 2]", "is not a normscope record"),
        (b'{"normscope": 99, "type": "Study"}', "has schema 99, this normscope reads schema 1"),
        (b'{"normscope": 1, "type": "Study"}', "lacks a part of a Study"),
        (b"\xff\xfe\x00", "expected JSON text"),
    ],
)
def test_what_is_not_a_record_is_one_clear_line_and_nothing_is_written(tmp_path, content, message):
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match=message) as caught:
        report(path)
    assert "\n" not in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ([] if content is None else ["run.json"])


def test_a_record_cut_at_any_point_is_refused(record):
    text = record.read_bytes()
    for cut in range(1, len(text) - 1, len(text) // 23):
        record.write_bytes(text[:cut])
        with pytest.raises(RecordError):
            load_study(record)


def test_a_record_of_another_type_and_a_folder_are_refused(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(to_json(Measurement("p", "q", "l", 0, 1.0)))
    with pytest.raises(RecordError, match="holds a Measurement, expected a Study"):
        load_study(path)
    with pytest.raises(RecordError, match="cannot read"):
        load_study(tmp_path)


def test_the_page_never_overwrites_its_record(record):
    before = record.read_bytes()
    with pytest.raises(InputError, match="overwrite its own record"):
        report(record, record)
    assert record.read_bytes() == before


def test_a_page_that_cannot_be_written_is_one_clear_line(record):
    with pytest.raises(InputError, match="cannot write"):
        report(record, record / "page.html")


def test_a_page_is_rendered_without_torch(record, tmp_path):
    code = (
        "import sys; import normscope.report as r;"
        "assert not {'torch', 'matplotlib', 'jinja2', 'numpy'} & set(sys.modules), 'heavy';"
        f"r.report({str(record)!r}, {str(tmp_path / 'x.html')!r});"
        "assert 'torch' not in sys.modules;"
        "assert not [m for m in sys.modules if m.startswith(('normscope.why', 'normscope.probes', 'normscope.model'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert re.match("<!doctype html>", (tmp_path / "x.html").read_text(encoding="utf-8"))
