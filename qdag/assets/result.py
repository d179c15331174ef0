"""What a computation did, for people: counted while the rows stream to the store."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.core.resources import Meter
from qdag.text import listed

PREVIEW_ROWS = 5
SHOWN = 50
"""Symbols or columns that a list for people names."""


@dataclass(frozen=True)
class Result:
    """What was computed: counts, share of missing values, seconds, and a few rows.

    Attributes
    ----------
    asset : its name
    version : version of its table after it; None for what is no table
    rows, instruments, sessions : what the window has now
    nan_share : missing cells / cells, columns without any value left out
    seconds, peak_mib : of the computation, checks not included
    preview : the newest rows
    extra : what else is to be said of the window, by name
    by_session : numbers of each session that has rows: ``rows``, ``nan_share`` of its own cells, and what else the
        asset tells
    """

    asset: str
    universe: str
    version: int | None
    rows: int
    instruments: int
    sessions: int
    nan_share: float
    seconds: float
    peak_mib: float
    preview: pa.Table | None = field(default=None, repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    by_session: Mapping[date, Mapping[str, int | float]] = field(default_factory=dict, repr=False)

    def summary(self) -> str:
        """One line for a log."""
        instruments = f"{self.instruments} instruments, " if self.instruments else ""
        return (
            f"{self.asset} of {self.universe}: {self.rows:,} rows, {instruments}"
            f"{self.sessions} sessions, {self.nan_share:.2%} missing, {self.seconds:.2f} s"
        )


@dataclass
class RowCounter:
    """Counts of what streams to the store, with the newest rows kept for the preview.

    ``values``: the columns whose missing cells are counted.
    """

    values: tuple[str, ...]
    rows: int = 0
    missing: int = 0
    instruments: set[str] = field(default_factory=set)
    rows_of: Counter[date] = field(default_factory=Counter)
    missing_of: Counter[date] = field(default_factory=Counter)
    missing_in: Counter[str] = field(default_factory=Counter)
    preview: pa.Table | None = None

    def watch(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Hand batches on, counted."""
        for batch in batches:
            self.rows += batch.num_rows
            missing = np.zeros(batch.num_rows, np.int32)
            for name in self.values:
                gaps = pc.is_null(batch[name], nan_is_null=True)
                if count := gaps.true_count:
                    self.missing_in[name] += count
                    missing += gaps.to_numpy(zero_copy_only=False)
            self.missing += int(missing.sum())
            if "instrument" in batch.schema.names:
                self.instruments.update(pc.unique(batch["instrument"]).to_pylist())
            days, at = np.unique(batch["date"].to_numpy(zero_copy_only=False), return_inverse=True)
            for day, rows, cells in zip(days.tolist(), np.bincount(at), np.bincount(at, missing), strict=True):
                self.rows_of[day] += int(rows)
                self.missing_of[day] += int(cells)
            if batch.num_rows:
                self.preview = pa.Table.from_batches([batch.slice(max(0, batch.num_rows - PREVIEW_ROWS))])
            yield batch

    def count(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Count batches that go nowhere."""
        for _ in self.watch(batches):
            pass

    @property
    def empty(self) -> tuple[str, ...]:
        """Columns without any value, such as those that a vendor does not deliver; they count in no share."""
        return tuple(name for name in self.values if self.rows and self.missing_in[name] == self.rows)

    @property
    def nan_share(self) -> float:
        return self._share(self.missing, self.rows)

    @property
    def by_session(self) -> dict[date, dict[str, int | float]]:
        return {
            day: {"rows": rows, "nan_share": self._share(self.missing_of[day], rows)}
            for day, rows in sorted(self.rows_of.items())
        }

    def _share(self, missing: int, rows: int) -> float:
        empty = len(self.empty)
        cells = rows * (len(self.values) - empty)
        return (missing - rows * empty) / cells if cells else 0.0

    def result(self, asset: str, universe: str, version: int | None, meter: Meter, extra: dict[str, Any]) -> Result:
        """What was counted, as the result of an asset."""
        return Result(
            asset=asset,
            universe=universe,
            version=version,
            rows=self.rows,
            instruments=len(self.instruments),
            sessions=len(self.rows_of),
            nan_share=self.nan_share,
            seconds=meter.seconds,
            peak_mib=meter.peak_mib,
            preview=self.preview,
            extra=extra | ({"columns_without_values": listed(self.empty, SHOWN)} if self.empty else {}),
            by_session=self.by_session,
        )
