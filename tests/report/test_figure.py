import itertools
import math
import re
from xml.etree import ElementTree as ET

import matplotlib as mpl
import pytest

from normscope.errors import InputError
from normscope.records import Figure, Mark, Series
from normscope.report import draw, figure_png, figure_svg
from normscope.report.axes import labels, linear_ticks
from normscope.report.plan import Canvas

NAMES = ["steps", "rates", "noise", "shift", "path", "hostile", "empty"]
SVG = "{http://www.w3.org/2000/svg}"


def simple(*series, **kwargs):
    return Figure("title", "description", "x", "y", series, **kwargs)


def drawn(figure, width=680, *, titled=True):
    """The drawing, and the boxes in pixels of all of its texts, legend and tick labels among them."""
    with draw.settings():
        drawing = draw.draw(figure, Canvas(width, titled=titled))
        drawing.draw_without_rendering()
        texts = [text for text in drawing.findobj(mpl.text.Text) if text.get_text().strip() and text.get_visible()]
        return drawing, [(text.get_text(), text.get_window_extent()) for text in texts]


def meeting(boxes):
    """The pairs of texts whose boxes share more than a pixel both ways."""
    return [
        (text, other)
        for (text, a), (other, b) in itertools.combinations(boxes, 2)
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
    ]


def test_labels_that_meet_would_be_seen(figures):
    drawing, boxes = drawn(figures["rates"])
    axis = drawing.axes[0].xaxis
    with draw.settings():
        axis.set_ticks([0.1, 0.11], ["one tenth", "a little more"])
        crowded = [(text.get_text(), text.get_window_extent()) for text in axis.get_ticklabels()]
    assert meeting(boxes) == []
    assert meeting(crowded) == [("one tenth", "a little more")]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [680, 330])
def test_no_label_meets_another_or_leaves_the_drawing(figures, name, width):
    drawing, boxes = drawn(figures[name], width)
    size = drawing.bbox
    assert meeting(boxes) == []
    for text, box in boxes:
        assert box.x0 >= -1, text
        assert box.x1 <= size.width + 1, text
        assert box.y0 >= -1, text
        assert box.y1 <= size.height + 1, text


@pytest.mark.parametrize("name", NAMES)
def test_the_legend_stands_outside_the_data(figures, name):
    drawing, _ = drawn(figures[name])
    plot, legend = drawing.axes[0].get_window_extent(), drawing.legends[0].get_window_extent()
    assert legend.y0 >= plot.y1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("inline", [True, False])
def test_the_svg_is_whole_has_title_and_description_and_its_own_ids(figures, name, inline):
    text = figure_svg(figures[name], "one", inline=inline)
    root = ET.fromstring(text)  # noqa: S314  (our own output)
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title").text == figures[name].title
    assert (root.find(f"{SVG}desc").text or "") == figures[name].description
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(found.startswith("one-") for found in ids)
    pointed = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert set(pointed) <= set(ids)
    assert set(root.get("aria-labelledby").split()) <= set(ids)
    assert not re.search(r'(?:href|src)="(?!#)', text)


@pytest.mark.parametrize("name", NAMES)
def test_on_a_page_every_colour_is_a_variable_and_text_stays_text(figures, name):
    text = figure_svg(figures[name], inline=True)
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]+", text)
    assert "var(--ink)" in text
    assert "<text" in text
    assert "font-family" not in text
    assert "<style" not in text


def test_the_same_figure_gives_the_same_bytes_whatever_the_settings_of_the_user(figures, tmp_path):
    first = figure_svg(figures["rates"])
    figure_png(figures["rates"], tmp_path / "a.png")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": None, "axes.grid": True}):
        assert figure_svg(figures["rates"]) == first
        figure_png(figures["rates"], tmp_path / "b.png")
        assert mpl.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not re.search(r"20\d\d-\d\d-\d\d", first)


def test_hostile_text_stays_text(figures, hostile):
    text = figure_svg(figures["hostile"], inline=True)
    assert "<script" not in text
    root = ET.fromstring(text)  # noqa: S314  (our own output)
    assert root.find(f"{SVG}desc").text == hostile
    shown = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
    assert "$x^2$" in shown


