"""What a person gets wrong: one clear line, exit code 2, nothing half-written."""

import subprocess
import sys
import textwrap

import pytest

from normscope import cli
from normscope.why import study
from normscope.why.claim import Task
from normscope.why.inspect import inspect

_TASK = """
import warnings

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def make_model():
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

def no_norm():
    return nn.Linear(5, 3)

def wants(classes):
    return nn.Linear(5, classes)

def raises():
    raise RuntimeError("the disk with the weights is gone")

def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(make_model())

def small():
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

def loader(x, y):
    return DataLoader(TensorDataset(x, y), batch_size=16)

def make_data():
    g = torch.Generator().manual_seed(0)
    return loader(torch.randn(128, 5, generator=g), torch.randint(3, (128,), generator=g))

def empty():
    return []

def with_nan():
    x = torch.randn(64, 5); x[40, 2] = float("nan")
    return loader(x, torch.randint(3, (64,)))

def wrong_shape():
    return loader(torch.randn(64, 7), torch.randint(3, (64,)))

def one_class():
    return loader(torch.randn(64, 5), torch.zeros(64, dtype=torch.long))

def ragged():
    return [(torch.randn(8, 5), torch.zeros(8)), (torch.randn(8, 6), torch.zeros(8))]

def unlabelled():
    return [torch.randn(8, 5)]

def leaves():
    raise SystemExit("no licence")

def with_nan_weights():
    model = make_model()
    model[0].weight.data[0, 0] = float("nan")
    return model

class Functional(nn.Linear):
    def forward(self, x):
        return nn.functional.batch_norm(super().forward(x), None, None, training=True)

def functional():
    return Functional(5, 3)

def late_class():
    x, y = torch.randn(128, 5), torch.randint(3, (128,))
    y[100] = 9
    return loader(x, y)

def other_held_out():
    return make_data(), loader(torch.randn(64, 6), torch.randint(3, (64,)))

def more_classes_held_out():
    return make_data(), loader(torch.randn(64, 5), torch.arange(64) % 5)
"""

_CASES = [
    (["--model", "nowhere:make", "--data", "task.py:make_data"], "no module named 'nowhere'"),
    (["--model", "task.py:make_modle", "--data", "task.py:make_data"], "expected 'make_modle' in task.py"),
    (["--model", "task.py", "--data", "task.py:make_data"], "expected --model as 'pkg.module:name'"),
    (["--model", "task.py:raises", "--data", "task.py:make_data"], "RuntimeError: the disk with the weights is gone"),
    (["--model", "task.py:wants", "--data", "task.py:make_data"], "to take no arguments, it needs classes"),
    (["--model", "task.py:no_norm", "--data", "task.py:make_data"], "at least one batch-norm layer, found none"),
    (["--model", "task.py:scripted", "--data", "task.py:make_data"], "a ScriptModule runs outside Python"),
    (["--model", "task.py:make_model", "--data", "task.py:empty"], "to yield batches, came none"),
    (["--model", "task.py:make_model", "--data", "task.py:with_nan"], "has NaN or inf"),
    (["--model", "task.py:make_model", "--data", "task.py:wrong_shape"], "given input 0 [16, 7]"),
    (["--model", "task.py:make_model", "--data", "task.py:one_class"], "at least two classes"),
    (["--model", "task.py:make_model", "--data", "task.py:ragged"], "pad or crop"),
    (["--model", "task.py:make_model", "--data", "task.py:unlabelled"], "came a bare tensor"),
    (["--model", "task.py:small", "--data", "task.py:make_data"], "check the number of classes"),
    (["--model", "task.py:make_model", "--data", "task.py:make_data", "--device", "cuda:7"], "expected --device"),
    (["--model", "task.py:leaves", "--data", "task.py:make_data"], "raised SystemExit: no licence"),
    (["--model", "task.py:with_nan_weights", "--data", "task.py:make_data"], "expected a finite loss"),
    (["--model", "task.py:functional", "--data", "task.py:make_data"], "call(s) of functional batch norm"),
    (["--model", "task.py:make_model", "--data", "task.py:late_class"], "of the training data: Target 9"),
    (["--model", "task.py:make_model", "--data", "task.py:other_held_out"], "[16, 6] of the held-out data"),
    (["--model", "task.py:make_model", "--data", "task.py:more_classes_held_out"], "of the held-out data: Target"),
    (["--model", "task.py:make_model"], "--model and --data together"),
    (["--claims", "same-rnage"], "did you mean 'same-range'"),
    (["--out", "/proc/nothing"], "name another"),
    (["--loss", "task.py:loader"], "--model and --data beside"),
]


