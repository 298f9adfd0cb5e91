import pytest
import torch

from normscope.model.batch import Batch, Examples
from normscope.model.given import Spec
from normscope.moments import Moments
from normscope.why import data
from normscope.why.arms import BATCH_NORM, Arm

OWN = """
import torch

def pair():
    x = torch.arange(40.0)[:, None].repeat(1, 3) * torch.tensor([1.0, 10.0, 0.0]) + 5
    return [(x[:32], x[:32, :1])], [(x[32:], x[32:, :1])]

def one():
    return pair()[0]

def classes():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    return [(x, torch.arange(200) % 4)]
"""


def test_the_embedded_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = data.digits()
    assert torch.equal(images * 16, torch.from_numpy(bunch.data).float())
    assert torch.equal(labels, torch.from_numpy(bunch.target).long())


@pytest.fixture
def spec(tmp_path):
    def make(name):
        file = tmp_path / "own_data.py"
        file.write_text(OWN)
        return Spec(f"{file}:make_model", f"{file}:{name}")

    yield make
    data.own.cache_clear()


def rows(examples):
    return {tuple(row.tolist()) for row in examples.whole.args[0].flatten(1).round(decimals=4)}


@pytest.mark.parametrize(("network", "train"), [("mlp6", 1297), ("mlp2", 300), ("conv", 1297)])
def test_a_seed_splits_the_digits_into_disjoint_parts(network, train):
    found = data.load(network, "clean", BATCH_NORM, 3)
    assert (len(found.train), len(found.test)) == (train, 1797 - train)
    if network != "conv":
        assert found.train.whole.args[0].shape[1:] == (64,)
    assert found.train.fingerprint() == data.load(network, "clean", Arm("other", norm="removed"), 3).train.fingerprint()
    assert found.train.fingerprint() != data.load(network, "clean", BATCH_NORM, 4).train.fingerprint()
    raw = data.load(network, "clean", Arm("raw", inputs="raw"), 3)
    both = torch.cat([raw.train.whole.args[0].flatten(1), raw.test.whole.args[0].flatten(1)])
    if network != "conv":
        assert torch.equal(both.sum(0), data.digits()[0].sum(0)) or torch.allclose(both.sum(0), data.digits()[0].sum(0))


def test_conv_sees_black_strokes_on_white_in_three_channels():
    raw = data.load("conv", "clean", Arm("raw", inputs="raw"), 0).train.whole.args[0]
    assert raw.shape[1:] == (3, 8, 8)
    assert float(raw.max()) == 1
    assert float(raw[:, :, 0, 0].mean()) > 0.95


def test_inputs_are_standardized_by_the_training_set_alone():
    found = data.load("mlp2", "clean", BATCH_NORM, 0)
    moments = Moments.of(found.train.whole.args[0])
    live = moments.deviation() > 0
    assert int(live.sum()) > 50
    assert float(moments.mean.abs().max()) < 1e-6
    assert float((moments.deviation()[live] - 1).abs().max()) < 1e-5
    assert float(Moments.of(found.test.whole.args[0]).mean.abs().max()) > 0.05
    assert bool(found.test.whole.args[0].isfinite().all())


def test_a_fifth_of_the_training_labels_is_wrong_when_noisy_and_no_test_label():
    clean, noisy = (data.load("mlp2", regime, BATCH_NORM, 5) for regime in ("clean", "noisy"))
    assert float((clean.train.target != noisy.train.target).double().mean()) == pytest.approx(0.2)
    assert torch.equal(clean.test.target, noisy.test.target)
    assert clean.train.whole.args[0].equal(noisy.train.whole.args[0])
    assert set(noisy.train.target.tolist()) == set(range(10))


def test_noisy_targets_of_a_regression_are_those_of_other_examples(spec):
    clean, noisy = (data.load("own", regime, BATCH_NORM, 1, spec("pair")) for regime in ("clean", "noisy"))
    assert float((clean.train.target != noisy.train.target).double().mean()) == pytest.approx(6 / 32)
    assert sorted(clean.train.target.flatten().tolist()) == sorted(noisy.train.target.flatten().tolist())


def test_fewer_examples_are_the_first_ones_and_more_come_from_the_test_set():
    whole, half, more = (
        data.load("mlp2", "clean", Arm("a", examples=share, inputs="raw"), 2) for share in (1.0, 0.5, 1.1)
    )
    assert (len(half.train), len(half.test)) == (150, 1497)
    assert torch.equal(half.train.whole.args[0], whole.train.whole.args[0][:150])
    assert (len(more.train), len(more.test)) == (330, 1467)
    assert torch.equal(more.train.whole.args[0][:300], whole.train.whole.args[0])
    assert torch.equal(more.test.whole.args[0], whole.test.whole.args[0][30:])


def test_own_held_out_data_are_kept_and_without_them_a_quarter_is_split_off(spec):
    given = data.load("own", "clean", BATCH_NORM, 0, spec("pair"))
    assert (len(given.train), len(given.test)) == (32, 8)
    assert torch.equal(given.train.whole.args[0][:, 0], torch.arange(32.0) + 5)
    data.own.cache_clear()
    split, other = (data.load("own", "clean", BATCH_NORM, seed, spec("one")) for seed in (0, 1))
    assert (len(split.train), len(split.test)) == (24, 8)
    assert not rows(split.train) & rows(split.test)
    assert rows(split.test) != rows(other.test)


def test_own_inputs_stay_as_given_unless_the_arm_standardizes_them(spec):
    found = data.load("own", "clean", Arm("s", inputs="standardized"), 0, spec("pair")).train.whole.args[0]
    assert torch.allclose(found.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(found.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)


def test_only_real_inputs_are_standardized():
    words = Examples(Batch((torch.randint(9, (20, 4)),), {"x": torch.randn(20, 2) * 3}, torch.zeros(20)))
    scaled = data.standardizer(words)(words).whole
    assert torch.equal(scaled.args[0], words.whole.args[0])
    assert torch.allclose(scaled.kwargs["x"].std(0, correction=0), torch.ones(2), atol=1e-5)
