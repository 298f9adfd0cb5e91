"""The faults: each from a report in a public issue tracker, brought about as the report has it, at three severities."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import networks
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from training import digits, fresh, healthy, loader, train, usual

from normscope.surgery.statistics import hold_statistics


@dataclass
class Case:
    """What is handed to the check."""

    model: object
    data: object = None
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: A few words.
        source: The public report, owner/repository#number.
        code: The rule that must find it.
        make: (architecture, severity 0 to 2) -> Case.
        also: Rules that may rightly speak up beside it.
        networks: 'any' of the shared architectures, or 'own' where the fault needs one of its own.
        immune: Shared architectures that cannot have the fault.
    """

    name: str
    source: str
    code: str
    make: Callable
    also: tuple = ()
    networks: str = "any"
    immune: tuple = ()


FAULTS: list[Fault] = []


def fault(name, source, code, also=(), networks="any", immune=()):
    def add(make):
        FAULTS.append(Fault(name, source, code, make, also, networks, immune))
        return make

    return add


STALE = ("BN001", "BN003", "BN014")


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def case(model, **options):
    return Case(model, options.pop("data", None) or loader(), options)


@fault("buffers not updated by a functional forward", "facebookresearch/higher#55", "BN001", STALE)
def _(name, severity):
    def step(model, x, y, optimizer):
        with hold_statistics(model):
            usual(model, x, y, optimizer)

    if severity == 2:
        return case(train(fresh(name), step=step))
    model = healthy(name)
    return case(train(model, (0.5, 2)[severity], 0.05, step=step, seed=3))


@fault("teacher by weight average, buffers left as made", "CuriousAI/mean-teacher#9", "BN001", STALE)
def _(name, severity):
    model = fresh(name) if severity == 2 else train(fresh(name), (4, 1)[severity], 0.05)
    teacher = copy.deepcopy(model)

    def step(model, x, y, optimizer):
        usual(model, x, y, optimizer)
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 0.05)

    train(model, 4, 0.05, step=step, seed=5)
    return case(teacher.train())


@fault("checkpoints averaged, statistics of the last", "huggingface/pytorch-image-models#224", "BN001", STALE)
def _(name, severity):
    model = healthy(name)
    kept = []
    rate = (0.03, 0.1, 0.3)[severity]
    for seed in range(5):
        train(model, 1, rate, seed=seed, decay=False)
        kept.append([value.detach().clone() for value in model.parameters()])
    with torch.no_grad():
        for value, *parts in zip(model.parameters(), *kept, strict=True):
            value.copy_(torch.stack(parts).mean(0))
    return case(model)


@fault("averaged model without update_bn", "mosaicml/composer#624", "BN015", ("BN003", "BN014"))
def _(name, severity):
    model = healthy(name)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for seed in range(5):
        train(model, 1, (0.03, 0.1, 0.3)[severity], seed=seed, decay=False)
        averaged.update_parameters(model)
    return case(averaged)


@fault("validation in train mode on other data", "princeton-vl/pytorch_stacked_hourglass#44", "BN001", STALE)
def _(name, severity):
    model = healthy(name)
    with torch.no_grad():
        for at in range((2, 5, 20)[severity]):
            model((digits()[2][at * 8 : at * 8 + 32] * 1.5 + 1).float())
    return case(model)


@fault("rate never lowered, evaluated at once", "pytorch/pytorch#4741", "BN001", STALE)
def _(name, severity):
    return case(train(healthy(name), 0.3, (0.2, 0.5, 1.5)[severity], decay=False, seed=4))


@fault("momentum by Keras' convention", "r9y9/tacotron_pytorch#19", "BN012", STALE)
def _(name, severity):
    model = fresh(name)
    for norm in norms(model):
        norm.momentum = (0.9, 0.99, 0.999)[severity]
    return case(train(model, 4))


@fault("momentum 0", "svishwa/crowdcount-mcnn#64", "BN012", STALE)
def _(name, severity):
    model = fresh(name) if severity == 2 else train(fresh(name), (2, 1)[severity])
    for norm in norms(model):
        norm.momentum = 0
    return case(train(model, 4))


