"""What every source has in common: the protocol, the delivery, and the structural cleaning of delivered rows.

Nothing here knows a vendor. The way of the rows:

1. A source reads a file into ``RawRows``: typed columns, NaN where a cell is empty, ``bad`` where one is no number.
2. ``Cleaner.add`` gives every row a reason to be refused, or none, and turns refused rows into quarantine rows.
3. ``Cleaner.finish`` keeps the newest of duplicated rows, derives the adjustment factor from each instrument's whole
   history, compares it with what else the vendor tells, and cuts out the asked range.

For the asked range: rows delivered = rows stored + rows quarantined + corrections. Rows are put down on disk where they
are many (``spill``), and gone through some instruments at a time.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.schema import FINDINGS, QUARANTINE, RAW_OHLCV
from qdag.sources.actions import Adjustment, Noticed, factors, ticker_reuse
from qdag.sources.spill import Parts, Shelf
from qdag.store.qlib.layout import folder_name

PRICES = ("open", "high", "low", "close")
EVENTS = ("split", "dividend", "pre_close", "adjusted_close", "factor")
READING = 2
"""Raised when the same files would give other bars: what was read by an older way is read again."""
# instruments are gone through in this many groups
GROUPS = 32
LARGEST, SMALLEST_PRICE = 1e18, 1e-12
"""No price, volume or amount of an exchange is beyond these: what is computed from them, by factors as well, fits into
the 32-bit numbers of a Qlib provider."""

ROW_REASONS = {
    "bad_date": "the date cannot be read",
    "bad_instrument": "the instrument is missing, malformed or not the one the file is named after",
    "wrong_columns": "the line has more or fewer cells than the header",
    "broken_line": "a quoted cell does not end on its line, or the line is longer than 1 MB",
    "unknown_date": "the date is no session of the universe's calendar",
    "bad_number": "a cell is neither empty nor a finite number, or a price, volume or amount is beyond any exchange's",
    "null_price": "open, high, low or close is empty",
    "null_volume": "the volume is empty",
    "non_positive_price": "a price is zero or negative",
    "negative_volume": "the volume or the amount is negative",
    "high_below_low": "high < low",
    "close_outside_range": "close is outside [low, high]",
    "open_outside_range": "open is outside [low, high]",
    "misplaced_date": "the date has not come yet, or lies outside the universe's time where the rows around it do not",
    "name_clash": "another instrument has the same name but for capitals: Qlib keeps both in one folder",
    "bad_event": "a split, factor, previous or adjusted close is not positive, a dividend is negative, "
    "or the vendor's factor is missing",
}
FILE_REASONS = {
    "api_error_page": "the file holds JSON or HTML, as an API answers on an error",
    "not_a_table": "the file has no columns",
    "empty_file": "the file holds nothing",
    "header_without_rows": "the file has a header and no row",
    "unknown_columns": "the header lacks columns of the source's layout",
    "unreadable": "the file is damaged, truncated or, from its header on, not in UTF-8",
    "unreadable_folder": "the folder cannot be listed: nothing is known of what lies in it",
    "symbolic_link": "a symbolic link is not followed: put there what it leads to",
    "not_a_file": "a pipe, a socket or a device",
    "bad_file_name": "the file's name is not UTF-8, or not of the form that is set",
    "bad_instrument": ROW_REASONS["bad_instrument"],
    "name_clash": ROW_REASONS["name_clash"],
}
UNDATED = ("bad_date", "wrong_columns", "broken_line", "misplaced_date")
"""Of the reasons for a row: those of a row that has no date, or none that can be."""
WITHDRAWN = "history_withdrawn"
"""Reason for which a whole instrument is held back: a delivery no longer has much of what is stored of it."""
NOT_ADJUSTED = (
    "prices are not adjusted: no column tells a factor, an adjusted close, splits, dividends or a previous close, so "
    "the factor is 1 throughout. Right if the vendor has adjusted them already; else name such a column in [columns]"
)
_CODES = {reason: code for code, reason in enumerate(ROW_REASONS, start=1)}


@dataclass(frozen=True)
class FileVersion:
    """A delivered file as it was read: its path in the source, the SHA-256 of the bytes that were parsed, and what they
    hold.

    ``rows`` are its data lines, refused ones included (0 for a file that was refused as a whole); ``first`` and
    ``last`` the first and last date in it, None where it has none; ``modified`` the time of its last change when it was
    opened, in nanoseconds since 1970; 0 where that says nothing: for a file that changed just then or could not be
    opened.
    """

    source: str
    sha256: str
    bytes: int
    rows: int = 0
    first: date | None = None
    last: date | None = None
    modified: int = 0


@dataclass(frozen=True)
class Delivery:
    """What a source delivered for a range of sessions.

    ``parts`` hold the bars in the RAW_OHLCV schema, sorted by date and instrument, each part the sessions after those
    of the part before; they may be gone through again. ``quarantine`` and ``findings`` have the schemas of these names.
    ``corrections`` counts valid rows that a newer row of the same instrument and date replaced. ``files`` counts the
    files looked at, ``versions`` says which they were. ``checks`` are figures for people and quality rules:
    ``rows_delivered`` (rows in the range), ``rows_outside`` (rows outside it, which are looked at for the factor only),
    ``not_adjusted`` (1 where nothing tells the factor, which is 1),
    ``amount_incomparable`` (stored rows whose amount / volume is outside [low, high] by more than 0.1 %, so that their
    vwap is (high + low + close) / 3), and the number of findings by kind.

    A whole file, or a row whose date cannot be read, is quarantined under the first day of the asked range.
    """

    parts: Sequence[pa.Table]
    quarantine: pa.Table
    corrections: int = 0
    files: int = 0
    checks: dict[str, float] = field(default_factory=dict)
    findings: pa.Table = field(default_factory=lambda: FINDINGS.arrow().empty_table())
    versions: tuple[FileVersion, ...] = ()

    @property
    def bars(self) -> pa.Table:
        """All parts as one table."""
        return pa.concat_tables(self.parts) if len(self.parts) else RAW_OHLCV.arrow().empty_table()


def unspoken(quarantine: pa.Table, several: bool) -> tuple[list[str], bool]:
    """Instruments about which a delivery says nothing, since what should tell of them was refused as a whole; and
    whether that may be all: a folder was refused, or a file where files hold ``several`` instruments."""
    whole = quarantine.filter((pc.field("line") == 0) & (pc.field("reason") != "name_clash"))
    folders = pc.any(pc.ends_with(whole["source"], "/")).as_py()
    return pc.unique(whole["instrument"]).to_pylist(), bool(folders or (several and whole.num_rows))


class Source(Protocol):
    """Where daily bars come from."""

    def deliver(self, sessions: np.ndarray, start: date, end: date) -> Delivery:
        """Deliver the bars of [start, end].

        Parameters
        ----------
        sessions : datetime64[D], shape (S,)
            The universe's calendar from the universe's start to ``end`` or later.
        start, end : date
            First and last day, inclusive. Values do not depend on them: a part equals the slice of the whole.

        Raises
        ------
        SourceError
            The source cannot be read at all.
        UnknownNameError
            The universe is restricted to an instrument that the source does not have.
        """


@runtime_checkable
class FileSource(Source, Protocol):
    """A source of files: what they hold need not be read again to see that nothing changed."""

    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file that ``deliver`` would look at, by its path in the source.

        Raises SourceError where the source cannot be read at all.
        """

    def owners(self, names: Iterable[str]) -> Mapping[str, str | None] | None:
        """The one instrument of each file, by its path in the source; None where files hold several instruments."""


