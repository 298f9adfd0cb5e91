import pytest
import torch

from normscope.model.given import Spec
from normscope.why import rates, registry
from normscope.why.claim import Plan, Task
from normscope.why.job import Results

TABULAR = """
import torch
from torch import nn

def make_model():
    hidden = [nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(12, 1))

def make_data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(160, 5, generator=generator)
    y = (x[:, :1] * 2 - x[:, 1:2] + 0.1 * torch.randn(160, 1, generator=generator))
    return [(x[:120], y[:120])], [(x[120:], y[120:])]

def make_shifted():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(80, 5, generator=generator)
    return [(x * 3 + 4, x[:, :1] * 2 - x[:, 1:2])]

def make_tokens():
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(20, (120, 4), generator=generator)
    return [(x, x[:, 0] % 2)], [(x, x[:, 0] % 2)]

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.norm, self.head = nn.Embedding(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.norm(self.table(x).mean(1)).relu())

def make_tokens_model():
    return Tokens()
"""
IMAGES = """
import torch
from torch import nn

def make_model():
    block = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2), nn.BatchNorm2d(6)]
    return nn.Sequential(*block, nn.ReLU(), nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))

def make_data():
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(150) % 3
    x = torch.randn(150, 1, 6, 6, generator=generator)
    x[:, 0, :, 0] += 3.0 * (y == 1)[:, None]
    x[:, 0, 0, :] += 3.0 * (y == 2)[:, None]
    return [(x, y)]
"""


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quick():
    return Plan("quick", (0, 1), (100,))


@pytest.fixture(scope="session")
def own_files(tmp_path_factory):
    """One place for the session, so that a search for rates is made once."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "tabular_net.py").write_text(TABULAR)
    (folder / "image_net.py").write_text(IMAGES)
    return folder


@pytest.fixture
def tabular(own_files):
    def make(shifted=False):
        file = own_files / "tabular_net.py"
        spec = Spec(f"{file}:make_model", f"{file}:make_data", shifted=f"{file}:make_shifted" if shifted else None)
        return Task(spec=spec, kind="regression", examples=120, classes=0, images=False, channels=5, layers=2, batch=16)

    return make


@pytest.fixture
def tokens(own_files):
    file = own_files / "tabular_net.py"
    spec = Spec(f"{file}:make_tokens_model", f"{file}:make_tokens")
    return Task(spec=spec, examples=120, classes=2, images=False, channels=4, layers=1, batch=16)


@pytest.fixture
def images(own_files):
    file = own_files / "image_net.py"
    spec = Spec(f"{file}:make_model", f"{file}:make_data")
    return Task(spec=spec, examples=112, classes=3, channels=1, layers=2, batch=16)


@pytest.fixture(scope="session")
def searched():
    return {}


@pytest.fixture
def conduct(searched):
    def do(task, job):
        if job.claim != rates.KEY:
            return registry.execute(task, job)
        key = (task.spec, job)
        if key not in searched:
            searched[key] = registry.execute(task, job)
        return searched[key]

    def run(claim, task, plan):
        results = Results()
        while todo := [job for job in dict.fromkeys(claim.plan(task, plan, results)) if not results.has(job)]:
            for job in todo:
                results.add(job, do(task, job))
        return results

    return run


@pytest.fixture
def fill():
    """Results with made-up numbers: each arm's best rate as named, the claim's numbers from a function."""

    def run(claim, task, plan, best, numbers):
        results = Results()
        while todo := [job for job in dict.fromkeys(claim.plan(task, plan, results)) if not results.has(job)]:
            for job in todo:
                if job.claim == rates.KEY:
                    found = [_curve(good=rate == best[job.arm.name]) for _, rate in job.members]
                else:
                    found = [numbers(job, seed, rate) for seed, rate in job.members]
                results.add(job, found)
        return results

    return run


def _curve(*, good):
    return {"step": [0, 10], "loss": [2.3, 0.1 if good else 1.0], "metric": [0.1, 0.95 if good else 0.5]}
