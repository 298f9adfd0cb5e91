"""Who runs the forward: eager Python, a tracer, or a function transform."""

from __future__ import annotations

import torch


def tracing() -> bool:
    """Whether torch.compile or torch.export is tracing."""
    return torch.compiler.is_compiling()


def transformed() -> bool:
    """Whether torch.func (vmap, grad, jvp, ...) wraps the tensors of the call; a tracer answers for itself."""
    return not tracing() and torch._C._are_functorch_transforms_active()


def plain() -> bool:
    """Whether eager Python runs the call: neither `tracing` nor `transformed`."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
