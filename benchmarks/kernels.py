"""Claim: on a CPU, batch norm, alone or with ReLU and a residual, is faster than torch's in every layout and dtype.

    python benchmarks/kernels.py                   measure everything and write benchmarks/results/kernels.json
    python benchmarks/kernels.py --list            the parts it consists of
    python benchmarks/kernels.py --part small      one of them, merged into that file
    python benchmarks/kernels.py --memory 62       count of the layers only what was measured at 62 GB/s
    python benchmarks/kernels.py --render          put the file's tables into README.md
    python benchmarks/kernels.py --spread          show them with the quartiles of the repetitions

Before anything is timed, outputs and gradients are held against float64; a wrong kernel is not timed. Torch and ours
alternate in one loop with a pass that reads and writes the same bytes once, which gives the share of the bandwidth
limit; each is called twice and the second call is timed, so that none pays for what another left in the caches. The
medians of the ratios between neighbours in that loop are reported, and their geometric mean over ResNet-50's shapes at
batch 32. Whole networks and torch.compile are measured in pairs (`speed/pairs.py`), of which those count during which
nothing else ran. Every part runs in a process of its own, on two threads: 'reused' with an allocator that keeps its
heap, 'default' with glibc's own, which hands outputs of 32 MiB and more back to the system. A busy machine shares
memory bandwidth out, so run it on a quiet one; where that comes and goes, `--memory` waits for it: of the layers, what
was measured counts if a copy of 96 MiB reads and writes at that rate right before and right after.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "kernels.json"
README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- speed: python benchmarks/kernels.py --render -->", "<!-- end of speed -->"
SIDES = ("contiguous", "channels_last")
SETTINGS = [f"{dtype} {layout}" for dtype in ("f32", "bf16") for layout in SIDES]
NAMES = ("ResNet-18", "MobileNetV2", "DenseNet")
PARTS = (
    *(f"{heap} {setting}" for heap in ("reused", "default") for setting in SETTINGS),
    *(f"{name} {layout}" for name in NAMES for layout in SIDES),
    "compile",
    "small",
)
# Outputs from this size on come as fresh pages from glibc's allocator.
FRESH = 32


def measured(part: str, repeats: int, floor: float) -> dict[str, Any]:
    """The numbers of one part, in this process."""
    import torch
    from speed import layers, networks

    torch.set_num_threads(2)
    if part == "compile":
        return layers.compiled(repeats)
    if part == "small":
        return layers.small(repeats)
    first, *rest = part.split()
    return networks.network(first, rest[0], repeats) if first in NAMES else layers.layers(*rest, repeats, floor)


def run(part: str, repeats: int, floor: float) -> None:
    """One part in a process of its own, whose allocator is the part's."""
    environment = dict(os.environ)
    if part.startswith("reused"):
        environment |= {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
    words = [sys.executable, __file__, "--here", part, "--repeats", str(repeats), "--memory", str(floor)]
    with tempfile.TemporaryDirectory() as folder:
        environment["TORCHINDUCTOR_CACHE_DIR"] = folder  # seconds to compile are those of the first time
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    keep(part, json.loads(done.stdout.splitlines()[-1]))


def keep(part: str, numbers: dict[str, Any]) -> None:
    """Merge a part into the file, beside what its numbers depend on."""
    import torch

    import normscope
    from normscope.ops import cpu

    record = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"parts": {}}
    versions = {"normscope": normscope.__version__, "torch": torch.__version__, "kernels": cpu.EXTENSION.identity}
    record["parts"][part] = {"versions": versions, "numbers": numbers}
    record["machine"] = {"processor": processor(), "system": platform.platform(), "threads": 2, "batch": 32}
    record["parts"] = {name: record["parts"][name] for name in PARTS if name in record["parts"]}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    """The processor's model and the kernels' level; a virtual one's name leaves out which generation it is."""
    from normscope.ops import cpu
    from normscope.why import study

    family = study.cpuinfo("cpu family")
    model = study.processor() + (f" (family {family})" if family else "")
    return f"{model}, {os.cpu_count()} cores, {cpu.EXTENSION.levels[0]}"


