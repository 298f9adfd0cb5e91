"""One case: what the package computes, what the float64 reference computes, and whether they agree."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from fuzzing.draw import CORNERED, EPS, SLOPE, Case, Tensors, laid_out, tensors
from torch import Tensor

from normscope import nn
from normscope.moments import Moments
from normscope.ops import functional, phases, reference
from normscope.ops.activation import BEHIND_RESIDUAL, FUSED, applied
from normscope.ops.backend import use_backend

Results = dict[str, Tensor]
# Relative to the value itself (one rounding to the dtype), and to the largest value (the arithmetic in between).
ROUNDING = {"float32": 1e-6, "bfloat16": 2**-8, "float64": 1e-13}
ARITHMETIC = {"float32": 1e-5, "bfloat16": 1e-5, "float64": 1e-11}
STATISTICS = ("mean", "m2", "running_mean", "running_var")
MOMENTUM = 0.1


@dataclass
class Wanted:
    """Exact results, and what size each one's error is relative to where the values themselves are smaller."""

    results: Results
    sizes: dict[str, float]


@contextlib.contextmanager
def running(case: Case) -> Iterator[None]:
    """With the case's threads and instruction-set level."""
    torch.set_num_threads(case.threads)
    try:
        with use_backend(case.level if case.level == "auto" else f"compiled:{case.level}"):
            yield
    finally:
        torch.set_num_threads(1)


def _composed(case: Case) -> bool:
    """Whether an activation is applied apart, so that the normalized value is rounded to the dtype on the way."""
    return case.activation not in FUSED or (case.residual and case.activation not in BEHIND_RESIDUAL)


def _parts(case: Case, x: Tensor) -> list[Tensor]:
    return list(x.tensor_split(case.groups))


def wanted(case: Case, given: Tensors) -> tuple[Wanted, Tensor]:
    """The exact results, and the gradient of the output that was used: zero beside an activation's corner."""
    twins = {id(value): value.detach().double().requires_grad_() for value in given.leaves()}
    x, weight, bias, residual = (
        None if value is None else twins[id(value)] for value in (given.x, given.weight, given.bias, given.residual)
    )
    assert x is not None
    mean, variance = given.running_mean.double(), given.running_var.double()
    if case.way == "evaluate":
        z, found = reference.evaluate(x, mean, variance, weight, bias, EPS), []
    else:
        outputs = [reference.train(part, weight, bias, EPS) for part in _parts(case, x)]
        z, found = torch.cat([output for output, _ in outputs]), [each for _, each in outputs]
    z = z if residual is None else z + residual
    dy = _gradient(case, given.dy, z.detach())
    y = applied(z, case.activation, SLOPE)
    grads = torch.autograd.grad(y, list(twins.values()), dy.double())
    names = [name for name in ("x", "weight", "bias", "residual") if getattr(given, name) is not None]
    results = {"y": y.detach()} | {f"d{name}": grad for name, grad in zip(names, grads, strict=True)}
    spread = variance.sqrt() if case.way == "evaluate" else torch.stack([(m.m2 / m.count).sqrt() for m in found])
    gain = (spread.square() + EPS).rsqrt() * (1 if weight is None else weight.detach().abs())
    typical = math.sqrt(x.numel() / x.shape[1])  # the size of a sum of as many numbers of either sign
    sizes = {"y": 1.0, "dx": _largest(gain) * _largest(dy), "dweight": typical, "dbias": typical, "dresidual": 1.0}
    if found:
        results |= {"mean": torch.stack([m.mean for m in found]), "m2": torch.stack([m.m2 for m in found])}
        sizes |= {"mean": _largest(spread), "m2": EPS * float(found[0].count)}
    if case.way == "layer":
        whole = Moments.of(x)
        moved = reference.updated(given.running_mean, given.running_var, whole, MOMENTUM)
        results |= {"running_mean": moved[0].double(), "running_var": moved[1].double()}
        results |= {"mean": whole.mean, "m2": whole.m2}
        sizes |= {"running_mean": 1.0, "running_var": 1.0}
    return Wanted(results, sizes), dy


def _largest(value: Tensor) -> float:
    """The largest magnitude that is finite."""
    value = value.detach().double().abs()
    return float(torch.where(value.isfinite(), value, 0.0).max()) if value.numel() else 0.0