@dataclass(frozen=True)
class RawRows:
    """Rows of one file, typed. All arrays have the shape (N,).

    ``instrument``: object array of str, None where it is malformed. ``date``: datetime64[D], NaT where unreadable.
    ``line``: int64, 1-based line in the file. ``numbers``: float64 per column, NaN where the cell is empty: the four
    prices and volume, and where the vendor has them amount, any of ``EVENTS``, and pct_chg (which is only compared
    with). ``bad``: a cell is no finite number.
    """

    instrument: np.ndarray
    date: np.ndarray
    line: np.ndarray
    numbers: Mapping[str, np.ndarray]
    bad: np.ndarray

    def take(self, rows: np.ndarray) -> "RawRows":
        """The rows at a mask or at positions."""
        numbers = {name: values[rows] for name, values in self.numbers.items()}
        return RawRows(self.instrument[rows], self.date[rows], self.line[rows], numbers, self.bad[rows])


def row_reasons(rows: RawRows, sessions: np.ndarray, adjustment: Adjustment = "none") -> np.ndarray:
    """Why each row is refused: int8 (N,), 0 for a valid row, else the 1-based position in ``ROW_REASONS``.

    The first reason in that order is given. ``sessions``: datetime64[D], increasing. ``adjustment``: an empty factor
    or adjusted close is refused where that is what tells the adjustment.
    """
    number = rows.numbers
    opened, high, low, close = (number[name] for name in PRICES)
    volume = number["volume"]
    nothing = np.zeros(len(rows.line), bool)
    priced = [number[name] for name in PRICES]
    absurd = np.any([values > LARGEST for values in (*priced, volume, number.get("amount", nothing))], axis=0)
    absurd |= np.any([(values > 0) & (values < SMALLEST_PRICE) for values in priced], axis=0)
    at = np.minimum(np.searchsorted(sessions, rows.date), max(len(sessions) - 1, 0))
    session = sessions[at] == rows.date if len(sessions) else nothing
    # comparisons with NaN are False: an empty cell is judged by null_price and null_volume alone
    broken = {
        "bad_date": np.isnat(rows.date),
        "bad_instrument": _nameless(rows.instrument),
        "unknown_date": ~session,
        "bad_number": rows.bad | absurd,
        "null_price": np.isnan(opened) | np.isnan(high) | np.isnan(low) | np.isnan(close),
        "null_volume": np.isnan(volume),
        "non_positive_price": (opened <= 0) | (high <= 0) | (low <= 0) | (close <= 0),
        "negative_volume": (volume < 0) | (number["amount"] < 0 if "amount" in number else nothing),
        "high_below_low": high < low,
        "close_outside_range": (close < low) | (close > high),
        "open_outside_range": (opened < low) | (opened > high),
        "bad_event": _bad_event(number, adjustment, nothing),
    }
    found = np.zeros(len(rows.line), np.int8)
    for reason, mask in reversed(broken.items()):
        found[mask] = _CODES[reason]
    return found


