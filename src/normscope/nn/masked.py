"""Batch norm for padded sequences: padding takes no part in the statistics and comes out as zero, without gradient.

Over the valid positions alone it is batch norm: the same output, moments, running statistics (Bessel-corrected with the
number of valid positions) and gradients as if the sequences had been packed end to end.
"""

from __future__ import annotations

from torch import Tensor, nn

from normscope.errors import InputError
from normscope.nn._base import NormLayer
from normscope.ops.functional import PLAIN


class MaskedBatchNorm1d(NormLayer):
    """Batch norm of [batch, channels, length] with a mask; arguments as in torch.nn.BatchNorm1d.

    It is not a subclass of torch.nn.BatchNorm1d, so that no tool replaces it by a layer that ignores the mask.
    """

    _check_input_dim = nn.BatchNorm1d._check_input_dim

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: A002  (torch's name)
        """Normalize the valid positions.

        Args:
            input: Shape [batch, channels, length], or [batch, channels].
            mask: Boolean, shape [batch, length], or [batch]: true where a position is valid. None: all are.

        Returns:
            Shape of `input`; zero where the mask is false.

        Raises:
            InputError: A mask of another shape or dtype, or fewer than two valid positions when training.
            TensorError: Another number of channels than the layer has.
        """
        if mask is None:
            return self._forward(input, PLAIN)
        self._check_input_dim(input)  # type: ignore[misc]
        expected = [input.shape[0], *input.shape[2:]]
        if str(mask.dtype) != "torch.bool" or list(mask.shape) != expected:
            raise InputError(
                f"expected a boolean mask of shape {expected} for an input of shape {list(input.shape)},"
                f" got {mask.dtype} of shape {list(mask.shape)}; true marks valid positions"
            )
        rows = input.movedim(1, -1)
        packed = self._forward(rows[mask], PLAIN)
        out = packed.new_zeros(rows.shape)
        out[mask] = packed
        return out.movedim(-1, 1)
