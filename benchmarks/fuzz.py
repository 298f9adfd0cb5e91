"""Claim: whatever the shape, layout, dtype, activation and grouping, the kernels compute what the reference does.

    python benchmarks/fuzz.py --cases 100000 --jobs 2 --out benchmarks/results/fuzz.json
    python benchmarks/fuzz.py --cases 2000 --seed 7

A seed decides a case: a layer's arguments and its input (`fuzzing/draw.py`). It runs forward and backward through one
of the package's doors at a random instruction-set level; outputs, gradients, moments and running statistics are held
against the float64 reference (`fuzzing/check.py`). The cases that differ are named, with their seeds, and the exit
code is 1; what was covered is counted. With kernels built under sanitizers (`python3 dev.py sanitize`) the same command
looks for reads and writes out of bounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

# Where two processes share two cores, a thread that waits by spinning takes the core that the other needs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from fuzzing import check, draw

from normscope.ops import cpu

CHUNK = 250


def install(kernels: str) -> None:
    """Test another build of the extension than the installed one."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("normscope.ops._kernels", kernels)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cpu.EXTENSION = cpu.Extension(module, kernels)


def prepare(kernels: str | None) -> None:
    """Make a process ready."""
    if kernels:
        install(kernels)
    torch.set_num_threads(1)


def run(job: tuple[int, int, str | None]) -> tuple[int, Counter[str], list[str]]:
    """Cases from a first seed on: how many, what they covered, and what is wrong."""
    first, number, level = job
    levels = (level,) if level else cpu.EXTENSION.levels
    counts: Counter[str] = Counter()
    wrong = []
    for seed in range(first, first + number):
        case = draw.drawn(seed, levels)
        counts.update(case.words())
        try:
            objection = check.verdict(case)
        except Exception as error:
            objection = f"{type(error).__name__}: {error}"
        if objection:
            wrong.append(f"{case}: {objection}")
    return number, counts, wrong


def overrun() -> None:
    """Write one element past an output: a sanitizer that is in force ends the process here."""
    x, found = torch.randn(64, 16), torch.empty(2, 1, 16, dtype=torch.float64)
    short = torch.empty(64 * 16 - 1)
    cpu.forward(x, short.as_strided((1,), (1,)), found, None, None, 1e-5)


def report(counts: Counter[str]) -> str:
    """How often each kind was covered, a line for each field."""
    fields: dict[str, list[str]] = {}
    for words, number in sorted(counts.items(), key=lambda item: -item[1]):
        field, _, value = words.partition(" ")
        fields.setdefault(field, []).append(f"{value} {number}")
    return "\n".join(f"  {field}: {', '.join(values)}" for field, values in fields.items())


def main() -> int:
    """Run the cases; 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first case's; the others follow")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--level", help="this instruction-set level alone")
    parser.add_argument("--kernels", help="an extension module to test instead of the installed one")
    parser.add_argument("--levels", action="store_true", help="name the levels of this machine and leave")
    parser.add_argument("--out", type=Path, help="a JSON file for the counts")
    parser.add_argument("--overrun", action="store_true", help="write past an output, which a sanitizer must notice")
    options = parser.parse_args()
    prepare(options.kernels)
    if options.levels:
        print(*cpu.EXTENSION.levels)
        return 0
    if options.overrun:
        overrun()
        return 0
    if not cpu.EXTENSION.levels or options.level not in (None, *cpu.EXTENSION.levels):
        print(
            f"expected a level out of {', '.join(cpu.EXTENSION.levels) or 'none'}: {cpu.EXTENSION.reason}",
            file=sys.stderr,
        )
        return 2
    start = time.monotonic()
    ends = range(options.seed, options.seed + options.cases, CHUNK)
    jobs = [(first, min(CHUNK, options.seed + options.cases - first), options.level) for first in ends]
    done, counts, wrong = 0, Counter(), []
    with multiprocessing.get_context("spawn").Pool(options.jobs, prepare, (options.kernels,)) as pool:
        for number, covered, found in pool.imap_unordered(run, jobs) if options.jobs > 1 else map(run, jobs):
            done, counts, wrong = done + number, counts + covered, wrong + found
            for line in found:
                print(line, flush=True)
            if done % 5000 < number and done < options.cases:
                print(
                    f"{done} cases, {len(wrong)} differ, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True
                )
    seconds = time.monotonic() - start
    print(report(counts))
    print(f"{done} cases, {f'{len(wrong)} differ' if wrong else 'nothing differs'}, {seconds:.0f} s")
    if options.out:
        record = {
            "kernels": cpu.EXTENSION.identity,
            "torch": torch.__version__,
            "first seed": options.seed,
            "cases": done,
        }
        record |= {
            "wrong": wrong,
            "seconds": round(seconds),
            "processes": options.jobs,
            "counts": dict(sorted(counts.items())),
        }
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
