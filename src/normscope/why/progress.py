"""How far a study is, for a person who waits: a bar on a terminal, a line for each tenth in a file or a pipe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.console import Console

    from normscope.why.run import Progress as Step

_PARTS = 10


class Display:
    """Shows the progress of a study.

    Args:
        console: Where.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description:40.40}"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._shown = self._bar.add_task("starting", total=None)
        self._start, self._said = 0.0, 0
        # Done before this command ran anything; known once it says so.
        self._first: float | None = None

    def begin(self) -> None:
        """The runs are about to start."""
        self._start = time.monotonic()
        if self._console.is_terminal:
            self._bar.start()

    def tell(self, step: Step) -> None:
        """A run has finished."""
        if self._console.is_terminal:
            self._bar.update(self._shown, completed=step.done, total=step.total, description=step.label)
            return
        if self._first is None:  # what was there already says nothing about the pace
            self._first, self._said = step.done, int(_PARTS * step.done / step.total) if step.total else 0
        part = int(_PARTS * step.done / step.total) if step.total else _PARTS
        if part > self._said:
            self._said = part
            runs = f"{step.runs} run{'' if step.runs == 1 else 's'}"
            self._console.print(f"{10 * part} % done, {runs}, {self._left(step)}")

    def _left(self, step: Step) -> str:
        moved = step.done - (self._first or 0.0)
        spent = time.monotonic() - self._start
        return f"about {minutes(spent * (step.total - step.done) / moved)} left" if moved else "time left not known yet"

    def end(self) -> None:
        """Nothing more is to come."""
        if self._console.is_terminal:
            self._bar.stop()


def minutes(seconds: float) -> str:
    """Seconds as '48 s' or '3 min'."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
