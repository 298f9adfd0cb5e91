"""Who runs the forward: eager Python, a tracer, or a function transform."""

from __future__ import annotations

from torch._C import _are_functorch_transforms_active as _transforming
from torch.compiler import is_compiling


def tracing() -> bool:
    """Whether torch.compile or torch.export is tracing."""
    return is_compiling()


def transformed() -> bool:
    """Whether torch.func (vmap, grad, jvp, ...) wraps the tensors of the call; a tracer answers for itself."""
    return not tracing() and _transforming()


def plain() -> bool:
    """Whether eager Python runs the call: neither `tracing` nor `transformed`."""
    return not (is_compiling() or _transforming())