@fault("momentum 1", "pytorch/pytorch#19916", "BN012", STALE)
def _(name, severity):
    model = fresh(name)
    for norm in norms(model)[severity::-1]:
        norm.momentum = 1.0
    return case(train(model, 4))


@fault("cumulative average over the whole training", "automan000/Camera-based-Person-ReID#3", "BN012", STALE)
def _(name, severity):
    model = fresh(name)
    for norm in norms(model):
        norm.momentum = None
    return case(train(model, (2, 4, 8)[severity]))


@fault("small batches", "uci-cbcl/UFold#18", "BN002", STALE)
def _(name, severity):
    # Batches of 1, as reported, are the worst that can be trained on; a layer of one value per image needs 2.
    batch = ((8, 4, 2) if name == "mlp" else (4, 2, 1))[severity]
    return case(train(fresh(name), 2, 0.02, batch=batch), data=loader(batch_size=batch))


@fault("a small last batch", "meetps/pytorch-semseg#214", "BN002")
def _(name, severity):
    x, y = digits()[:2]
    count = 1248 + (6, 3, 1)[severity]
    return case(healthy(name), data=loader(x[:count], y[:count]))


@fault("gradient accumulation", "ultralytics/yolov5#1630", "BN016", STALE)
def _(name, severity):
    model = healthy(name)
    every = (2, 4, 8)[severity]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x, y = digits()[:2]
    calls = [0]

    def step():
        model.train()
        at = calls[0] * 32 % 1024
        calls[0] += 1
        nn.functional.cross_entropy(model(x[at : at + 32]), y[at : at + 32]).div(every).backward()
        if calls[0] % every == 0:
            optimizer.step()
            optimizer.zero_grad()

    return case(model, optimizer=optimizer, step=step)


def stepper(model, forward):
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x, y = digits()[:2]

    def step():
        model.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(forward(x[:32]), y[:32]).backward()
        optimizer.step()

    return {"optimizer": optimizer, "step": step}


