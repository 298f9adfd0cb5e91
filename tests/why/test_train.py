import math

import pytest
import torch
from torch import nn

from normscope.model.batch import Batch, Examples
from normscope.model.spec import default_loss
from normscope.why import job, train
from normscope.why.data import Data
from normscope.why.members import Single
from normscope.why.train import Order


def members(examples=30):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, 4, generator=generator)
    data = Examples(Batch((x,), {}, torch.arange(examples) % 3))
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    return Single(model, Data(data, data), default_loss(data.target))


def test_every_epoch_is_a_permutation_without_its_short_last_batch():
    order = Order(25, 10, seed=3)
    epochs = [torch.cat([order.next(), order.next()]) for _ in range(3)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 20
        assert 0 <= int(epoch.min()) <= int(epoch.max()) < 25
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(Order(25, 10, seed=3).next(), epochs[0][:10])
    assert not torch.equal(Order(25, 10, seed=4).next(), epochs[0][:10])


def test_a_batch_larger_than_the_training_set_is_the_training_set():
    assert sorted(Order(7, 64, seed=0).next().tolist()) == list(range(7))


def test_it_is_torchs_sgd_with_momentum_step_by_step():
    mine, other = members(), members()
    train.train(mine, seeds=[5], rates=[0.07], steps=12, batch=8)
    optimizer = torch.optim.SGD(other.model.parameters(), lr=0.07, momentum=job.MOMENTUM)
    order = Order(30, 8, seed=5)
    for _ in range(12):
        optimizer.zero_grad()
        other.losses(order.next().unsqueeze(0)).sum().backward()
        optimizer.step()
    for value, expected in zip(mine.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_the_rate_falls_to_zero_along_half_a_cosine(monkeypatch):
    rates = []
    monkeypatch.setattr(train, "update", lambda *arguments: rates.append(arguments[-1]))
    train.train(members(), seeds=[0], rates=[0.1], steps=100, batch=8, decay=True)
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 100)) for step in range(100)], abs=1e-12)
    rates.clear()
    train.train(members(), seeds=[0], rates=[0.1], steps=5, batch=8)
    assert rates == [1.0] * 5


@pytest.mark.parametrize(("updates", "expected"), [(1.0, 8), (1.25, 10), (1.5625, 12), (2.0, 16)])
def test_planted_speed_is_more_updates_for_each_counted_step(monkeypatch, updates, expected):
    done = []
    monkeypatch.setattr(train, "update", lambda *_: done.append(1))
    train.train(members(), seeds=[0], rates=[0.1], steps=8, batch=8, updates=updates)
    assert len(done) == expected


def test_observers_see_the_start_every_few_steps_and_the_end_and_can_stop_it(monkeypatch):
    done, seen = [], []
    monkeypatch.setattr(train, "update", lambda *_: done.append(1))
    arguments = {"seeds": [0], "rates": [0.1], "batch": 8}
    train.train(members(), steps=7, every=3, observe=lambda step, _: seen.append((step, len(done))), **arguments)
    assert seen == [(0, 0), (3, 3), (6, 6), (7, 7)]
    done.clear()
    train.train(members(), steps=7, every=2, observe=lambda step, _: [] if step == 4 else None, **arguments)
    assert len(done) == 4


def test_a_training_repeats_itself_whatever_was_drawn_before():
    first, second = members(), members()
    first.model.append(nn.Dropout(0.5))
    second.model.append(nn.Dropout(0.5))
    train.train(first, seeds=[2], rates=[0.1], steps=5, batch=8)
    torch.rand(17)
    train.train(second, seeds=[2], rates=[0.1], steps=5, batch=8)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    )


def test_a_probe_uses_its_own_statistics_without_dropout_and_leaves_the_network_as_it_is():
    one = members()
    one.model[1].momentum = 1e-6  # running averages that say nothing yet
    one.model.append(nn.Dropout(0.5))
    one.model.train()
    before = {name: value.clone() for name, value in one.model.state_dict().items()}
    index, draws = torch.arange(20), torch.get_rng_state()
    output = one.probed(index)
    linear, norm, _, head, _ = one.model
    hidden = linear(one.datas[0].train.take(index).args[0])
    fresh = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + norm.eps).sqrt()
    assert output.allclose(head(fresh.relu()), atol=1e-5)
    assert not output.allclose(one.outputs("train", index)[0], atol=1e-2)
    assert all(value.equal(before[name]) for name, value in one.model.state_dict().items())
    assert all(module.training for module in one.model.modules())
    assert torch.get_rng_state().equal(draws)
