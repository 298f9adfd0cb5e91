"""One batch of a user's data, whatever its form, and a whole data set held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import SpecError

# Keys under which dict batches hold their target, in the order in which they are looked for.
TARGET_KEYS = ("labels", "label", "targets", "target", "y")
# Keys and attributes under which a network's output may hold what the loss wants.
_OUTPUT_KEYS = ("logits", "out", "prediction", "predictions")


@dataclass(frozen=True)
class Batch:
    """Arguments for one call of a network, and the target.

    Attributes:
        args: Positional tensors, first dimension the batch.
        kwargs: Named tensors, first dimension the batch.
        target: What the loss compares with; None in unlabelled data.
    """

    args: tuple[Tensor, ...]
    kwargs: dict[str, Tensor]
    target: Tensor | None

    def __len__(self) -> int:
        return len(self.leaves[0][1])

    @property
    def leaves(self) -> list[tuple[str, Tensor]]:
        """(name, tensor) of every input."""
        return [(f"input {at}", value) for at, value in enumerate(self.args)] + list(self.kwargs.items())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        target = None if self.target is None else self.target.to(device)
        return Batch(tuple(x.to(device) for x in self.args), {k: x.to(device) for k, x in self.kwargs.items()}, target)

    def __call__(self, model: nn.Module) -> Tensor:
        """The network's output for this batch, unwrapped by `output_of`."""
        return output_of(model(*self.args, **self.kwargs))


def output_of(output: Any) -> Tensor:
    """The tensor in a network's output: itself, its .logits, the entry 'logits' or 'out', or the first of a tuple.

    Raises:
        SpecError: No tensor is found there.
    """
    if isinstance(output, Tensor):
        return output
    for key in _OUTPUT_KEYS:
        found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(found, Tensor):
            return found
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise SpecError(
        f"expected the network to return a tensor, or an object with one of {', '.join(_OUTPUT_KEYS)};"
        f" came {type(output).__name__}; wrap the network so that it returns its prediction"
    )


def split(batch: Any, *, labelled: bool = True) -> Batch:
    """A user's batch as `Batch`.

    Forms: (input, target), (input, ..., target), ((inputs), target), a dict with a target key, or a bare tensor.

    Args:
        batch: What the loader yielded.
        labelled: Whether the last item of a tuple, or a target key of a dict, must be the target.

    Raises:
        SpecError: None of these forms.
    """
    if isinstance(batch, Tensor):
        if labelled:
            raise SpecError("expected batches of (input, target), came a bare tensor; yield the target beside it")
        return Batch((batch,), {}, None)
    if isinstance(batch, Mapping):
        return _split_mapping(batch, labelled=labelled)
    if isinstance(batch, list | tuple) and len(batch) == 1 and not labelled:
        return split(batch[0], labelled=False)
    if isinstance(batch, list | tuple) and len(batch) >= 2:
        inputs: Any = batch[0] if len(batch) == 2 else batch[:-1]
        target = _tensor(batch[-1], "the target")
        if isinstance(inputs, Mapping):
            return Batch((), {str(k): _tensor(v, str(k)) for k, v in inputs.items()}, target)
        many = inputs if isinstance(inputs, list | tuple) else (inputs,)
        return Batch(tuple(_tensor(x, f"input {at}") for at, x in enumerate(many)), {}, target)
    raise SpecError(
        f"expected batches of (input, target) or dicts with a key among {', '.join(TARGET_KEYS)};"
        f" came {_describe(batch)}"
    )


def _split_mapping(batch: Mapping[Any, Any], *, labelled: bool) -> Batch:
    found = next((key for key in TARGET_KEYS if key in batch), None)
    if found is None and labelled:
        raise SpecError(
            f"expected a dict batch with its target under one of {', '.join(TARGET_KEYS)};"
            f" came the keys {', '.join(map(str, batch))}"
        )
    inputs = {str(key): _tensor(value, str(key)) for key, value in batch.items() if key != found}
    if not inputs:
        raise SpecError(f"expected a dict batch with inputs beside the target '{found}', came none")
    return Batch((), inputs, None if found is None else _tensor(batch[found], found))