def test_control_characters_do_not_break_the_file():
    figure = simple(Series("a\x00b\x1b", "line", (1.0, 2.0), (1.0, 2.0)))
    ET.fromstring(figure_svg(figure))  # noqa: S314  (our own output)


@pytest.mark.parametrize("kind", ["points", "line", "bars", "interval", "theory"])
@pytest.mark.parametrize("x", [(1.0, 10.0, 100.0), ("a", "b", "c"), ("long name of an arm " * 3, "b", "c")])
@pytest.mark.parametrize("log", [True, False])
def test_every_kind_is_drawn_on_every_axis(kind, x, log):
    ends = ((0.5, None, 2.0), (1.5, 2.5, 4.0)) if kind == "interval" else ((), ())
    bare = figure_svg(simple(Series("s", kind, x, (None, None, None)), x_log=log, y_log=log), inline=True)
    full = figure_svg(simple(Series("s", kind, x, (1.0, 2.0, 3.0), *ends), x_log=log, y_log=log), inline=True)
    assert "Nothing was measured" in bare
    assert "Nothing was measured" not in full
    assert "var(--series-1)" in full or kind == "theory"


def test_long_categories_stand_one_below_the_other(figures):
    with draw.settings():
        turned = draw.draw(figures["shift"], Canvas(680)).axes[0]
        upright = draw.draw(figures["steps"], Canvas(680)).axes[0]
    assert [label.get_text() for label in upright.get_xticklabels()] == ["plain", "input normalized", "batch norm"]
    assert len(turned.get_yticklabels()) == 6
    assert turned.get_ylim()[0] > turned.get_ylim()[1]


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show():
    figure = simple(Series("s", "points", (0.0, 1.0, 10.0), (1.0, -1.0, 5.0)), x_log=True, y_log=True)
    with draw.settings():
        line = draw.draw(figure, Canvas(680)).axes[0].lines[0]
    assert list(line.get_xdata()) == [1.0, 10.0]
    assert math.isnan(line.get_ydata()[0])
    assert line.get_ydata()[1] == 5.0


def test_a_mark_is_a_line_with_its_name_in_the_legend():
    figure = simple(
        Series("s", "line", (1.0, 2.0), (1.0, 2.0)), marks=(Mark("y", 1.5, "target"), Mark("x", 1.2, "here"))
    )
    drawing, boxes = drawn(figure)
    assert {"target", "here"} <= {text for text, _ in boxes}
    assert [list(line.get_ydata()) for line in drawing.axes[0].lines][1] == [1.5, 1.5]
    assert [list(line.get_xdata()) for line in drawing.axes[0].lines][2] == [1.2, 1.2]


def test_a_long_series_is_thinned_with_both_ends_kept():
    figure = simple(Series("s", "line", tuple(range(10_000)), tuple(float(y) for y in range(10_000))))
    with draw.settings():
        line = draw.draw(figure, Canvas(680, most=100)).axes[0].lines[0]
    assert len(line.get_xdata()) == 100
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == (0.0, 9999.0)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3e-7, 2e-7), (5, 5.0001), (1e6, 9e9), (-1, 1)])
def test_ticks_are_told_apart_by_their_labels(low, high):
    ticks = [tick for tick in linear_ticks(low, high, 6) if low <= tick <= high]
    found = labels(ticks, log=False)
    assert len(set(found)) == len(ticks) >= 2


@pytest.mark.parametrize(
    "y", [(5.0, 5.0), (0.0, 0.0), (1e-12, 2e-12), (1e30, 2e30), (1000.0001, 1000.0002), (3.0, None)]
)
@pytest.mark.parametrize("log", [True, False])
def test_narrow_wide_and_lone_ranges_get_ticks(y, log):
    _, boxes = drawn(simple(Series("s", "line", (3.0, 3.0), y), y_log=log), 330)
    assert boxes


def test_a_folder_that_cannot_be_written_is_one_clear_line(figures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        figure_png(figures["steps"], tmp_path / "file" / "a.png")
