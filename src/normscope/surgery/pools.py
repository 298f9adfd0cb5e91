"""Neighbouring batches of one form as larger forwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from normscope.errors import SpecError
from normscope.model.attach import on_forward
from normscope.model.batch import Batch
from normscope.model.preserve import mode, preserved_buffers
from normscope.surgery.forward import as_batch, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from normscope.model.find import NormLayer
    from normscope.surgery.forward import Forward

# Bytes of the widest layer's input in one pooled forward.
_POOL_BYTES = 1 << 28
_POOL_IMAGES = 1024


def pool_size(model: nn.Module, layers: Iterable[NormLayer], raw: Any, forward: Forward | None) -> int:
    """Examples that fit into one pooled forward, by the widest input among `layers`; 0 where they cannot be pooled."""
    if forward is not None:
        return 0
    batch = as_batch(raw)
    few = head(batch, 2)
    widest = [1]

    def seen(_layer: NormLayer, _module: nn.Module, x: Tensor, _y: Tensor) -> None:
        widest.append(x.numel() * x.element_size() // max(1, len(few)))

    with torch.no_grad(), mode(model, training=False), preserved_buffers(model), on_forward(tuple(layers), seen):
        run(model, few, None)
    return max(len(batch), min(_POOL_IMAGES, _POOL_BYTES // max(widest)))


def pooled(loader: Iterable[Any], size: int, name: str = "the loader") -> Iterator[tuple[Any, int]]:
    """(batch, examples) of `loader`, neighbours of one form concatenated up to `size` examples.

    Raises:
        SpecError: The loader yields nothing.
    """
    held: list[Batch] = []
    empty = True
    for raw in loader:
        empty = False
        if size == 0:
            yield raw, 0
            continue
        batch = as_batch(raw)
        if held and (not _alike(held[0], batch) or sum(map(len, held)) + len(batch) > size):
            yield _joined(held), sum(map(len, held))
            held = []
        held.append(batch)
    if held:
        yield _joined(held), sum(map(len, held))
    if empty:
        raise SpecError(f"expected {name} to yield batches, came none; is the data set empty or its iterator used up?")


def _alike(a: Batch, b: Batch) -> bool:
    return [(key, x.shape[1:], x.dtype) for key, x in a.leaves] == [(key, x.shape[1:], x.dtype) for key, x in b.leaves]


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    target = None if first.target is None else torch.cat([b.target for b in batches if b.target is not None])
    return Batch(
        tuple(torch.cat([b.args[at] for b in batches]) for at in range(len(first.args))),
        {key: torch.cat([b.kwargs[key] for b in batches]) for key in first.kwargs},
        target,
    )


def head(batch: Batch, n: int) -> Batch:
    """The first `n` examples."""
    target = None if batch.target is None else batch.target[:n]
    return Batch(tuple(x[:n] for x in batch.args), {key: x[:n] for key, x in batch.kwargs.items()}, target)
