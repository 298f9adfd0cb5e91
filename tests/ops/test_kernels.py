import pytest
import torch
from torch.nn import functional as F

from normscope.ops import cpu, functional, reference
from normscope.ops.activation import applied
from normscope.ops.backend import backend, use_backend

pytestmark = pytest.mark.skipif(cpu.EXTENSION.module is None, reason=cpu.EXTENSION.reason)

SHAPES = [
    (2, 1),  # the fewest values
    (32, 16),  # small and common
    (300, 3),  # rows of few channels, with a remainder
    (40, 1000),  # channels that leave no whole pack
    (5, 1, 4),  # one channel
    (3, 3, 1, 1),  # one element per plane
    (4, 3, 5, 7),  # primes
    (2, 17, 7, 7),  # short planes, a block that is cut
    (3, 33, 14, 14),  # short planes that fill packs
    (3, 5, 16, 16),  # the shortest of the long planes
    (4, 2, 31, 33),  # long planes that begin inside a pack
    (1, 5, 50, 50),  # one sample
    (2, 3, 2, 3, 4),  # volumes
    (70, 24, 2, 2),  # many samples
    (6, 2, 64, 65),  # long enough for several chunks and two threads
]
LAYOUTS = ["contiguous", "channels_last"]
EXACT = {torch.float32: 4e-6, torch.bfloat16: 2**-8, torch.float64: 1e-12}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def laid_out(value, layout):
    return value if layout == "contiguous" or value.dim() < 3 else value.movedim(1, -1).contiguous().movedim(-1, 1)


def poisoned(like):
    return torch.full_like(like, torch.nan)


def close(got, want, dtype, scale=1.0):
    tolerance = EXACT[dtype] * scale
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance)


