"""Claim: on the same images recalibrate errs no more than fvcore and update_bn; where batches are small, far less.

Compares with torch.optim.swa_utils.update_bn (one epoch) and fvcore's update_bn_stats (its default of 200 batches) on
one loader. The error is that of each layer's mean and log deviation, in deviations, root mean square over channels and
layers, against the exact statistics: the whole population as one batch in float64, dropout off, which is what the
network is fed when it is deployed.

    pip install fvcore
    python benchmarks/recalibrate.py
"""

import copy
import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "faults"))

import networks
import torch
import training
from fvcore.nn.precise_bn import update_bn_stats
from torch.optim.swa_utils import update_bn

from normscope.model.attach import before_forward
from normscope.model.find import find
from normscope.surgery.recalibrate import recalibrate

BATCHES, SEEDS = 200, 3
SHARES = (10, 4, 2, 1)


def population(copies=10):
    """Every training digit ten times, shifted by up to a pixel and with noise: 12,800 images."""
    x, y = training.digits()[:2]
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(copies):
        shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
        parts.append(torch.roll(x, shift, (2, 3)) + 0.1 * torch.randn(x.shape, generator=generator))
    return torch.cat(parts), y.repeat(copies)


def exact(model, x):
    twin = copy.deepcopy(model).double().eval()
    layers = find(twin).layers
    for layer in layers:
        layer.module.train()
    found = {}

    def seen(layer, _module, value):
        rows = value.transpose(0, 1).flatten(1)
        found[layer.name] = (rows.mean(1), rows.var(1))

    with torch.no_grad(), before_forward(layers, seen):
        twin(x.double())
    return found


def error(model, truth):
    squares = []
    for layer in find(model).layers:
        mean, variance = truth[layer.name]
        live = variance > 1e-10
        off = (layer.module.running_mean.double() - mean) / variance.sqrt()
        log = 0.5 * (layer.module.running_var.double() / variance).log()
        squares += [off[live].square(), log[live].square()]
    return float(torch.cat(squares).mean().sqrt())


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def loader(x, y, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from training.shuffled(x, y, batch, generator)


def by_update_bn(model, batches, images, batch):
    model.train()
    update_bn(itertools.islice(batches, images // batch), model)


def by_fvcore(model, batches):
    model.train()
    update_bn_stats(model, (xs for xs, _ in batches), BATCHES)


def median(values):
    return sorted(values)[len(values) // 2]


def compare(name, batch, x, y):
    """One network and batch size: every method on the same shuffled images."""
    model = training.healthy(name)
    truth = exact(model, x)
    limit = batch * BATCHES

    def measure(label, images, apply):
        errors, seconds = [], []
        for seed in range(SEEDS):
            twin, batches = copy.deepcopy(model), loader(x, y, batch, seed)
            seconds.append(timed(lambda twin=twin, batches=batches: apply(twin, batches)))
            errors.append(error(twin, truth))
        print(
            f"{name:10} {batch:5} {label:22} {images or '':>6} {median(errors):8.4f} {median(seconds):8.3f}", flush=True
        )
        return median(errors)

    measure("before", 0, lambda *_: None)
    measure("update_bn", limit, lambda m, b: by_update_bn(m, b, limit, batch))
    other = measure("fvcore, 200 batches", limit, by_fvcore)
    ours = {}
    for share in SHARES:
        n = limit // share
        ours[n] = measure(
            "recalibrate", n, lambda m, b, n=n: recalibrate(m, b, tolerance=1e-9, max_examples=n, inplace=True)
        )
    measure("recalibrate, default", 0, lambda m, b: recalibrate(m, b, inplace=True))
    enough = min((n for n, off in ours.items() if off <= other), default=None)
    print(f"{name:10} {batch:5} images for fvcore's error: {enough} of its {limit}\n")


def main():
    torch.set_num_threads(1)
    x, y = population()
    print(f"{'network':10} {'batch':>5} {'method':22} {'images':>6} {'error':>8} {'seconds':>8}")
    for batch in (32, 4):
        for name in networks.ALL:
            compare(name, batch, x, y)


if __name__ == "__main__":
    main()
