import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normscope
from normscope.errors import InputError, SpecError, UnsupportedError
from normscope.nn import BatchNormAct2d, GhostBatchNorm2d


class Block(nn.Module):
    def __init__(self, channels, *, functional):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.functional = functional

    def forward(self, x):
        relu = F.relu if self.functional else self.relu
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return relu(y)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU())
        self.blocks = nn.Sequential(Block(8, functional=True), Block(8, functional=False))
        self.linear = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        x = self.linear(x) + x
        return self.head(self.drop(x.mean((2, 3))))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.bn, self.act = nn.BatchNorm2d(8), nn.LeakyReLU(0.2)
        self.read_twice, self.relu = nn.BatchNorm2d(8), nn.ReLU()

    def forward(self, x):
        y = self.act(self.bn(self.body(x)))
        if float(y.detach().mean()) > 1e9:
            raise RuntimeError
        z = self.read_twice(y)
        return self.relu(z) + z


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make):
    torch.manual_seed(0)
    return make()


def test_a_network_that_traces_is_fused_through_residuals_and_functions():
    model = seeded(Net)
    before = copy.deepcopy(model.state_dict())
    fusion = normscope.fuse(model, draw(6, 3, 10, 10))
    assert fusion.how == "graph"
    assert set(fusion.fused) == {
        "stem.1", "blocks.0.bn1", "blocks.0.bn2", "blocks.1.bn1", "blocks.1.bn2", "linear.1",
    }  # fmt: skip
    assert fusion.left == ()
    assert sum(isinstance(module, BatchNormAct2d) for module in fusion.model.modules()) == 6
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("make", [Net, Untraceable])
def test_fused_trains_like_the_original_and_checkpoints_load_both_ways(make):
    model = seeded(make)
    fused = normscope.fuse(model, draw(6, 3, 10, 10)).model
    assert set(fused.state_dict()) == set(model.state_dict())
    for network in (model, fused):
        optimizer = torch.optim.SGD(network.parameters(), 0.05)
        for step in range(3):
            torch.manual_seed(step)
            optimizer.zero_grad()
            network.train()(draw(6, 3, 10, 10, seed=step)).square().mean().backward()
            optimizer.step()
    x = draw(6, 3, 10, 10, seed=9)
    torch.testing.assert_close(fused.eval()(x), model.eval()(x), rtol=1e-4, atol=1e-4)
    fresh = normscope.fuse(seeded(make), x).model
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(fresh.eval()(x), model(x), rtol=1e-5, atol=1e-5)
    plain = normscope.unfuse(fused)
    assert not any(isinstance(module, BatchNormAct2d) for module in plain.modules())
    torch.testing.assert_close(plain.eval()(x), fused(x), rtol=1e-5, atol=1e-5)
    model.load_state_dict(plain.state_dict())
    assert any(isinstance(module, BatchNormAct2d) for module in fused.modules())


def test_where_fx_does_not_trace_one_recorded_forward_decides():
    fusion = normscope.fuse(seeded(Untraceable), draw(6, 3, 10, 10))
    assert fusion.how == "modules"
    assert set(fusion.fused) == {"body.1", "bn"}
    assert [left.name for left in fusion.left] == ["read_twice"]
    assert "only reader" in fusion.left[0].reason
    assert type(normscope.unfuse(fusion.model).act) is nn.LeakyReLU


class Hard(nn.Module):
    def forward(self, x):
        return F.hardswish(x)


class OwnSilu(nn.Module):
    def forward(self, x):
        return F.silu(x)


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return F.relu(x)


def test_an_activation_of_another_class_is_known_by_what_it_computes():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.BatchNorm2d(3), OwnSilu(), nn.BatchNorm2d(3), Remembering(), nn.BatchNorm2d(3), Hard()
            )

        def forward(self, x):
            return self.body(x) if float(x.sum()) < 1e9 else x

    fusion = normscope.fuse(seeded(Chain), draw(6, 3, 10, 10))
    assert fusion.how == "modules"
    assert fusion.fused == ("body.0",)
    assert [left.reason for left in fusion.left] == [
        "what follows it is a Remembering, which cannot be fused",
        "what follows it is a Hard, which cannot be fused",
    ]
    assert type(normscope.unfuse(fusion.model).body[1]) is OwnSilu