def both_ways(shape, layout, dtype, activation, with_residual, groups=1, mean=3.0, slope=0.1):
    """Outputs and gradients of the kernels, on memory poisoned with NaN, and those of the reference."""
    x, dy, residual = (laid_out(value.to(dtype), layout) for value in (
        draw(*shape) + mean, draw(*shape, seed=1), draw(*shape, seed=2)))  # fmt: skip
    weight, bias = (draw(shape[1], seed=n).to(cpu.PARAMETERS[x.dtype][0]) for n in (3, 4))
    moments, y = torch.full((2, groups, shape[1]), torch.nan, dtype=torch.float64), poisoned(x)
    one_bit = with_residual and activation in ("relu", "relu6", "leaky_relu")
    mask = cpu.new_mask(x, groups).fill_(0xA5) if one_bit else None
    options = {"mask": mask, "activation": activation, "slope": slope, "groups": groups}
    cpu.forward(x, y, moments, weight, bias, 1e-3, residual=residual if with_residual else None, **options)
    dx, dresidual, sums = poisoned(x), poisoned(x) if with_residual else None, poisoned(moments)
    if not with_residual or one_bit or activation == "none":
        cpu.backward(dy, x, dx, moments, sums, weight, bias, 1e-3, dresidual=dresidual, **options)
    leaves = [value.double().requires_grad_() for value in (x, weight, bias, residual)]
    parts = [reference.train(part, *leaves[1:3], 1e-3)[0] for part in leaves[0].chunk(groups)]
    z = torch.cat(parts) + (leaves[3] if with_residual else 0)
    want = applied(z, activation, slope)
    grads = torch.autograd.grad(want, leaves[: 3 + with_residual], dy.double())
    return (y, dx, sums.sum(1), dresidual), (want.detach(), *grads)


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "threads"),
    [(shape, 1) for shape in SHAPES]
    + [((40, 1000), 2), ((21, 2048), 2), ((21, 1700), 2), ((6, 2, 64, 65), 2), ((4, 30, 19, 19), 2)],
    ids=str,
)
def test_every_epilogue_equals_the_reference(shape, layout, dtype, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        # Threads share out runs and merge sums; what is done along a run does not depend on them.
        for activation in ("none", "relu", "relu6", "leaky_relu", "silu") if threads == 1 else ("relu",):
            for with_residual in (False, True):
                got, want = both_ways(shape, layout, dtype, activation, with_residual)
                close(got[0], want[0], dtype, 4)
                if with_residual and activation == "silu":
                    continue
                # Two values per channel have a gradient that is all cancellation: eps alone keeps it from zero.
                cancellation = 500 if shape[0] * want[0][0, 0].numel() < 4 else 8
                close(got[1], want[1], dtype, cancellation)
                close(got[2][1], want[2], torch.float32, 8)
                close(got[2][0], want[3], torch.float32, 8)
                if with_residual:
                    close(got[3], want[4], dtype, 4)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("level", range(len(cpu.EXTENSION.levels)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((8, 24, 57, 57), "contiguous"),  # planes that begin anywhere in a cache line
        ((16, 720, 7, 7), "contiguous"),  # short planes, blocks of whole lines
        ((6, 96, 31, 32), "channels_last"),
        ((6, 720, 65, 31), "channels_last"),  # inputs beyond the caches too
        ((7, 2048, 13, 12), "channels_last"),  # rows too long for the first-level cache
        ((6, 64, 66, 65), "channels_last"),  # few channels, whose sums stay in registers
        ((7, 64, 98, 97), "channels_last"),  # the same, inputs beyond the caches
    ],
    ids=str,
)
def test_outputs_that_are_written_past_the_caches_equal_the_reference(shape, layout, dtype, level, monkeypatch):
    monkeypatch.setattr(cpu, "level_in_use", level)
    for with_residual in (False, True):
        got, want = both_ways(shape, layout, dtype, "relu", with_residual)
        assert got[0].numel() * got[0].element_size() > 2**20
        close(got[0], want[0], dtype, 4)
        close(got[1], want[1], dtype, 8)
        close(got[2][1], want[2], torch.float32, 30)
        close(got[2][0], want[3], torch.float32, 30)
        if with_residual:
            close(got[3], want[4], dtype, 4)


# With fewer than four channels to a thread, planes are shared out by samples, and the threads' moments are merged.
@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("shape", [(4, 17, 33, 31), (7, 64, 20, 20), (5, 150, 7, 7)], ids=str)
def test_a_channel_is_the_same_whichever_thread_works_on_it(shape, dtype):
    x, before, found = draw(*shape).to(dtype) + 3, torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            moments, y = cpu.new_moments(x, 1), torch.empty_like(x)
            cpu.forward(x, y, moments, None, None, 1e-5)
            found.append((moments, y))
    finally:
        torch.set_num_threads(before)
    for moments, y in found[1:]:
        assert torch.equal(moments, found[0][0])
        assert torch.equal(y, found[0][1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(8, 5, 6, 6), (8, 3, 20, 20), (64, 12)], ids=str)
def test_ghosts(shape, layout):
    got, want = both_ways(shape, layout, torch.float32, "relu", with_residual=True, groups=4)
    for ours, theirs in zip((got[0], got[1], got[2][1], got[2][0], got[3]), want, strict=True):
        close(ours, theirs, torch.float32, 8)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(16, 8, 20, 20), (32, 64, 7, 7), (4, 16, 56, 56)], ids=str)
def test_training_keeps_its_digits_whatever_the_mean(shape, layout, mean):
    got, want = both_ways(shape, layout, torch.float32, "none", with_residual=False, mean=mean)
    assert float((got[0] - want[0]).abs().max()) < 4e-6
    assert float((got[1] - want[1]).abs().max()) < 4e-6


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 3, 20, 20), (4, 20, 7, 7), (4, 3, 2, 2), (40, 16)], ids=str)
def test_a_huge_constant_has_no_variance(shape, layout):
    x = laid_out(torch.full(shape, 1e160, dtype=torch.float64), layout)
    moments = cpu.new_moments(x, 1)
    cpu.forward(x, None, moments, None, None, 1e-5, phases=cpu.STATISTICS)
    assert torch.equal(moments[0], torch.full_like(moments[0], 1e160))
    assert not moments[1].any()