class Recomputed(nn.Module):
    """A layer whose activations are not kept: torch.utils.checkpoint runs it again in the backward."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


def recompute(model, count):
    """Put the first `count` batch norms of `model` under activation checkpoints."""
    chosen = {id(norm) for norm in norms(model)[:count]}
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if id(child) in chosen:
                parent._modules[key] = Recomputed(child)
    return model


@fault("activation checkpoints recompute the forward", "pytorch/pytorch#96136", "BN011")
def _(name, severity):
    model = recompute(healthy(name), (1, 2, 99)[severity])
    return case(model, **stepper(model, model))


@fault("an extra forward in train mode", "m2lines/Samudra#572", "BN011", STALE)
def _(name, severity):
    model = healthy(name)
    noise = (0.0, 0.5, 2.0)[severity]

    def forward(x):
        model(x + noise)
        return model(x)

    return case(model, **stepper(model, forward))


@fault("real and generated batches through one layer", "carpedm20/DCGAN-tensorflow#266", "BN011", STALE)
def _(name, severity):
    model = healthy(name)
    generator = torch.Generator().manual_seed(0)
    spread = (0.8, 0.5, 0.1)[severity]

    def forward(x):
        return model(x) + 0 * model(spread * torch.randn(x.shape, generator=generator))

    return case(model, **stepper(model, forward))


@fault("one layer at every time step", "cooijmanstim/recurrent-batch-normalization#2", "BN010", STALE, "own")
def _(_name, severity):
    torch.manual_seed(0)
    return case(train(networks.Recurrent((2, 3, 5)[severity], (1.0, 1.3, 1.5)[severity]), 4))


@fault("data in the order of their classes", "MAC-AutoML/rethinking_performance_estimation_in_NAS#17", "BN010", STALE)
def _(name, severity):
    x, y = digits()[:2]
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(len(x), generator=generator) * (20, 8, 0.1)[severity]
    order = (y + noise).argsort()
    return case(healthy(name), data=loader(x[order], y[order]))


@fault("each batch from one task", "learnables/learn2learn#207", "BN010", STALE)
def _(name, severity):
    x, y = digits()[:2]
    gain = torch.tensor([1.0, (1.3, 1.6, 3.0)[severity]]).repeat_interleave(32).repeat(20)[:, None, None, None]
    data = (x * gain, y)

    def step(model, xs, ys, optimizer):
        usual(model, xs, ys, optimizer)

    return case(train(healthy(name), 1, 0.01, data=data, step=step), data=loader(*data))


@fault("requires_grad=False taken for frozen", "pytorch/pytorch#86590", "BN007", STALE)
def _(name, severity):
    model = healthy(name)
    for norm in norms(model)[: (1, 2, 99)[severity]]:
        for value in norm.parameters():
            value.requires_grad = False
    return case(model.train())


@fault("frozen layers thawed by model.train()", "poppinace/indexnet_matting#35", "BN007", STALE)
def _(name, severity):
    model = healthy(name).train()
    for norm in norms(model)[: (1, 2, 99)[severity]]:
        norm.eval()
    return case(model, **stepper(model, model))


@fault("affine trained on frozen statistics", "filipradenovic/cnnimageretrieval-pytorch#19", "BN007", STALE)
def _(name, severity):
    model = healthy(name).train()
    for norm in norms(model)[: (1, 2, 99)[severity]]:
        norm.eval()
    return case(model)


@fault("an overflowing batch under mixed precision", "pytorch/pytorch#96798", "BN008", STALE)
def _(name, severity):
    model = healthy(name).train()
    x = digits()[0][:32].clone()
    with torch.no_grad():
        norms(model)[-1 - 0 * severity].train()
        x[: (1, 4, 32)[severity]] *= torch.tensor(6e4).half().float() * 1e34
        model(x)
    return case(model)


@fault("a step that poisons the statistics", "pytorch/pytorch#90342", "BN008", STALE)
def _(name, severity):
    model = healthy(name)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x, y = digits()[:2]
    calls = [0]

    def step():
        model.train()
        calls[0] += 1
        xs = x[:32].clone()
        if calls[0] == 1 + severity:
            xs[0] = float("inf")
        usual(model, xs, y[:32], optimizer)

    return case(model, optimizer=optimizer, step=step)


# Cancellation that does not end below 0 ends at 0: a collapsed channel.
@fault("variance as E[x^2] - E[x]^2", "marvis/pytorch-caffe-darknet-convert#48", "BN008", (*STALE, "BN009"))
def _(name, severity):
    model = healthy(name)
    offset = (3e3, 1e4, 1e5)[severity]
    norm = norms(model)[0]

    def onepass(_module, args):
        x = args[0].transpose(0, 1).flatten(1) * 0.01 + offset
        norm.running_mean.copy_(x.mean(1) - offset)
        norm.running_var.copy_(x.square().mean(1) - x.mean(1).square())

    handle = norm.register_forward_pre_hook(onepass)
    with torch.no_grad():
        model.eval()(digits()[0][:256])
    handle.remove()
    return case(model)


@fault("the whole network cast to 16 bits", "fastai/fastai#507", "BN013", STALE)
def _(name, severity):
    model = healthy(name)
    kind = (torch.float16, torch.bfloat16, torch.bfloat16)[severity]
    for norm in norms(model)[: (1, 2, 99)[severity]]:
        norm.running_mean.data = norm.running_mean.to(kind)
        norm.running_var.data = norm.running_var.to(kind)
    return Case(model.state_dict())


@fault("dropout before batch norm", "luigibonati/mlcolvar#205", "BN006", STALE, "own")
def _(_name, severity):
    torch.manual_seed(0)
    p = (0.1, 0.3, 0.5)[severity]
    model = nn.Sequential(nn.Flatten())
    for fan_in in (64, 48, 48):
        model.extend([nn.Dropout(p), nn.Linear(fan_in, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU()])
    model.append(nn.Linear(48, 10))
    return case(train(model))


@fault("a checkpoint without num_batches_tracked", "mapillary/inplace_abn#130", "BN014", STALE)
def _(name, severity):
    model, state = fresh(name), healthy(name).state_dict()
    keys = [key for key in state if key.endswith("num_batches_tracked")]
    for key in keys[: (1, 2, 99)[severity]]:
        del state[key]
    model.load_state_dict(state, strict=False)
    return Case(model.state_dict())


@fault("some layers counted twice", "gpleiss/efficient_densenet_pytorch#73", "BN014")
def _(name, severity):
    model = recompute(healthy(name), (1, 1, 2)[severity])
    return Case(train(model, (0.5, 1, 2)[severity], 1e-3).state_dict())


def padded(share, seed=0):
    x, y = digits()[:2]
    rows = x[:, 0].transpose(1, 2) + 1
    generator = torch.Generator().manual_seed(seed)
    longest = round(8 / (1 - share))
    out = torch.zeros(len(rows), 8, longest)
    length = (8 - torch.randint(0, 3, (len(rows),), generator=generator)).clamp_max(longest)
    for at, n in enumerate(length.tolist()):
        out[at, :, :n] = rows[at, :, :n]
    return out, y


@fault("padding counted in the statistics", "SeanNaren/deepspeech.pytorch#312", "BN017", STALE, "own")
def _(_name, severity):
    torch.manual_seed(0)
    data = padded((0.2, 0.4, 0.7)[severity])
    return case(train(networks.Sequence(), 4, data=data), data=loader(*data))


@fault("serving data prepared in another way", "tensorflow/models#3111", "BN018", STALE)
def _(name, severity):
    x, y = digits()[:2]
    gain, offset = ((1.3, 0.1), (1.6, 0.5), (8.0, 4.0))[severity]
    return case(healthy(name), serving=loader(x * gain + offset, y))


@fault("weight decay on every parameter", "torch/torch7#846", "BN005", ("BN009",))
def _(name, severity):
    model = healthy(name)
    decay = (1e-5, 1e-4, 1e-2)[severity]
    return case(model, optimizer=torch.optim.SGD(model.parameters(), 0.1, weight_decay=decay))


@fault("bias kept before batch norm", "Lasagne/Lasagne#141", "BN004", (), "own")
def _(_name, severity):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten())
    for at, fan_in in enumerate((64, 48, 48)):
        model.extend([nn.Linear(fan_in, 48, bias=at <= severity), nn.BatchNorm1d(48), nn.ReLU()])
    model.append(nn.Linear(48, 10))
    return case(train(model, 4))


# Every batch norm of the dense network reads a concatenation, which nothing can be folded into.
@fault("exported without folding", "pytorch/pytorch#141116", "BN019", immune=("dense",))
def _(name, severity):
    model = healthy(name).eval()
    x = digits()[0][:4]
    if severity == 2:
        return Case(torch.fx.symbolic_trace(model))
    if severity == 1:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Case(torch.jit.trace(model, x))
    return Case(torch.export.export(model, (x,)).module(check_guards=False))


@fault("channels_last images with a large mean", "pytorch/pytorch#36582", "BN020", STALE, "own")
def _(_name, severity):
    torch.manual_seed(0)
    offset = (1e4, 1e5, 1e6)[severity]
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.Flatten(), nn.Linear(12 * 36, 10)
    )
    x, y = digits()[:2]
    x = (x.expand(-1, 3, -1, -1) + 0.1 * torch.randn(len(x), 3, 8, 8)).contiguous(memory_format=torch.channels_last)
    x = x + offset
    train(model, 2, data=(x, y))
    return case(model, data=loader(x, y))


@fault("constant inputs", "pytorch/pytorch#5410", "BN009", ("BN001",), "own")
def _(_name, severity):
    torch.manual_seed(0)
    x, y = digits()[:2]
    x = x.flatten(1).clone()
    x += 0.05 * torch.randn(x.shape)
    x[:, : (1, 5, 30)[severity]] = 3.0
    model = nn.Sequential(
        nn.BatchNorm1d(64), nn.Linear(64, 48, bias=False), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10)
    )
    return case(train(model, 8, data=(x, y)), data=loader(x, y))


@fault("gamma driven to 0", "google-research/morph-net#110", "BN009", STALE)
def _(name, severity):
    model = healthy(name)

    def step(model, x, y, optimizer):
        usual(model, x, y, optimizer)
        with torch.no_grad():
            for norm in norms(model)[:2]:
                shrink = optimizer.param_groups[0]["lr"] * (0.6, 0.8, 1.2)[severity]
                norm.weight.copy_(norm.weight.sign() * (norm.weight.abs() - shrink).clamp_min(0))

    return case(train(model, 2, 0.02, step=step))
