from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def make_task(model=None, examples=24):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(examples, 1, 5, 5, generator=generator)
    y = torch.randint(3, (examples,), generator=generator)
    model = make_net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    task = SimpleNamespace(model=model, x=x, y=y, optimizer=optimizer)
    task.loss = lambda: nn.functional.cross_entropy(model(task.x), task.y)
    task.run = lambda: model(task.x)
    for _ in range(3):
        optimizer.zero_grad()
        task.loss().backward()
        optimizer.step()
    return task


def snapshot(task):
    """Everything that a probe could leave changed, as copies."""
    model = task.model
    return copy.deepcopy(
        {
            "state": model.state_dict(),
            "grads": [p.grad for p in model.parameters()],
            "requires": [p.requires_grad for p in model.parameters()],
            "flags": [m.training for m in model.modules()],
            "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
            "buffers": [sorted(m._buffers) for m in model.modules()],
            "optimizer": task.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
    )


def identities(task):
    parts = (task.model.parameters(), task.model.buffers(), (p.grad for p in task.model.parameters()))
    return [id(tensor) for part in parts for tensor in part]


def same(left, right):
    """Bit for bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.fixture
def net():
    return make_net()


@pytest.fixture
def task():
    return make_task()


@pytest.fixture
def new_task():
    return make_task


@pytest.fixture
def looks():
    """`take(task)` copies everything that a probe could leave changed; `same` compares two of them."""
    return SimpleNamespace(take=snapshot, same=same)


@pytest.fixture
def unchanged(task):
    """Fails the test unless the network, the optimizer and the generators end as they began."""
    before, held = snapshot(task), identities(task)
    yield
    assert same(snapshot(task), before)
    assert identities(task) == held
