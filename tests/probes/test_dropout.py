import pytest
import torch
from torch import nn

from normscope.errors import UnsupportedError
from normscope.probes.dropout import variance_shift


def shifts(model, x, repeats=200):
    return variance_shift(model.double(), lambda: model(x.double()), repeats)


@pytest.mark.parametrize(("mean", "p", "expected"), [(0.0, 0.5, 0.5), (1.0, 0.5, 1 / 3), (1.0, 0.2, 1 / 1.5)])
def test_directly_before_batch_norm_it_is_the_published_ratio(mean, p, expected):
    model = nn.Sequential(nn.Dropout(p), nn.BatchNorm1d(8))
    (found,) = shifts(model, mean + torch.randn(2000, 8))
    assert found.layer == "1"
    assert found.dropout == "0"
    assert found.measured == pytest.approx(expected, rel=0.03)
    assert found.formula == pytest.approx(found.measured, rel=0.005)


def test_through_a_linear_layer_it_is_the_formula_worked_out_by_hand():
    model = nn.Sequential(
        nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)
    )
    x = torch.randn(1000, 32) + 0.3
    (found,) = shifts(model, x)
    units = x.double().relu()
    weight = model[2].weight.detach()
    variance = (units @ weight.T).var(0, correction=0)
    by_hand = variance / (variance + weight.square() @ units.square().mean(0))
    assert found.formula == pytest.approx(float(by_hand.mean()), rel=1e-9)
    assert found.measured == pytest.approx(found.formula, rel=0.005)


def test_through_a_strided_padded_convolution():
    model = nn.Sequential(nn.Dropout(0.3), nn.ReLU(), nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6))
    (found,) = shifts(model, torch.randn(200, 3, 9, 9))
    assert found.measured == pytest.approx(found.formula, rel=0.01)
    assert found.measured < 0.95


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.mix, self.norm = nn.Dropout(0.5), nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(self.mix(x + self.drop(x)))


def test_where_the_formula_does_not_reach_it_is_none_and_the_measurement_stands():
    (found,) = shifts(Residual(), torch.randn(500, 8))
    assert found.formula is None
    assert 0.3 < found.measured < 0.95


def test_each_dropout_is_alone_and_one_behind_the_last_norm_shifts_nothing():
    model = nn.Sequential(
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.5),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.Dropout(0.5),
    )
    found = shifts(model, torch.randn(400, 8))
    assert [(each.dropout, each.layer) for each in found] == [("2", "5")]
    assert found[0].measured == pytest.approx(found[0].formula, rel=0.02)


def test_the_model_is_left_as_it_was_after_an_exception_too():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4))
    model[0].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [part.training for part in model.modules()]
    random = torch.get_rng_state()
    shifts(model.float(), torch.randn(10, 4), 2)
    torch.set_rng_state(random)
    calls = []

    def run():
        calls.append(model[0].training)
        if len(calls) == 3:
            raise KeyError
        model(torch.randn(10, 4, dtype=torch.float64))

    with pytest.raises(KeyError):
        variance_shift(model, run)
    assert calls == [False, True, True]
    assert flags == [part.training for part in model.modules()]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert all(torch.equal(value.to(state[name].dtype), state[name]) for name, value in model.state_dict().items())


def test_without_batch_norm_it_says_so():
    with pytest.raises(UnsupportedError, match="batch-norm layer, found none"):
        variance_shift(nn.Sequential(nn.Dropout(0.5)), lambda: None)