def _tensor(value: Any, name: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise SpecError(
            f"expected {name} of a batch to be a tensor, came {_describe(value)}; convert it in the loader"
        ) from None
    if tensor.dim() == 0:
        raise SpecError(f"expected {name} to have a batch dimension, came one number; yield batches, not examples")
    return tensor


def _describe(value: Any) -> str:
    shape = f" of {len(value)}" if isinstance(value, list | tuple) else ""
    return f"{type(value).__name__}{shape}"


@dataclass(frozen=True)
class Examples:
    """A data set in memory: every tensor of its batches, concatenated on the first dimension.

    Attributes:
        whole: All of it as one batch.
        batch: Examples in the loader's first batch: the mini-batch that its owner trains with.
    """

    whole: Batch
    batch: int = 64

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def target(self) -> Tensor:
        """Targets of every example, first dimension the example."""
        if self.whole.target is None:
            raise SpecError("expected labelled data, came inputs without targets; yield (input, target)")
        return self.whole.target

    def take(self, index: Tensor) -> Batch:
        """The batch of the examples at `index`, shape [n], integer."""
        target = None if self.whole.target is None else self.whole.target[index]
        return Batch(
            tuple(x[index] for x in self.whole.args),
            {k: x[index] for k, x in self.whole.kwargs.items()},
            target,
        )

    def subset(self, index: Tensor) -> Examples:
        """The data set of the examples at `index`."""
        return Examples(self.take(index))

    def chunks(self, size: int) -> Iterable[Batch]:
        """Batches of at most `size` examples, in order, all of them."""
        for index in torch.arange(len(self)).split(size):
            yield self.take(index)

    def fingerprint(self) -> str:
        """SHA-256 over names, shapes, dtypes and values."""
        digest = hashlib.sha256()
        target = [] if self.whole.target is None else [("target", self.whole.target)]
        for name, value in self.whole.leaves + target:
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def of(cls, loader: Iterable[Any], limit: int, *, labelled: bool = True, name: str = "the data") -> Examples:
        """The first `limit` examples of `loader`.

        Raises:
            SpecError: Empty, not finite, of changing shape, or not of a known batch form.
        """
        parts: list[Batch] = []
        total = 0
        for at, raw in enumerate(_iterate(loader, name)):
            part = split(raw, labelled=labelled)
            _check(part, parts[0] if parts else part, at, name)
            parts.append(part)
            total += len(part)
            if total >= limit:
                break
        if not total:
            raise SpecError(
                f"expected {name} to yield batches, came none; is the data set empty or its iterator used up?"
            )
        kwargs = {key: torch.cat([part.kwargs[key] for part in parts])[:limit] for key in parts[0].kwargs}
        args = tuple(torch.cat([part.args[at] for part in parts])[:limit] for at in range(len(parts[0].args)))
        targets = [part.target for part in parts if part.target is not None]
        return cls(Batch(args, kwargs, torch.cat(targets)[:limit] if targets else None), len(parts[0]))


def _iterate(loader: Iterable[Any], name: str) -> Iterable[Any]:
    try:
        yield from loader
    except SpecError:
        raise
    except TypeError as error:
        if not hasattr(loader, "__iter__"):
            raise SpecError(
                f"expected {name} to be an iterable of batches, came {type(loader).__name__};"
                " return a torch.utils.data.DataLoader or a list of batches"
            ) from None
        raise SpecError(f"{name} raised TypeError while it was read: {error}") from error
    except Exception as error:
        raise SpecError(f"{name} raised {type(error).__name__} while it was read: {error}") from error


def _check(part: Batch, first: Batch, at: int, name: str) -> None:
    if len(part.args) != len(first.args) or set(part.kwargs) != set(first.kwargs):
        raise SpecError(f"expected every batch of {name} to have the form of the first, batch {at} has another")
    pairs = [(key, x, dict(first.leaves)[key]) for key, x in part.leaves]
    if part.target is not None and first.target is not None:
        pairs.append(("the target", part.target, first.target))
    for key, value, like in pairs:
        if value.shape[1:] != like.shape[1:]:
            raise SpecError(
                f"expected {key} of every example of {name} to have shape {list(like.shape[1:])}, batch {at} has"
                f" {list(value.shape[1:])}; pad or crop in the loader"
            )
        if len(value) != len(part):
            raise SpecError(f"expected {len(part)} rows in {key} of batch {at} of {name}, came {len(value)}")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise SpecError(f"expected finite numbers, {key} of batch {at} of {name} has NaN or inf; clean the data")
