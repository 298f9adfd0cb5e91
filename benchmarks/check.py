"""Claim: check keeps the forward passes that it says beforehand and, within 10 %, their time; a checkpoint takes < 1 s.

Time is what is left when it is told, after the first few passes, in processor time of one thread, which other work on
the machine hardly lengthens; the wall clock stands beside it. The checkpoint is one of 50 batch-norm layers with 25
million parameters, looked at by a fresh process.

    pip install transformers
    python benchmarks/check.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "faults"))

import public
import torch
import training
from torch import nn

from normscope.check import clock, run
from normscope.check.rule import chosen

REPEATS = 9
HEAD = """| network | forward passes said | made | seconds left, said | taken | taken / said | wall |
|---|---|---|---|---|---|---|"""


def networks():
    """(name, network, training batches, held-out batches, bound on the gap's split)."""
    x, y = training.digits()[:2]
    for name in ("mlp", "conv", "resnet"):
        yield name, training.healthy(name), training.loader(x, y), training.held_out(), None
    wide, y = public.images(0, 32)
    far = public.batches(*public.images(2, 32), size=64)
    for name, size in (("resnet bottleneck", 32), ("mobilevitv2", 32)):
        yield f"transformers {name}", public.network(name), public.batches(wide[:640], y[:640], size), far, 100


def said_and_taken(model, data, held_out, limit):
    """Passes said and made, and the seconds left when time is told: said, taken, by the wall clock; of one check."""
    subject = run.gathered(model, data, held_out=held_out, max_forwards=limit)
    rules = tuple(chosen())
    told = []

    def seconds(evidence, passes):
        told.extend([clock.seconds(evidence, passes, time.process_time), time.process_time(), time.perf_counter()])
        return told[0]

    run.seconds = seconds
    report = run.examine(subject, rules, lambda _: None)
    said, processor, wall = told
    return report.planned, report.forwards, said, time.process_time() - processor, time.perf_counter() - wall


def checkpoint():
    """Seconds beyond `import torch, normscope`, median of fresh processes."""
    layers = []
    for _ in range(50):
        layers += [nn.Conv2d(236, 236, 3, bias=False), nn.BatchNorm2d(236)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(nn.Sequential(*layers).state_dict(), path)
        code = "import time, torch, normscope; start = time.perf_counter()\n"
        look = "from normscope.cli import main\nimport sys\nsys.argv = ['normscope', 'check', sys.argv[1]]\n"
        end = "try:\n    main()\nfinally:\n    print(time.perf_counter() - start, file=sys.stderr)"
        runs = [
            subprocess.run([sys.executable, "-c", code + look + end, path], capture_output=True, text=True, check=False)
            for _ in range(REPEATS)
        ]
    took = [float(one.stderr.split()[-1]) for one in runs]
    parameters = sum(value.numel() for layer in layers for value in layer.parameters())
    return len(layers) // 2, parameters, statistics.median(took), max(took)


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    public.tf.logging.set_verbosity_error()
    print(HEAD)
    for name, model, data, held_out, limit in networks():
        said_and_taken(model, data, held_out, limit)
        rows = [said_and_taken(model, data, held_out, limit) for _ in range(REPEATS)]
        planned, made, said, taken, wall = (statistics.median(part) for part in zip(*rows, strict=True))
        ratios = sorted(row[3] / row[2] for row in rows)
        spread = f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"
        print(f"| {name} | {planned} | {made} | {said:.2f} | {taken:.2f} | {spread} | {wall:.2f} |", flush=True)
    layers, parameters, took, most = checkpoint()
    print(
        f"\nA checkpoint of {layers} layers and {parameters:,} parameters: {took:.2f} s beyond the import of torch and"
        f" normscope, at most {most:.2f} s of {REPEATS}."
    )


if __name__ == "__main__":
    main()
