"""The Qlib provider directory: calendars, instruments and one float32 file per instrument and field.

It is derived: it can be rebuilt from raw_ohlcv at any time. Data files are published first, then the instruments, the
calendar last, so a reader never sees a session that is not whole, and a re-run after a crash repairs.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np

from qdag.engine.panel import Panel
from qdag.errors import MissingDataError, StoreError, unknown
from qdag.store.panels import ENGINE_FIELDS

SUFFIX = ".day.bin"
TEMPORARY = ".writing"
# what Qlib's pandas.read_csv of the instruments file takes for a missing value (its default list)
MISSING_WORDS = frozenset(
    [
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    ]
)
# names that Windows reserves: Qlib looks for them with a prefix (qlib.utils.code_to_fname)
RESERVED = frozenset(["CON", "PRN", "AUX", "NUL", *(f"COM{i}" for i in range(10)), *(f"LPT{i}" for i in range(10))])


@dataclass(frozen=True)
class WriteReport:
    """What a write did: counts of instruments, the published range and the symbols that Qlib knows by another name."""

    instruments: int
    patched: int
    rewritten: int
    removed: int
    sessions: int
    start: date
    end: date
    aliases: dict[str, str] = field(default_factory=dict)


def qlib_symbol(instrument: str) -> str:
    """The name by which Qlib finds an instrument; a word that it reads as missing gets a tail (``NA`` -> ``NA_``)."""
    return f"{instrument}_" if instrument in MISSING_WORDS else instrument


def _folder(symbol: str) -> str:
    return (f"_qlib_{symbol}" if symbol.upper() in RESERVED else symbol).lower()


class QlibBinWriter:
    """Builds and extends one provider directory; one writer at a time, others wait."""

    def __init__(self, provider: Path):
        self.provider = Path(provider)
        self.features = self.provider / "features"

    def write(
        self, panel: Panel, calendar: np.ndarray, future: np.ndarray | Sequence[np.datetime64] = ()
    ) -> WriteReport:
        """Put the panel's sessions in place and publish the calendar up to their end.

        Parameters
        ----------
        panel : all ``ENGINE_FIELDS``, adjusted, of the whole universe; its sessions are consecutive in ``calendar``.
            Instruments that are not in it have no rows in its range. When it covers the calendar from the first to
            the last session, the directory is built anew; else its range replaces what is stored there, and must
            begin no later than the session after the last published one.
        calendar : every session of the universe from its start, at least up to the panel's end, datetime64[D]
        future : sessions after the calendar, for ``day_future.txt``

        Suspended sessions are NaN; a file runs from its instrument's first to its last session with any value. Built
        at once or session by session, the bytes are the same.

        Raises
        ------
        StoreError
            Sessions that do not fit the calendar or leave a gap, or instruments that cannot be written (all in one
            error); the calendar is then as it was.
        """
        calendar = _sessions("calendar", calendar)
        future = _sessions("future", np.asarray(future, "datetime64[D]"))
        low, high = self._place(panel, calendar, future)
        self.provider.mkdir(parents=True, exist_ok=True)
        with self._lock():
            published = read_calendar(self.provider, missing_ok=True)
            whole = low == 0 and high == len(calendar)
            fits = len(published) <= len(calendar) and np.array_equal(published, calendar[: len(published)])
            kept = published[: len(calendar)]
            if not whole:
                if not np.array_equal(kept, calendar[: len(kept)]):
                    at = np.flatnonzero(kept != calendar[: len(kept)])[0]
                    raise StoreError(
                        f"the calendar of {self.provider} has {kept[at]} where {calendar[at]} is given, so positions "
                        f"would shift; write the whole calendar at once to rebuild it"
                    )
                if low > len(published):
                    raise StoreError(
                        f"the panel starts at {calendar[low]}, but {calendar[len(published)]} is the next session of "
                        f"{self.provider}; start there"
                    )
            known = 0 if whole else len(published)
            spans = {} if whole else self._spans(published)
            if not whole and len(published) > len(calendar):
                calendar = published
            total = max(known, high)
            return self._publish(panel, calendar, future, low, high, known, total, spans, unpublish=not fits and whole)

    def _place(self, panel: Panel, calendar: np.ndarray, future: np.ndarray) -> tuple[int, int]:
        if missing := [f for f in ENGINE_FIELDS if f not in panel.fields]:
            raise StoreError(f"the panel lacks fields {missing}; a provider has {list(ENGINE_FIELDS)}")
        if extra := [f for f in panel.fields if f not in ENGINE_FIELDS]:
            raise StoreError(f"the panel has fields {extra} that a provider does not; it has {list(ENGINE_FIELDS)}")
        if not len(panel.sessions):
            raise StoreError("the panel has no session; nothing to write")
        low = int(np.searchsorted(calendar, panel.sessions[0]))
        high = low + len(panel.sessions)
        if not np.array_equal(calendar[low:high], panel.sessions):
            strange = np.setdiff1d(panel.sessions, calendar)
            lacking = np.setdiff1d(calendar[(calendar >= panel.sessions[0]) & (calendar <= panel.sessions[-1])],
                                   panel.sessions)  # fmt: skip
            raise StoreError(
                f"the panel's sessions are not consecutive: not in the calendar {_few(strange)}, not in "
                f"the panel {_few(lacking)}; give every session of the range"
            )
        if len(future) and future[0] <= calendar[-1]:
            raise StoreError(f"future session {future[0]} is not after the calendar's end {calendar[-1]}")
        return low, high

    def _publish(
        self,
        panel: Panel,
        calendar: np.ndarray,
        future: np.ndarray,
        low: int,
        high: int,
        known: int,
        total: int,
        spans: dict[str, tuple[int, int]],
        unpublish: bool,
    ) -> WriteReport:
        block = np.stack([panel[f].astype("<f4", copy=False) for f in ENGINE_FIELDS], axis=1)
        has = (~np.isnan(block)).any(axis=1)
        failures = _name_clashes(panel.instruments, spans)
        rewrite: list[tuple[str, int | None]] = []
        patch: list[tuple[str, int, int]] = []
        for i, instrument in enumerate(panel.instruments):
            if instrument in failures:
                continue
            span = spans.get(instrument)
            if span and _in_place(span, has[i], low) and self._intact(instrument, span):
                patch.append((instrument, i, min(span[1] + 1, low)))
            elif span is None or not self._untouched(instrument, span, low, high) or has[i].any():
                rewrite.append((instrument, i))
        given = set(panel.instruments)
        for instrument, span in spans.items():
            if instrument not in given and not self._untouched(instrument, span, low, high):
                rewrite.append((instrument, None))
        listed = dict(spans)
        temporary: list[Path] = []
        emptied: list[str] = []
        nothing = np.full((len(ENGINE_FIELDS), high - low), np.nan, "<f4")
        try:
            for instrument, row in rewrite:
                try:
                    values = nothing if row is None else block[row]
                    limit = min(spans[instrument][1] + 1, known) if instrument in spans else 0
                    span = self._rewrite(instrument, values, low, limit, total, temporary)
                    if span is None:
                        listed.pop(instrument, None)
                        emptied.append(instrument)
                    else:
                        listed[instrument] = span
                except (OSError, ValueError) as error:
                    failures[instrument] = str(error)
            for instrument, i, position in patch:
                try:
                    first, last = spans[instrument]
                    stop = high - low if high <= last else int(high - low - has[i, ::-1].argmax())
                    self._patch(instrument, block[i, :, :stop], low, position, first)
                    listed[instrument] = first, max(last, low + stop - 1)
                except OSError as error:
                    failures[instrument] = str(error)
            if failures:
                shown = "; ".join(f"{k}: {v}" for k, v in sorted(failures.items())[:20])
                more = f"; and {len(failures) - 20} more" if len(failures) > 20 else ""
                raise StoreError(
                    f"{len(failures)} of {len(given | set(spans))} instruments cannot be written to {self.provider}, "
                    f"the calendar is unchanged: {shown}{more}; remove the cause and run again"
                )
            _flush([*temporary, *(self._path(n, f) for n, _, _ in patch for f in ENGINE_FIELDS)])
            if unpublish:
                # positions change: better no calendar for a moment than one that does not fit the files
                (self.provider / "calendars" / "day.txt").unlink(missing_ok=True)
            for path in temporary:
                path.replace(path.with_name(path.name.removesuffix(TEMPORARY)))
        finally:
            for path in temporary:
                path.unlink(missing_ok=True)
        removed = self._remove_unlisted(listed)
        (self.provider / "instruments").mkdir(exist_ok=True)
        lines = (
            f"{qlib_symbol(n)}\t{calendar[first]}\t{calendar[last]}\n" for n, (first, last) in sorted(listed.items())
        )
        _replace(self.provider / "instruments" / "all.txt", "".join(lines))
        (self.provider / "calendars").mkdir(exist_ok=True)
        days = calendar[:total].astype(str)
        ahead = np.concatenate([calendar, future]).astype(str)
        _replace(self.provider / "calendars" / "day_future.txt", "".join(f"{d}\n" for d in ahead))
        _replace(self.provider / "calendars" / "day.txt", "".join(f"{d}\n" for d in days))
        return WriteReport(
            instruments=len(listed),
            patched=len(patch),
            rewritten=len(rewrite) - len(emptied),
            removed=removed,
            sessions=high - low,
            start=calendar[low].item(),
            end=calendar[high - 1].item(),
            aliases={n: qlib_symbol(n) for n in sorted(listed) if qlib_symbol(n) != n},
        )

    def _path(self, instrument: str, name: str) -> Path:
        return self.features / _folder(qlib_symbol(instrument)) / f"{name}{SUFFIX}"

    def _spans(self, published: np.ndarray) -> dict[str, tuple[int, int]]:
        spans = {}
        for instrument, (start, end) in read_instruments(self.provider).items():
            first, last = (int(np.searchsorted(published, d)) for d in (start, end))
            # a crash between the instruments and the calendar leaves spans that end after it
            if first < len(published):
                spans[instrument] = first, min(last, len(published) - 1)
        return spans

    def _intact(self, instrument: str, span: tuple[int, int]) -> bool:
        """Whether all files hold exactly the listed span: no torn or unpublished rest of an earlier write."""
        size = 4 * (span[1] - span[0] + 2)
        try:
            return all(os.stat(self._path(instrument, f)).st_size == size for f in ENGINE_FIELDS)
        except FileNotFoundError:
            return False

    def _untouched(self, instrument: str, span: tuple[int, int], low: int, high: int) -> bool:
        return (span[1] < low or span[0] >= high) and self._intact(instrument, span)

    def _patch(self, instrument: str, values: np.ndarray, low: int, position: int, first: int) -> None:
        gap = np.full((len(values), low - position), np.nan, "<f4")
        offset = 4 * (position - first + 1)
        for name, row in zip(ENGINE_FIELDS, np.concatenate([gap, values], axis=1), strict=True):
            descriptor = os.open(self._path(instrument, name), os.O_WRONLY)
            try:
                _write_all(descriptor, row.tobytes(), offset)
            finally:
                os.close(descriptor)

    def _rewrite(
        self, instrument: str, values: np.ndarray, low: int, limit: int, total: int, temporary: list[Path]
    ) -> tuple[int, int] | None:
        """Write whole new files next to the old ones, whose values from position ``limit`` on are leftovers."""
        merged = np.full((len(ENGINE_FIELDS), total), np.nan, "<f4")
        if limit:
            for row, name in zip(merged, ENGINE_FIELDS, strict=True):
                path = self._path(instrument, name)
                if path.exists():
                    start, stored = _read_bin(path, limit)
                    row[start : start + len(stored)] = stored
        merged[:, low : low + values.shape[1]] = values
        exists = np.flatnonzero((~np.isnan(merged)).any(axis=0))
        if not len(exists):
            return None
        first, last = int(exists[0]), int(exists[-1])
        for row, name in zip(merged, ENGINE_FIELDS, strict=True):
            path = self._path(instrument, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path = path.with_name(path.name + TEMPORARY)
            temporary.append(path)
            path.write_bytes(np.concatenate([np.array([first], "<f4"), row[first : last + 1]]).tobytes())
        return first, last

    def _remove_unlisted(self, listed: dict[str, tuple[int, int]]) -> int:
        wanted = {_folder(qlib_symbol(n)) for n in listed}
        removed = 0
        if self.features.is_dir():
            for folder in self.features.iterdir():
                if folder.name not in wanted:
                    shutil.rmtree(folder)
                    removed += 1
        return removed

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.provider / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def verify(self, panel: Panel) -> list[str]:
        """Read the files back and describe each instrument and field that differs from ``panel``; [] when none does."""
        published = read_calendar(self.provider)
        if len(lacking := np.setdiff1d(panel.sessions, published)):
            return [f"calendar: {len(lacking)} sessions are not published: {_few(lacking)}"]
        low, high = (int(np.searchsorted(published, panel.sessions[i])) for i in (0, -1))
        if not np.array_equal(published[low : high + 1], panel.sessions):
            return [f"calendar: has sessions in the range that the panel has not: "
                    f"{_few(np.setdiff1d(published[low : high + 1], panel.sessions))}"]  # fmt: skip
        names = sorted({*panel.instruments, *read_instruments(self.provider)})
        stored = read_provider_panel(
            self.provider, tuple(panel.fields), names, panel.sessions[0], panel.sessions[-1], missing_ok=True
        )
        place = {n: i for i, n in enumerate(panel.instruments)}
        differences = []
        for name, have in stored.fields.items():
            for i, instrument in enumerate(names):
                row = place.get(instrument)
                want = np.full(have.shape[1], np.nan, "f4") if row is None else panel[name][row].astype("f4")
                same = (have[i] == want) | (np.isnan(have[i]) & np.isnan(want))
                if not same.all():
                    at = np.flatnonzero(~same)
                    differences.append(
                        f"{instrument} {name}: {len(at)} of {len(same)} sessions differ, first "
                        f"{panel.sessions[at[0]]}: stored {have[i, at[0]]}, expected {want[at[0]]}"
                    )
        return sorted(differences)


def read_calendar(provider: Path, missing_ok: bool = False) -> np.ndarray:
    """Published sessions, datetime64[D]."""
    path = Path(provider) / "calendars" / "day.txt"
    if not path.exists():
        if missing_ok:
            return np.array([], "datetime64[D]")
        raise MissingDataError(
            f"no Qlib provider at {str(provider)!r} (no calendars/day.txt); materialize qlib_bin first"
        )
    return np.array(path.read_text().split(), "datetime64[D]")


def read_instruments(provider: Path, pool: str = "all") -> dict[str, tuple[np.datetime64, np.datetime64]]:
    """First and last date of each instrument of a pool file; several spans of one instrument count as one."""
    path = Path(provider) / "instruments" / f"{pool}.txt"
    if not path.exists():
        return {}
    back = {qlib_symbol(word): word for word in MISSING_WORDS}
    spans: dict[str, tuple[np.datetime64, np.datetime64]] = {}
    for line in path.read_text().splitlines():
        symbol, start, end = line.split("\t")[:3]
        name = back.get(symbol, symbol)
        first: np.datetime64 = np.datetime64(start, "D")
        last: np.datetime64 = np.datetime64(end, "D")
        if name in spans:
            first, last = min(first, spans[name][0]), max(last, spans[name][1])
        spans[name] = first, last
    return spans


def read_provider_panel(
    provider: Path,
    fields: Sequence[str] = ENGINE_FIELDS,
    instruments: Sequence[str] | None = None,
    start: date | np.datetime64 | None = None,
    end: date | np.datetime64 | None = None,
    missing_ok: bool = False,
) -> Panel:
    """Read files straight into a float32 panel over the published sessions from ``start`` to ``end`` (inclusive).

    By default all instruments, sorted. An instrument or field without a file raises UnknownNameError, unless
    ``missing_ok``: then it is NaN.
    """
    provider = Path(provider)
    calendar = read_calendar(provider)
    low = 0 if start is None else int(np.searchsorted(calendar, np.asarray(start, "datetime64[D]"), "left"))
    high = len(calendar) if end is None else int(np.searchsorted(calendar, np.asarray(end, "datetime64[D]"), "right"))
    high = max(low, high)
    listed = read_instruments(provider)
    names = tuple(sorted(listed)) if instruments is None else tuple(instruments)
    arrays = {f: np.full((len(names), high - low), np.nan, "f4") for f in fields}
    first, last = np.full(len(names), high - low), np.full(len(names), -1)
    for i, name in enumerate(names):
        if name not in listed and not missing_ok:
            raise unknown("instrument", name, listed)
        folder = provider / "features" / _folder(qlib_symbol(name))
        for field_name, rows in arrays.items():
            path = folder / f"{field_name.lower()}{SUFFIX}"
            try:
                begin, values = _read_bin(path, high)
            except FileNotFoundError:
                if missing_ok:
                    continue
                known = sorted(p.name.removesuffix(SUFFIX) for p in folder.glob(f"*{SUFFIX}"))
                raise unknown(f"field of instrument {name!r}", field_name, known) from None
            except ValueError as error:
                raise StoreError(f"{error}; rebuild the provider") from None
            skip = max(low - begin, 0)
            at = max(begin - low, 0)
            part = values[skip:]
            rows[i, at : at + len(part)] = part
            if len(part):
                first[i], last[i] = min(first[i], at), max(last[i], at + len(part) - 1)
    return Panel(names, calendar[low:high], arrays, first=first, last=last)


def _read_bin(path: Path, limit: int) -> tuple[int, np.ndarray]:
    """Start position and the values before position ``limit``."""
    content = path.read_bytes()
    # a torn append leaves part of a number at the end
    values = np.frombuffer(content[: len(content) // 4 * 4], "<f4")
    if not len(values) or not np.isfinite(values[0]) or values[0] < 0 or values[0] != int(values[0]):
        raise ValueError(f"{path} does not begin with a calendar position")
    start = int(values[0])
    return start, values[1 : 1 + max(limit - start, 0)]


def _in_place(span: tuple[int, int], has: np.ndarray, low: int) -> bool:
    """Whether a range can be written into the files without moving their first or last session back or forth.

    That is no less safe than new files: appended values are beyond the published calendar until it advances, and
    corrected ones reach a reader field by field either way. A crash is repaired by the same write again.
    """
    first, last = span
    rows = np.flatnonzero(has)
    if low < first or (low == first and not has[0]):
        return False
    if low + len(has) <= last:
        return True
    return len(rows) > 0 and low + int(rows[-1]) >= last


def _name_clashes(instruments: Sequence[str], spans: dict[str, tuple[int, int]]) -> dict[str, str]:
    """Instruments that no file can be named after, each with the reason."""
    failures = {}
    taken: dict[str, str] = {}
    for name in [*spans, *(n for n in instruments if n not in spans)]:
        folder = _folder(qlib_symbol(name))
        if not name or name != name.strip() or any(c in name for c in '/\\\t\n\r\0"') or folder in (".", ".."):
            failures[name] = f"{name!r} cannot be the name of a folder and a word of the instruments file"
        elif folder in taken:
            failures[name] = f"shares the folder {folder!r} with {taken[folder]!r}; rename one of them"
        taken.setdefault(folder, name)
    return failures


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _flush(paths: Sequence[Path]) -> None:
    """Have the contents on disk before anything that refers to them is published."""
    # concurrent requests share the file system's journal commits: 40 times faster than one after the other
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_sync, paths))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + TEMPORARY)
    temporary.write_text(text, encoding="utf-8", newline="\n")
    _flush([temporary])
    temporary.replace(path)
    _sync(path.parent)


def _sessions(what: str, sessions: np.ndarray) -> np.ndarray:
    sessions = np.asarray(sessions).astype("datetime64[D]")
    if np.any(sessions[1:] <= sessions[:-1]):
        raise StoreError(f"{what} sessions must be strictly increasing; sort them and drop duplicates")
    return sessions


def _few(days: np.ndarray) -> str:
    return ", ".join(str(d) for d in days[:5]) + (", ..." if len(days) > 5 else "") or "none"
