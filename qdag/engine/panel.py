"""The panel: a dense block, instruments x sessions, one array per series."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qdag.errors import PanelError, unknown

SHOWN_FIELDS = 8
"""Fields that a panel names where it shows itself."""


@dataclass(frozen=True, repr=False)
class Panel:
    """Series of many instruments on the same sessions.

    Parameters
    ----------
    instruments : sequence of str, length I, unique
    sessions : array of datetime64[D], shape (S,), strictly increasing
    fields : mapping name (without ``$``) -> float32 or float64 array, shape (I, S), C order.
        NaN means no value: a suspended session, or a row outside the listing.
    first : int64 array, shape (I,), optional
        Position of each instrument's listing: rows before it do not exist for rolling windows (Qlib starts a series
        there). 0 for an instrument listed before the panel begins. Derived when left out: the first session with any
        value in any field (S when there is none).
    last : int64 array, shape (I,), optional
        Position of each instrument's last existing row, inclusive; derived when left out as the last session with any
        value (-1 when there is none). Rows after it have no features.

    Raises
    ------
    PanelError
        Shapes, dtypes, session order or instrument uniqueness are wrong.
    """

    instruments: Sequence[str]
    sessions: np.ndarray
    fields: Mapping[str, np.ndarray]
    first: np.ndarray = field(default=None)  # type: ignore[arg-type]
    last: np.ndarray = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        instruments = tuple(self.instruments)
        sessions = np.asarray(self.sessions)
        if sessions.dtype.kind != "M":
            raise PanelError(f"sessions must be datetime64, got dtype {sessions.dtype}; convert with astype('M8[D]')")
        sessions = sessions.astype("datetime64[D]")
        if sessions.ndim != 1 or np.any(np.diff(sessions) <= np.timedelta64(0, "D")):
            bad = np.flatnonzero(np.diff(sessions.ravel()) <= np.timedelta64(0, "D"))
            where = f" at {sessions[bad[0] + 1]}" if len(bad) else ""
            raise PanelError(f"sessions must be one strictly increasing array{where}; sort and drop duplicates first")
        if len(set(instruments)) != len(instruments):
            seen: set[str] = set()
            twice = next(i for i in instruments if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise PanelError(f"instrument {twice!r} appears twice; a panel has one row per instrument")
        shape = (len(instruments), len(sessions))
        arrays = {}
        for name, values in self.fields.items():
            values = np.asarray(values)
            if values.dtype not in (np.float32, np.float64):
                raise PanelError(f"field {name!r} has dtype {values.dtype}; only float32 and float64 are supported")
            if values.shape != shape:
                raise PanelError(f"field {name!r} has shape {values.shape}, expected (instruments, sessions) = {shape}")
            arrays[name] = np.ascontiguousarray(values)
        first, last = self.first, self.last
        if first is None or last is None:
            seen_first, seen_last = _span(arrays, shape)
            first = seen_first if first is None else first
            last = seen_last if last is None else last
        for name, positions in (("first", first), ("last", last)):
            if np.shape(positions) != (shape[0],):
                raise PanelError(f"{name} must hold one position per instrument, got shape {np.shape(positions)}")
        object.__setattr__(self, "instruments", instruments)
        object.__setattr__(self, "sessions", sessions)
        object.__setattr__(self, "fields", arrays)
        object.__setattr__(self, "first", np.asarray(first, np.int64))
        object.__setattr__(self, "last", np.asarray(last, np.int64))

    def __repr__(self) -> str:
        span = f", {self.sessions[0]} to {self.sessions[-1]}" if len(self.sessions) else ""
        names = ", ".join(list(self.fields)[:SHOWN_FIELDS]) + (", ..." if len(self.fields) > SHOWN_FIELDS else "")
        return f"Panel({len(self.instruments)} instruments x {len(self.sessions)} sessions{span}; {names})"

    @property
    def shape(self) -> tuple[int, int]:
        """(instruments, sessions)."""
        return len(self.instruments), len(self.sessions)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.fields:
            raise unknown("field", name, self.fields)
        return self.fields[name]

    def exists(self) -> np.ndarray:
        """Bool array (I, S): True from each instrument's first to its last row, suspended sessions included."""
        positions = np.arange(len(self.sessions))
        return (positions >= self.first[:, None]) & (positions <= self.last[:, None])

    def traded(self) -> np.ndarray:
        """Bool array (I, S): True where there is a bar, which is where ``close`` is a number."""
        return ~np.isnan(self["close"])

    def window(self, start: int, stop: int) -> "Panel":
        """The panel of session positions [start, stop), listings moved along (clipped to its edges)."""
        fields = {name: values[:, start:stop] for name, values in self.fields.items()}
        width = stop - start
        return Panel(
            self.instruments,
            self.sessions[start:stop],
            fields,
            first=np.clip(self.first - start, 0, width),
            last=np.clip(self.last - start, -1, width - 1),
        )

    def rows(self, which: slice) -> "Panel":
        """The panel of some instruments only."""
        fields = {name: values[which] for name, values in self.fields.items()}
        return Panel(self.instruments[which], self.sessions, fields, first=self.first[which], last=self.last[which])


def _span(arrays: Mapping[str, np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """First and last session on which any field has a value: int64 (I,); the number of sessions and -1 for none."""
    instruments, sessions = shape
    if not sessions:
        return np.zeros(instruments, np.int64), np.full(instruments, -1)
    any_value = np.zeros(shape, bool)
    for values in arrays.values():
        any_value |= ~np.isnan(values)
    exists = any_value.any(axis=1)
    first = np.where(exists, any_value.argmax(axis=1), sessions)
    return first, np.where(exists, sessions - 1 - any_value[:, ::-1].argmax(axis=1), -1)
