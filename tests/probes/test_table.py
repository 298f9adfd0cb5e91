import json
import math

import pytest

from normscope.errors import InputError, RecordError
from normscope.probes.table import Table
from normscope.records import Measurement

ROWS = (
    Measurement("drift", "distance", "bn1", 0, 0.5, "deviations", 0.1, "saved by torch"),
    Measurement("drift", "distance", "bn2", 0, None),
    Measurement("gap", "difference", "", 1, 2.0),
)
TABLE = Table(ROWS, {"coupling": "needs loss="}, ("the network: 1 call(s)",))


def test_rows():
    assert len(TABLE) == 3
    assert [row["layer"] for row in TABLE] == ["bn1", "bn2", ""]
    assert TABLE[0]["value"] == 0.5


def test_a_slice_is_a_table_and_printed_it_is_text():
    assert [row["layer"] for row in TABLE[1:]] == ["bn2", ""]
    lines = repr(TABLE).splitlines()
    assert lines[0].split() == ["step", "probe", "layer", "quantity", "value", "expected", "unit"]
    assert lines[1].split() == ["0", "drift", "bn1", "distance", "0.5", "0.1", "deviations"]
    assert lines[4:] == ["not run: coupling (needs loss=)", "not seen: the network: 1 call(s)"]
    assert "... 940 more rows" in repr(Table(ROWS[:1] * 1000))


def test_select():
    assert [row["layer"] for row in TABLE.select(probe="drift")] == ["bn1", "bn2"]
    assert TABLE.select(probe="drift", layer="bn2").not_run == TABLE.not_run
    with pytest.raises(InputError, match="got kind"):
        TABLE.select(kind="drift")


def test_json_there_and_back():
    assert Table.from_json(TABLE.to_json()) == TABLE
    body = json.loads(TABLE.to_json())
    assert body["type"] == "Table"
    with pytest.raises(RecordError, match="not a whole record"):
        Table.from_json(TABLE.to_json()[:-20])


def test_pandas():
    frame = TABLE.to_pandas()
    assert list(frame.columns)[:3] == ["probe", "quantity", "layer"]
    assert frame.shape == (3, 8)
    assert math.isnan(frame.value[1])
    assert list(Table(()).to_pandas().columns) == list(frame.columns)


def test_without_pandas_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match=r"pip install 'normscope\[pandas\]'"):
        TABLE.to_pandas()


def test_page():
    page = TABLE.to_html("My network")
    assert "My network" in page
    assert "bn1" in page
    assert "Not run: coupling (needs loss=)" in page
    assert "Not seen: the network: 1 call(s)" in page
