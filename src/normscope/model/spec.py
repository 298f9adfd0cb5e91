"""A user's model, data, loss, metric and device, loaded from import strings."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import random
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from normscope.errors import SpecError
from normscope.model.batch import Batch, Examples
from normscope.model.checkpoint import load_checkpoint
from normscope.model.given import Spec

Score = Callable[[Tensor, Tensor], Tensor]

# Examples of a user's data that are held in memory, at most.
LIMIT = 20_000


def resolve(path: str, what: str) -> Any:
    """The object at 'pkg.module:name' or 'file.py:name'.

    Raises:
        SpecError: Malformed, missing, or its module raised on import.
    """
    place, colon, name = path.rpartition(":")
    if not colon or not place or not name:
        raise SpecError(f"expected {what} as 'pkg.module:name' or 'file.py:name', came {path!r}")
    module = _module(place, what)
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            names = ", ".join(key for key in vars(module) if not key.startswith("_"))[:200]
            raise SpecError(f"expected {name!r} in {place} for {what}, not found there; it has: {names or 'nothing'}")
        value = getattr(value, part)
    return value


def _module(place: str, what: str) -> Any:
    try:
        if not place.endswith(".py"):
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            return importlib.import_module(place)
        file = Path(place).resolve()
        if not file.is_file():
            raise SpecError(f"expected a Python file for {what}, {place} does not exist")
        name = f"_normscope_{file.stem}_{abs(hash(str(file)))}"
        if name not in sys.modules:
            module_spec = importlib.util.spec_from_file_location(name, file)
            assert module_spec is not None
            assert module_spec.loader is not None
            module = importlib.util.module_from_spec(module_spec)
            sys.modules[name] = module
            try:
                module_spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]
    except SpecError:
        raise
    except ModuleNotFoundError as error:
        raise SpecError(
            f"{what}: no module named {error.name!r} on the path (looking for {place!r});"
            " run from the folder that holds it, or give 'file.py:name'"
        ) from None
    except (Exception, SystemExit) as error:
        raise raised(error, f"{what}: importing {place}") from error


def raised(error: BaseException, doing: str) -> SpecError:
    """A SpecError for an exception in the user's own code: one line, then the last frames that are the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not {"normscope", "torch"} & set(Path(frame.filename).parts)][-3:]
    line = " ".join(str(error).split())
    return SpecError(f"{doing} raised {type(error).__name__}: {line}\n{''.join(traceback.format_list(own))}".rstrip())


def call_factory(path: str, what: str) -> Any:
    """What the factory at `path` returns.

    Raises:
        SpecError: Not callable, wants arguments, or raised.
    """
    factory = resolve(path, what)
    if not callable(factory):
        raise SpecError(f"expected {what} {path} to be a function without arguments, came {type(factory).__name__}")
    try:
        needed = [
            name
            for name, parameter in inspect.signature(factory).parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):
        needed = []
    if needed:
        raise SpecError(
            f"expected {what} {path} to take no arguments, it needs {', '.join(needed)};"
            " write a small function that calls it with them"
        )
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise raised(error, f"{what} {path}") from error


def _seed(seed: int) -> None:
    """Seed what a factory may draw from, so that it gives the same in every process."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (the generator that a user's code draws from)
    torch.manual_seed(seed)


def load_model(spec: Spec, seed: int = 0) -> nn.Module:
    """A fresh network from the factory, initialized under `seed`, on the CPU, the checkpoint's weights loaded."""
    _seed(seed)
    model = call_factory(spec.model, "--model")
    if not isinstance(model, nn.Module):
        raise SpecError(f"expected --model {spec.model} to return a torch.nn.Module, came {type(model).__name__}")
    if spec.checkpoint is not None:
        load_checkpoint(model, spec.checkpoint)
    return model