def geometric(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def rows(parts: dict[str, Any], name: str, chosen: Callable[[dict[str, Any]], bool], *, spread: bool = False) -> str:
    """Ratios, in brackets shares of the limit or geometric means of the shapes' quartiles; then what memory gave."""
    shapes = [shape for shape in parts[name]["numbers"].values() if chosen(shape)]
    cells = []
    for column in shapes[0]["ratio"]:
        share = [shape["share"][column] for shape in shapes if column in shape["share"]]
        percent = f" ({100 * geometric(share):.0f} %)" if share else ""
        if spread:
            low, high = (geometric([shape["spread"][column][end] for shape in shapes]) for end in (0, 1))
            percent = f" [{low:.2f}, {high:.2f}]"
        cells.append(f"{geometric([shape['ratio'][column] for shape in shapes]):.2f}{percent}")
    large = [shape["GB/s"] for shape in parts[name]["numbers"].values() if shape["MiB"] >= FRESH]
    floor = shapes[0]["floor"]
    return " | ".join([*cells, f"{geometric(large):.0f}" + (f" (at least {floor:g})" if floor else "")])


def step(parts: dict[str, Any], name: str, layout: str) -> str:
    """A network's ratio and its spread."""
    if f"{name} {layout}" not in parts:
        return "not measured"
    found = parts[f"{name} {layout}"]["numbers"]
    return f"{found['ratio']:.2f} [{found['spread'][0]:.2f}, {found['spread'][1]:.2f}]"


def tables(record: dict[str, Any], *, spread: bool = False) -> str:
    """Everything that was measured, as Markdown; with quartiles instead of shares where `spread` is asked for."""
    parts = record["parts"]
    brackets = (
        "quartiles of the repetitions"
        if spread
        else "share of what one pass over the same bytes reaches; channels_last must read them twice, which leaves"
        " 67 % of a forward and 60 % of a backward where no cache holds them"
    )
    title = (
        f"Times faster than torch eager (in brackets: {brackets}), training,"
        f" geometric mean over ResNet-50's shapes; beside them what one pass over {FRESH} MiB and more gave meanwhile;"
        f" {record['machine']['processor']}, two threads:"
    )
    lines = [
        title,
        "",
        "| | forward | backward | BN+ReLU f+b | BN+add+ReLU f+b | memory, GB/s |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {s} | {rows(parts, f'reused {s}', lambda _: True, spread=spread)} |"
        for s in SETTINGS
        if f"reused {s}" in parts
    ]
    for heap in ("reused", "default"):
        words = f"outputs of {FRESH} MiB and more, {heap} heap"
        large = [s for s in SETTINGS if f"{heap} {s}" in parts]
        lines += [
            f"| {s}, {words} | {rows(parts, f'{heap} {s}', lambda e: e['MiB'] >= FRESH, spread=spread)} |"
            for s in large
        ]
    found = [name for name in NAMES if any(f"{name} {side}" in parts for side in SIDES)]
    if found:
        lines += [
            "",
            "| whole training step, batch 32 [quartiles of the repetitions] | contiguous | channels_last |",
            "|---|---|---|",
        ]
        for name in found:
            cells = " | ".join(step(parts, name, side) for side in SIDES)
            lines.append(f"| {name}, fused against plain | {cells} |")
    if "small" in parts:
        said = ", ".join(f"{shape}: {n['ratio']:.2f}" for shape, n in parts["small"]["numbers"].items())
        lines += ["", f"Small inputs, a layer's forward and backward, one thread: {said}."]
    if "compile" in parts:
        found_here = parts["compile"]["numbers"].items()
        said = ", ".join(f"{name}: {n['ratio']:.2f} (eager {n['eager']['ratio']:.2f})" for name, n in found_here)
        lines += ["", f"torch.compile's time for the same forward and backward as a multiple of ours: {said}."]
    return "\n".join(lines)


def render(record: dict[str, Any]) -> None:
    """Put the tables between the README's marks."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{tables(record)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> None:
    """Measure, or show a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; may be given several times")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", type=float, default=0, metavar="GB/s", help="wait until a copy reaches so many")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--render", action="store_true", help="put the file's tables into README.md")
    parser.add_argument("--spread", action="store_true", help="show the file's tables with quartiles")
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"expected --repeats of at least 1, came {options.repeats}")
    if not 0 <= options.memory < math.inf:
        parser.error(f"expected --memory in GB/s, 0 or more, came {options.memory}")
    if options.list:
        print("\n".join(PARTS))
    elif options.here:
        print(json.dumps(measured(options.here, options.repeats, options.memory)))
    elif options.spread:
        print(tables(json.loads(RESULTS.read_text(encoding="utf-8")), spread=True))
    elif options.render:
        render(json.loads(RESULTS.read_text(encoding="utf-8")))
    else:
        for part in options.part or PARTS:
            print(part, file=sys.stderr, flush=True)
            run(part, options.repeats, options.memory)
        print(tables(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
