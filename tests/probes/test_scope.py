import contextlib
import copy
import json
import math
import warnings

import pytest
import torch
from torch import nn

import normscope
import normscope.nn
from normscope.errors import InputError, UnsupportedError
from normscope.moments import Moments
from normscope.probes.catalog import PROBES

CHEAP = ("moments", "range", "drift")


def train(task, scope, steps=4):
    """`steps` steps on fresh batches, with dropout; the losses."""
    generator = torch.Generator().manual_seed(7)
    losses = []
    with scope or contextlib.nullcontext():
        for _ in range(steps):
            task.x = torch.randn(24, 1, 5, 5, generator=generator)
            task.optimizer.zero_grad()
            loss = task.loss()
            loss.backward()
            task.optimizer.step()
            losses.append(loss.item())
            if scope is not None:
                scope.step()
    return losses


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("probes", [CHEAP, None])
@pytest.mark.parametrize("every", [1, 3])
def test_training_is_bit_equal_with_and_without(new_task, looks, make, probes, every):
    ends = []
    for scoped in (False, True):
        task = new_task()
        task.optimizer = make(task.model.parameters(), lr=0.05)
        torch.manual_seed(11)
        scope = (
            normscope.Scope(task.model, loss=task.loss, optimizer=task.optimizer, every=every, probes=probes)
            if scoped
            else None
        )
        ends.append((train(task, scope), looks.take(task)))
        if scope is not None:
            assert scope.not_run == {}
            assert {row["probe"] for row in scope.table()} == set(probes or PROBES)
    assert ends[0][0] == ends[1][0]
    assert looks.same(ends[0][1], ends[1][1])


def test_the_comparison_can_fail(new_task, looks):
    """Planted: one extra forward a step, as a careless probe would run, changes the training."""
    plain, careless = new_task(), new_task()
    losses = train(plain, None)

    class Careless:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def step(self):
            careless.run()

    torch.manual_seed(0)
    assert losses != train(careless, Careless())
    assert not looks.same(looks.take(plain), looks.take(careless))


def test_moments_are_those_of_the_last_batch(task):
    with normscope.Scope(task.model, probes=CHEAP) as scope:
        model = copy.deepcopy(task.model)
        task.loss().backward()
        scope.step()
    expected = Moments.of(model[0](task.x))
    torch.testing.assert_close(scope.moments["1"].mean, expected.mean, rtol=1e-5, atol=1e-6)
    row = scope.table().select(layer="1", quantity="values per channel")[0]
    assert row["value"] == 24 * 25
    assert row["source"] == "saved by torch"


