"""Claim: whatever the shape, layout, dtype, activation and grouping, the kernels compute what the reference does.

    python benchmarks/fuzz.py --cases 100000       about an hour on one core; ends at the first case that differs
    python benchmarks/fuzz.py --cases 2000 --seed 7

Every case draws a layer's arguments and its input, runs forward and backward through autograd on one or two threads and
at a random instruction-set level, and compares outputs, gradients and moments with the float64 reference. With the
kernels built under sanitizers (CONTRIBUTING.md) the same command looks for reads and writes out of bounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import random
import sys
import time

import torch
from torch import Tensor

from normscope.ops import cpu, functional, reference
from normscope.ops.activation import applied
from normscope.ops.backend import use_backend

# What rounding may cost relative to the largest value: of the dtype, times the steps from an input to a gradient.
TOLERANCE = {torch.float32: 3e-5, torch.bfloat16: 2**-6, torch.float64: 1e-11}


def shape_of(draw: random.Random) -> tuple[int, ...]:
    """Mostly awkward, at least five values per channel."""
    spatial = tuple(
        draw.choice((1, 2, 3, 4, 5, 7, 8, 14, 15, 16, 17, 23, 31)) for _ in range(draw.choice((0, 1, 2, 3)))
    )
    spatial = spatial[: 2 if math.prod(spatial) > 1500 else 3]
    least = max(2, math.ceil(5 / math.prod(spatial)))
    return (
        least + draw.choice((0, 1, 2, 3, 7, 16, 33)),
        draw.choice((1, 2, 3, 5, 8, 16, 17, 24, 33, 64, 100)),
        *spatial,
    )


def laid_out(value: Tensor, form: str) -> Tensor:
    """`value` contiguous, channels last, or every second element of something larger."""
    if form == "strided":
        return torch.stack([value, value], -1)[..., 0]
    return value.movedim(1, -1).contiguous().movedim(-1, 1) if form == "last" else value.contiguous()


def case(seed: int) -> str:
    """Run one case; what differs in words, empty where nothing does."""
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    shape, dtype = shape_of(draw), draw.choice(tuple(TOLERANCE))
    activation, slope = draw.choice(("none", "relu", "relu6", "leaky_relu", "silu", "gelu")), 0.1
    form, groups = draw.choice(("contiguous", "last", "strided")), draw.choice((1, 1, 1, 2, 3))
    shape = (shape[0] * groups, *shape[1:])
    mean = draw.choice((0.0, 0.0, 3.0, 1000.0))
    level = draw.choice(cpu.EXTENSION.levels)
    torch.set_num_threads(draw.choice((1, 2)))
    x = laid_out((torch.randn(shape, generator=generator, dtype=torch.float64) + mean).to(dtype), form).requires_grad_()
    dy = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    residual = None
    if draw.random() < 0.4:
        residual = laid_out(torch.randn(shape, generator=generator).to(dtype), form).requires_grad_()
    wide = cpu.parameter_dtype(x)
    weight, bias = (
        torch.randn(shape[1], generator=generator).to(wide).requires_grad_() if draw.random() < 0.8 else None
        for _ in range(2)
    )
    leaves = [value for value in (x, weight, bias, residual) if value is not None]
    with use_backend(f"compiled:{level}"):
        epilogue = functional.Epilogue(activation, slope, residual)
        y, found = functional.train(x, weight, bias, 1e-3, epilogue, groups)
        got = [y, *torch.autograd.grad(y, leaves, dy)]
    want = expected(leaves, (x, weight, bias, residual), dy, activation, slope, groups)
    worst = 0.0
    for ours, exact in zip(got, want, strict=True):
        scale = float(exact.detach().abs().max()) + 1
        error = float((ours.detach().double() - exact.detach()).abs().amax()) / scale
        # A value at an activation's corner falls on either side of it.
        corner = activation in ("relu", "relu6", "leaky_relu") and dtype != torch.float64
        worst = max(worst, 0.0 if corner and _few_differ(ours, exact, TOLERANCE[dtype] * scale) else error)
    settings = f"{shape} {dtype} {form} {activation} groups {groups} residual {residual is not None} level {level}"
    return "" if worst <= TOLERANCE[dtype] and found.count else f"seed {seed}: {settings}: off by {worst:.2g}"


def _few_differ(ours: Tensor, exact: Tensor, tolerance: float) -> bool:
    wrong = (ours.detach().double() - exact.detach()).abs() > tolerance
    return bool(wrong.sum() <= max(2, ours.numel() // 1000))


def expected(
    leaves: list[Tensor],
    values: tuple[Tensor | None, ...],
    dy: Tensor,
    activation: str,
    slope: float,
    groups: int,
) -> list[Tensor]:
    """Output and gradients by the reference, in float64."""
    twins = {id(value): value.detach().double().requires_grad_() for value in leaves}
    x, weight, bias, residual = (None if value is None else twins[id(value)] for value in values)
    assert x is not None
    z = torch.cat([reference.train(part, weight, bias, 1e-3)[0] for part in x.chunk(groups)])
    y = applied(z if residual is None else z + residual, activation, slope)
    return [y, *torch.autograd.grad(y, list(twins.values()), dy.double())]


def main() -> int:
    """Run the cases; 1 at the first that differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="the first case's; the others follow")
    parser.add_argument("--kernels", help="an extension module to test instead of the installed one")
    options = parser.parse_args()
    if options.kernels:
        spec = importlib.util.spec_from_file_location("normscope.ops._kernels", options.kernels)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        cpu.EXTENSION = cpu.Extension(module, options.kernels)
    start = time.monotonic()
    for at in range(options.cases):
        wrong = case(options.seed + at)
        if wrong:
            print(wrong)
            return 1
        if at % 5000 == 4999:
            print(f"{at + 1} cases, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(f"{options.cases} cases, nothing differs, {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
