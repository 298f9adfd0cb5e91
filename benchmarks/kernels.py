"""Claim: on a CPU, batch norm, alone or with ReLU and a residual, is faster than torch's in every layout and dtype.

    python benchmarks/kernels.py --out kernels.json        measure (two threads, ResNet-50's shapes at batch 32)
    python benchmarks/kernels.py --show kernels.json       print the table of a measurement

Before anything is timed, outputs and gradients are held against float64; a wrong kernel is not timed. Torch and ours
alternate in one loop with a copy of the same bytes, which gives the share of the bandwidth limit; medians of the
ratios between neighbours in that loop are reported, and their geometric mean over the shapes. Run it on a quiet
machine: a busy one shares memory bandwidth out and makes threads wait for each other. With
MALLOC_MMAP_THRESHOLD_=4294967296 and MALLOC_TRIM_THRESHOLD_=4294967296 in the environment the heap is reused; without,
outputs of 32 MiB and more are fresh.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import normscope
from normscope.ops import functional, reference

SHAPES = [
    (64, 112), (64, 56), (256, 56), (128, 56), (128, 28), (512, 28),
    (256, 28), (256, 14), (1024, 14), (512, 14), (512, 7), (2048, 7),
]  # fmt: skip
COLUMNS = ("forward", "backward", "BN+ReLU f+b", "BN+add+ReLU f+b")


class Setting:
    """The tensors of one shape, and the two ways to compute on them."""

    def __init__(self, channels: int, side: int, batch: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (batch, channels, side, side)
        self.x, self.residual, self.dy = (
            torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout) for _ in range(3)
        )
        self.weight, self.bias = torch.ones(channels), torch.zeros(channels)
        self.leaves = [v.requires_grad_() for v in (self.x, self.weight, self.bias, self.residual)]
        self.mean, self.var = torch.zeros(channels), torch.ones(channels)
        self.copy = torch.empty_like(self.x)

    def theirs(self, relu: bool, add: bool) -> Tensor:
        """Torch eager, in place where its users write it so."""
        y = F.batch_norm(self.x, self.mean, self.var, self.weight, self.bias, training=True)
        if add:
            y += self.residual
        return F.relu(y, inplace=add) if relu else y

    def ours(self, relu: bool, add: bool) -> Tensor:
        """The fused call."""
        epilogue = functional.Epilogue("relu" if relu else "none", 0.0, self.residual if add else None)
        return functional.train(self.x, self.weight, self.bias, 1e-5, epilogue)[0]

    def gate(self) -> None:
        """Raise unless ours is as right as torch or within 2 ulp of float64, of the largest value."""
        x, weight, bias = (value.detach().double().requires_grad_() for value in self.leaves[:3])
        exact = reference.train(x, weight, bias, 1e-5)[0]
        want = [exact, *torch.autograd.grad(exact, (x, weight, bias), self.dy.double())]
        errors = []
        for run in (self.theirs, self.ours):
            y = run(relu=False, add=False)
            got = [y, *torch.autograd.grad(y, self.leaves[:3], self.dy)]
            errors.append([float((g.double() - w).abs().max()) for g, w in zip(got, want, strict=True)])
        ulp = torch.finfo(self.x.dtype).eps
        for torchs, mine, value in zip(*errors, want, strict=True):
            if not mine <= max(torchs, 2 * ulp * float(value.abs().max())):
                raise SystemExit(f"not timed: error {mine:.2g} on {list(self.x.shape)}, torch's is {torchs:.2g}")


def clocked(setting: Setting, run: Any, relu: bool, add: bool) -> tuple[float, float]:
    """Seconds of the forward and of the backward."""
    start = time.perf_counter()
    y = run(relu, add)
    middle = time.perf_counter()
    torch.autograd.grad(y, setting.leaves if add else setting.leaves[:3], setting.dy)
    return middle - start, time.perf_counter() - middle


def measure(setting: Setting, repeats: int) -> dict[str, Any]:
    """Ratios, spread, and shares of the copy's speed for one shape."""
    ratios: dict[str, list[float]] = {column: [] for column in COLUMNS}
    shares: dict[str, list[float]] = {"forward": [], "backward": []}
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with torch.no_grad():
            setting.copy.copy_(setting.x)
        copy = time.perf_counter() - start
        for column, options in (("", (False, False)), (COLUMNS[2], (True, False)), (COLUMNS[3], (True, True))):
            theirs = clocked(setting, setting.theirs, *options)
            mine = clocked(setting, setting.ours, *options)
            if column:
                ratios[column].append(sum(theirs) / sum(mine))
                continue
            for index, part in enumerate(("forward", "backward")):
                ratios[part].append(theirs[index] / mine[index])
                shares[part].append((1, 1.5)[index] * copy / mine[index])
    return {
        "ratio": {name: statistics.median(values[1:]) for name, values in ratios.items()},
        "spread": {name: [min(values[1:]), max(values[1:])] for name, values in ratios.items()},
        "share": {name: statistics.median(values[1:]) for name, values in shares.items()},
    }


def table(record: dict[str, Any]) -> str:
    """The measurement as a Markdown table of geometric means."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, shapes in record["results"].items():
        means = [
            math.exp(statistics.fmean(math.log(entry["ratio"][column]) for entry in shapes.values()))
            for column in COLUMNS
        ]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, or show a measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--show", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", default="", help="f32 contiguous, f32 channels_last, bf16 contiguous or bf16 channels_last"
    )
    options = parser.parse_args()
    if options.show:
        print(table(json.loads(options.show.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(options.threads)
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    dtypes = {"f32": torch.float32, "bf16": torch.bfloat16}
    results: dict[str, dict[str, Any]] = {}
    for name in [f"{d} {la}" for d in dtypes for la in layouts]:
        if options.only not in ("", name):
            continue
        dtype, layout = name.split()
        results[name] = {}
        for channels, side in SHAPES:
            setting = Setting(channels, side, options.batch, dtypes[dtype], layouts[layout])
            setting.gate()
            results[name][f"{channels}x{side}"] = measure(setting, options.repeats)
    record = {
        "torch": torch.__version__,
        "normscope": normscope.__version__,
        "backend": str(normscope.backend(torch.ones(2, 2))),
        "threads": options.threads,
        "batch": options.batch,
        "heap": "reused" if os.environ.get("MALLOC_MMAP_THRESHOLD_") else "default",
        "results": results,
    }
    print(table(record))
    if options.out:
        options.out.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