def test_drift_is_expected_from_the_noise(task):
    with normscope.Scope(task.model, loss=task.loss, probes=("noise", "drift")) as scope:
        for seed in range(2):
            task.x = torch.randn(24, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
            task.run()
            scope.step()
    row = scope.table().select(probe="drift", layer="9", quantity="distance of the input means")[0]
    assert row["step"] == 1
    # vectors: an effective batch of about 24 examples
    assert row["expected"] == pytest.approx(math.sqrt(2 / 24), rel=0.15)
    assert 0.3 < row["value"] / row["expected"] < 3


def test_planted_drift_is_seen(task):
    with normscope.Scope(task.model, probes=("drift",)) as scope:
        task.run()
        scope.step()
        with torch.no_grad():
            task.model[4].weight.add_(1.0)
        task.run()
        scope.step()
    drift = {row["layer"]: row["value"] for row in scope.table() if row["quantity"].startswith("distance")}
    assert drift["1"] == 0
    assert drift["5"] > 0.5


@pytest.mark.parametrize("training", [True, False])
def test_range_is_derived_as_it_would_be_measured(task, training):
    task.model.train(training)
    with normscope.Scope(task.model, probes=("range",)) as scope:
        task.run()
        scope.step()
    task.model[3].p = 0.0
    from normscope.probes.ranges import ranges

    measured = ranges(task.model, task.run)["1"]
    row = scope.table().select(layer="1", quantity="median deviation of a unit")[0]
    tolerance = 1e-3
    if not training:
        task.model.train()
    assert row["value"] == pytest.approx(float(measured.median()), rel=tolerance)


def test_every_takes_the_first_and_each_nth_step(task):
    with normscope.Scope(task.model, every=3, probes=("moments",)) as scope:
        train(task, None, 0)
        for _ in range(7):
            task.run()
            scope.step()
    assert sorted({row["step"] for row in scope.table()}) == [0, 3, 6]


def test_without_a_closure_the_probes_that_need_one_are_listed(task):
    scope = normscope.Scope(task.model)
    train(task, scope, 2)
    assert scope.not_run["noise"] == "needs loss="
    assert scope.not_run["coupling"] == "needs loss= and optimizer="
    assert set(scope.not_run) == set(PROBES) - set(CHEAP)
    assert {row["probe"] for row in scope.table()} == set(CHEAP)
    assert json.loads(scope.to_json())["not_run"] == scope.not_run
    assert "needs optimizer=" in normscope.Scope(task.model, loss=task.loss).not_run["coupling"]


def test_a_probe_that_cannot_run_says_why_and_training_goes_on(new_task):
    task = new_task()
    lbfgs = torch.optim.LBFGS(task.model.parameters())
    scope = normscope.Scope(task.model, loss=task.loss, optimizer=lbfgs, probes=("coupling", "gap"))
    train(task, scope, 2)
    assert "got LBFGS" in scope.not_run["coupling"]
    assert {row["step"] for row in scope.table().select(probe="gap")} == {0, 1}


def test_no_forward_pass_is_said_so(task):
    with normscope.Scope(task.model) as scope:
        scope.step()
    assert "no forward pass of the network was seen before step 0" in scope.not_run["moments"]
    assert len(scope.table()) == 0


def test_hooks_are_gone_after_an_exception(task, looks):
    before = looks.take(task)

    def fail():
        raise RuntimeError("planted")

    scope = normscope.Scope(task.model, loss=fail)
    with pytest.raises(RuntimeError, match="planted"), scope:
        scope.step()
    assert looks.same(looks.take(task), before)


def test_a_closure_that_fails_half_way_leaves_no_trace(task, looks):
    calls = []

    def loss():
        value = task.loss()
        calls.append(1)
        if len(calls) > 20:
            raise RuntimeError("planted")
        return value

    scope = normscope.Scope(task.model, loss=loss, optimizer=task.optimizer)
    before = looks.take(task)
    with pytest.raises(RuntimeError, match="planted"), scope:
        scope.step()
    assert looks.same(looks.take(task), before)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"probes": ["drif"]}, "unknown probe 'drif', did you mean 'drift'"),
        ({"every": 0}, "every to be at least 1 step, got 0"),
    ],
)
def test_bad_arguments(task, arguments, text):
    with pytest.raises(InputError, match=text):
        normscope.Scope(task.model, **arguments)


def test_a_network_without_batch_norm():
    with pytest.raises(UnsupportedError, match="at least one batch-norm layer"):
        normscope.Scope(nn.Linear(1, 1))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x):
        return nn.functional.batch_norm(self.bn(x), None, None, training=True)


def test_what_cannot_be_seen_is_in_the_table(task):
    model = Functional()
    with normscope.Scope(model) as scope:
        model(task.x)
        scope.step()
    assert scope.table().unsupported == (
        "the network: 1 call(s) of functional batch norm in a forward belong to no module",
    )


@pytest.mark.parametrize("layer", [normscope.nn.BatchNorm2d, normscope.nn.GhostBatchNorm2d])
def test_own_layers(new_task, layer):
    make = (lambda: layer(4, ghost_size=8)) if layer is normscope.nn.GhostBatchNorm2d else (lambda: layer(4))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), make(), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    task = new_task(model)
    scope = normscope.Scope(model, loss=task.loss, optimizer=task.optimizer)
    train(task, scope, 2)
    assert scope.not_run == {}
    assert {row["source"] for row in scope.table().select(probe="moments")} == {"handed out by the layer"}


