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
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import networks
import torch
import training
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn
from torch.optim.swa_utils import update_bn

from normscope.model.attach import before_forward
from normscope.model.find import find
from normscope.surgery.population import Population
from normscope.surgery.recalibrate import recalibrate

BATCHES, SEEDS, EPOCHS = 200, 20, 20
SHARES = (10, 4, 1)

HEAD = """# Recalibration against update_bn and fvcore

*Error*: of means and log deviations, in deviations, root mean square over channels, layers and {seeds} orders of the
data, against the exact statistics: all the data as one batch, in float64, dropout off, which is what the network is
deployed on. *Seconds*: median, one thread; other work on the machine lengthens them, so they are to be read as ratios.

## The example networks, on their own loaders

`examples/conv_images.py` (1200 images) and `examples/tabular_regression.py` (442 rows), trained for {epochs} epochs.
The exact statistics are those of the training set. fvcore's 200 batches go over it again and again: update_bn_stats
insists on as many as it is told, 200 by default.

| network | batch | method | images | error | seconds |
|---|---|---|---|---|---|"""

MIDDLE = """
{verdicts}

## More data than anybody passes through

12,800 images, of which 200 batches are a half or a sixteenth. *Sampling*: what theory gives for that many images drawn
at random without replacement, c sqrt(1/n - 1/N), behind layers whose statistics are exact; an estimate behind
statistics of the same images errs less, since each layer takes out again what the sample before it was off by.

| network | batch | method | images | error | sampling | seconds |
|---|---|---|---|---|---|---|"""

