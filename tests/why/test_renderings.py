import pytest
import torch

from normscope.model.batch import Batch, Examples
from normscope.moments import Moments
from normscope.why import renderings


def strokes(images=6):
    generator = torch.Generator().manual_seed(0)
    ink = (torch.rand(images, 1, 4, 4, generator=generator) > 0.5).float()
    return Examples(Batch((1 - ink.expand(-1, 3, -1, -1),), {}, torch.arange(images))), ink.expand(-1, 3, -1, -1) > 0


@pytest.mark.parametrize("name", list(renderings.RENDERINGS))
def test_a_rendering_is_one_colour_for_strokes_and_one_for_the_background(name):
    examples, ink = strokes()
    x = renderings.render(examples, name, 3).whole.args[0]
    assert x.shape == examples.whole.args[0].shape
    assert 0 <= float(x.min()) <= float(x.max()) <= 1
    for image, drawn in zip(x, ink, strict=True):
        for channel, where in zip(image, drawn, strict=True):
            assert channel[where].unique().numel() == 1
            assert channel[~where].unique().numel() == 1


def test_colours_are_muted_and_drawn_anew_for_each_image():
    examples, ink = strokes()
    x = renderings.render(examples, "coloured", 3).whole.args[0]
    assert float(x[ink].max()) <= 0.3
    assert float(x[~ink].min()) >= 0.7
    assert x[ink].unique().numel() == 18
    again, other = (renderings.render(examples, "coloured", seed).whole.args[0] for seed in (3, 4))
    assert torch.equal(x, again)
    assert not torch.equal(x, other)


def test_an_inversion_swaps_strokes_and_background():
    examples, _ = strokes()
    assert torch.equal(renderings.render(examples, "inverted", 0).whole.args[0], 1 - examples.whole.args[0])


def test_gain_and_offset_move_the_moments_as_stated():
    x = torch.randn(400, 3, 5, generator=torch.Generator().manual_seed(1)) * 2 + 7
    examples = Examples(Batch((x,), {"ids": torch.arange(400)}, torch.zeros(400)))
    moved = renderings.gain_and_offset(examples, examples).whole
    before, after = Moments.of(x), Moments.of(moved.args[0])
    gains, offsets = torch.tensor([1.5, 0.67, 1.5]), torch.tensor([0.5, -0.5, 0.5])
    torch.testing.assert_close(after.deviation() / before.deviation(), gains.double(), rtol=1e-4, atol=0)
    torch.testing.assert_close((after.mean - before.mean) / before.deviation(), offsets.double(), rtol=1e-3, atol=0)
    assert torch.equal(moved.kwargs["ids"], torch.arange(400))


def test_token_ids_cannot_be_shifted():
    assert not renderings.shiftable(Examples(Batch((torch.zeros(3, 4, dtype=torch.long),), {}, None)))
    assert not renderings.shiftable(Examples(Batch((torch.zeros(3),), {}, None)))
    assert renderings.shiftable(strokes()[0])
