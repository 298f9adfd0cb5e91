"""What a person sees who waits."""

import io

from rich.console import Console

from normscope.why import progress
from normscope.why.progress import Display, minutes
from normscope.why.run import Progress


def shown(steps, clock, monkeypatch, *, terminal=False):
    times = iter(clock)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times, clock[-1]))
    text = io.StringIO()
    display = Display(Console(file=text, width=100, force_terminal=terminal, highlight=False))
    display.begin()
    for step in steps:
        display.tell(step)
    display.end()
    return text.getvalue()


def test_without_a_terminal_each_tenth_is_a_line_with_the_time_left(monkeypatch):
    steps = [Progress(done, 100, done // 5, "arm") for done in (0, 4, 12, 15, 50, 100)]
    lines = shown(steps, [0.0, 12.0, 50.0, 100.0], monkeypatch).splitlines()
    assert lines == [
        "10 % done, 2 runs, about 88 s left",
        "50 % done, 10 runs, about 50 s left",
        "100 % done, 20 runs, about 0 s left",
    ]


def test_what_was_there_already_says_nothing_about_the_pace(monkeypatch):
    steps = [Progress(done, 100, done, "arm") for done in (60, 70, 80)]
    lines = shown(steps, [0.0, 10.0, 20.0], monkeypatch).splitlines()
    assert lines == ["70 % done, 70 runs, about 30 s left", "80 % done, 80 runs, about 20 s left"]


def test_on_a_terminal_it_is_a_bar(monkeypatch):
    text = shown([Progress(50, 100, 1, "rates: plain")], [0.0, 1.0], monkeypatch, terminal=True)
    assert "rates: plain" in text
    assert "% done" not in text


def test_long_times_are_minutes():
    assert minutes(48.2) == "48 s"
    assert minutes(170) == "3 min"