def load_data(spec: Spec) -> tuple[Examples, Examples | None]:
    """(training examples, held-out examples or None) from the factory, at most `LIMIT` of each."""
    _seed(0)
    data = call_factory(spec.data, "--data")
    if isinstance(data, Mapping) and "train" in data:
        test = next((data[key] for key in ("test", "val", "valid", "validation") if key in data), None)
        data = (data["train"], test)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        data = [data]
    if isinstance(data, tuple) and len(data) == 2 and (data[1] is None or not isinstance(data[1], Tensor)):
        train = Examples.of(_loader(data[0]), LIMIT, name="the training data")
        held = None if data[1] is None else Examples.of(_loader(data[1]), LIMIT, name="the held-out data")
        return train, held
    return Examples.of(_loader(data), LIMIT, name=f"--data {spec.data}"), None


def load_shifted(spec: Spec) -> Examples | None:
    """The shifted examples, or None where none were named."""
    if spec.shifted is None:
        return None
    _seed(0)
    data = call_factory(spec.shifted, "--shifted-data")
    labelled = True
    loader = _loader(data)
    first = next(iter(loader), None)
    if isinstance(first, Tensor) or (isinstance(first, list | tuple) and len(first) == 1):
        labelled = False
    return Examples.of(loader, LIMIT, labelled=labelled, name=f"--shifted-data {spec.shifted}")


def _loader(data: Any) -> Iterable[Any]:
    if isinstance(data, Dataset) and not isinstance(data, DataLoader):
        return DataLoader(data, batch_size=64)
    return data  # type: ignore[no-any-return]


def default_loss(target: Tensor) -> Score:
    """Cross-entropy for integer targets, mean squared error for real ones."""
    return _squared_error if target.is_floating_point() else nn.functional.cross_entropy


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    if output.shape != target.shape and output.numel() == target.numel():
        output = output.reshape(target.shape)
    if output.shape != target.shape:
        raise ValueError(f"output of shape {list(output.shape)} against targets of shape {list(target.shape)}")
    return nn.functional.mse_loss(output, target.to(output.dtype))


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Share of right classes, 0 to 1; `output` has the classes on dim 1."""
    return (output.argmax(1) == target).double().mean()


def negative_loss(output: Tensor, target: Tensor) -> Tensor:
    """Minus the mean squared error: larger is better."""
    return -_squared_error(output, target)


def load_loss(spec: Spec, target: Tensor) -> Score:
    """The user's loss, or the default for these targets."""
    return resolve(spec.loss, "--loss") if spec.loss else default_loss(target)


def load_metric(spec: Spec, target: Tensor) -> Score:
    """The user's metric, accuracy for integer targets, or minus the squared error."""
    if spec.metric:
        return resolve(spec.metric, "--metric")  # type: ignore[no-any-return]
    return negative_loss if target.is_floating_point() else accuracy


def device_of(name: str) -> torch.device:
    """The device called `name`.

    Raises:
        SpecError: Unknown, or not on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        here = ["cpu"] + [f"cuda:{at}" for at in range(torch.cuda.device_count())]
        raise SpecError(
            f"expected --device to be one of {', '.join(here)}, came {name!r}: {str(error).splitlines()[0]}"
        ) from None
    return device


def check_fit(model: nn.Module, batch: Batch, loss: Score, name: str = "the data") -> None:
    """Run one forward and loss in the mode that the model is in; the caller preserves the model.

    Args:
        model: The network.
        batch: Of `name`, with targets.
        loss: The loss.
        name: What the data are called.

    Raises:
        SpecError: The network does not take the batch, the loss does not take its output and the targets, or is not
            finite.
    """
    shapes = ", ".join(f"{key} {list(x.shape)}" for key, x in batch.leaves)
    try:
        output = batch(model)
    except SpecError:
        raise
    except Exception as error:
        raise raised(error, f"the network, given {shapes} of {name},") from error
    assert batch.target is not None
    try:
        value = loss(output, batch.target)
    except Exception as error:
        raise SpecError(
            f"the loss does not take an output of shape {list(output.shape)} with targets of shape"
            f" {list(batch.target.shape)} and type {batch.target.dtype} of {name}: {str(error).splitlines()[0]};"
            " check the number of classes, or give --loss"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise SpecError("expected the loss to return one number as a tensor, so that it can be differentiated")
    if not bool(value.isfinite()):
        raise SpecError(
            f"expected a finite loss of a batch of {name} before any training, came {float(value.detach())};"
            " are there NaN among the weights of the network, or numbers too large in the data?"
        )
