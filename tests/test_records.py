import pytest

from normscope import records
from normscope.errors import InputError, RecordError

_EFFECT = records.Effect("a / b", 2.0, 1.5, 2.6, 1.25, 1.0, "x", (2.0, 2.1), (0, 1))
_FIGURE = records.Figure(
    "t", "d", "x", "y", (records.Series("s", "points", ("a", "b"), (1.0, None)),), (records.Mark("y", 1.0, "null"),)
)
_STUDY = records.Study(
    question="why?",
    network="n",
    data="d",
    command="normscope why",
    settings={"seeds": [0, 1]},
    versions={"torch": "2"},
    verdicts=(
        records.Verdict(
            "c",
            "T",
            "S",
            "supported",
            "sum",
            _EFFECT,
            (records.Regime("r", "supported", _EFFECT),),
            protocol=(("Arms", "a"),),
            figures=(_FIGURE,),
        ),
        records.Verdict("d", "T", "S", "not applicable", "because"),
    ),
    runs=(records.Run("k", "c", {"a": 1}, {"members": [1, 2]}, 0.5),),
)


def test_a_record_comes_back_as_it_was():
    assert records.from_json(records.to_json(_STUDY), records.Study) == _STUDY


def test_what_is_not_finite_becomes_null_and_stays_json():
    text = records.to_json(records.Measurement("p", "q", "l", 0, float("inf")))
    assert '"value": null' in text
    assert records.from_json(text, records.Measurement).value is None


@pytest.mark.parametrize("cut", [0, 1, 0.1, 0.5, 0.99])
def test_a_record_cut_anywhere_is_refused(cut):
    text = records.to_json(_STUDY)
    with pytest.raises(RecordError, match="not a whole record"):
        records.from_json(text[: int(cut * len(text)) if cut < 1 else cut], records.Study)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "not a normscope record"),
        ('{"normscope": 2, "type": "Study"}', "has schema 2"),
        ('{"normscope": 1, "type": "Run"}', "holds a Run, expected a Study"),
        ('{"normscope": 1, "type": "Study", "question": "?"}', "lacks a part"),
        ('{"normscope": 1, "type": "Study", "verdicts": 3}', "lacks a part"),
    ],
)
def test_other_records_are_refused_by_name(text, said):
    with pytest.raises(RecordError, match=said):
        records.from_json(text, records.Study)


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a" / "run.json"
    records.write_atomic(path, "one")
    assert path.read_text() == "one"

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        records.write_atomic(path, "two")
    assert path.read_text() == "one"
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]
