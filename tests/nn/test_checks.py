import pytest
import torch
from torch.nn import functional as F

from normscope import nn
from normscope.nn import checks
from normscope.ops import functional

DIMS = {"1d": 3, "2d": 4, "3d": 5}


def ghost_law(x, weight, bias, eps):
    return torch.cat([checks.batch_norm_law(part, weight, bias, eps) for part in x.chunk(3)])


def maker(name, options):
    return lambda channels: getattr(nn, name)(channels, **options)


CASES = (
    {
        f"{family}{dims}": checks.Case(maker(f"{family}{dims}", options), number, law)
        for dims, number in DIMS.items()
        for family, options, law in (
            ("BatchNorm", {}, checks.batch_norm_law),
            ("GhostBatchNorm", {"ghost_size": 4}, ghost_law),
            ("BatchRenorm", {}, checks.batch_norm_law),
            ("BatchNormAct", {"activation": "none"}, checks.batch_norm_law),
        )
    }
    | {
        f"BatchNormAct{dims} with {activation}": checks.Case(
            maker(f"BatchNormAct{dims}", {"activation": activation}), number, after=after
        )
        for dims, number in DIMS.items()
        for activation, after in (("relu", F.relu), ("silu", F.silu), ("gelu", F.gelu))
    }
    | {
        "BatchNorm1d of rows": checks.Case(nn.BatchNorm1d, 2),
        "MaskedBatchNorm1d": checks.Case(nn.MaskedBatchNorm1d, 3),
    }
)


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CASES)
def test_our_layers_pass(name, check):
    check(CASES[name])


class BiasedVarianceTracked(torch.nn.BatchNorm2d):
    def forward(self, x):
        y = F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(x.mean((0, 2, 3)), self.momentum)
            self.running_var.lerp_(x.var((0, 2, 3), correction=0), self.momentum)
        return y


class EpsOutsideTheRoot(torch.nn.BatchNorm2d):
    def forward(self, x):
        if not self.training:
            return super().forward(x)
        super().forward(x)
        centred = x - x.mean((0, 2, 3), keepdim=True)
        normalized = centred / (x.std((0, 2, 3), correction=0, keepdim=True) + self.eps)
        return normalized * self.weight[:, None, None] + self.bias[:, None, None]


class DetachedVariance(torch.nn.BatchNorm2d):
    def forward(self, x):
        if not self.training:
            return super().forward(x)
        y = super().forward(x)
        deviation = (x.var((0, 2, 3), correction=0, keepdim=True) + self.eps).sqrt().detach()
        wrong = (x - x.mean((0, 2, 3), keepdim=True)) / deviation
        wrong = wrong * self.weight[:, None, None] + self.bias[:, None, None]
        return wrong + (y - wrong).detach()


@pytest.mark.parametrize(
    ("wrong", "caught_by"),
    [
        (BiasedVarianceTracked, checks.running_statistics_move_once_towards_the_whole_batch),
        (EpsOutsideTheRoot, checks.training_output_follows_its_law),
        (DetachedVariance, checks.gradients_follow_its_law),
    ],
)
def test_layers_made_wrong_are_caught_and_by_the_right_check(wrong, caught_by):
    with pytest.raises(AssertionError):
        caught_by(checks.Case(wrong))
    with pytest.raises(AssertionError):
        checks.check_layer(wrong)


class ActivationForgottenInEvaluation(nn.BatchNormAct2d):
    def forward(self, x):
        return super().forward(x) if self.training else self._forward(x, functional.PLAIN)


def test_an_activation_is_part_of_the_law_in_both_modes():
    checks.check_layer(nn.BatchNormAct2d, after=F.relu)
    with pytest.raises(AssertionError):
        checks.check_layer(ActivationForgottenInEvaluation, after=F.relu)


def test_torchs_own_layer_passes():
    checks.check_layer(torch.nn.BatchNorm2d)
