import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import fusion

from normscope.errors import InputError
from normscope.surgery.fold import fold


def ready(kit, model=None):
    return kit.trained_a_little(model or kit.sequential(), kit.images(40)[0]).eval()


def test_conv_transposed_conv_and_linear_fold_to_the_same_outputs(kit):
    model = ready(kit)
    x = kit.images(32)[0]
    done = fold(model)
    assert [change.name for change in done.changes] == ["1", "4", "10"]
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in done.model.modules())
    exact = copy.deepcopy(model).double()(x.double())
    plain = (model(x).double() - exact).abs().max()
    assert (done.model(x).double() - exact).abs().max() < 8 * plain + 1e-6


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(4, 6, 3, groups=2, dilation=2), nn.BatchNorm1d(6), (3, 4, 11)),
        (nn.Conv3d(2, 4, 2, stride=2, bias=False), nn.BatchNorm3d(4, affine=False), (2, 2, 4, 5, 6)),
        (nn.ConvTranspose1d(6, 9, 3, groups=3, stride=2), nn.BatchNorm1d(9), (3, 6, 5)),
        (nn.ConvTranspose2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), (2, 4, 5, 5)),
        (nn.ConvTranspose3d(2, 3, 2), nn.BatchNorm3d(3, eps=0.1), (2, 2, 3, 3, 3)),
        (nn.Linear(5, 7), nn.BatchNorm1d(7), (9, 5)),
        (nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), nn.BatchNorm2d(4), (2, 3, 6, 6)),
    ],
)
def test_every_kind_of_layer(layer, norm, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(layer, norm)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            model(x)
        if norm.affine:
            norm.weight.uniform_(-2, 2)
            norm.bias.normal_()
        model.eval()
        done = fold(model)
        assert len(done.changes) == 1
        torch.testing.assert_close(done.model(x), model(x), rtol=2e-5, atol=2e-5)


def test_agrees_with_torch_where_torch_can(kit):
    model = ready(kit)
    ours = fold(model).model[0]
    theirs = fusion.fuse_conv_bn_eval(model[0], model[1])
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-5, atol=1e-5)


def test_out_of_place_and_undone(kit):
    model = ready(kit)
    saved = kit.state(model)
    done = fold(model)
    assert kit.same(model, saved)
    assert kit.same(done.undo(), saved)
    assert isinstance(done.model[1], nn.BatchNorm2d)


def test_the_network_of_a_residual_block_folds_by_tracing(kit):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.norm2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm2(self.norm(self.conv(x)) + x)

    done = fold(ready(kit, Block()))
    assert [change.name for change in done.changes] == ["norm"]
    assert {part.name: part.reason for part in done.left_alone} == {
        "norm2": "no convolution or linear layer feeds it directly"
    }


class Unsafe(nn.Module):
    """Each pattern that must not be folded, by the name of its batch norm."""

    def __init__(self):
        super().__init__()
        for name in ("twice", "both", "tied", "tied_to", "weighted", "hooked", "plain", "before", "read"):
            setattr(self, f"conv_{name}", nn.Conv2d(3, 3, 3, padding=1))
            setattr(self, name, nn.BatchNorm2d(3))
        self.plain = nn.BatchNorm2d(3, track_running_stats=False)
        self.conv_tied.weight = self.conv_tied_to.weight
        nn.utils.parametrizations.weight_norm(self.conv_weighted)
        self.hooked.register_forward_hook(_see)

    def forward(self, x):
        x = self.twice(self.conv_twice(self.twice(self.conv_twice(x))))
        y = self.conv_both(x)
        x = self.both(y) + y
        for name in ("tied", "tied_to", "weighted", "hooked", "plain", "read"):
            x = getattr(self, name)(getattr(self, f"conv_{name}")(x))
        return self.conv_before(self.before(x + 1)) + self.read.running_mean.sum()


def _see(_module, _args, _output):
    return None


def test_unsafe_patterns_are_refused_by_name(kit):
    model = ready(kit, Unsafe())
    done = fold(model)
    x = kit.images(4)[0]
    torch.testing.assert_close(done.model(x), model(x))
    reasons = {part.name: part.reason for part in done.left_alone}
    assert not done.changes
    for name, words in {
        "twice": "called more than once",
        "both": "read elsewhere too, without batch norm",
        "tied": "is shared with conv_tied_to",
        "tied_to": "is shared with conv_tied",
        "weighted": "parametrized",
        "hooked": "has hooks",
        "plain": "no running statistics",
        "before": "pads with zeros",
        "read": "are read elsewhere too",
    }.items():
        assert words in reasons[name], name


def test_poisoned_statistics_are_refused(kit):
    model = ready(kit)
    model[1].running_var[2] = -1
    assert "NaN, inf or negative" in fold(model).left_alone[0].reason


def test_a_subclass_that_does_more_than_normalize_is_left_alone(kit):
    class Act(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    done = fold(ready(kit, nn.Sequential(nn.Conv2d(3, 4, 1), Act(4))))
    assert not done.changes
    assert "forward of its own" in done.left_alone[0].reason


def test_a_network_that_does_not_trace_folds_inside_sequential(kit):
    class Branching(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) if x.sum() > 0 else self.inner(x * 1)

    model = ready(kit, Branching(kit.sequential()))
    done = fold(model)
    assert [change.name for change in done.changes] == ["inner.1", "inner.4", "inner.10"]
    x = kit.images(8)[0]
    torch.testing.assert_close(done.model(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_network_that_does_not_trace_folds_in_the_parts_that_do(kit):
    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x)).relu()

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.units = nn.ModuleList([Unit(), Unit()])
            self.last, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            for unit in self.units:
                x = unit(x) if x.sum() > 0 else unit(unit(x))
            return self.norm(self.last(x))

    model = ready(kit, Branching())
    done = fold(model)
    assert [change.name for change in done.changes] == ["units.0.norm", "units.1.norm"]
    assert {part.name: part.reason for part in done.left_alone} == {
        "norm": "torch.fx cannot trace the forward of Branching, which calls it"
    }
    x = kit.images(8)[0]
    torch.testing.assert_close(done.model(x), model(x), rtol=1e-4, atol=1e-5)


def test_no_batch_norm_is_an_error():
    with pytest.raises(InputError, match="at least one batch-norm layer"):
        fold(nn.Linear(2, 2))