def _nameless(instrument: np.ndarray) -> np.ndarray:
    return np.equal(instrument, np.array(None, object)).astype(bool)


def _bad_event(number: Mapping[str, np.ndarray], adjustment: Adjustment, nothing: np.ndarray) -> np.ndarray:
    bad = nothing.copy()
    for name in ("split", "pre_close", "adjusted_close", "factor"):
        if name in number:
            bad |= number[name] <= 0
    if "dividend" in number:
        bad |= number["dividend"] < 0
    # an empty event cell means no event, an empty level is no factor
    return bad | np.isnan(number[adjustment]) if adjustment in ("factor", "adjusted_close") else bad


class Cleaner:
    """Collects the rows of a delivery and makes the ``Delivery`` of them.

    Parameters
    ----------
    universe : name for the tables
    sessions : datetime64[D], the universe's calendar from the universe's start
    since : the universe's first day; rows before it are left out
    start, end : the asked range; rows outside it only serve the adjustment factor
    adjustment : how the vendor tells the adjustment factor
    until : the universe's last day, if it has one
    """

    def __init__(
        self,
        universe: str,
        sessions: np.ndarray,
        since: date,
        start: date,
        end: date,
        adjustment: Adjustment,
        until: date | None = None,
    ):
        self.universe = universe
        self.sessions = np.asarray(sessions).astype("datetime64[D]")
        self.since, self.start, self.end = (np.datetime64(day, "D") for day in (since, start, end))
        self.adjustment = adjustment
        # somewhere it is tomorrow already
        self.coming = np.datetime64(datetime.now(UTC).date() + timedelta(days=2), "D")
        self.until = min(np.datetime64(until, "D"), self.coming) if until else self.coming
        self.instruments: dict[str, int] = {}
        self._folders: dict[str, str] = {}
        self._clashing: set[int] = set()
        self.delivered = 0
        self.outside = 0
        self.corrections = 0
        self._kept = Shelf()
        self._columns: tuple[str, ...] = ()
        self._refused: list[dict[str, Any]] = []
        self._noted: dict[tuple[date, str, str], dict[str, Any]] = {}
        self._versions: list[FileVersion] = []

    def version(self, version: FileVersion) -> None:
        """Remember which version of a file was read."""
        self._versions.append(version)

    def note(self, day: np.datetime64, instrument: str, kind: str, value: float, expected: float, detail: str) -> None:
        """List a finding, where its day is in the asked range; of two of a kind for one bar the first is kept."""
        if self.start <= day <= self.end:
            numbers = {"value": value, "expected": expected}
            row = {k: v if np.isfinite(v) else None for k, v in numbers.items()} | {"detail": detail}
            key = (day.astype(object), instrument, kind)
            named = dict(zip(FINDINGS.keys, (self.universe, *key), strict=True))
            self._noted.setdefault(key, {**named, **row})

    def refuse_file(self, source: str, instrument: str, reason: str, text: str) -> None:
        """Quarantine a whole file."""
        self._refuse(self.start.item(), instrument, source, 0, reason, text)

    def refuse_line(self, source: str, instrument: str, line: int, text: str, reason: str = "wrong_columns") -> None:
        """Quarantine a line that has no cells to judge by."""
        self.delivered += 1
        self._refuse(self.start.item(), instrument, source, line, reason, text)

    def add(self, source: str, rows: RawRows, text: Callable[[np.ndarray], Iterable[str]], owner: str = "") -> None:
        """Take the rows of one file.

        Parameters
        ----------
        source : file, for the quarantine
        rows : its rows, in the file's order
        text : gives the rows of some lines as they were delivered
        owner : quarantine's instrument for a row that has none
        """
        code = self._codes(rows.instrument)
        misplaced = self._misplaced(rows.date, code)
        undated = np.isnat(rows.date) | misplaced
        near = undated | ((rows.date >= self.since) & (rows.date <= self.end))
        asked = undated | (near & (rows.date >= self.start))
        self.delivered += int(asked.sum())
        self.outside += int((~asked).sum())
        if not near.all():
            rows, code, misplaced, undated, asked = (
                rows.take(near),
                *(x[near] for x in (code, misplaced, undated, asked)),
            )
        reasons = row_reasons(rows, self.sessions, self.adjustment)
        reasons[misplaced] = _CODES["misplaced_date"]
        if self._clashing:
            reasons[(reasons == 0) & np.isin(code, list(self._clashing))] = _CODES["name_clash"]
        refused = np.flatnonzero(asked & (reasons > 0))
        names = tuple(ROW_REASONS)
        for at, shown in zip(refused.tolist(), text(rows.line[refused]) if len(refused) else (), strict=True):
            day = self.start if undated[at] else rows.date[at]
            instrument = rows.instrument[at] or owner
            self._refuse(day.item(), instrument, source, int(rows.line[at]), names[reasons[at] - 1], shown)
        # a refused row's event still counts where its date and instrument are known
        usable = ~undated & (code >= 0)
        if not usable.all():
            rows, code, reasons = rows.take(usable), code[usable], reasons[usable]
        if len(rows.line):
            self._keep(rows, code, reasons == 0)

    def ends(self, days: np.ndarray) -> tuple[date | None, date | None]:
        """First and last of the days (datetime64[D]) that have come; None where there is none."""
        days = days[days < self.coming]
        return (days.min().item(), days.max().item()) if len(days) else (None, None)

    def clash(self, instrument: str) -> str | None:
        """An instrument that came before under the same name but for capitals, or None: then this one has come."""
        first = self._folders.setdefault(folder_name(instrument), instrument)
        return None if first == instrument else first

    def _misplaced(self, days: np.ndarray, code: np.ndarray) -> np.ndarray:
        """Rows whose date cannot be: it has not come, or lies before or after the universe's time although the file is
        in the order of time and an earlier or later row lies within. Bool (N,).

        The order is that of each instrument's rows; of all rows, where they are of one instrument.
        """
        found = days >= self.coming
        early, late = days < self.since, days > self.until
        odd = np.flatnonzero(early | late)
        if not len(odd):
            return found
        one = len(np.unique(code[code >= 0])) <= 1
        order = np.flatnonzero(~np.isnat(days))
        if not one:
            order = order[np.argsort(code[order], kind="stable")]
        day, group = days[order].astype(np.int64), np.zeros(len(order), np.int64) if one else code[order]
        new = np.append(True, group[1:] != group[:-1])
        number = np.cumsum(new) - 1
        step = np.where(new, 0, np.sign(np.diff(day, prepend=day[:1])))
        ups, downs = (np.bincount(number, step == sign)[number] for sign in (1, -1))
        inside = ~(early | late)[order]
        total = np.append(0, np.cumsum(inside))
        edges = np.append(np.flatnonzero(new), len(order))
        before, after = total[:-1] - total[edges[number]], total[edges[number + 1]] - total[1:]
        rising, falling = ups > 2 * downs, downs > 2 * ups
        first, last = np.where(rising, before, after) > 0, np.where(rising, after, before) > 0
        broken = (rising | falling) & ((early[order] & first) | (late[order] & last))
        found[order[broken]] = True
        return found

    def _keep(self, rows: RawRows, code: np.ndarray, valid: np.ndarray) -> None:
        self._columns = self._columns or tuple(rows.numbers)
        nothing = np.full(len(rows.line), np.nan)
        numbers = {name: rows.numbers.get(name, nothing) for name in self._columns}
        table = pa.table({"code": code, "date": rows.date, "valid": valid, **numbers})
        group = code % GROUPS
        for place in np.unique(group).tolist():
            mine = group == place
            self._kept.add(place, table if mine.all() else table.filter(pa.array(mine)))

    def finish(self, files: int) -> Delivery:
        """Resolve duplicates, derive factors, look for what is noticeable, and cut out the asked range."""
        parts = Parts(self.sessions)
        checks: Counter[str] = Counter(rows_delivered=self.delivered, rows_outside=self.outside)
        names = np.array(list(self.instruments), object)
        for place in self._kept.places:
            kept = self._kept.read(place)
            rows = {name: kept[name].to_numpy() for name in kept.column_names}
            rows["date"] = rows["date"].astype("M8[D]")
            bars, found = self._settle(rows, names)
            parts.add(bars)
            checks.update(found)
        if self.adjustment == "none" and len(parts):
            checks["not_adjusted"] = 1
            first = parts[0].slice(0, 1).select(["date", "instrument"]).to_pylist()[0]
            self.note(np.datetime64(first["date"]), first["instrument"], "not_adjusted", 1.0, np.nan, NOT_ADJUSTED)
        checks.update(Counter(f"findings_{kind}" for _, _, kind in self._noted))
        figures = {name: float(count) for name, count in checks.items()}
        noted = pa.Table.from_pylist([self._noted[key] for key in sorted(self._noted)], schema=FINDINGS.arrow())
        return Delivery(parts, self._quarantine(), self.corrections, files, figures, noted, tuple(self._versions))

    def _settle(self, rows: Mapping[str, np.ndarray], names: np.ndarray) -> tuple[pa.Table, dict[str, int]]:
        """Bars of some instruments, of which ``rows`` holds all that was delivered, in the order of delivery."""
        code, day, valid = rows["code"], rows["date"], rows["valid"]
        # by instrument and date; within a date refused rows first, then in the order of delivery: the last one wins
        order = np.lexsort((np.arange(len(code)), valid, day, code))
        code, day, valid = code[order], day[order], valid[order]
        winner = np.append((code[1:] != code[:-1]) | (day[1:] != day[:-1]), True)
        self.corrections += int((valid & ~winner & (day >= self.start)).sum())
        rows = {name: values[order][winner] for name, values in rows.items()}
        asked = rows["date"] >= self.start
        adjusted = factors(self.adjustment, rows)
        factor, gaps = adjusted.factor, adjusted.gaps
        position = np.searchsorted(self.sessions, rows["date"])
        for found in (*adjusted.noticed, ticker_reuse(rows, factor, position)):
            self._list(found, rows, asked, names)
        stored = rows["valid"] & asked
        if adjusted.dividend is not None:
            rows["dividend"] = adjusted.dividend
        rows = {name: values[stored] for name, values in rows.items()}
        rows["instrument"] = names[rows["code"]]
        rows["factor"] = factor[stored]
        incomparable = int(_traded_average(rows)[1].sum())
        checks = {"amount_incomparable": incomparable, "factor_gaps": int((gaps & asked).sum())}
        return bars_table(self.universe, rows), checks

    def _list(self, found: Noticed, rows: Mapping[str, np.ndarray], asked: np.ndarray, names: np.ndarray) -> None:
        kept = asked[found.at]
        for at, value, expected, bound in zip(
            found.at[kept].tolist(),
            found.value[kept].tolist(),
            found.expected[kept].tolist(),
            found.bound[kept].tolist(),
            strict=True,
        ):
            detail = found.detail.format(value=value, expected=expected, bound=bound)
            self.note(rows["date"][at], names[rows["code"][at]], found.kind, value, expected, detail)

    def _codes(self, instrument: np.ndarray) -> np.ndarray:
        """Numbers of instruments, int32 (N,), in the order in which they came; -1 where there is none."""
        if not len(instrument):
            return np.empty(0, np.int32)
        first = instrument[0]
        if (instrument == first).all():
            return np.full(len(instrument), self._code(first), np.int32)
        return np.fromiter((self._code(name) for name in instrument), np.int32, len(instrument))

    def _code(self, name: str | None) -> int:
        if name is None:
            return -1
        if (code := self.instruments.get(name)) is None:
            code = self.instruments[name] = len(self.instruments)
            if self.clash(name):
                self._clashing.add(code)
        return code

    def _refuse(self, day: date, instrument: str, source: str, line: int, reason: str, row: str) -> None:
        self._refused.append(
            {
                "universe": self.universe,
                "date": day,
                "instrument": instrument,
                "source": source,
                "line": line,
                "reason": reason,
                "row": row[:1000],
            }
        )

    def _quarantine(self) -> pa.Table:
        table = pa.Table.from_pylist(self._refused, schema=QUARANTINE.arrow())
        return table.sort_by([(key, "ascending") for key in ("date", "instrument", "source", "line")])


