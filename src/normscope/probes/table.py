"""Measurements as a table: rows, pandas, JSON or a page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from normscope import records
from normscope.errors import InputError
from normscope.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

# Rows that are printed.
_SHOWN = 60


@dataclass(frozen=True, repr=False)
class Table:
    """What was measured, what was not and why.

    It is a sequence of rows, each a dict with the fields of `normscope.Measurement`; a slice is a table. Printed, it is
    lines of text.

    Attributes:
        measurements: In the order in which they were taken.
        not_run: Probe -> why it was not run.
        unsupported: Parts of the network that normalize, or may, and could not be seen.
    """

    measurements: tuple[Measurement, ...]
    not_run: dict[str, str] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.measurements)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (dataclasses.asdict(item) for item in self.measurements)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> Table: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | Table:
        if isinstance(index, slice):
            return dataclasses.replace(self, measurements=self.measurements[index])
        return dataclasses.asdict(self.measurements[index])

    def __repr__(self) -> str:
        names = ("step", "probe", "layer", "quantity", "value", "expected", "unit")
        rows = [names] + [tuple(_cell(getattr(m, name)) for name in names) for m in self.measurements[:_SHOWN]]
        widths = [max(len(row[at]) for row in rows) for at in range(len(names))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        if len(self) > _SHOWN:
            lines.append(f"... {len(self) - _SHOWN} more rows; select(...) takes some, to_pandas() all")
        return "\n".join([*lines, *self.notes])

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not measured and what could not be seen, a line each."""
        reasons = dict.fromkeys(self.not_run.values())
        probes = {why: ", ".join(probe for probe, other in self.not_run.items() if other == why) for why in reasons}
        not_run = tuple(f"not run: {names} ({why})" for why, names in probes.items())
        return (*not_run, *(f"not seen: {part}" for part in self.unsupported))

    def select(self, **wanted: object) -> Table:
        """The rows whose fields equal `wanted`, for example `select(probe="drift", layer="bn1")`.

        Raises:
            InputError: A field that measurements do not have.
        """
        names = [item.name for item in dataclasses.fields(Measurement)]
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise InputError(f"expected fields of a measurement ({', '.join(names)}), got {', '.join(unknown)}")
        kept = (m for m in self.measurements if all(getattr(m, key) == value for key, value in wanted.items()))
        return dataclasses.replace(self, measurements=tuple(kept))

    def to_json(self) -> str:
        """Versioned JSON text; numbers that are not finite become null."""
        return records.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Table:
        """The table that `to_json` wrote.

        Raises:
            RecordError: Not one, cut short, or of another version.
        """
        return records.from_json(text, cls, "the table")

    def to_pandas(self) -> pd.DataFrame:
        """A pandas.DataFrame with a row for each measurement.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise InputError(
                "expected pandas for a data frame, it is not installed: pip install 'normscope[pandas]', or use the"
                " table's own rows"
            ) from None
        names = [item.name for item in dataclasses.fields(Measurement)]
        return pd.DataFrame(list(self), columns=names)

    def to_html(self, title: str = "Batch norm in this network") -> str:
        """One self-contained page."""
        from normscope.report import render_measurements

        return render_measurements(self.measurements, title, self.notes)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
