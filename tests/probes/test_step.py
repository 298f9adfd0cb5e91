import pytest
import torch

from normscope.errors import InputError
from normscope.probes.replay import gradient_of, trainable
from normscope.probes.step import placed, stepped


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
        lambda p: torch.optim.RMSprop(p, lr=0.01),
    ],
)
def test_equals_the_step_that_the_optimizer_takes(task, make):
    parameters = trainable(task.model)
    optimizer = make(parameters)
    for _ in range(3):
        optimizer.zero_grad()
        task.loss().backward()
        predicted = stepped(optimizer, parameters, [p.grad for p in parameters])
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(predicted, parameters, strict=True))


def test_a_number_is_the_rate_of_a_plain_gradient_step(task):
    parameters = trainable(task.model)
    _, gradients = gradient_of(task.model, task.loss, parameters)
    expected = stepped(torch.optim.SGD(parameters, lr=0.3), parameters, gradients)
    for value, other in zip(stepped(0.3, parameters, gradients), expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("unchanged")
def test_schedules_and_hooks_are_not_run(task):
    calls = []
    handle = task.optimizer.register_step_post_hook(lambda *_: calls.append("step"))
    parameters = trainable(task.model)
    _, gradients = gradient_of(task.model, task.loss, parameters)
    stepped(task.optimizer, parameters, gradients)
    handle.remove()
    assert calls == []


def test_parameters_outside_of_the_optimizer_stay(task):
    optimizer = torch.optim.SGD(task.model[0].parameters(), lr=1.0)
    parameters = trainable(task.model)
    after = stepped(optimizer, parameters, [torch.ones_like(p) for p in parameters])
    assert torch.equal(after[0], parameters[0] - 1)
    assert all(torch.equal(a, p) for a, p in zip(after[1:], parameters[1:], strict=True))


def test_an_optimizer_that_wants_a_closure_is_named(task):
    parameters = trainable(task.model)
    with pytest.raises(InputError, match="got LBFGS"):
        stepped(torch.optim.LBFGS(parameters), parameters, [torch.ones_like(p) for p in parameters])


@pytest.mark.usefixtures("unchanged")
def test_placed_puts_back_also_after_an_exception(task):
    parameters = trainable(task.model)

    def fail():
        assert float(parameters[0].detach().abs().sum()) == 0
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"), placed(parameters, [torch.zeros_like(p) for p in parameters]):
        fail()
