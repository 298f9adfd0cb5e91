import pytest
import torch
from torch.nn import functional as F

from normscope.ops import reference

SHAPES = [
    (7, 3),  # no spatial dimensions
    (5, 1, 4),  # one channel
    (2, 3, 1, 1),  # one element per plane
    (4, 3, 5, 7),  # primes
    (2, 3, 2, 3, 4),  # volumes
]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training_forward_and_moments_equal_torch(shape):
    x, weight, bias = draw(*shape) * 3 + 2, draw(shape[1], seed=1), draw(shape[1], seed=2)
    mean, var = torch.zeros(shape[1]).double(), torch.ones(shape[1]).double()
    expected = F.batch_norm(x, mean, var, weight, bias, training=True, momentum=0.3, eps=1e-3)
    y, moments = reference.train(x, weight, bias, 1e-3)
    torch.testing.assert_close(y, expected)
    zeros, ones = torch.zeros_like(mean), torch.ones_like(var)
    torch.testing.assert_close(reference.updated(zeros, ones, moments, 0.3), (mean, var))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_evaluation_equals_torch(shape):
    x, weight, bias = draw(*shape), draw(shape[1], seed=1), draw(shape[1], seed=2)
    mean, var = draw(shape[1], seed=3), draw(shape[1], seed=4).square() + 0.1
    expected = F.batch_norm(x, mean, var, weight, bias, eps=1e-3)
    torch.testing.assert_close(reference.evaluate(x, mean, var, weight, bias, 1e-3), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_written_backward_equals_autograd_through_torch(shape, training):
    x, dy = draw(*shape).requires_grad_(), draw(*shape, seed=5)
    weight, bias = draw(shape[1], seed=1).requires_grad_(), draw(shape[1], seed=2).requires_grad_()
    mean, var = draw(shape[1], seed=3), draw(shape[1], seed=4).square() + 0.1
    y = F.batch_norm(x, mean.clone(), var.clone(), weight, bias, training=training, eps=1e-3)
    expected = torch.autograd.grad(y, [x, weight, bias], dy)
    got = (
        reference.backward(dy, x, weight, 1e-3)
        if training
        else reference.backward_evaluate(dy, x, mean, var, weight, 1e-3)
    )
    torch.testing.assert_close(got, expected)


def test_gradients_of_both_orders_pass_the_numerical_check():
    x, weight, bias = (draw(4, 2, 3).requires_grad_(), draw(2, seed=1).requires_grad_(), draw(2).requires_grad_())

    def forward(x, weight, bias):
        return reference.train(x, weight, bias, 1e-2)[0]

    assert torch.autograd.gradcheck(forward, (x, weight, bias))
    assert torch.autograd.gradgradcheck(forward, (x, weight, bias))
    assert torch.autograd.gradcheck(
        lambda dy, x, weight: reference.backward(dy, x, weight, 1e-2), (draw(4, 2, 3).requires_grad_(), x, weight)
    )


@pytest.mark.parametrize("mean", [1e3, 1e6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_large_mean_costs_no_digits(mean, layout):
    x = (draw(16, 3, 8, 8, dtype=torch.float32) + mean).to(memory_format=layout)
    y, moments = reference.train(x, None, None, 1e-5)
    assert y.dtype == torch.float32
    wide = x.double().transpose(0, 1).flatten(1)
    expected = (wide - wide.mean(1, keepdim=True)) / (wide.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(y.double().transpose(0, 1).flatten(1), expected, rtol=2e-7, atol=2e-7)
    torch.testing.assert_close(moments.variance("bessel"), wide.var(1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_dtypes_are_rounded_once(dtype):
    x = draw(8, 3, 4, 4).to(dtype)
    exact, _ = reference.train(x.double(), None, None, 1e-5)
    y, moments = reference.train(x, None, None, 1e-5)
    assert torch.equal(y, exact.to(dtype))
    assert moments.mean.dtype == torch.float64
