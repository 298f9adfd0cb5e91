"""What the command line names, loaded: the network or the checkpoint, its data in batches, its loss and metric."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from normscope.errors import InputError, SpecError
from normscope.model import spec as specs
from normscope.model.checkpoint import load_checkpoint, read_state
from normscope.records import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable

_HELD_OUT = ("test", "val", "valid", "validation")


def model_of(path: str | None, checkpoint: str | None, device: str) -> nn.Module | dict[str, Tensor]:
    """The network at an import string with the checkpoint's weights, or the checkpoint's tensors alone.

    Raises:
        InputError: Neither given, or something that cannot be loaded.
    """
    if path is not None and ":" not in path and Path(path).suffix in (".pt", ".pth", ".safetensors", ".ckpt", ".bin"):
        path, checkpoint = None, checkpoint or path
    if path is None:
        if checkpoint is None:
            raise InputError(
                "expected a network ('pkg.module:make_model' or 'file.py:make_model') or --checkpoint, came neither"
            )
        return read_state(checkpoint)
    where = specs.device_of(device)
    torch.manual_seed(0)
    model = specs.call_factory(path, "MODEL")
    if not isinstance(model, nn.Module):
        raise SpecError(f"expected MODEL {path} to return a torch.nn.Module, came {type(model).__name__}")
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model.to(where)


def data_of(path: str, what: str) -> tuple[Iterable[Any], Iterable[Any] | None]:
    """(batches, held-out batches or None) from a factory of a loader, a data set, a pair of them, or a dict of them."""
    torch.manual_seed(0)
    data = specs.call_factory(path, what)
    if isinstance(data, Mapping) and "train" in data:
        data = (data["train"], next((data[key] for key in _HELD_OUT if key in data), None))
    if isinstance(data, tuple) and len(data) == 2 and not any(isinstance(part, Tensor) for part in data):
        return _loader(data[0], what), None if data[1] is None else _loader(data[1], what)
    return _loader(data, what), None


def _loader(data: Any, what: str) -> Iterable[Any]:
    if isinstance(data, Dataset) and not isinstance(data, DataLoader):
        return DataLoader(data, batch_size=64)
    if isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data):
        return [data]
    if isinstance(data, Tensor) or not hasattr(data, "__iter__"):
        raise SpecError(f"expected {what} to return a loader or a list of batches, came {type(data).__name__}")
    return data  # type: ignore[no-any-return]


def free_output(path: Path) -> Path:
    """`path`, where nothing stands yet and something can be written.

    Raises:
        InputError: A file is there, or its folder is missing.
    """
    if path.exists():
        raise InputError(f"{path} exists and is left as it is; give --fix another name, or move it away")
    if not path.parent.is_dir():
        raise InputError(f"expected the folder {path.parent} for --fix, it does not exist")
    return path


def save_state(model: nn.Module, path: Path) -> None:
    """Write the state_dict to `path`, whole or not at all: .safetensors, else torch's format.

    Raises:
        InputError: It cannot be written.
    """
    state = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        write_atomic(path, save(state))
        return
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(path, buffer.getvalue())
