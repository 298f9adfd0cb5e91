"""The first look finds what a study needs to know, and leaves nothing changed."""

import dataclasses
import textwrap

import pytest

from normscope.model.given import Spec
from normscope.model.spec import load_data
from normscope.ops import cpu
from normscope.why import inspect, study
from normscope.why.claim import Task

_TASK = """
import torch
from torch import nn

class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.25))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = self.inner(x).mean((2, 3))
        h = nn.functional.batch_norm(h, None, None, training=True)
        return self.head(h)

def images():
    return Functional()

def table():
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))

def image_data():
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 3, 6, 6, generator=g), torch.randint(3, (16,), generator=g)) for _ in range(5)]

def table_data():
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(20, 5, generator=g), torch.randn(20, generator=g)) for _ in range(5)]
"""


@pytest.fixture
def look(tmp_path):
    file = tmp_path / "task.py"
    file.write_text(textwrap.dedent(_TASK))

    def do(model, data, **others):
        return inspect.inspect(Task(spec=Spec(f"{file}:{model}", f"{file}:{data}", **others)))

    return do


def test_a_network_of_images_is_described_and_what_cannot_be_seen_is_named(look):
    task = look("images", "image_data")
    assert (task.kind, task.classes, task.channels, task.images) == ("classification", 3, 3, True)
    assert (task.layers, task.batch, task.examples) == (1, 16, 60)
    assert task.largest_dropout == 0.25
    assert "functional batch norm" in task.notes[0]
    assert task.step_seconds["own"] > 0


def test_a_table_is_a_regression(look):
    task = look("table", "table_data")
    assert (task.kind, task.classes, task.images, task.batch) == ("regression", 0, False, 20)
    assert task.notes == ()


def test_the_fingerprint_is_that_of_network_and_data(look, tmp_path):
    first = look("table", "table_data").fingerprint
    assert look("table", "table_data").fingerprint == first
    (tmp_path / "other.py").write_text(textwrap.dedent(_TASK).replace("nn.ReLU()", "nn.Tanh()"))
    place = tmp_path / "other.py"
    changed = inspect.inspect(Task(spec=Spec(f"{place}:table", f"{place}:table_data")))
    assert changed.fingerprint != first


def test_the_salt_changes_with_the_task_and_not_with_its_timing():
    task = Task(fingerprint="a", step_seconds={"mlp6": 1.0})
    assert study.salt(task) == study.salt(dataclasses.replace(task, step_seconds={"mlp6": 2.0}))
    assert study.salt(task) != study.salt(dataclasses.replace(task, fingerprint="b"))
    assert study.salt(task) != study.salt(dataclasses.replace(task, kernels="x86_64_v3, build 0"))
    assert {"torch", "normscope", "kernels", "processor"} <= set(study.versions(task))
    assert "accelerator" not in study.versions(task)
    there = dataclasses.replace(task, accelerator="a card")
    assert study.versions(there)["accelerator"] == "a card"
    assert study.salt(there) != study.salt(task)


def test_embedded_networks_are_timed():
    task = inspect.inspect(Task())
    assert set(task.step_seconds) == {"mlp2", "mlp6", "conv"}
    assert task.kernels == cpu.EXTENSION.identity
    assert "1797" in task.data


def test_what_a_factory_draws_from_numpy_or_python_is_the_same_in_every_process(tmp_path):
    file = tmp_path / "drawn.py"
    file.write_text(
        "import random\nimport numpy as np\nimport torch\nfrom torch import nn\n"
        "def model():\n    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))\n"
        "def data():\n    x = torch.from_numpy(np.random.randn(100, 5)).float()\n"
        "    return [(x, torch.tensor([random.random() for _ in range(100)]))]\n"
    )
    spec = Spec(f"{file}:model", f"{file}:data")
    once, again = (load_data(spec)[0].fingerprint() for _ in range(2))
    assert once == again


def test_a_reader_is_told_where_examples_were_left_out(look, monkeypatch):
    monkeypatch.setattr("normscope.model.spec.LIMIT", 50)
    task = look("table", "table_data")
    assert task.notes == ("only the first 50 examples of the training data are used",)
