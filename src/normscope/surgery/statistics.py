"""Running statistics held still for a while, and rolled back after a step that went wrong."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from normscope.model.attach import on_forward
from normscope.model.find import NormLayer, find

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from torch.optim import Optimizer


def _lend_copies(module: nn.Module) -> None:
    """Let `module` write into copies of its buffers; the tensors themselves stay as they are."""
    for name, value in module._buffers.items():
        if value is not None:
            module._buffers[name] = value.detach().clone()


@contextmanager
def hold_statistics(model: nn.Module) -> Iterator[None]:
    """A context in which no buffer of `model` moves, while layers in train mode normalize by the batch as ever.

    For an extra forward (a second view, a perturbed input, validation in train mode) and for the recomputation of
    activation checkpoints, which would otherwise update the running statistics twice per step::

        checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), hold_statistics(block)))

    Layers write into copies, so tensors that a backward still needs keep their version. Do not load a state_dict
    inside: it would go into the copies.
    """
    slots = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    owned = {id(module): buffers for module, buffers in slots}

    def again(_layer: NormLayer, module: nn.Module, _x: Tensor, _y: Tensor) -> None:
        module._buffers.update(owned.get(id(module), {}))
        _lend_copies(module)

    try:
        for module, _ in slots:
            _lend_copies(module)
        with on_forward(find(model).layers, again):
            yield
    finally:
        for module, buffers in slots:
            module._buffers.update(buffers)


class guard_statistics:  # noqa: N801  (a context manager, named like a function as torch.no_grad is)
    """Around one training step: the buffers are rolled back when the step turns out bad.

    A step is bad when it raises, when a loss shown to `watch`, a gradient or a buffer is not finite, or when the
    optimizer's step was skipped, as torch.amp.GradScaler does after an overflow::

        with normscope.guard_statistics(model, optimizer) as guard:
            loss = guard.watch(criterion(model(x), y))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        if guard.rolled_back:
            print(guard.rolled_back)

    Attributes:
        rolled_back: Why the buffers were put back; None after a good step.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer | None = None) -> None:
        self.rolled_back: str | None = None
        self._model, self._optimizer = model, optimizer
        self._bad_loss = False
        self._stepped = False
        self._overflow = False
        self._saved: list[tuple[Tensor, Tensor]] = []
        self._names: dict[int, str] = {}
        self._stack = ExitStack()

    def watch(self, loss: Tensor) -> Tensor:
        """`loss` itself; noted when it is not finite."""
        self._bad_loss = self._bad_loss or not bool(loss.detach().isfinite().all())
        return loss

    def __enter__(self) -> Self:
        self.rolled_back, self._bad_loss, self._stepped, self._overflow = None, False, False, False
        self._names = {id(value): name for name, value in self._model.named_buffers()}
        self._saved = [(value, value.detach().clone()) for value in self._model.buffers()]
        self._stack = ExitStack()
        if self._optimizer is not None:
            self._stack.callback(self._optimizer.register_step_post_hook(self._after_step).remove)
        return self

    def _after_step(self, optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
        # Fused optimizers are stepped by the scaler even after an overflow, and told so through this attribute.
        found = getattr(optimizer, "found_inf", None)
        self._overflow = isinstance(found, Tensor) and bool(found.item())
        self._stepped = not self._overflow

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self.rolled_back = self._verdict(kind)
        if self.rolled_back is not None:
            with torch.no_grad():
                for value, saved in self._saved:
                    value.copy_(saved)
        self._saved = []

    def _verdict(self, kind: type[BaseException] | None) -> str | None:
        if kind is not None:
            return f"the step raised {kind.__name__}"
        if self._bad_loss:
            return "the loss is not finite"
        for value, saved in self._saved:
            if not bool(value.isfinite().all()) and bool(saved.isfinite().all()):
                return f"buffer {self._names[id(value)]} became NaN or inf"
        if self._optimizer is not None and not self._stepped:
            return "the optimizer's step was skipped"
        for name, parameter in self._model.named_parameters():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                return f"the gradient of {name} is not finite"
        return None
