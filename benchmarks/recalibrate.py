"""Claim: on the same images recalibrate errs no more than fvcore and update_bn; where batches are small, far less.

Compares with torch.optim.swa_utils.update_bn (one epoch) and fvcore's update_bn_stats (its default of 200 batches) on
one loader, in a Markdown table. The error is that of each layer's mean and log deviation, in deviations, root mean
square over channels, layers and orders of the data, against the exact statistics: the whole population as one batch in
float64, dropout off, which is what the network is fed when it is deployed. Beside it stands what sampling theory gives
for as many images drawn at random without replacement, c sqrt(1/n - 1/N), for each layer by itself.

    pip install fvcore
    python benchmarks/recalibrate.py > docs/recalibration.md
"""

import copy
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "faults"))

import networks
import torch
import training
from fvcore.nn.precise_bn import update_bn_stats
from torch.optim.swa_utils import update_bn

from normscope.model.attach import before_forward
from normscope.model.find import find
from normscope.surgery.population import Population
from normscope.surgery.recalibrate import recalibrate

BATCHES, SEEDS = 200, 5
SHARES = (10, 4, 1)

HEAD = """# Recalibration against update_bn and fvcore

The exact statistics are those of 12,800 images as one batch, in float64, dropout off: what the network is deployed on.
*Error*: of means and log deviations, in deviations, root mean square over channels, layers and 5 orders of the data.
*Sampling*: what theory gives for that many images drawn at random without replacement, c sqrt(1/n - 1/N), behind layers
whose statistics are exact; an estimate behind statistics of the same images errs less, since each layer takes out again
what the sample before it was off by. *Seconds*: median, one thread, on a machine with other work: to be read as ratios.

| network | batch | method | images | error | sampling | seconds |
|---|---|---|---|---|---|---|"""

FOOT = """
update_bn and fvcore pass one mini-batch at a time, so every layer behind the first is measured on inputs that a
mini-batch's own noise normalized: an error that more images do not mend. recalibrate measures every layer behind
statistics of pools of up to 1,024 images. On the same images its error was the smaller on {smaller} of {rows} rows and
at worst {worst:.2f} times fvcore's.

fvcore's error was reached with a tenth of its images on {tenth} of {rows} rows only, and that cannot be otherwise:
where its error is that of sampling, as with batches of 32, a tenth of the images has one about sqrt(10) times as large
(here {growth:.1f} times in the median), whatever is done with them. A tenth is enough where fvcore's
error is the noise of small batches upstream.

Made by

    pip install fvcore
    python benchmarks/recalibrate.py > docs/recalibration.md
"""


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


def rms(values):
    return (sum(value * value for value in values) / len(values)) ** 0.5


def sampling(model, x):
    """Images -> what the mean and log deviation of as many random images err by, as `error` averages them."""
    layers = find(model).layers
    population = Population(model, layers)
    for raw in population.pools(x.split(1024)):
        population.add(raw)
    pulls = []
    for sample in population.samples.values():
        live = sample.moments.variance("biased") > 1e-10
        pulls += [part[live] for part in sample.per_batch]
    each = float(torch.cat(pulls).mean())
    return lambda images: (each * (1 / images - 1 / len(x))) ** 0.5


@dataclass
class Row:
    """What one network and batch size gave: fvcore's error, ours by images, and fvcore's images."""

    other: float
    ours: dict[int, float]
    limit: int


def compare(name, batch, x, y):
    """One network and batch size: every method on the same shuffled images."""
    model = training.healthy(name)
    truth, theory = exact(model, x), sampling(model, x)
    limit = batch * BATCHES

    def measure(label, images, apply):
        errors, seconds, used = [], [], []
        for seed in range(SEEDS):
            twin, batches = copy.deepcopy(model), loader(x, y, batch, seed)
            start = time.perf_counter()
            done = apply(twin, batches)
            seconds.append(time.perf_counter() - start)
            errors.append(error(twin, truth))
            used.append(images or getattr(done, "examples", 0))
        n = median(used)
        expected = f"{theory(n):.4f}" if n else ""
        print(
            f"| {name} | {batch} | {label} | {n or ''} | {rms(errors):.4f} | {expected} | {median(seconds):.3f} |",
            flush=True,
        )
        return rms(errors)

    measure("as trained", 0, lambda *_: None)
    measure("update_bn", limit, lambda m, b: by_update_bn(m, b, limit, batch))
    other = measure("fvcore, 200 batches", limit, by_fvcore)
    ours = {}
    for share in SHARES:
        n = limit // share
        ours[n] = measure(
            "recalibrate", n, lambda m, b, n=n: recalibrate(m, b, tolerance=1e-9, max_examples=n, inplace=True)
        )
    measure("recalibrate, default", 0, lambda m, b: recalibrate(m, b, inplace=True))
    return Row(other, ours, limit)


def main():
    torch.set_num_threads(1)
    x, y = population()
    print(HEAD)
    rows = [compare(name, batch, x, y) for batch in (32, 4) for name in networks.ALL]
    ratios = [row.ours[row.limit] / row.other for row in rows]
    print(
        FOOT.format(
            rows=len(rows),
            smaller=sum(ratio < 1 for ratio in ratios),
            worst=max(ratios),
            tenth=sum(row.ours[row.limit // 10] <= row.other for row in rows),
            growth=median([row.ours[row.limit // 10] / row.ours[row.limit] for row in rows]),
        )
    )


if __name__ == "__main__":
    main()