def test_an_outlier_first_and_a_drift_cost_no_digits():
    x = (draw(64, 3, 40, 40) + 1e4).float()
    x[0, :, 0, 0] = 0
    x[32:] += 50
    for layout in LAYOUTS:
        y, _ = functional.train(laid_out(x, layout), None, None, 1e-5)
        close(y, reference.train(x, None, None, 1e-5)[0], torch.float32)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 3, 20, 20), (9, 3)], ids=str)
def test_not_a_number_and_infinity_spoil_their_channel_alone_as_in_torch(shape, layout, value):
    x = draw(*shape).float()
    x[(1, 1, *(2,) * (len(shape) - 2))] = value
    x = laid_out(x, layout)
    y, _ = functional.train(x, None, None, 1e-5, functional.Epilogue("relu"))
    expected = F.relu(F.batch_norm(x, None, None, training=True))
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_inputs_that_are_strided_expanded_or_overlap():
    base = draw(4, 3, 8, 8).float()
    for x in (base[:, :, ::2], base[:, :1].expand(4, 3, 8, 8), base.as_strided((4, 3, 7, 8), (192, 64, 8, 1), 4)):
        leaf = x.detach().requires_grad_()
        y, _ = functional.train(leaf, None, None, 1e-5)
        torch.testing.assert_close(y, F.batch_norm(x, None, None, training=True), rtol=1e-5, atol=1e-5)
        got = torch.autograd.grad(y, leaf, torch.ones(()).expand_as(y) * base.new_tensor(2.0))[0]
        assert float(got.abs().max()) < 1e-4  # the gradient of a sum of normalized values is zero


def test_levels_agree_and_are_chosen_by_name():
    x = draw(8, 5, 9, 9).float()
    expected, _ = functional.train(x, None, None, 1e-5)
    for level in cpu.EXTENSION.levels:
        with use_backend(f"compiled:{level}"):
            assert backend(x).level == level
            torch.testing.assert_close(functional.train(x, None, None, 1e-5)[0], expected, rtol=1e-6, atol=1e-6)
    assert cpu.EXTENSION.levels[-1] == "baseline"


THREADS = """
import torch
from pathlib import Path
from normscope.ops import functional

def threads():
    return len(list(Path("/proc/self/task").iterdir()))

x = torch.randn(32, 8, 64, 64)
torch.set_num_threads(1)
alone = threads()
functional.train(x, None, None, 1e-5)
print(threads() - alone)
torch.set_num_threads(3)
functional.train(x, None, None, 1e-5)
print(threads() - alone)
torch.nn.functional.batch_norm(x, None, None, training=True)
x.exp()
print(threads() - alone)
"""


def test_the_threads_are_those_of_torchs_pool_and_as_many_as_torch_was_told(python):
    done = python(THREADS)
    # One thread adds none; three add two; torch then adds no further ones.
    assert done.stdout.split() == ["0", "2", "2"], done.stderr


def test_random_cases_against_the_reference():
    generator = torch.Generator().manual_seed(0)

    def pick(values):
        return values[int(torch.randint(len(values), (), generator=generator))]

    for _ in range(150):
        spatial = pick([(), (1,), (3,), (5, 5), (7, 7), (2, 3, 4), (16, 17), (1, 300)])
        batch = pick([2, 3, 5, 16, 33])
        shape = (max(batch, 4 if not spatial else 2), pick([1, 2, 3, 7, 16, 24, 65]), *spatial)
        activation, residual = pick(["none", "relu", "relu6", "leaky_relu", "silu"]), pick([False, True])
        got, want = both_ways(shape, pick(LAYOUTS), torch.float64, activation, residual)
        close(got[0], want[0], torch.float64, 10)
        if not (residual and activation == "silu"):
            scale = 1e5 if shape[0] * want[0][0, 0].numel() < 6 else 100
            close(got[1], want[1], torch.float64, scale)
