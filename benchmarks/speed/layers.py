"""Batch norm, alone or with ReLU and a residual, on ResNet-50's shapes: torch, torch.compile and ours, interleaved."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from speed import pairs
from speed.memory import Memory, taken
from torch import Tensor
from torch.nn import functional as F

from normscope import nn
from normscope.ops import cpu, functional, reference

SHAPES = [
    (64, 112), (64, 56), (256, 56), (128, 56), (128, 28), (512, 28),
    (256, 28), (256, 14), (1024, 14), (512, 14), (512, 7), (2048, 7),
]  # fmt: skip
# Calls of a few milliseconds that are timed together.
CALLS = 5
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
        self.copy, self.moments = torch.empty_like(self.x), torch.ones(2, 1, channels, dtype=torch.float64)

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
            errors.append(
                [float((g.detach().double() - w.detach()).abs().max()) for g, w in zip(got, want, strict=True)]
            )
        ulp = torch.finfo(self.x.dtype).eps
        for torchs, mine, value in zip(*errors, want, strict=True):
            if not mine <= max(torchs, 2 * ulp * float(value.detach().abs().max())):
                raise SystemExit(f"not timed: error {mine:.2g} on {list(self.x.shape)}, torch's is {torchs:.2g}")


def clocked(setting: Setting, run: Any, relu: bool, add: bool) -> tuple[float, float]:
    """Seconds of the forward and of the backward."""
    start = time.perf_counter()
    y = run(relu, add)
    middle = time.perf_counter()
    torch.autograd.grad(y, setting.leaves if add else setting.leaves[:3], setting.dy)
    return middle - start, time.perf_counter() - middle


def second(timed: Callable[[], Any]) -> Any:
    """What `timed` says the second time in a row: it meets the caches as it leaves them itself, not as its rival does.

    Torch leaves them full of lines still to be written, which the next one would pay for; ours leaves none.
    """
    timed()
    return timed()


def limit(setting: Setting) -> float:
    """Seconds in which the elements can be read once and written once: by torch's copy, or past the caches."""
    x, moments = setting.x.detach(), setting.moments

    def past_caches() -> None:
        cpu.forward(x, setting.copy, moments, None, None, 1.0, phases=cpu.APPLY)

    return min(second(lambda: taken(lambda: setting.copy.copy_(x))), second(lambda: taken(past_caches)))


def measure(setting: Setting, repeats: int, memory: Memory) -> dict[str, Any]:
    """Ratios, spread, shares of the limit, and the limit as GB/s, for one shape.

    A forward must read and write one tensor, a backward read two and write one, half as much again.
    """
    ratios: dict[str, list[float]] = {column: [] for column in COLUMNS}
    shares: dict[str, list[float]] = {"forward": [], "backward": []}
    limits: list[float] = []

    def in_turn(relu: bool, add: bool) -> tuple[tuple[float, float], tuple[float, float]]:
        theirs = second(lambda: clocked(setting, setting.theirs, relu, add))
        return theirs, second(lambda: clocked(setting, setting.ours, relu, add))

    for _ in range(repeats + 1):
        once, (theirs, mine) = memory.undisturbed(lambda: (limit(setting), in_turn(relu=False, add=False)))
        limits.append(2 * setting.x.numel() * setting.x.element_size() / once / 1e9)
        for index, part in enumerate(("forward", "backward")):
            ratios[part].append(theirs[index] / mine[index])
            shares[part].append((1, 1.5)[index] * once / mine[index])
        for column, add in ((COLUMNS[2], False), (COLUMNS[3], True)):
            theirs, mine = memory.undisturbed(lambda add=add: in_turn(relu=True, add=add))
            ratios[column].append(sum(theirs) / sum(mine))
    return {
        "ratio": {name: statistics.median(values[1:]) for name, values in ratios.items()},
        "spread": {name: pairs.quartiles(values[1:]) for name, values in ratios.items()},
        "share": {name: statistics.median(values[1:]) for name, values in shares.items()},
        "GB/s": statistics.median(limits[1:]),
    }


def layers(dtype: str, layout: str, repeats: int, floor: float, batch: int = 32) -> dict[str, Any]:
    """Every shape in one dtype and layout, while memory gives `floor` GB/s; the key is channels x side."""
    dtypes = {"f32": torch.float32, "bf16": torch.bfloat16}
    layouts = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    found, memory = {}, Memory(floor)
    for channels, side in SHAPES:
        setting = Setting(channels, side, batch, dtypes[dtype], layouts[layout])
        setting.gate()
        size = setting.x.numel() * setting.x.element_size()
        found[f"{channels}x{side}"] = {"MiB": size / 2**20, "floor": floor, **measure(setting, repeats, memory)}
        print(f"  {channels}x{side}", file=sys.stderr, flush=True)
    return found


def compiled(repeats: int) -> dict[str, Any]:
    """The training composite by torch.compile and by torch eager, each as a multiple of our seconds."""
    found = {}
    for channels, side in ((64, 56), (512, 14)):
        setting = Setting(channels, side, 32, torch.float32, torch.contiguous_format)
        setting.gate()
        for column, options in ((COLUMNS[2], (True, False)), (COLUMNS[3], (True, True))):

            def timed(
                run: Any, setting: Setting = setting, options: tuple[bool, bool] = options
            ) -> Callable[[], float]:
                return lambda: sum(sum(clocked(setting, run, *options)) for _ in range(CALLS)) / CALLS

            torch.compiler.reset()
            run, start = torch.compile(setting.theirs), time.perf_counter()
            clocked(setting, run, *options)
            built, ours = time.perf_counter() - start, timed(setting.ours)
            found[f"{channels}x{side} {column}"] = {
                **pairs.ratios(timed(run), ours, 3 * repeats, limit=10),
                "eager": pairs.ratios(timed(setting.theirs), ours, 3 * repeats, limit=10),
                "seconds to compile": built,
            }
    return found


def small(repeats: int) -> dict[str, Any]:
    """Layers on small inputs, one thread: torch's time as a multiple of ours, forward and backward with buffers."""
    torch.set_num_threads(1)
    found = {}
    for shape in ((32, 16), (128, 64), (8, 16, 8, 8), (32, 16, 16, 16)):
        kind = "2d" if len(shape) == 4 else "1d"
        x, dy = torch.randn(shape).requires_grad_(), torch.randn(shape)
        theirs, ours = getattr(torch.nn, f"BatchNorm{kind}")(shape[1]), getattr(nn, f"BatchNorm{kind}")(shape[1])
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
        ratios, times = [], []
        for _ in range(5 * repeats):
            seconds = [_seconds(layer, x, dy) for layer in (theirs, ours)]
            ratios.append(seconds[0] / seconds[1])
            times.append(seconds[1])
        found[str(list(shape))] = {
            "ratio": statistics.median(ratios),
            "spread": pairs.quartiles(ratios),
            "microseconds": 1e6 * statistics.median(times),
        }
    return found


def _seconds(layer: Callable[[Tensor], Tensor], x: Tensor, dy: Tensor, calls: int = 100) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        layer(x).backward(dy)
    return (time.perf_counter() - start) / calls
