import json
import shutil

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from normscope.check.command import register
from normscope.errors import InputError
from normscope.records import CheckReport, from_json

TASK = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

def examples():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(960, 6, generator=generator)
    trained = model().eval()
    with torch.no_grad():
        trained[1].running_mean.copy_(trained[0](x).mean(0))
        trained[1].running_var.copy_(trained[0](x).var(0))
        return x, trained(x).argmax(1)

def data():
    x, y = examples()
    return DataLoader(TensorDataset(x[:640], y[:640]), 32), DataLoader(TensorDataset(x[640:], y[640:]), 32)

def serving():
    return [part * 3 + 1 for part in examples()[0].split(32)]

def accuracy(output, target):
    return (output.argmax(1) == target).double().mean()

def needs(width):
    return model()

def ragged():
    x, y = examples()
    rows = [(x[at, : 6 - at % 2], y[at]) for at in range(64)]
    return DataLoader(rows, 32)

def wide():
    return [(torch.randn(8, 9), torch.zeros(8, dtype=torch.int64))]
"""


@pytest.fixture
def task(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    scope = {}
    exec(TASK, scope)  # noqa: S102  (the text above)
    model = scope["model"]()
    with torch.no_grad():
        x = scope["examples"]()[0]
        model[1].running_mean.copy_(model[0](x).mean(0))
        model[1].running_var.copy_(40 * model[0](x).var(0))
        model[1].num_batches_tracked.fill_(50)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "stale.pt"
    )
    return tmp_path


def run(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    register(app)
    return CliRunner().invoke(app, [str(part) for part in arguments], catch_exceptions=True)


def test_a_checkpoint_is_fixed_and_then_clean(task):
    where = (f"{task}/task.py:model", "--data", f"{task}/task.py:data", "--max-forwards", 32)
    broken = run(
        "check",
        *where,
        "--checkpoint",
        task / "stale.pt",
        "--metric",
        f"{task}/task.py:accuracy",
        "--fix",
        task / "fixed.pt",
    )
    assert broken.exit_code == 1
    assert "BN001" in broken.output
    assert "metric" in broken.output
    clean = run("check", *where, "--checkpoint", task / "fixed.pt")
    assert clean.exit_code == 0, clean.output
    assert "no faults found" in clean.output
    again = run("check", *where, "--checkpoint", task / "fixed.pt", "--fix", task / "again.pt")
    assert "again.pt was not written: nothing that --fix mends" in again.output
    assert not (task / "again.pt").exists()


def test_a_checkpoint_alone(task):
    done = run("check", task / "stale.pt")
    assert done.exit_code == 0
    assert "a checkpoint with 1 batch-norm layer\n" in done.output
    state = torch.load(task / "stale.pt")
    state["state_dict"]["module.1.running_var"][3] = torch.nan
    torch.save(state, task / "nan.pt")
    assert run("check", task / "nan.pt").exit_code == 1


def test_formats(task):
    arguments = (
        "check",
        f"{task}/task.py:model",
        "--checkpoint",
        task / "stale.pt",
        "--data",
        f"{task}/task.py:data",
        "--max-forwards",
        32,
    )
    report = from_json(run(*arguments, "--format", "json").stdout, CheckReport)
    assert report.findings[0].code == "BN001"
    sarif = json.loads(run(*arguments, "--format", "sarif").stdout)
    (result, *_), place = sarif["runs"][0]["results"], {"uri": f"{task}/task.py"}
    assert result["ruleId"] == "BN001"
    assert result["locations"][0]["physicalLocation"] == {"artifactLocation": place, "region": {"startLine": 1}}
    assert run(*arguments, "--format", "html", "--out", task / "page.html").exit_code == 1
    page = (task / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "From train mode to eval mode, cause by cause" in page
    assert "http-equiv" in page


def test_a_checkpoint_without_the_counter_is_read_and_told(task):
    state = torch.load(task / "stale.pt")["state_dict"]
    del state["module.1.num_batches_tracked"]
    torch.save(state, task / "old.pt")
    done = run("check", f"{task}/task.py:model", "--checkpoint", task / "old.pt", "--select", "BN014")
    assert done.exit_code == 1
    assert "num_batches_tracked is 0 but the running statistics have moved" in done.output
    assert 'Seen as: Missing key(s) in state_dict: "bn1.num_batches_tracked".' in done.output


def test_a_layer_with_half_its_statistics_is_told(task):
    state = torch.load(task / "stale.pt")["state_dict"]
    state["module.more.running_mean"] = torch.zeros(3)
    torch.save(state, task / "half.pt")
    assert "not looked into: more, has running_mean without running_var" in run("check", task / "half.pt").output


def test_serving_data_without_labels(task):
    done = run(
        "check",
        f"{task}/task.py:model",
        "--data",
        f"{task}/task.py:data",
        "--serving-data",
        f"{task}/task.py:serving",
        "--select",
        "BN018",
    )
    assert done.exit_code == 1
    assert "BN018" in done.output


def test_rule_explains():
    done = run("rule", "bn002")
    assert done.exit_code == 0
    for words in ("Threshold:", "Fix:", "Expected more than 1 value per channel", "Source: Ioffe"):
        assert words in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected a network"),
        (("{task}/task.py:absent",), "'absent'"),
        (("{task}/task.py:needs",), "needs width"),
        (("{task}/none.pt",), "no such file"),
        (("{task}/task.py:model", "--checkpoint", "{task}/other.pt"), "its keys do not"),
        (("{task}/task.py:model", "--checkpoint", "{task}/code.pt"), "could run code"),
        (("{task}/task.py:model", "--loss", "{task}/task.py:accuracy"), "--data beside"),
        (("{task}/task.py:model", "--data", "{task}/task.py:accuracy"), "no arguments"),
        (
            ("{task}/task.py:model", "--data", "{task}/task.py:data", "--fix", "{task}/task.py"),
            "exists and is left as it is",
        ),
        (("{task}/task.py:model", "--data", "{task}/task.py:data", "--fix", "{task}/no/x.pt"), "does not exist"),
        (("{task}/task.py:model", "--select", "XX1"), "the code of a rule"),
        (("{task}/stale.pt", "--out", "{task}/stale.pt"), "--out to name a file of its own"),
        (("{task}/task.py:model", "--out", "{task}/task.py"), "--out to name a file of its own"),
        (("{task}/task.py:model", "--device", "abacus"), "--device"),
        (("{task}/stale.pt", "--fix", "{task}/out.pt"), "MODEL beside --data and --fix"),
        (("{task}/stale.pt", "--data", "{task}/task.py:data"), "MODEL beside --data and --fix"),
        (("{task}/text.pt",), "text.pt as a checkpoint of torch"),
        (("{task}/task.py:model", "--data", "{task}/task.py:ragged"), "the training data, batch by batch, raised"),
        (("{task}/task.py:model", "--data", "{task}/task.py:wide"), "the network, given input 0 [8, 9], raised"),
    ],
)
def test_bad_input_is_one_clear_line(task, arguments, words):
    torch.save(nn.Linear(2, 2).state_dict(), task / "other.pt")
    torch.save(nn.Linear(2, 2), task / "code.pt")
    (task / "text.pt").write_text("hello")
    done = run("check", *(part.format(task=task) for part in arguments))
    assert isinstance(done.exception, InputError)
    assert words in str(done.exception).splitlines()[0]


def test_a_full_disk_leaves_what_was_there(task, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    before = shutil.copy(task / "stale.pt", task / "copy.pt")
    monkeypatch.setattr("os.fsync", full)
    done = run(
        "check",
        f"{task}/task.py:model",
        "--checkpoint",
        task / "stale.pt",
        "--data",
        f"{task}/task.py:data",
        "--fix",
        task / "new.pt",
    )
    assert isinstance(done.exception, InputError)
    assert "No space left on device" in str(done.exception)
    assert not (task / "new.pt").exists()
    assert not list(task.glob(".new*"))
    assert torch.load(before)
