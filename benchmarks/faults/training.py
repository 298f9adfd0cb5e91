"""The embedded digits, and training as it should be: shuffled, with the rate falling to 0."""

import functools
import math
from dataclasses import dataclass

import networks
import torch
from sklearn.datasets import load_digits
from torch import nn

BATCH = 32


@functools.cache
def digits():
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = (x[order] - x.mean()) / x.std(), y[order]
    return x[:1280], y[:1280], x[1280:], y[1280:]


@dataclass
class Loader:
    """Batches in a fixed order; knows its data set and batch size, as torch's loader does."""

    x: torch.Tensor
    y: torch.Tensor
    batch_size: int = BATCH
    drop_last: bool = False

    @property
    def dataset(self):
        return self.x

    def __iter__(self):
        for x, y in zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True):
            if not (self.drop_last and len(x) < self.batch_size):
                yield x, y


def loader(x=None, y=None, **options):
    if x is None:
        x, y = digits()[:2]
    return Loader(x, y, **options)


def held_out(batch_size=64):
    return loader(*digits()[2:], batch_size=batch_size)


def shuffled(x, y, batch, generator):
    for index in torch.randperm(len(x), generator=generator).split(batch):
        yield x[index], y[index]


def train(model, epochs=8.0, rate=0.1, *, batch=BATCH, seed=0, data=None, decay=True, step=None, optimizer=None):
    """Train with SGD and a cosine; `step(model, x, y, optimizer)` runs one step where it is not the usual one."""
    x, y = data or digits()[:2]
    generator = torch.Generator().manual_seed(seed)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), rate, momentum=0.9, nesterov=True)
    total = math.ceil(epochs * len(x) / batch)
    model.train()
    at = 0
    while at < total:
        for xs, ys in shuffled(x, y, batch, generator):
            if at >= total or len(xs) < min(2, batch):
                break
            if decay:
                for group in optimizer.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * at / total))
            (step or usual)(model, xs, ys, optimizer)
            at += 1
    return model


def usual(model, x, y, optimizer):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def fresh(name, seed=0):
    torch.manual_seed(seed)
    return networks.ALL[name]()


@functools.cache
def _healthy(name, seed):
    return train(fresh(name, seed), seed=seed)


def healthy(name, seed=0):
    """A copy of a properly trained network."""
    import copy

    return copy.deepcopy(_healthy(name, seed))


def accuracy(model):
    x, y = digits()[2:]
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).double().mean())