def bars_table(universe: str, rows: Mapping[str, np.ndarray], ordered: bool = False) -> pa.Table:
    """Make the RAW_OHLCV table of valid rows, sorted by date and instrument.

    ``rows`` holds date, instrument, the prices, volume and factor, and where they are known amount, split and dividend
    (NaN in these: not known for amount, no event for the others). Events that the vendor does not deliver are null.
    ``ordered``: the rows are sorted already.
    """
    if not ordered:
        order = np.lexsort((rows["instrument"].astype(str), rows["date"]))
        rows = {name: values[order] for name, values in rows.items()}
    size = len(rows["date"])
    amount = rows.get("amount", np.full(size, np.nan))
    traded, incomparable = _traded_average(rows)
    typical = (rows["high"] + rows["low"] + rows["close"]) / 3
    vwap = np.where(np.isnan(traded) | incomparable, typical, traded)
    split, dividend = rows.get("split"), rows.get("dividend")
    columns: dict[str, Any] = {
        "universe": pa.repeat(pa.scalar(universe, pa.string()), size),
        "date": pa.array(rows["date"], pa.date32()),
        "instrument": pa.array(rows["instrument"], pa.string()),
        **{name: rows[name] for name in (*PRICES, "volume")},
        "amount": pa.array(amount, from_pandas=True),
        "vwap": vwap,
        "factor": rows["factor"],
        "split": pa.nulls(size, pa.float64()) if split is None else np.where(np.isnan(split), 1.0, split),
        "dividend": pa.nulls(size, pa.float64()) if dividend is None else np.where(np.isnan(dividend), 0.0, dividend),
    }
    schema = RAW_OHLCV.arrow()
    return pa.Table.from_arrays(
        [pa.array(columns[name], schema.field(name).type) for name in schema.names], schema=schema
    )


def _traded_average(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """amount / volume, NaN where unknown, and where it lies outside [low, high] by more than 0.1 %.

    Such a bar's prices are on another scale than its amount (vendors that adjust prices but not amounts), so the
    average says nothing about the bar.
    """
    volume = rows["volume"]
    amount = rows.get("amount", np.full(len(volume), np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        traded = np.where(volume > 0, amount / volume, np.nan)
    return traded, (traded > rows["high"] * 1.001) | (traded < rows["low"] * 0.999)