def _gradient(case: Case, dy: Tensor, z: Tensor) -> Tensor:
    """`dy` laid out; what may fall on either side of a corner gets no gradient.

    That is a value beside it, and a NaN (torch's own kernels take it for either side: leaky_relu, and relu6 by its
    position).
    """
    beside = torch.zeros_like(z, dtype=torch.bool)
    if case.activation in CORNERED:
        rounded = case.dtype == "bfloat16" and _composed(case)
        near = (2**-7 if rounded else 1e-10 if case.dtype == "float64" else 1e-4) * (_largest(z) + 1)
        beside = (z.abs() < near) | ((z - 6).abs() < near if case.activation == "relu6" else beside)
        beside |= z.isnan() if case.activation != "relu" else beside
    if case.gradient == "expanded" and not beside.any():
        return (dy[..., :1] if dy.dim() > 2 else dy[:1]).expand(dy.shape)
    dy = torch.where(beside, torch.zeros_like(dy), dy)
    return dy if case.gradient in ("like the output", "expanded") else laid_out(dy, case.gradient)


def _gradients(case: Case, y: Tensor, leaves: list[tuple[str, Tensor | None]], dy: Tensor) -> Results:
    there = {name: leaf for name, leaf in leaves if leaf is not None}
    if case.gradient == "like the output":
        dy = torch.empty_like(y).copy_(dy)
    grads = torch.autograd.grad(y, list(there.values()), dy)
    return {f"d{name}": grad for name, grad in zip(there, grads, strict=True)}


def got(case: Case, given: Tensors, dy: Tensor) -> Results:
    """What the package computes."""
    ways = {"train": _train, "evaluate": _evaluate, "layer": _layer, "operator": _operator, "phases": _phases}
    with running(case):
        return ways[case.way](case, given, dy)


def _leaves(given: Tensors) -> list[tuple[str, Tensor | None]]:
    return [(name, getattr(given, name)) for name in ("x", "weight", "bias", "residual")]


def _train(case: Case, given: Tensors, dy: Tensor) -> Results:
    epilogue = functional.Epilogue(case.activation, SLOPE, given.residual)
    y, found = functional.train(given.x, given.weight, given.bias, EPS, epilogue, case.groups)
    return {"y": y, "mean": found.mean, "m2": found.m2} | _gradients(case, y, _leaves(given), dy)


def _evaluate(case: Case, given: Tensors, dy: Tensor) -> Results:
    epilogue = functional.Epilogue(case.activation, SLOPE, given.residual)
    statistics = given.running_mean, given.running_var
    y = functional.evaluate(given.x, *statistics, given.weight, given.bias, EPS, epilogue)
    return {"y": y} | _gradients(case, y, _leaves(given), dy)


