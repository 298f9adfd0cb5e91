"""Checkpoints: tensors from a file, under whatever wrapping they were saved, into a network that they fit."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from normscope.errors import SpecError

# What torch.compile, DataParallel, DistributedDataParallel and AveragedModel put before names.
_WRAPPINGS = ("module.", "_orig_mod.")


def read_state(path: str) -> dict[str, Tensor]:
    """The state_dict in a .safetensors file or a torch file, nothing unpickled but tensors; names unwrapped.

    Raises:
        SpecError: Missing, unreadable, holds no tensors, or would run code when unpickled.
    """
    if not Path(path).is_file():
        raise SpecError(f"expected a checkpoint at {path}, no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's protocol: what matters comes as an exception
            state = _read(path)
    except Exception as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise SpecError(
                f"refused to unpickle {path}: it holds more than tensors and could run code;"
                " save model.state_dict() with torch.save or safetensors instead"
            ) from None
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise SpecError(f"cannot read {path} as a checkpoint of torch or safetensors: {reason}") from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)} if isinstance(state, Mapping) else {}
    if any(str(key).startswith("module.") for key in tensors):
        tensors.pop("n_averaged", None)  # the counter of torch.optim.swa_utils.AveragedModel
    if not tensors:
        raise SpecError(f"expected a state_dict of tensors in {path}, found none")
    return {unwrapped(str(key)): value for key, value in tensors.items()}


def _read(path: str) -> Any:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    # Mapped, not read: the statistics are a thousandth of a checkpoint.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def unwrapped(key: str) -> str:
    """`key` without what wrappers put before it."""
    while key.startswith(_WRAPPINGS):
        key = key.partition(".")[2]
    return key


def load_checkpoint(model: nn.Module, path: str) -> None:
    """Load weights into `model`, both of them under any wrapping; a 'state_dict' entry is understood.

    Raises:
        SpecError: Unreadable, would run code, or keys that do not fit.
    """
    state, own = read_state(path), {unwrapped(key): (key, value) for key, value in model.state_dict().items()}
    # Checkpoints older than the counter, or from elsewhere, lack it; the network's own then stays as made.
    counters = {key for key in own if key.rpartition(".")[2] in ("n_averaged", "num_batches_tracked")}
    missing, extra = sorted(own.keys() - state.keys() - counters), sorted(state.keys() - own.keys())
    wrong = [key for key in own.keys() & state.keys() if own[key][1].shape != state[key].shape]
    if missing or extra or wrong:
        parts = [
            f"{len(keys)} {word} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for word, keys in (
                ("missing", missing),
                ("not in the model", extra),
                ("of another shape", sorted(wrong)),
            )
            if keys
        ]
        raise SpecError(f"expected --checkpoint {path} to fit the model, its keys do not: {'; '.join(parts)}")
    model.load_state_dict({own[key][0]: value for key, value in state.items()}, strict=False)
