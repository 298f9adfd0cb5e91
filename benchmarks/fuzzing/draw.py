"""What a random case consists of, and its tensors, both from a seed alone."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields

import torch
from torch import Tensor

ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu", "silu", "gelu")
CORNERED = ("relu", "relu6", "leaky_relu")
FUSED_IN_EVALUATION = {("none", True), ("silu", False), *((name, add) for name in CORNERED for add in (False, True))}
LAYOUTS = ("contiguous", "contiguous", "last", "last", "strided", "expanded", "overlapping", "unaligned")
GRADIENTS = ("like the output", "like the output", "contiguous", "last", "strided", "expanded", "unaligned")
SLOPE, EPS = 0.1, 1e-3
SPATIAL = (1, 2, 3, 4, 5, 7, 8, 14, 15, 16, 17, 23, 31)
CHANNELS = (1, 2, 3, 5, 8, 16, 17, 24, 33, 64, 100)


@dataclass(frozen=True)
class Case:
    """One random layer and its input; every field is a word that is counted in the report, but for seed and shape.

    Attributes:
        seed: From which the case was drawn.
        shape: [batch, channels, *spatial].
        way: Through which door: `functional.train`, `functional.evaluate`, a layer, the operator, or the four phases on
            two parts of the batch.
        level: Instruction-set level, or 'auto' for what a layer picks by itself.
        threads: For the call.
        dtype: Of the input.
        layout: How the input lies in memory.
        residual: Whether one is added.
        gradient: How the gradient of the output lies in memory.
        parameters: Which there are, and 'narrow' for those in the input's dtype.
        activation: What is applied at the end.
        groups: Ghosts in the batch.
        values: What the input holds: 'normal', 'offset' (a mean of 1000 deviations), 'constant', 'nan', 'inf' or 'huge'
            (squares beyond float32).
    """

    seed: int
    shape: tuple[int, ...]
    way: str
    level: str
    threads: int
    dtype: str
    layout: str
    residual: bool
    gradient: str
    parameters: str
    activation: str
    groups: int
    values: str

    def words(self) -> list[str]:
        """What is counted: each field with its value, the size of the input, and few channels."""
        said = [
            f"{field.name} {getattr(self, field.name)}" for field in fields(self) if field.name not in ("seed", "shape")
        ]
        numel = math.prod(self.shape)
        bound = next((b for b in (0, 1 << 15, 3 << 20) if numel <= b), None)
        names = {0: "no elements", 1 << 15: "one thread", 3 << 20: "cached stores"}
        spatial = len(self.shape) - 2
        return [*said, f"size {names.get(bound, 'past the caches')}", f"spatial dimensions {spatial}"] + [
            "few channels (at most 3)"
        ] * (self.shape[1] <= 3)


def shape_of(draw: random.Random, size: str) -> tuple[int, ...]:
    """Mostly awkward, at least five values per channel: of a gradient of fewer nothing but cancellation is left."""
    if size == "large":
        spatial: tuple[int, ...] = draw.choice(((56, 56), (7, 7), (17,), (300, 301), (112, 112), ()))
        numel = draw.choice((3_300_000, 3_500_000, 8_600_000))
        channels = draw.choice([c for c in (1, 3, 16, 64, 65, 256, 1700, 2048) if 2 * c * math.prod(spatial) <= numel])
        return (numel // (channels * math.prod(spatial)), channels, *spatial)
    spatial = tuple(draw.choice(SPATIAL) for _ in range(draw.choice((0, 1, 2, 3))))
    spatial = spatial[: 2 if math.prod(spatial) > 1500 else 3]
    channels = draw.choice(CHANNELS)
    least = max(2, math.ceil(5 / math.prod(spatial)))
    if size == "medium":
        return (least + draw.choice((33_000, 40_000, 60_000)) // (channels * math.prod(spatial)), channels, *spatial)
    most = max(1, 20_000 // (channels * math.prod(spatial)))
    return (least + min(most, draw.choice((0, 1, 2, 3, 7, 16, 33))), channels, *spatial)


def _values(draw: random.Random, way: str, activation: str, *, residual: bool) -> str:
    """What the input holds, out of what can be held against the reference."""
    values = draw.choices(("normal", "offset", "constant", "nan", "inf", "huge"), (60, 20, 4, 6, 6, 4))[0]
    if values == "huge" and way not in ("train", "layer"):
        return "normal"
    if values == "offset" and way == "evaluate" and (activation, residual) not in FUSED_IN_EVALUATION:
        return "normal"  # torch's own kernel runs, which loses digits there
    if values == "inf" and way == "evaluate" and activation in ("silu", "gelu"):
        return "nan"  # of infinity torch's own gives infinity or NaN, by dtype and position
    return values


def drawn(seed: int, levels: tuple[str, ...]) -> Case:
    """The case of a seed."""
    draw = random.Random(seed)
    size = draw.choices(("small", "medium", "large"), (90, 9.9, 0.1))[0]
    shape = shape_of(draw, size)
    way = draw.choices(("train", "evaluate", "layer", "operator", "phases"), (40, 20, 20, 10, 10))[0]
    if size == "large" and way == "phases":
        way = "train"
    activation, residual = draw.choice(ACTIVATIONS), draw.random() < 0.4
    groups = 1 if way in ("evaluate", "phases") or size == "large" else draw.choice((1, 1, 1, 2, 3))
    rest = 0
    if way == "layer" and groups > 1:  # the ghost layer, which has no epilogue and gives what is left over to the first
        activation, residual, rest = "none", False, draw.randrange(min(groups, shape[0]))
    shape = (shape[0] * groups + rest, *shape[1:])
    if way in ("operator", "phases") and activation not in ("none", *CORNERED) and residual:
        activation = "relu"  # whoever calls these composes other epilogues
    values = _values(draw, way, activation, residual=residual)
    if size == "small" and draw.random() < 0.02:
        at = draw.randrange(len(shape))
        shape = (*shape[:at], 0, *shape[at + 1 :]) if at != 1 else (0, *shape[1:])
        way, groups, values = "layer", 1, "normal"
    parameters = draw.choice(("both", "both", "both", "weight", "bias", "neither", "narrow"))
    dtype = draw.choice(("float32", "float32", "bfloat16", "float64"))
    if dtype == "bfloat16" and values == "offset" and activation == "gelu":
        values = "normal"  # three values a channel: rounded before torch's gelu, their errors do not average out
    return Case(
        seed=seed,
        shape=shape,
        way=way,
        level=draw.choice((*levels, "auto")) if way == "layer" else draw.choice(levels),
        threads=1 if size == "small" else draw.choice((1, 2, 2)),
        dtype="float32" if values == "huge" and dtype == "float64" else dtype,
        layout=draw.choice(LAYOUTS),
        residual=residual,
        gradient=draw.choice(GRADIENTS),
        # with running statistics torch takes no parameters that are narrower, and neither do the layers
        parameters="both" if way in ("evaluate", "layer") and parameters == "narrow" else parameters,
        activation=activation,
        groups=groups,
        values=values,
    )


def laid_out(value: Tensor, layout: str) -> Tensor:
    """`value` in another place or order; 'expanded' and 'overlapping' change what it holds."""
    if layout == "strided":
        return torch.stack([value, value], -1)[..., 0]
    if layout == "last":
        return value.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "unaligned":
        buffer = torch.empty(value.numel() + 1, dtype=value.dtype)
        return buffer[1:].view(value.shape).copy_(value)
    if layout == "expanded" and value.numel():
        return value[..., :1].expand(value.shape) if value.dim() > 2 else value
    if layout == "overlapping" and value.dim() > 2 and value.numel():
        strides = [*value.stride()[:-2], 1, 1]
        return value.contiguous().as_strided(value.shape, strides)
    return value.contiguous()


@dataclass
class Tensors:
    """The tensors of a case; x, weight, bias and residual are leaves."""

    x: Tensor
    dy: Tensor
    weight: Tensor | None
    bias: Tensor | None
    residual: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def leaves(self) -> list[Tensor]:
        """Those with a gradient."""
        return [value for value in (self.x, self.weight, self.bias, self.residual) if value is not None]


def tensors(case: Case) -> Tensors:
    """The tensors of a case."""
    generator = torch.Generator().manual_seed(case.seed)
    dtype, channels = getattr(torch, case.dtype), case.shape[1]
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=wide)

    x = normal(*case.shape)
    centre = {"normal": float(case.seed % 2) * 3, "offset": 1000.0}.get(case.values, 0.0)
    x = x * 1e25 if case.values == "huge" else x + centre
    if case.values == "constant":
        x = x[:1, :, *(slice(0, 1),) * (x.dim() - 2)].expand(x.shape)
    x = laid_out(x.to(dtype), case.layout)
    if case.values in ("nan", "inf"):
        x = x.clone()
        x[(-1, -1, *(0,) * (x.dim() - 2))] = float(case.values)
    residual = laid_out(normal(*case.shape).to(dtype), case.layout).requires_grad_() if case.residual else None
    kind = dtype if case.parameters == "narrow" else wide
    weight = normal(channels).to(kind).requires_grad_() if case.parameters not in ("bias", "neither") else None
    bias = normal(channels).to(kind).requires_grad_() if case.parameters not in ("weight", "neither") else None
    return Tensors(
        x.requires_grad_(),
        normal(*case.shape).to(dtype),
        weight,
        bias,
        residual,
        centre + normal(channels),
        normal(channels).square() + 0.1,
    )