def _layer(case: Case, given: Tensors, dy: Tensor) -> Results:
    dims, options = max(1, len(case.shape) - 2), {"eps": EPS, "momentum": MOMENTUM}
    if case.groups > 1:
        ghost = getattr(nn, f"GhostBatchNorm{dims}d")
        layer = ghost(case.shape[1], **options, ghost_size=case.shape[0] // case.groups)
    elif case.activation == "none" and given.residual is None:
        layer = getattr(nn, f"BatchNorm{dims}d")(case.shape[1], **options)
    else:
        options |= {"activation": case.activation, "negative_slope": SLOPE}
        layer = getattr(nn, f"BatchNormAct{dims}d")(case.shape[1], **options)
    for name in ("weight", "bias"):
        value = getattr(given, name)
        setattr(layer, name, None if value is None else torch.nn.Parameter(value.detach()))
    layer.running_mean, layer.running_var = given.running_mean.clone(), given.running_var.clone()
    y = layer(given.x) if given.residual is None else layer(given.x, given.residual)
    moments = layer.batch_moments
    leaves = [("x", given.x), ("weight", layer.weight), ("bias", layer.bias), ("residual", given.residual)]
    statistics = {name: value.double() for name, value in layer.named_buffers() if name.startswith("running")}
    return {"y": y, "mean": moments.mean, "m2": moments.m2} | statistics | _gradients(case, y, leaves, dy)


def _operator(case: Case, given: Tensors, dy: Tensor) -> Results:
    values = given.x, given.weight, given.bias, given.residual
    y, found, _ = torch.ops.normscope.batch_norm(*values, EPS, case.activation, SLOPE, case.groups)
    return {"y": y, "mean": found[0], "m2": found[1]} | _gradients(case, y, _leaves(given), dy)


def _phases(case: Case, given: Tensors, dy: Tensor) -> Results:
    """As over two processes: moments are merged and sums added up between the phases."""
    split = [
        [None, None] if value is None else [part.detach() for part in value.tensor_split(2)]
        for value in (given.x, given.residual, dy)
    ]
    parts = list(zip(*split, strict=True))
    affine = tuple(None if value is None else value.detach() for value in (given.weight, given.bias))
    epilogue = EPS, case.activation, SLOPE
    found = [functional.Statistics(phases.moments(x), x.numel() // x.shape[1]) for x, _, _ in parts]
    whole = functional.merged(found)
    moments, count = torch.stack([whole.mean, whole.m2])[:, None], float(whole.count)
    outputs = [phases.normalize(x, moments, count, *affine, residual, *epilogue) for x, residual, _ in parts]
    masked = [(*affine, mask, *epilogue) for _, mask in outputs]
    reduced = [phases.backward_reduce(g, x, moments, count, *m) for (x, _, g), m in zip(parts, masked, strict=True)]
    sums = reduced[0] + reduced[1]
    pairs = [
        phases.backward_input(g, x, moments, sums, count, *m, batch_statistics=True, residual=case.residual)
        for (x, _, g), m in zip(parts, masked, strict=True)
    ]
    results = {"y": torch.cat([y for y, _ in outputs]), "dx": torch.cat([dx for dx, _ in pairs])}
    results |= {"mean": moments[0], "m2": moments[1], "dbias": sums[0, 0], "dweight": sums[1, 0]}
    if case.residual:
        results["dresidual"] = torch.cat([other for _, other in pairs])
    return results


def worst(case: Case, found: Results, want: Wanted) -> tuple[float, str]:
    """The largest error as a multiple of what is allowed, and of what it is the error."""
    errors = [(0.0, "")]
    for name, exact in want.results.items():
        relative, size = _allowed(case, name)
        natural = 0.0 if name in ("mean", "m2") else _largest(exact)
        limit = relative * exact.abs() + size * max(natural, want.sizes[name])
        statistic = name in STATISTICS
        errors.append((_multiple(found[name].detach().double(), exact, limit, statistic=statistic), name))
    return max(errors)


def _allowed(case: Case, name: str) -> tuple[float, float]:
    if name == "mean":  # torch's kernel, which a layer may choose, hands it out in float32
        return 1e-7 if case.level == "auto" else 1e-13, ARITHMETIC[case.dtype]
    if name in ("m2", "running_mean", "running_var"):
        return ARITHMETIC[case.dtype], ARITHMETIC[case.dtype]
    rounding, arithmetic = ROUNDING[case.dtype], ARITHMETIC[case.dtype]
    if case.dtype == "bfloat16" and (_composed(case) or case.parameters == "narrow"):
        arithmetic = 2**-6
    return rounding, arithmetic


def _multiple(ours: Tensor, exact: Tensor, limit: Tensor, *, statistic: bool) -> float:
    if ours.shape != exact.shape:
        return float("inf")
    if not exact.numel():
        return 0.0
    same = (ours == exact) | (ours.isnan() & exact.isnan())
    if statistic:
        same |= ~(ours.isfinite() | exact.isfinite())  # the mean of a channel with infinity in it is that or NaN
    error = torch.where(same, torch.zeros_like(exact), (ours - exact).abs() / limit.clamp_min(1e-300))
    return float(torch.nan_to_num(error, nan=torch.inf).max())


def verdict(case: Case) -> str:
    """What is wrong with a case, empty where nothing is."""
    given = tensors(case)
    if not given.x.numel():
        return _empty(case, given)
    want, dy = wanted(case, given)
    multiple, name = worst(case, got(case, given, dy), want)
    return "" if multiple <= 1 else f"{name} is off by {multiple:.3g} times what rounding explains"


def _empty(case: Case, given: Tensors) -> str:
    """Nothing goes in: nothing comes out, no parameter has a gradient and no statistic moves."""
    found = got(case, given, given.dy)
    for name, value in found.items():
        if name.startswith("running"):
            if not torch.equal(value, getattr(given, name).double()):
                return f"{name} moved"
        elif name in ("y", "dx", "dresidual"):
            if value.shape != given.x.shape:
                return f"{name} has shape {list(value.shape)}"
        elif name in ("dweight", "dbias") and value.any():
            return f"{name} is not zero"
    return ""
