"""What the batch-norm layers share: which statistics normalize, how they are tracked and handed out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from normscope.errors import InputError, TensorError
from normscope.moments import Moments
from normscope.ops import cpu, functional
from normscope.ops.context import plain
from normscope.ops.functional import PLAIN, Epilogue, Statistics


def check_channels(layer: _NormBase, x: Tensor) -> None:
    """Raise torch's error when a parameter or buffer of `layer` does not have one number per channel of `x`."""
    channels = x.shape[1]
    if channels == layer.num_features:
        return
    for name in ("running_mean", "running_var", "weight", "bias"):
        value = getattr(layer, name)
        if value is not None and value.numel() != channels:
            raise TensorError(
                f"{name} should contain {channels} elements not {value.numel()}: the layer was made for"
                f" {layer.num_features} channels and the input of shape {list(x.shape)} has {channels} on dim 1"
            )


def values_per_channel(x: Tensor) -> int:
    """How many values each channel of `x`, shape [batch, channels, *spatial], has."""
    return x.numel() // x.shape[1] if x.shape[1] else 0


def check_values(x: Tensor, count: int) -> None:
    """Raise torch's error when the batch has one value per channel, whose variance would be zero."""
    if count == 1:
        raise InputError(
            f"Expected more than 1 value per channel when training, got input size {x.size()}; batch statistics need"
            " at least two: use a larger batch (drop_last=True in the DataLoader) or put the layer in eval mode"
        )


def check_eps(eps: float, *, by_batch: bool) -> None:
    """Raise torch's error for an eps under which nothing keeps the deviation from being zero."""
    if by_batch and eps <= 0:
        raise InputError(f"batch_norm eps must be positive during training, but got {eps}; the usual value is 1e-5")
    if eps < 0:
        raise InputError(f"batch_norm eps must be non-negative, but got {eps}; the usual value is 1e-5")


_TORCHS_WORDS = {
    torch.int64: "Long",
    torch.int32: "Int",
    torch.int16: "Short",
    torch.int8: "Char",
    torch.uint8: "Byte",
    torch.bool: "Bool",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
}


def check_dtypes(layer: _NormBase, x: Tensor) -> None:
    """Raise torch's error for an input or a mixture of dtypes that torch does not normalize on a CPU.

    Parameters and running statistics have the dtype of `x`; of bfloat16 and float16 they may all be float32 instead.
    """
    dtype = x.dtype
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TensorError(
            f"\"batch_norm\" not implemented for '{_TORCHS_WORDS.get(dtype, dtype)}': the input is {dtype}, expected a"
            " floating-point tensor; convert it with .float()"
        )
    given = {v.dtype for v in (layer.weight, layer.bias, layer.running_mean, layer.running_var) if v is not None}
    narrow = dtype in (torch.bfloat16, torch.float16)
    if given - {dtype} and not (narrow and given == {torch.float32}) and x.device.type == "cpu":
        shown = ", ".join(sorted(str(each) for each in given))
        raise TensorError(
            "mixed dtype (CPU): expect parameter to have scalar type of Float"
            f"{'' if narrow else ' or that of the input'}: the input is {dtype}, the layer holds {shown}; convert one,"
            f" for example layer.to({torch.float32 if narrow else dtype})"
        )


class HasMoments(Protocol):
    """What a forward leaves behind, from which the batch's moments are made when they are asked for."""

    def merged(self) -> Moments:
        """Moments of the whole batch."""
        ...


@dataclass(slots=True)
class Found:
    """The statistics of each part of a batch."""

    parts: list[Statistics]

    def merged(self) -> Moments:
        """Moments of the whole batch."""
        return functional.merged(self.parts)


class NormLayer(_NormBase):
    """The forward of torch's batch norm, with the normalization by batch statistics left to `_normalize`."""

    _last: HasMoments | None = None

    @property
    def batch_moments(self) -> Moments | None:
        """Moments of the input of the last forward that normalized by the batch; None before one.

        They carry no graph and are not in the state_dict. Forwards under torch.compile or torch.func leave None.
        """
        return None if self._last is None else self._last.merged()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name, given by keyword)
        """Normalize `input`, shape [batch, channels, *spatial]; track its statistics when training.

        Raises:
            InputError: Wrong number of dimensions, or one value per channel when training.
            TensorError: Another number of channels than the layer has, or a dtype that torch does not take either.
        """
        return self._forward(input, PLAIN)

    def _forward(self, x: Tensor, epilogue: Epilogue) -> Tensor:
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        check_channels(self, x)
        if not self.training and (mean := self.running_mean) is not None and (variance := self.running_var) is not None:
            check_eps(self.eps, by_batch=False)
            check_dtypes(self, x)
            return functional.evaluate(x, mean, variance, self.weight, self.bias, self.eps, epilogue)
        check_eps(self.eps, by_batch=True)
        check_values(x, values_per_channel(x))
        return self._by_batch(x, epilogue)

    def _by_batch(self, x: Tensor, epilogue: Epilogue) -> Tensor:
        check_dtypes(self, x)
        y, found = self._normalize(x, epilogue)
        self._last = Found(found) if plain() else None
        if self.training and self.track_running_stats:
            self._track(found)
        return y

    def _normalize(self, x: Tensor, epilogue: Epilogue) -> tuple[Tensor, list[Statistics]]:
        y, found = functional.train(x, self.weight, self.bias, self.eps, epilogue)
        return y, [found]

    def _track(self, found: list[Statistics]) -> None:
        """One update of the running statistics, by torch's formula: (1 - momentum) * running + momentum * batch."""
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        mean, variance = self.running_mean, self.running_var
        if mean is None or variance is None or not found[0].count:
            return
        factor = self.momentum
        if factor is None:
            factor = 0.0 if self.num_batches_tracked is None else 1.0 / float(self.num_batches_tracked)
        if self._last is not None and cpu.can_update(mean, variance) and _single(found):
            cpu.update(mean, variance, found[0].packed, float(found[0].count), factor)
            return
        moments = functional.merged(found)
        with torch.no_grad():
            mean.mul_(1 - factor).add_(moments.mean, alpha=factor)
            variance.mul_(1 - factor).add_(moments.variance("bessel"), alpha=factor)


def _single(found: list[Statistics]) -> bool:
    packed = found[0].packed
    return len(found) == 1 and packed.shape[1] == 1 and packed.dtype == torch.float64 and packed.is_contiguous()
