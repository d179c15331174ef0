"""The structural cleaning of delivered rows, the same for every source: see :mod:`qdag.sources.protocol`."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from qdag.schema import FINDINGS, QUARANTINE
from qdag.sources.actions import Adjustment, Noticed, factors, ticker_reuse
from qdag.sources.protocol import Delivery, FileVersion
from qdag.sources.reasons import ROW_REASONS, FindingKind, Reason, Refuses
from qdag.sources.rows import ROW_CODES, RawRows, bars_table, row_reasons, traded_average
from qdag.sources.spill import SessionParts, SpillingTables
from qdag.store.qlib.layout import folder_name

GROUPS = 32
"""Instruments are gone through in this many groups: what is in memory at once."""
NOT_ADJUSTED = (
    "prices are not adjusted: no column tells a factor, an adjusted close, splits, dividends or a previous close, so "
    "the factor is 1 throughout. Right if the vendor has adjusted them already; else name such a column in [columns]"
)
"""Detail of the finding ``not_adjusted``."""


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
        self._kept = SpillingTables()
        self._columns: tuple[str, ...] = ()
        self._refused: list[dict[str, Any]] = []
        self._noted: dict[tuple[date, str, str], dict[str, Any]] = {}
        self._versions: list[FileVersion] = []

    def version(self, version: FileVersion) -> None:
        """Remember which version of a file was read."""
        self._versions.append(version)

    def note(
        self, day: np.datetime64, instrument: str, kind: FindingKind, value: float, expected: float, detail: str
    ) -> None:
        """List a finding, where its day is in the asked range; of two of a kind for one bar the first is kept."""
        if self.start <= day <= self.end:
            numbers = {"value": value, "expected": expected}
            row = {k: v if np.isfinite(v) else None for k, v in numbers.items()} | {"detail": detail}
            key = (day.astype(object), instrument, str(kind))
            named = dict(zip(FINDINGS.keys, (self.universe, *key), strict=True))
            self._noted.setdefault(key, {**named, **row})

    def refuse_file(self, source: str, instrument: str, reason: Reason, text: str) -> None:
        """Quarantine a whole file, or what a vendor was asked for; ValueError where the reason is of neither."""
        reason.must(Refuses.FILE | Refuses.INSTRUMENT)
        self._refuse(self.start.item(), instrument, source, 0, reason, text)

    def refuse_line(self, source: str, instrument: str, line: int, text: str, reason: Reason) -> None:
        """Quarantine a line that has no cells to judge by; ValueError where the reason is not of rows."""
        reason.must(Refuses.ROW)
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
        reasons[misplaced] = ROW_CODES[Reason.MISPLACED_DATE]
        if self._clashing:
            reasons[(reasons == 0) & np.isin(code, list(self._clashing))] = ROW_CODES[Reason.NAME_CLASH]
        refused = np.flatnonzero(asked & (reasons > 0))
        for at, shown in zip(refused.tolist(), text(rows.line[refused]) if len(refused) else (), strict=True):
            day = self.start if undated[at] else rows.date[at]
            instrument = rows.instrument[at] or owner
            self._refuse(day.item(), instrument, source, int(rows.line[at]), ROW_REASONS[reasons[at] - 1], shown)
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
        parts = SessionParts(self.sessions)
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
            self.note(
                np.datetime64(first["date"]), first["instrument"], FindingKind.NOT_ADJUSTED, 1.0, np.nan, NOT_ADJUSTED
            )
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
        incomparable = int(traded_average(rows)[1].sum())
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

    def _refuse(self, day: date, instrument: str, source: str, line: int, reason: Reason, row: str) -> None:
        self._refused.append(
            {
                "universe": self.universe,
                "date": day,
                "instrument": instrument,
                "source": source,
                "line": line,
                "reason": str(reason),
                "row": row[:1000],
            }
        )

    def _quarantine(self) -> pa.Table:
        table = pa.Table.from_pylist(self._refused, schema=QUARANTINE.arrow())
        return table.sort_by([(key, "ascending") for key in ("date", "instrument", "source", "line")])