def test_what_is_left_alone_is_listed_with_the_reason():
    shared = nn.BatchNorm2d(3)
    hooked = nn.BatchNorm2d(3)
    hooked.register_forward_hook(lambda *_: None)
    model = nn.Sequential(
        shared, nn.ReLU(), shared, nn.ReLU(), GhostBatchNorm2d(3, ghost_size=2), nn.ReLU(), hooked, nn.ReLU(),
        nn.BatchNorm2d(3), nn.Tanh(),
    )  # fmt: skip
    fusion = normscope.fuse(model, draw(4, 3, 5, 5))
    reasons = {left.name: left.reason for left in fusion.left}
    assert fusion.fused == ()
    assert "2 times" in reasons["0"]
    assert "GhostBatchNorm2d" in reasons["4"]
    assert "hooks" in reasons["6"]
    assert "followed by" in reasons["8"]


def test_a_network_that_differs_between_modes_in_its_code_is_not_taken_from_the_trace():
    class ByMode(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn, self.relu = nn.BatchNorm2d(3), nn.ReLU()

        def forward(self, x):
            y = self.relu(self.bn(x))
            return F.dropout(y, 0.5, training=self.training)

    fusion = normscope.fuse(ByMode(), draw(4, 3, 5, 5))
    assert fusion.how == "modules"
    assert fusion.fused == ("bn",)


def test_a_fused_network_with_other_numbers_is_never_handed_over(monkeypatch):
    from normscope.surgery import chains, fuse, rewrite

    def wrong(layer, _activation, slope):
        return chains._exchanged(layer, BatchNormAct2d, activation="relu6", negative_slope=slope)

    monkeypatch.setattr(rewrite, "fused_from", wrong)
    monkeypatch.setattr(fuse, "fused_from", wrong)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.LeakyReLU())
    with pytest.raises(UnsupportedError, match="differs by"):
        normscope.fuse(model, draw(4, 3, 5, 5))


class Projected(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.project = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)) + self.project(x))


def test_of_two_batch_norms_that_are_added_one_adds_the_other():
    fusion = normscope.fuse(Projected().eval(), draw(4, 3, 6, 6))
    assert fusion.fused == ("bn",)
    assert [left.name for left in fusion.left] == ["project.1"]
    assert "the residual that bn adds" in fusion.left[0].reason
    assert not any(module.training for module in fusion.model.modules())


class Raising(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.relu = nn.BatchNorm1d(3), nn.ReLU()

    def forward(self, _x):
        raise KeyError("planted")


@pytest.mark.parametrize(
    ("model", "batch", "error", "says"),
    [
        (3, (draw(4, 3),), InputError, "expected a torch.nn.Module to fuse, got int"),
        (Raising(), (draw(4, 3),), SpecError, "KeyError: 'planted'"),
        (nn.BatchNorm1d(3), (draw(1, 3),), SpecError, "Expected more than 1 value per channel when training"),
        (nn.BatchNorm1d(3), (), SpecError, "missing 1 required positional argument"),
        (nn.BatchNorm1d(3), (draw(4, 5),), SpecError, "running_mean should contain 5 elements"),
        (nn.BatchNorm1d(3), (draw(4, 3) * torch.nan,), InputError, "not finite"),
    ],
)
def test_bad_input_says_what_was_wrong_and_leaves_the_network_alone(model, batch, error, says):
    before = copy.deepcopy(model.state_dict()) if isinstance(model, nn.Module) else None
    with pytest.raises(error, match=says):
        normscope.fuse(model, *batch)
    if before is not None:
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        assert model.training


def test_a_network_that_cannot_be_copied_is_refused():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    model.derived = model[0].weight * 2
    with pytest.raises(UnsupportedError, match="deepcopy"):
        normscope.fuse(model, draw(4, 3))
