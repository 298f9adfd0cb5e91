"""From a job to trained members: the part of a run that every claim shares. Runs in a worker."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from normscope.model import spec as specs
from normscope.why import arms, data, networks
from normscope.why.claim import Task
from normscope.why.job import Job
from normscope.why.members import Members, Single
from normscope.why.stack import Stack, stackable
from normscope.why.train import Observer, train

# Examples of the training set on which losses of different arms are matched.
PROBE = 256


def make_model(task: Task, job: Job, seed: int) -> nn.Module:
    """A fresh network of the job under its arm and `seed`."""
    if job.network == "own":
        assert task.spec is not None
        model = specs.load_model(task.spec, seed)
    else:
        model = networks.embedded(job.network, seed)
    return arms.build(model, job.arm, seed)


def make_members(task: Task, job: Job, *, stack: bool = True) -> Members:
    """The job's networks with their data: a stack where every network is stackable, else the single one.

    Jobs of several members are for stackable networks; the others get one member each.
    """
    datas = [data.load(job.network, job.regime, job.arm, seed, task.spec) for seed in job.seeds]
    models = [make_model(task, job, seed) for seed in job.seeds]
    full = job.arm.norm == "full"
    if stack and job.network != "own" and all(stackable(model) for model in models):
        return Stack(models, datas, full=full)
    assert len(models) == 1, "several members need stackable networks"
    device, amp = ("cpu", False) if task.spec is None else (task.spec.device, task.spec.amp)
    return Single(models[0], datas[0], loss_of(task, datas[0].train.target), full=full, device=device, amp=amp)


def loss_of(task: Task, target: Tensor) -> specs.Score:
    """The task's loss."""
    return specs.default_loss(target) if task.spec is None else specs.load_loss(task.spec, target)


def metric_of(task: Task, target: Tensor) -> specs.Score:
    """The task's metric, larger is better."""
    return specs.accuracy if task.spec is None else specs.load_metric(task.spec, target)


def run_training(
    task: Task,  # noqa: ARG001  (every function of the bench takes the task first)
    job: Job,
    members: Members,
    observe: Observer | None = None,
    every: int = 1,
) -> None:
    """Train `members` as the job says; the option 'decay' lets the rate fall to 0."""
    train(
        members,
        seeds=job.seeds,
        rates=job.rates,
        steps=job.steps,
        batch=job.batch,
        decay=bool(job.option("decay", default=False)),
        updates=job.arm.updates,
        order=job.arm.order,
        observe=observe,
        every=every,
    )


def probe_index(members: Members) -> Tensor:
    """Indices of the probe set within each training set, shape [probe]."""
    return torch.arange(min(PROBE, *(len(each.train) for each in members.datas)))


def score(members: Members, part: str, fn: specs.Score, index: Tensor | None = None) -> list[float]:
    """`fn(output, target)` of each member on its 'train' or 'test' examples (those at `index`), in evaluation mode."""
    outputs = members.outputs(part, index)
    targets = [getattr(each, part).target for each in members.datas]
    return [
        float(fn(output, target if index is None else target[index]))
        for output, target in zip(outputs, targets, strict=True)
    ]


def probe_losses(task: Task, members: Members, index: Tensor) -> list[float]:
    """How far each member's training is: the loss of its training examples at `index`, dropout off.

    A user's own network uses these examples' own statistics: early in training, and with small mini-batches, running
    averages lag so far behind that they say more of the lag than of the training.
    """
    loss = loss_of(task, members.datas[0].train.target)
    if not (task.own and isinstance(members, Single)):
        return score(members, "train", loss, index)
    return [float(loss(members.probed(index), members.datas[0].train.target[index]))]


def norm_sites(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name, module) of every place where batch norm stands, or stood before it was removed, in forward order."""
    from normscope.model.find import kind_of
    from normscope.surgery.remove import ChannelAffine

    return [(name, part) for name, part in model.named_modules() if isinstance(part, ChannelAffine) or kind_of(part)]