FOOT = """
update_bn and fvcore pass one mini-batch at a time, so every layer behind the first is measured on inputs that a
mini-batch's own noise normalized: an error that more images do not mend. recalibrate measures every layer behind
statistics of pools of up to 1,024 images. On the same images its error was the smaller on {smaller} of {rows} rows and
at worst {worst:.3f} times fvcore's.

Here a tenth of fvcore's images reached its error on {tenth} of {rows} rows, and that cannot be otherwise: where its
error is that of sampling, as with batches of 32, a tenth of the images has one about sqrt(10) times as large (here
{growth:.1f} times in the median), whatever is done with them. A tenth is enough where fvcore's error is the noise of
small batches upstream, or where its batches are the same images again, as above.

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
    update_bn(itertools.islice(batches, -(-images // batch)), model)


def by_fvcore(model, batches, count=BATCHES):
    model.train()
    update_bn_stats(model, (xs for xs, _ in batches), count)


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


class Table:
    """Measures methods on one network over several orders of its data, and prints a row for each."""

    def __init__(self, name, batch, model, truth, batches, theory=None):
        self.name, self.batch, self.model, self.truth = name, batch, model, truth
        self.batches, self.theory = batches, theory

    def row(self, label, apply, images=0):
        """Error of `apply(model, batches)`, which returns the images that it passed where they are not known."""
        errors, seconds, used = [], [], []
        for seed in range(SEEDS):
            twin, batches = copy.deepcopy(self.model), self.batches(seed)
            start = time.perf_counter()
            done = apply(twin, batches)
            seconds.append(time.perf_counter() - start)
            errors.append(error(twin, self.truth))
            used.append(images or getattr(done, "examples", done or 0))
        n = median(used)
        expected = [] if self.theory is None else [f"{self.theory(n):.4f}" if n else ""]
        cells = [self.name, self.batch, label, n or "", f"{rms(errors):.4f}", *expected, f"{median(seconds):.3f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        return rms(errors)

    def recalibrated(self, images):
        """The row of `recalibrate` over so many images."""
        exactly = {"tolerance": 1e-9, "max_examples": images, "inplace": True}
        return self.row("recalibrate", lambda m, b: recalibrate(m, b, **exactly))


@dataclass
class Row:
    """What one network and batch size gave: fvcore's error, ours by images, and fvcore's images."""

    other: float
    ours: dict[int, float]
    limit: int


def compare(name, batch, x, y):
    """One network and batch size of the benchmark of faults: every method on the same shuffled images."""
    model = training.healthy(name)
    limit = batch * BATCHES
    table = Table(name, batch, model, exact(model, x), lambda seed: loader(x, y, batch, seed), sampling(model, x))
    table.row("as trained", lambda *_: None)
    table.row("update_bn", lambda m, b: by_update_bn(m, b, limit, batch), limit)
    other = table.row("fvcore, 200 batches", by_fvcore, limit)
    ours = {limit // share: table.recalibrated(limit // share) for share in SHARES}
    table.row("recalibrate, default", lambda m, b: recalibrate(m, b, inplace=True))
    return Row(other, ours, limit)


def conv_example():
    """(name, batch, network, its training set, seed -> one pass of batches in a random order)."""
    import conv_images

    data = conv_images.make_data()[0].dataset
    x, y = data.tensors

    def batches(seed):
        return list(training.shuffled(x, y, conv_images.BATCH, torch.Generator().manual_seed(seed)))

    return "examples/conv_images", conv_images.BATCH, conv_images.make_model(), x, batches, nn.functional.cross_entropy


def tabular_example():
    """The same for the table; its own loader is a list of dicts in one order."""
    import tabular_regression

    rows = tabular_regression.make_data()
    x, y = (torch.cat([row[key] for row in rows]) for key in ("features", "target"))
    batch = tabular_regression.BATCH

    def batches(seed):
        return list(training.shuffled(x, y, batch, torch.Generator().manual_seed(seed)))

    return "examples/tabular_regression", batch, tabular_regression.make_model(), x, batches, nn.functional.mse_loss


def trained(model, batches, loss):
    """SGD with the rate falling to 0, a new order in each epoch."""
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(batches(0)))
    model.train()
    for epoch in range(EPOCHS):
        for x, y in batches(1000 + epoch):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
            schedule.step()
    return model


def example(make):
    """One example network: its rows, and fvcore's images and the fewest of ours that err no more, in words."""
    torch.manual_seed(0)
    name, batch, model, x, batches, loss = make()
    trained(model, batches, loss)
    table = Table(name, batch, model, exact(model, x), batches)
    looped = len(list(itertools.islice(_forever(batches(0)), BATCHES)))
    images = sum(len(part) for part, _ in itertools.islice(_forever(batches(0)), looped))
    table.row("as trained", lambda *_: None)
    table.row("update_bn, one pass", lambda m, b: by_update_bn(m, b, len(b) * batch, batch), len(x))
    table.row("fvcore, one pass", lambda m, b: by_fvcore(m, b, len(b)), len(x))
    other = table.row("fvcore, 200 batches", lambda m, b: by_fvcore(m, _forever(b)), images)
    ours = {n: table.recalibrated(n) for n in (len(x) // 8, len(x) // 4, len(x) // 2, len(x))}
    table.row("recalibrate, default", lambda m, b: recalibrate(m, b, inplace=True))
    enough = [n for n, value in ours.items() if value <= other]
    if not enough:
        return f"{name}: fvcore's error was not reached."
    share, ratio = min(enough) / images, ours[len(x)] / other
    return (
        f"{name}: fvcore passes {images} images; recalibrate errs no more with {min(enough)}, {share:.3f} of them."
        f" After one pass, {len(x)} images, its error is {ratio:.3f} of fvcore's.\n"
    )


def _forever(batches):
    """`batches` over and over."""
    return itertools.chain.from_iterable(itertools.repeat(batches))


def main():
    torch.set_num_threads(1)
    print(HEAD.format(seeds=SEEDS, epochs=EPOCHS))
    verdicts = [example(make) for make in (conv_example, tabular_example)]
    print(MIDDLE.format(verdicts="\n".join(verdicts)))
    x, y = population()
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