def _normscope(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "normscope", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("task")
    (path / "task.py").write_text(textwrap.dedent(_TASK))
    return path


def _is_refused(folder, returncode, error, expected):
    assert returncode == 2
    lines = [line for line in error.splitlines() if line.startswith("normscope: ")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert "Traceback" not in error
    assert not list(folder.rglob("run.json"))
    assert not list(folder.rglob("page.html"))


@pytest.mark.parametrize(("words", "expected"), _CASES, ids=[" ".join(words)[-40:] for words, _ in _CASES])
def test_wrong_input_is_one_line_and_exit_code_2(folder, words, expected, monkeypatch, capsys):
    """In this process: the look at the task is taken here, not in a worker, so that every case is cheap."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(study, "look", lambda options: inspect(Task(spec=options.spec)))
    claims = [] if "--claims" in words else ["--claims", "faster-optimization"]
    monkeypatch.setattr(sys, "argv", ["normscope", "why", "--effort", "quick", *claims, *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    _is_refused(folder, left.value.code, capsys.readouterr().err, expected)


def test_a_factory_that_raises_shows_its_own_frames_last(folder):
    """From the shell, through a worker: one line, then the frames of the factory alone."""
    done = _normscope(
        folder, "why", "--claims", "same-range", "--model", "task.py:raises", "--data", "task.py:make_data"
    )
    _is_refused(folder, done.returncode, done.stderr, "RuntimeError: the disk with the weights is gone")
    assert done.stderr.rstrip().endswith('raise RuntimeError("the disk with the weights is gone")')
    assert "site-packages" not in done.stderr


@pytest.mark.parametrize("text", ["", "{}", '{"normscope": 99, "type": "Study"}', '{"normscope": 1, "type": "Stu'])
def test_a_record_that_is_none_is_refused_and_no_page_written(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    done = _normscope(tmp_path, "report", "run.json")
    assert done.returncode == 2
    assert done.stderr.startswith("normscope: ")
    assert not list(tmp_path.glob("*.html"))


def test_help_names_every_command(tmp_path):
    done = _normscope(tmp_path, "--help")
    assert done.returncode == 0
    assert "why" in done.stdout
    assert "report" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["why", "--effort", "fast"], "'fast' is not one of"),
        (["why", "--seeds", "1"], "--seeds"),
        (["why", "--frobnicate"], "No such option: --frobnicate; see --help"),
        (["report"], "Missing argument"),
        (["claim", "same-rnage"], "did you mean 'same-range'"),
    ],
)
def test_wrong_options_are_one_line_too(words, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["normscope", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith("normscope: ")
    assert expected.lower() in error.lower()
    assert error.count("\n") == 1


def test_a_claim_says_what_it_states_before_it_runs(monkeypatch, capsys):
    for words, expected in ([], "same-range"), (["same-range"], "Refuted by: an interval below 0"):
        monkeypatch.setattr(sys, "argv", ["normscope", "claim", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
        assert expected in capsys.readouterr().out


def test_a_ctrl_c_before_anything_runs_is_one_line_too(monkeypatch, capsys):
    def interrupted(_options, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_why", interrupted)
    monkeypatch.setattr(sys, "argv", ["normscope", "why"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("normscope: stopped")
