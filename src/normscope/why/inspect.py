"""A first look at the network and the data under test, in a worker: everything that can be wrong is found here."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from typing import Literal

import torch
from torch import nn

from normscope.errors import SpecError
from normscope.model import spec as specs
from normscope.model.attach import functional_calls, mode, preserved
from normscope.model.batch import Batch, Examples
from normscope.model.find import Found, Unsupported, find
from normscope.model.given import Spec
from normscope.ops import cpu
from normscope.why import bench, data, networks
from normscope.why.arms import BATCH_NORM, PLAIN
from normscope.why.claim import Task
from normscope.why.job import Job

# Steps that are timed for the estimate of the cost.
_TIMED = 6


def inspect(task: Task) -> Task:
    """The task, filled in.

    Raises:
        SpecError: Something about the network, data, loss, metric or device is not usable.
        UnsupportedError: The network has no batch norm that can be seen.
    """
    task = dataclasses.replace(task, kernels=cpu.EXTENSION.identity)
    return _embedded(task) if task.spec is None else _own(task, task.spec)


def _embedded(task: Task) -> Task:
    x, y = data.digits()
    whole = Examples(Batch((x,), {}, y))
    return dataclasses.replace(
        task,
        describe="three small ReLU networks that come with normscope: "
        + "; ".join(sorted(words for words, _ in networks.EMBEDDED.values())),
        data="the digits of UCI and scikit-learn: 1797 real 8x8 images of handwritten digits, 10 classes",
        fingerprint=whole.fingerprint(),
        step_seconds={name: _seconds(task, name) for name in networks.EMBEDDED},
    )


def _seconds(task: Task, network: str) -> float:
    """Seconds of a training step of one member, batch 64."""
    seeds = range(8 if network.startswith("mlp") else 1)
    job = Job("inspect", network, PLAIN, tuple((seed, 0.01) for seed in seeds), _TIMED, task.batch)
    members = bench.make_members(task, job)
    times: list[float] = []
    bench.run_training(task, job, members, lambda _step, _members: times.append(time.perf_counter()))
    steps = sorted(b - a for a, b in itertools.pairwise(times))
    return steps[len(steps) // 2] / len(seeds)


def _own(task: Task, spec: Spec) -> Task:
    device = specs.device_of(spec.device)
    model = specs.load_model(spec)
    found = find(model)
    train, held, shifted = data.own(spec)
    _check_targets(train)
    batch = max(2, min(train.batch, len(train) // 4))
    if len(train) < 32:
        raise SpecError(f"expected at least 32 training examples, came {len(train)}; claims are about mini-batches")
    loss, metric = specs.load_loss(spec, train.target), specs.load_metric(spec, train.target)
    first = train.take(torch.arange(min(batch, len(train))))
    hidden = _first_forward(model, found, first, loss)
    notes = tuple(
        f"only the first {specs.LIMIT} examples of the {name} data are used"
        for name, part in (("training", train), ("held-out", held), ("shifted", shifted))
        if part is not None and len(part) >= specs.LIMIT
    )
    notes += tuple(f"{part.name or 'the network'}: {part.reason}" for part in (*found.unsupported, *hidden))
    dataclasses.replace(found, unsupported=(*found.unsupported, *hidden)).require()
    scores = _score(model, first, metric, loss)
    with preserved(model), mode(model, training=False), torch.no_grad():
        for name, examples in (("training", train), ("held-out", held), ("shifted", shifted)):
            if examples is not None:
                specs.check_fit(model, _extremes(examples, first), loss, f"the {name} data")
    parameters = sum(value.numel() for value in model.parameters())
    integer = not train.target.is_floating_point()
    kind: Literal["classification", "regression"] = "classification" if integer else "regression"
    x = first.leaves[0][1]
    task = dataclasses.replace(
        task,
        kind=kind,
        examples=len(train) if held is not None else len(train) - round(0.25 * len(train)),
        classes=int(train.target.max()) + 1 if integer else 0,
        images=x.dim() >= 4 and x.is_floating_point(),
        channels=int(x.shape[1]) if x.dim() > 1 else 1,
        layers=len(found.layers),
        batch=batch,
        describe=f"{type(model).__name__} from {spec.model}: {parameters:,} parameters,"
        f" {len(found.layers)} batch-norm layer{'s' if len(found.layers) > 1 else ''}",
        data=f"{spec.data}: {len(train)} training examples of shape {list(x.shape[1:])}, {kind}",
        fingerprint=_fingerprint(model, train, held, shifted, scores),
        accelerator=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
        notes=notes,
        has_shifted=shifted is not None,
        largest_dropout=max((part.p for part in model.modules() if isinstance(part, nn.Dropout)), default=0.0),
    )
    return dataclasses.replace(task, step_seconds={"own": _own_seconds(task)})


def _own_seconds(task: Task) -> float:
    job = Job("inspect", "own", BATCH_NORM, ((0, 1e-4),), _TIMED, task.batch)
    members = bench.make_members(task, job)
    times: list[float] = []
    try:
        bench.run_training(task, job, members, lambda _step, _members: times.append(time.perf_counter()))
    except SpecError:
        raise
    except Exception as error:
        raise specs.raised(error, "a training step of the network") from error
    steps = sorted(b - a for a, b in itertools.pairwise(times))
    return steps[len(steps) // 2]


def _first_forward(model: nn.Module, found: Found, batch: Batch, loss: specs.Score) -> list[Unsupported]:
    model.train()
    if any(nn.parameter.is_lazy(value) for value in model.parameters()):
        raise SpecError("expected a network whose shapes are known, it has lazy layers; run one batch in the factory")
    with preserved(model), functional_calls(found.layers) as hidden:
        specs.check_fit(model, batch, loss)
    return list(hidden)


def _score(model: nn.Module, batch: Batch, metric: specs.Score, loss: specs.Score) -> tuple[float, float]:
    """The first batch's metric and loss: they tell one task from another."""
    with preserved(model), torch.no_grad():
        model.eval()
        output = batch(model).float()
        target = batch.target
        assert target is not None
        try:
            value = float(metric(output, target))
        except Exception as error:
            raise SpecError(
                f"the metric does not take an output of shape {list(output.shape)} with targets of shape"
                f" {list(target.shape)}: {error}; it is called as metric(output, target) and returns a number"
            ) from error
        return value, float(loss(output, target))


def _extremes(examples: Examples, first: Batch) -> Batch:
    """A batch that holds the smallest and the largest target, where a class that the network lacks would be."""
    size = min(len(examples), len(first))
    if examples.whole.target is None:
        part = examples.take(torch.arange(size))
        assert first.target is not None
        return Batch(part.args, part.kwargs, first.target[:size])
    values = examples.target.flatten(1).amax(1) if examples.target.dim() > 1 else examples.target
    order = values.argsort()
    return examples.take(torch.cat([order[: size // 2], order[size // 2 - size :]]))


def _check_targets(train: Examples) -> None:
    target = train.target
    if not target.is_floating_point() and target.dim() == 1 and len(target.unique()) < 2:
        raise SpecError(
            f"expected at least two classes in the training data, came one only ({int(target[0])});"
            " is the loader sorted by class, or the label column wrong?"
        )


def _fingerprint(
    model: nn.Module, train: Examples, held: Examples | None, shifted: Examples | None, scores: tuple[float, float]
) -> str:
    """Hash of the data, of the network's initial numbers and of what it makes of the first batch."""
    digest = hashlib.sha256(repr(scores).encode())
    for part in (train, held, shifted):
        digest.update((part.fingerprint() if part is not None else "-").encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
