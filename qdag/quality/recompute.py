"""A sample of a table computed again by a slow second opinion, from raw_ohlcv alone.

The sample is seeded by what is judged, so that a run that is repeated judges the same cells.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from qdag.features.references import LOOKBACK, Reference, adjusted
from qdag.quality.checks import INSTRUMENT_KEYS, Scope, coded, numbers, read_rows, row_days
from qdag.quality.rule import LARGEST
from qdag.schema import RAW_OHLCV

SAMPLED_DAYS = 5
"""Sessions of the window that the sample is spread over."""
FIELDS = ("open", "high", "low", "close", "vwap", "volume", "factor")
"""Columns of raw_ohlcv that a feature can be computed from."""
NO_SAMPLE = pd.DataFrame({"date": pd.Series([], dtype="M8[s]"), "instrument": pd.Series([], dtype=object)})
"""The sample of a table of which none is computed again."""


@dataclass(frozen=True)
class SecondOpinion:
    """How columns of a table are computed again.

    Parameters
    ----------
    references : by column, how it is computed again and how near the stored value must be
    past : sessions before a cell that some reference reads
    future : sessions after it that some reference reads
    """

    references: Mapping[str, Reference]
    past: int = LOOKBACK
    future: int = 0


class Cell(NamedTuple):
    """A sampled row of a table: its session, its instrument, and the stored values by column."""

    day: np.datetime64
    instrument: str
    stored: dict[str, float]


def sample(scope: Scope, table: str, sessions: np.ndarray) -> pd.DataFrame:
    """Dates and instruments of rows of raw_ohlcv whose features are computed again, as many as the limits say."""
    n = scope.limits.sampled_cells
    if not n:
        return NO_SAMPLE
    seed = zlib.crc32(f"{scope.universe}/{table}/{sessions[0]}/{sessions[-1]}".encode())
    random = np.random.default_rng(seed)
    days = np.sort(random.choice(sessions, min(len(sessions), SAMPLED_DAYS), replace=False))
    parts = []
    for day in days:
        names = read_rows(scope, RAW_OHLCV.name, day, day, ["instrument"])["instrument"].to_pylist()
        share = -(-n // len(days))
        chosen = sorted(random.choice(len(names), min(share, len(names)), replace=False)) if names else []
        parts.append(pd.DataFrame({"date": day.astype("M8[s]"), "instrument": [names[i] for i in chosen]}))
    return pd.concat(parts, ignore_index=True)


def cells_of(picked: pd.DataFrame, keys: pd.DataFrame, values: Sequence[str], matrix: np.ndarray) -> list[Cell]:
    """The sampled cells that lie in a part of a table.

    Parameters
    ----------
    picked : the sample
    keys : date and instrument (categorical) of the part's rows, by date
    values : columns of the matrix
    matrix : floats, shape (rows, columns)
    """
    found = []
    days = keys["date"].to_numpy()
    codes, names = keys["instrument"].cat.codes.to_numpy(), keys["instrument"].cat.categories
    for day, name in zip(picked["date"].to_numpy(), picked["instrument"].tolist(), strict=True):
        low, high = np.searchsorted(days, day, "left"), np.searchsorted(days, day, "right")
        mine = names.get_indexer(pd.Index([name]))[0]
        for i in np.flatnonzero((codes[low:high] == mine) & (mine >= 0)).tolist():
            stored = dict(zip(values, matrix[low + i].astype(np.float64).tolist(), strict=True))
            found.append(Cell(day, name, stored))
    return found


def recomputed_frame(scope: Scope, cells: Sequence[Cell], opinion: SecondOpinion | None) -> pd.DataFrame:
    """One line per sampled cell and column with a reference: what is stored, what a slow computation says."""
    lines: list[dict[str, Any]] = []
    if cells and opinion:
        everything = scope.calendar().all
        days = np.array([cell.day for cell in cells], "M8[D]")
        first = max(0, int(np.searchsorted(everything, days.min())) - opinion.past)
        last = min(len(everything) - 1, int(np.searchsorted(everything, days.max())) + opinion.future)
        sessions = everything[first : last + 1]
        series = _series(scope, sessions, sorted({cell.instrument for cell in cells}))
        for day, name, stored in cells:
            bars, t = series[name], int(np.searchsorted(sessions, day.astype("M8[D]")))
            for column, reference in opinion.references.items():
                if column not in stored:
                    continue
                with np.errstate(all="ignore"):
                    expected = reference.value(bars, t)
                gap = reference.difference(stored[column], expected, bars["close"][t])
                lines.append(
                    {
                        "date": pd.Timestamp(day),
                        "instrument": name,
                        "column": column,
                        "stored": stored[column],
                        "expected": expected,
                        "difference": min(gap, LARGEST),
                    }
                )
    return pd.DataFrame(lines, columns=["date", "instrument", "column", "stored", "expected", "difference"])


def _series(scope: Scope, sessions: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Adjusted bars of instruments by session, NaN where there is no row."""
    columns = [*INSTRUMENT_KEYS, *FIELDS]
    raw = read_rows(scope, RAW_OHLCV.name, sessions[0], sessions[-1], columns, names)
    days, (codes, stored) = row_days(raw), coded(raw)
    found = {}
    for i, name in enumerate(stored):
        mine = np.flatnonzero((codes == i) & np.isin(days, sessions))
        fields = {field: np.full(len(sessions), np.nan) for field in FIELDS}
        for field, values in fields.items():
            values[np.searchsorted(sessions, days[mine])] = numbers(raw, field)[mine]
        found[name] = adjusted(fields)
    return found
