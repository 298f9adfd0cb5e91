import pytest

from normscope.report import palette


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["ink", "muted", "link", "supported", "refuted", "inconclusive", "aside"])
@pytest.mark.parametrize("ground", ["paper", "panel"])
def test_text_can_be_read(colours, name, ground):
    assert contrast(colours[name], colours[ground]) >= 4.5


@pytest.mark.parametrize("colours", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", palette.SERIES)
def test_lines_and_points_stand_out(colours, name):
    assert contrast(colours[name], colours["paper"]) >= 3


def test_light_and_dark_know_the_same_colours_and_each_is_told_apart_by_its_value():
    assert palette.LIGHT.keys() == palette.DARK.keys()
    assert len(set(palette.LIGHT.values())) == len(palette.LIGHT)
    assert len(set(palette.MARKERS)) == len(set(palette.DASHES)) == len(palette.SERIES)
