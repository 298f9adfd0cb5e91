"""Claim: batch norm's outputs and gradients keep the dtype's digits, whatever the mean of the data.

    python benchmarks/accuracy.py              measure, write benchmarks/results/accuracy.json and docs/accuracy.md
    python benchmarks/accuracy.py --render     the page again, from that file

Data of deviation 1 and a mean from 0 to 1e6, in every dtype and layout: the largest error of y, dx, dgamma and dbeta
against the formula in extended precision (numpy's longdouble, 64 bits of mantissa on x86), of torch and of the package,
as a layer picks its kernel and at every instruction-set level. Two bounds are held against it: 4e-6 for y and dx of
float32, and everywhere the larger of torch's error and 2 ulp of the largest value. Exit code 1 where one is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from normscope import nn
from normscope.ops import cpu
from normscope.ops.backend import use_backend

RESULTS = Path(__file__).resolve().parent / "results" / "accuracy.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "accuracy.md"
SHAPES = [(32, 16), (512, 300), (16, 64, 28, 28), (32, 256, 7, 7), (8, 3, 96, 96), (2, 5, 200, 200), (20, 64, 64, 64)]
QUANTITIES = ("y", "dx", "dgamma", "dbeta")
# bfloat16 has 8 bits of mantissa: beyond this its values no longer hold a deviation of 1.
MEANS = {"float32": (0, 1, 10, 1e2, 1e3, 1e4, 1e5, 1e6), "bfloat16": (0, 1, 10, 1e2), "float64": (0, 1e3, 1e6)}
EPS, GOAL, ULPS = 1e-5, 4e-6, 2


def exact(x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Any]:
    """The formula of training batch norm in extended precision."""
    axes = (0, *range(2, x.dim()))
    wide, g, gamma, beta = (np.asarray(v.double().numpy(), np.longdouble) for v in (x, dy, weight, bias))
    gamma, beta = (v.reshape(-1, *(1,) * (x.dim() - 2)) for v in (gamma, beta))
    centred = wide - wide.mean(axes, keepdims=True)
    rstd = 1 / np.sqrt(np.square(centred).mean(axes, keepdims=True) + np.longdouble(EPS))
    x_hat = centred * rstd
    inner = g - g.mean(axes, keepdims=True) - x_hat * (g * x_hat).mean(axes, keepdims=True)
    return {
        "y": gamma * x_hat + beta,
        "dx": gamma * rstd * inner,
        "dgamma": (g * x_hat).sum(axes),
        "dbeta": g.sum(axes),
    }


def computed(module: Any, x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """What a batch-norm layer of `module` makes of it."""
    layer = getattr(module, f"BatchNorm{max(1, x.dim() - 2)}d")(x.shape[1], eps=EPS, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    return dict(
        zip(QUANTITIES, (y.detach(), *torch.autograd.grad(y, [leaf, layer.weight, layer.bias], dy)), strict=True)
    )


def errors(found: dict[str, Tensor], want: dict[str, Any]) -> dict[str, float]:
    """The largest error of each quantity."""
    gaps = {name: np.asarray(found[name].double().numpy(), np.longdouble) - want[name] for name in QUANTITIES}
    return {name: float(f"{float(np.abs(gap).max()):.4g}") for name, gap in gaps.items()}


def row(shape: tuple[int, ...], dtype: str, layout: str, mean: float) -> dict[str, Any]:
    """One setting."""
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    wide = cpu.PARAMETERS[kind][0]
    x, dy = ((torch.randn(shape, generator=generator, dtype=torch.float64) + at).to(kind) for at in (mean, 0))
    if layout == "channels_last":
        x, dy = (value.contiguous(memory_format=torch.channels_last) for value in (x, dy))
    weight = (torch.rand(shape[1], generator=generator, dtype=torch.float64) + 0.5).to(wide)
    bias = torch.randn(shape[1], generator=generator, dtype=torch.float64).to(wide)
    want = exact(x, dy, weight, bias)
    given = x, dy, weight, bias
    ours = {"auto": errors(computed(nn, *given), want)}
    for level in cpu.EXTENSION.levels:
        with use_backend(f"compiled:{level}"):
            ours[level] = errors(computed(nn, *given), want)
    ulp = {name: float(torch.finfo(kind if name in ("y", "dx") else wide).eps) for name in QUANTITIES}
    return {
        "shape": list(shape), "dtype": dtype, "layout": layout, "mean": mean,
        "ulp": {name: ulp[name] * 2 ** float(np.floor(np.log2(np.abs(want[name]).max()))) for name in QUANTITIES},
        "torch": errors(computed(torch.nn, *given), want), "ours": ours,
    }  # fmt: skip


def measured() -> dict[str, Any]:
    """Every setting."""
    settings = [
        (shape, dtype, layout, float(mean))
        for dtype, means in MEANS.items()
        for layout in ("contiguous", "channels_last")
        for shape in SHAPES
        if layout == "contiguous" or len(shape) == 4
        for mean in means
    ]
    return {
        "torch": torch.__version__,
        "kernels": cpu.EXTENSION.identity,
        "levels": list(cpu.EXTENSION.levels),
        "rows": [row(*setting) for setting in settings],
    }


def missed(record: dict[str, Any]) -> list[str]:
    """Where a bound is not met, in words: for each shape and quantity the worst of all means and levels."""
    worst: dict[str, tuple[float, str]] = {}
    for setting in record["rows"]:
        for level, values in setting["ours"].items():
            for name, error in values.items():
                ulp, theirs = setting["ulp"][name], setting["torch"][name]
                where = f"{setting['dtype']} {setting['layout']} {setting['shape']}: {name}"
                how = f"(mean {setting['mean']:g}, {level})"
                if setting["dtype"] == "float32" and name in ("y", "dx") and error > GOAL:
                    said = f"is off by {error:.2g}, more than {GOAL} {how}"
                elif error > max(theirs, ULPS * ulp):
                    said = f"is off by {error / ulp:.1f} ulp of the largest value, torch by {theirs / ulp:.1f} {how}"
                else:
                    continue
                worst[where] = max(worst.get(where, (0.0, "")), (error / ulp, said))
    return [f"{where} {said}" for where, (_, said) in worst.items()]


def page(record: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    levels = ", ".join(f"`{level}`" for level in record["levels"])
    torch_version = record["torch"].partition("+")[0]
    lines = [
        "# How exact the layers are",
        "",
        "The largest error of a training forward and backward on data of deviation 1, against the formula in",
        f"extended precision: torch {torch_version} / normscope. Ours is the worst of the kernel that a layer",
        f"picks and of every instruction-set level ({levels}), over the shapes",
        f"{', '.join(map(str, SHAPES))}; weight between .5 and 1.5. y and dx in absolute",
        "numbers; dgamma and dbeta, which are sums, in ulp of the largest value.",
        "",
        "Measured by `python benchmarks/accuracy.py`, which holds two bounds against it: 4e-6 for y and dx in float32,",
        "and the larger of torch's error and 2 ulp of the largest value for everything.",
    ]
    for dtype, means in MEANS.items():
        for layout in ("contiguous", "channels_last"):
            heading = f"| {dtype}, {layout}: mean | y | dx | dgamma (ulp) | dbeta (ulp) |"
            lines += ["", heading, "|---|---|---|---|---|"]
            lines += [f"| {mean:g} | {' | '.join(cells(record, dtype, layout, mean))} |" for mean in means]
    found = missed(record)
    lines += ["", "Both bounds are met everywhere." if not found else "Where a bound is missed:"]
    return "\n".join(lines + [""] * bool(found) + [f"- {line}" for line in found]) + "\n"


def cells(record: dict[str, Any], dtype: str, layout: str, mean: float) -> list[str]:
    """Torch's and our error of each quantity, the worst over shapes and levels."""
    wanted = {"dtype": dtype, "layout": layout, "mean": mean}
    rows = [r for r in record["rows"] if all(r[key] == value for key, value in wanted.items())]
    said = []
    for name in QUANTITIES:
        unit = [r["ulp"][name] if name.startswith("d") and name != "dx" else 1.0 for r in rows]
        theirs = max(r["torch"][name] / u for r, u in zip(rows, unit, strict=True))
        mine = max(max(v[name] for v in r["ours"].values()) / u for r, u in zip(rows, unit, strict=True))
        said.append(f"{theirs:.2g} / {mine:.2g}")
    return said


def main() -> int:
    """Measure, write, and say where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true", help="write the page from the file alone")
    options = parser.parse_args()
    if not options.render:
        if cpu.EXTENSION.module is None:
            print(cpu.EXTENSION.reason, file=sys.stderr)
            return 2
        record = measured()
        rows = ",\n".join(json.dumps(each) for each in record.pop("rows"))
        RESULTS.write_text(f'{json.dumps(record)[:-1]}, "rows": [\n{rows}\n]}}\n', encoding="utf-8")
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page(record), encoding="utf-8")
    found = missed(record)
    print("\n".join(found) or "both bounds are met everywhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
