"""Probes on a training loop of one's own."""

from __future__ import annotations

import dataclasses
import difflib
import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from normscope.errors import InputError
from normscope.model.find import find
from normscope.probes.catalog import PROBES, Instant
from normscope.probes.collect import Collector
from normscope.probes.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    import torch
    from torch import nn

    from normscope.moments import Moments
    from normscope.probes.batch import Reading
    from normscope.probes.replay import Loss
    from normscope.records import Measurement

_UNSEEN = "no forward pass of the network was seen before step"
_UNSEEN_HINT = (
    "call scope.step() after a training step of this very network; what runs inside of a compiled function is not seen"
)


class Scope:
    """Measure a network while it trains in a loop of one's own; the training is bit for bit what it is without.

    ::

        with normscope.Scope(model, loss=lambda: criterion(model(x), y), optimizer=optimizer, every=100) as scope:
            for x, y in loader:
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()
                scope.step()
        scope.table().to_pandas()

    Moments, drift and range come from the loop's own forward passes and cost next to nothing; the other probes run the
    closure again, as often as they need. Shift between two data sets is no probe of a loop: see
    `normscope.probes.shift`.

    Args:
        model: The network, wrapped (DataParallel, DistributedDataParallel, torch.compile) or not.
        loss: Runs the forward pass on the current batch and returns the loss, without calling backward.
        optimizer: The loop's optimizer, never stepped: probes step a copy.
        every: Measure at each `every`-th step, the first one included.
        probes: Names out of `normscope.probes.catalog.PROBES`; by default every probe that can run with what is given.

    Attributes:
        measurements: Everything measured so far.
        moments: The latest moments of each layer's input, by layer.
        not_run: Probe -> why it does not run.

    Raises:
        UnsupportedError: No batch norm found.
        InputError: An unknown probe, or `every` below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Loss | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        every: int = 1,
        probes: Iterable[str] | None = None,
    ) -> None:
        if every < 1:
            raise InputError(f"expected every to be at least 1 step, got {every}")
        self._model, self._loss, self._optimizer, self._every = model, loss, optimizer, every
        found = find(model).require()
        self._layers, self._unsupported = found.layers, found.unsupported
        self._probes = _chosen(probes)
        missing = {name: PROBES[name].missing(loss, optimizer) for name in self._probes}
        self.not_run = {name: why for name, why in missing.items() if why}
        self._off = set(self.not_run)
        self.measurements: list[Measurement] = []
        self.moments: dict[str, Moments] = {}
        self._effective: dict[str, float] = {}
        self._step = 0
        self._collector = Collector(model, self._layers)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self._collector.attached())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def step(self) -> None:
        """End of a training step, after `optimizer.step()`: measure, if it is this step's turn."""
        readings = self._collector.take()
        if self._step % self._every == 0:
            self._collector.listen(listening=False)
            self._measure(readings)
        self._step += 1
        self._collector.listen(listening=self._step % self._every == 0)

    def table(self) -> Table:
        """Everything measured so far, with what was not run and what could not be seen."""
        hidden = (*self._unsupported, *self._collector.unsupported)
        return Table(
            tuple(self.measurements),
            dict(self.not_run),
            tuple(f"{part.name or 'the network'}: {part.reason}" for part in hidden),
        )

    def to_json(self) -> str:
        """`table()` as JSON."""
        return self.table().to_json()

    def to_html(self, title: str = "Batch norm in this network") -> str:
        """`table()` as one self-contained page."""
        return self.table().to_html(title)

    def _measure(self, readings: dict[str, Reading]) -> None:
        if not readings:
            self.not_run.setdefault("moments", f"{_UNSEEN} {self._step}: {_UNSEEN_HINT}")
        now = Instant(
            self._model, self._layers, self._step, readings, self.moments, self._effective, self._loss, self._optimizer
        )
        for name in self._probes:
            if name in self._off:
                continue
            try:
                self.measurements += [_plain(taken, name) for taken in PROBES[name].take(now)]
            except InputError as error:
                self.not_run[name] = str(error)
                self._off.add(name)
        if readings:
            self.moments = {name: reading.moments for name, reading in readings.items()}


def _chosen(probes: Iterable[str] | None) -> list[str]:
    wanted = set(PROBES if probes is None else probes)
    for name in sorted(wanted - set(PROBES)):
        near = difflib.get_close_matches(name, PROBES, 1)
        raise InputError(
            f"unknown probe {name!r}"
            + (f", did you mean {near[0]!r}?" if near else "")
            + f" (there are {', '.join(PROBES)})"
        )
    return [name for name in PROBES if name in wanted]


def _plain(measurement: Measurement, probe: str) -> Measurement:
    """`measurement` under the name of its probe in the catalog, None in place of numbers that are not finite."""
    value, expected = _finite(measurement.value), _finite(measurement.expected)
    if (measurement.probe, measurement.value, measurement.expected) == (probe, value, expected):
        return measurement
    return dataclasses.replace(measurement, probe=probe, value=value, expected=expected)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
