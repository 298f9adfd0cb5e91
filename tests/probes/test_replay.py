import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.probes.replay import dot, gradient_of, loss_of, norm_of, trainable


@pytest.mark.usefixtures("unchanged")
def test_dropout_draws_the_same_mask_each_time(task):
    parameters = trainable(task.model)
    first, again = (gradient_of(task.model, task.loss, parameters) for _ in range(2))
    assert first[0] == again[0] == pytest.approx(loss_of(task.model, task.loss), rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(first[1], again[1], strict=True))


def test_gradient_equals_backward(task):
    parameters = trainable(task.model)
    _, found = gradient_of(task.model, task.loss, parameters)
    task.optimizer.zero_grad()
    task.loss().backward()
    assert all(torch.equal(a, p.grad) for a, p in zip(found, parameters, strict=True))


def test_parameters_that_the_loss_does_not_use_get_zeros(task):
    spare = nn.Parameter(torch.ones(2))
    _, (found,) = gradient_of(task.model, task.loss, [spare])
    assert torch.equal(found, torch.zeros(2))


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (lambda: 3.0, "got float"),
        (lambda: torch.zeros(2), r"got shape \[2\]"),
        (lambda: torch.zeros(()), "requires grad"),
    ],
)
def test_what_a_closure_must_return(task, loss, text):
    with pytest.raises(InputError, match=text):
        gradient_of(task.model, loss, trainable(task.model))


@pytest.mark.usefixtures("unchanged")
def test_a_closure_that_raises_leaves_no_trace(task):
    def loss():
        task.loss()
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        gradient_of(task.model, loss, trainable(task.model))


def test_a_closure_that_goes_backward_is_named(task):
    def loss():
        value = task.loss()
        value.backward()
        return value

    with pytest.raises(InputError, match="without calling backward"):
        gradient_of(task.model, loss, trainable(task.model))


def test_norm_and_dot_are_those_of_one_long_vector():
    left, right = [torch.tensor([3.0]), torch.tensor([[4.0]])], [torch.tensor([1.0]), torch.tensor([[2.0]])]
    assert norm_of(left) == 5
    assert dot(left, right) == 11