def test_distributed_with_every_probe(new_task, looks, tmp_path):
    """The gradient reduction must not wait for the probes' own forward passes."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        ends = []
        for scoped in (False, True):
            task = new_task()
            wrapped = nn.parallel.DistributedDataParallel(task.model)
            task.loss = lambda task=task, wrapped=wrapped: nn.functional.cross_entropy(wrapped(task.x), task.y)
            scope = normscope.Scope(wrapped, loss=task.loss, optimizer=task.optimizer) if scoped else None
            torch.manual_seed(3)
            ends.append((train(task, scope), looks.take(task)))
            if scope is not None:
                assert scope.not_run == {}
                assert {row["layer"] for row in scope.table().select(probe="moments")} == {"1", "5", "9"}
    finally:
        torch.distributed.destroy_process_group()
    assert ends[0][0] == ends[1][0]
    assert looks.same(ends[0][1], ends[1][1])


def test_compiled_with_every_probe(new_task, looks):
    ends = []
    for scoped in (False, True):
        task = new_task()
        compiled = torch.compile(task.model, backend="eager")
        task.loss = lambda task=task, compiled=compiled: nn.functional.cross_entropy(compiled(task.x), task.y)
        scope = normscope.Scope(compiled, loss=task.loss, optimizer=task.optimizer) if scoped else None
        torch.manual_seed(3)
        ends.append((train(task, scope), looks.take(task)))
        if scope is not None:
            assert scope.not_run == {}
            assert {row["layer"] for row in scope.table().select(probe="moments")} == {"1", "5", "9"}
    assert ends[0][0] == ends[1][0]
    assert looks.same(ends[0][1], ends[1][1])


def test_the_page_and_pandas(task):
    scope = normscope.Scope(task.model, loss=task.loss, probes=("gap",), every=2)
    train(task, scope, 3)
    assert len(scope.table().to_pandas()) == len(scope.table())
    assert "<html" in scope.to_html("Probed")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the tracer's own doing
def test_inside_of_a_compiled_function_nothing_is_seen_and_that_is_said(task):
    task.model[3].p = 0.0
    forward = torch.compile(lambda x: task.model(x) * 2, backend="eager", fullgraph=True)
    expected = forward(task.x)
    with normscope.Scope(task.model) as scope:
        for _ in range(2):
            assert torch.equal(forward(task.x), expected)
            scope.step()
    assert "inside of a compiled function is not seen" in scope.not_run["moments"]


class Activated(nn.BatchNorm2d):
    """An activation built in, in place, as timm's BatchNormAct2d."""

    def forward(self, x):
        return nn.functional.relu(super().forward(x), inplace=True)


class Foreign(nn.Module):
    """A batch norm that does not derive from torch's."""

    def __init__(self, channels):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        return nn.functional.batch_norm(
            x, self.running_mean, self.running_var, self.scale, self.shift, training=self.training
        )


class Frozen(nn.Module):
    """As torchvision's and detectron2's FrozenBatchNorm2d."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def foreign_net():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.BatchNorm2d(4)))
    layers = [Activated(4), nn.Conv2d(4, 4, 3, padding=1), Foreign(4), nn.ReLU(), Frozen(4), scripted]
    return nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.Flatten(), nn.Linear(36, 3))


def test_layers_that_are_not_torchs_own(new_task, looks):
    ends = []
    for scoped in (False, True):
        task = new_task(foreign_net())
        scope = normscope.Scope(task.model, loss=task.loss, optimizer=task.optimizer) if scoped else None
        ends.append((train(task, scope, 2), task.model.state_dict()))
    assert ends[0][0] == ends[1][0]
    assert looks.same(ends[0][1], ends[1][1])
    assert scope.not_run == {}
    rows = scope.table().select(probe="moments", quantity="values per channel", step=1)
    assert [(row["layer"], row["source"]) for row in rows] == [
        ("1", "saved by torch"),
        ("3", "saved by torch"),
        ("5", "recomputed: evaluation mode"),
    ]
    assert {row["layer"] for row in scope.table().select(probe="noise")} == {"1", "3"}
    assert scope.table().unsupported == ("6: a ScriptModule runs outside Python and cannot be probed",)
