import pytest
import torch
from torch import nn

from normscope.errors import SpecError
from normscope.model.batch import Examples, output_of, split

_X, _Y = torch.randn(6, 3), torch.arange(6)


@pytest.mark.parametrize(
    ("raw", "inputs"),
    [
        ((_X, _Y), ["input 0"]),
        ([_X, _Y], ["input 0"]),
        ((_X, _X, _Y), ["input 0", "input 1"]),
        (((_X, _X), _Y), ["input 0", "input 1"]),
        (({"a": _X, "b": _X}, _Y), ["a", "b"]),
        ({"pixel_values": _X, "labels": _Y}, ["pixel_values"]),
        ({"x": _X.numpy(), "y": _Y.tolist()}, ["x"]),
    ],
)
def test_every_batch_form_gives_inputs_and_target(raw, inputs):
    batch = split(raw)
    assert [name for name, _ in batch.leaves] == inputs
    assert batch.target is not None
    assert batch.target.tolist() == _Y.tolist()
    assert len(batch) == 6


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (_X, "bare tensor"),
        ({"x": _X}, "target under one of labels"),
        ({"labels": _Y}, "inputs beside the target"),
        ((_X, torch.tensor(3)), "batch dimension"),
        (("text", _Y), "to be a tensor"),
        (3, "came int"),
    ],
)
def test_other_forms_are_named(raw, said):
    with pytest.raises(SpecError, match=said):
        split(raw)


def test_unlabelled_data_may_lack_a_target():
    assert split(_X, labelled=False).target is None
    assert split([_X], labelled=False).target is None
    assert split({"x": _X}, labelled=False).target is None


def test_outputs_are_unwrapped():
    class Output:
        logits = _X

    for output in (_X, Output(), {"logits": _X}, {"out": _X}, (_X, None)):
        assert output_of(output) is _X
    with pytest.raises(SpecError, match="wrap the network"):
        output_of({"loss": 3})


def test_a_batch_calls_the_network_by_position_and_by_name():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + 2 * b

    model = Sum()
    assert split((_X, _X, _Y))(model).equal(3 * _X)
    assert split({"b": _X, "a": 0 * _X, "y": _Y})(model).equal(2 * _X)


def test_examples_keep_order_limit_and_the_first_batch_s_size():
    loader = [(_X, _Y), (_X + 1, _Y + 6), (_X[:1], _Y[:1])]
    examples = Examples.of(loader, 100)
    assert len(examples) == 13
    assert examples.batch == 6
    assert examples.take(torch.tensor([6])).args[0].equal(_X[:1] + 1)
    assert len(Examples.of(loader, 7)) == 7
    assert [len(part) for part in examples.chunks(5)] == [5, 5, 3]


def test_the_fingerprint_sees_every_value():
    one = Examples.of([(_X, _Y)], 10)
    other = _X.clone()
    other[5, 2] += 1e-6
    assert one.fingerprint() == Examples.of([(_X.clone(), _Y)], 10).fingerprint()
    assert one.fingerprint() != Examples.of([(other, _Y)], 10).fingerprint()
    assert one.fingerprint() != Examples.of([(_X, _Y.flip(0))], 10).fingerprint()


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ([], "came none"),
        (3, "iterable of batches, came int"),
        ([(_X, _Y), (torch.randn(6, 4), _Y)], r"batch 1 has \[4\]"),
        ([(_X, _Y), (_X, _X, _Y)], "batch 1 has another"),
        ([(_X, _Y[:3])], "expected 6 rows in the target of batch 0"),
        ([(_X * float("inf"), _Y)], "NaN or inf"),
    ],
)
def test_data_that_cannot_be_used_is_named(loader, said):
    with pytest.raises(SpecError, match=said):
        Examples.of(loader, 100)


def test_a_loader_that_raises_is_named():
    def loader():
        yield _X, _Y
        raise OSError("the share went away")

    with pytest.raises(SpecError, match="raised OSError while it was read: the share went away"):
        Examples.of(loader(), 100)
