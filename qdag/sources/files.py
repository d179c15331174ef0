"""Files of CSV or Parquet. Cells are typed here, so that a bad one costs its row and not its file.

In a CSV file a row is a line: lines end with LF, CRLF or CR, lines of white space are no rows, and a quoted cell that
does not end on its line costs the lines that it touches. A file is read whole. Its header is UTF-8, or it is refused;
a row with other bytes is refused where they are in a cell that is needed.
"""

import csv
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import SourceError, nearest, unknown
from qdag.settings import FilesSource, UniverseSettings
from qdag.sources.base import Cleaner, Delivery, FileVersion, RawRows
from qdag.sources.folder import Entry, entries
from qdag.sources.profiles import COMPARED, NUMBERS, PROFILES, Profile, detect, name_regex, plain_name
from qdag.store.arrow import text_codes

EMPTY_CELLS = ("", "null", "NULL", "None", "nan", "NaN", "NAN", "NA", "N/A")
LONGEST_LINE = 1 << 20
_BLANK = " \t\n\v\f"
# what Arrow raises on damaged bytes; a size that is no size can ask for any amount of memory
_DAMAGED = (pa.ArrowException, OSError, ValueError, MemoryError)
_BOM = b"\xef\xbb\xbf"
# dates that text can tell too; a typed one may be millions of years away
_EARLIEST, _LATEST = np.datetime64("1000-01-01"), np.datetime64("9999-12-31")
# libraries write dates as the exchange's midnight
_MIDNIGHT = re.compile(r"[ T]00:00:00(\.0+)?([+-]\d\d:?\d\d|Z)?\Z")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class FileRefused(Exception):
    """A file is no table of the layout; ``reason`` is one of ``FILE_REASONS``."""

    def __init__(self, reason: str, text: str):
        self.reason = reason
        super().__init__(text)


@dataclass(frozen=True)
class _Table:
    """Columns of a file as delivered, the 1-based line of each row, and lines that are no rows of cells."""

    columns: dict[str, pa.ChunkedArray]
    line: np.ndarray
    broken: list[tuple[int, str, str]]
    """Line, its text, and the reason for which it is refused."""
    text: Callable[[np.ndarray], Iterable[str]]


@dataclass(frozen=True)
class FolderLook:
    """What files of a folder hold, without their prices.

    Parameters
    ----------
    files, looked_at : how many files there are, and how many of them were read for this
    size, rows : bytes of all files, and data lines of those that were read
    instruments : those found, in order
    days, traded : distinct days, datetime64[D] (D,), increasing, and on how many rows each is
    refused : what is wrong with each file that is no table, by its path in the folder
    unnamed : files whose name is no symbol where it should be one
    """

    profile: Profile
    files: int
    looked_at: int
    size: int
    rows: int
    instruments: tuple[str, ...]
    days: np.ndarray
    traded: np.ndarray
    refused: dict[str, str]
    unnamed: tuple[str, ...]


class FilesFolder:
    """Daily bars from a folder and its sub-folders: one file per instrument, or files with an instrument column.

    Other suffixes than .csv and .parquet, and hidden files, are no part of the source. Symbolic links, folders that
    cannot be listed, and files whose name is not UTF-8 or not of the form of ``source.name``, are refused like broken
    files. The order of delivery is that of the paths (as text, folder by folder), then of the lines: of two valid rows
    of an instrument and date the later one is the newer and wins. Times of modification mean nothing: a copy of the
    folder gives the same bars.
    """

    def __init__(self, universe: str, settings: UniverseSettings, source: FilesSource):
        self.universe = universe
        self.settings = settings
        self.folder = source.path.expanduser()
        self.source = source
        self._form = name_regex(source.name) if source.name else None

    def deliver(self, sessions: np.ndarray, start: date, end: date) -> Delivery:
        """Read the folder; see ``Source.deliver``."""
        listed = self._entries()
        profile = self._profile(listed)
        wanted = self._wanted
        dates: dict[str, np.datetime64] = {}
        spec = self.settings
        cleaner = Cleaner(self.universe, sessions, spec.start, start, end, profile.adjustment, spec.end)
        seen = {owner for entry in listed if (owner := self._owner(entry, profile))}
        files = 0
        layouts: list[str] = []
        for entry in self._looked_at(listed, profile):
            files += 1
            owner = self._owner(entry, profile)
            shown = owner or plain_name(self._stem(entry) or entry.path.stem)
            data, unreadable, modified = (b"", "", 0) if entry.reason else entry.read()
            size = len(data) if data or entry.reason else entry.stamp()[0]
            digest = entry.sha256() if entry.reason else hashlib.sha256(data).hexdigest()
            version = FileVersion(entry.name, digest, size, modified=modified)
            try:
                self._accept(entry, profile, cleaner, unreadable)
                table = _read(entry.path, data, profile)
            except FileRefused as refused:
                cleaner.version(version)
                cleaner.refuse_file(entry.name, shown, refused.reason, str(refused))
                if refused.reason == "unknown_columns":
                    layouts.append(f"{entry.name}: {refused}")
                continue
            rows, foreign = self._rows(table, profile, owner, dates)
            first, last = cleaner.ends(rows.date)
            cleaner.version(replace(version, rows=len(table.line) + len(table.broken), first=first, last=last))
            seen.update(name for name in set(rows.instrument.tolist()) if name is not None)
            for line, text, reason in table.broken:
                cleaner.refuse_line(entry.name, shown, line, text, reason)
            if owner is not None and foreign.any():
                known = rows.date[foreign & ~np.isnat(rows.date) & (rows.date >= np.datetime64(start, "D"))]
                told = f"{entry.name} is named after one instrument and has {int(foreign.sum())} rows of others"
                if len(known):
                    cleaner.note(known.min(), owner, "ticker_reuse", float(foreign.sum()), 0.0, told)
            if wanted is not None and owner is None:
                inside = np.array([name is None or name in wanted for name in rows.instrument], bool)
                rows = rows.take(inside)
            cleaner.add(entry.name, rows, table.text, shown)
        if layouts and len(layouts) == files:
            raise SourceError(self._no_layout(profile, layouts[0]))
        for instrument in sorted(wanted or ()):
            if instrument not in seen:
                raise unknown(f"instrument of universe {self.universe!r}", instrument, seen)
        return cleaner.finish(files)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the files that would be read now; see ``FileSource.hashes``."""
        return {name: entry.sha256() for name, entry in self.files().items()}

    def files(self) -> dict[str, Entry]:
        """The files that would be read or refused now, by their path in the folder; SourceError where there is none."""
        listed = self._entries()
        return {entry.name: entry for entry in self._looked_at(listed, self._profile(listed))}

    def owners(self, names: Iterable[str]) -> dict[str, str | None] | None:
        """The instrument of each file, by its path in the folder; None where files hold several instruments."""
        profile = self._profile(self._entries())
        if not self._one_each(profile):
            return None
        return {name: self._owner(Entry(name, Path(name)), profile) for name in names}

    def header(self) -> tuple[str, list[str]]:
        """The first file, by its path in the folder, whose column names can be read, and these names.

        Raises
        ------
        SourceError
            No folder, or no such file.
        """
        refused = ""
        for entry in self._entries():
            try:
                return entry.name, _header(entry)
            except FileRefused as error:
                refused = refused or f"{entry.name}: {' '.join(str(error).split())[:200]}"
        raise SourceError(f"no file in {str(self.folder)!r} has a header ({refused}); deliver the files again")

    def look(self, most: int) -> FolderLook:
        """What the files hold, from at most so many of them, evenly chosen; for people, before anything is stored.

        Raises
        ------
        SourceError
            No folder, no file, or an unknown layout.
        """
        listed = self._entries()
        profile = self._profile(listed)
        mapping, known = profile.columns, dict[str, np.datetime64]()
        found = list(self._looked_at(listed, profile))
        chosen = [found[at] for at in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))]
        rows, refused, unnamed = 0, dict[str, str](), list[str]()
        days = np.array([], "M8[D]")
        traded = np.array([], np.int64)
        names: set[str] = set()
        one_each = self._one_each(profile)
        for entry in chosen:
            owner = self._owner(entry, profile)
            if one_each and owner is None and not entry.reason:
                unnamed.append(entry.name)
            try:
                table = _read(entry.path, _content(entry), profile)
            except FileRefused as wrong:
                refused[entry.name] = f"{wrong.reason}: {wrong}"
                continue
            rows += len(table.line) + len(table.broken)
            if one_each:
                names.update([owner] if owner else [])
            elif mapping.instrument is not None:
                symbols = set(to_symbols(table.columns[mapping.instrument], profile.symbol).tolist())
                names.update(name for name in symbols if name is not None)
            dates = to_dates(table.columns[mapping.date], mapping.date_format, known)
            new, counts = np.unique(dates[~np.isnat(dates)], return_counts=True)
            both = np.union1d(days, new)
            total = np.zeros(len(both), np.int64)
            total[np.searchsorted(both, days)] += traded
            total[np.searchsorted(both, new)] += counts
            days, traded = both, total
        size = sum(entry.stamp()[0] for entry in found)
        return FolderLook(
            profile, len(found), len(chosen), size, rows, tuple(sorted(names)), days, traded, refused, tuple(unnamed)
        )

    @property
    def _wanted(self) -> set[str] | None:
        return set(self.settings.instruments) if self.settings.instruments is not None else None

    def _one_each(self, profile: Profile) -> bool:
        """Whether files are named after the one instrument that they hold."""
        return profile.named_files or profile.columns.instrument is None or self._form is not None

    def _stem(self, entry: Entry) -> str | None:
        """The vendor's symbol in a file's name; None where the name is not of the form that is set."""
        if self._form is None:
            return entry.path.stem
        match = self._form.fullmatch(entry.path.stem)
        return match["instrument"] if match else None

    def _owner(self, entry: Entry, profile: Profile) -> str | None:
        """The one instrument of a file, where files are named after theirs."""
        if not self._one_each(profile) or entry.name.endswith("/") or (stem := self._stem(entry)) is None:
            return None
        return profile.symbol(stem)

    def _looked_at(self, listed: list[Entry], profile: Profile) -> Iterator[Entry]:
        """The files that may hold an instrument of the universe."""
        wanted = self._wanted
        for entry in listed:
            owner = self._owner(entry, profile)
            if wanted is None or owner is None or owner in wanted:
                yield entry

    def _accept(self, entry: Entry, profile: Profile, cleaner: Cleaner, unreadable: str) -> None:
        """FileRefused for a file whose rows are not wanted, whatever they are."""
        if entry.reason:
            raise FileRefused(entry.reason, entry.told)
        owner, stem = self._owner(entry, profile), self._stem(entry)
        if stem is None:
            told = f"not of the form name = {self.source.name!r}; rename the file, or correct source.name"
            raise FileRefused("bad_file_name", told)
        if owner is None and (profile.columns.instrument is None or self._form):
            raise FileRefused("bad_instrument", f"{stem!r} is no symbol; rename the file")
        if owner and (other := cleaner.clash(owner)):
            raise FileRefused("name_clash", f"{other!r} was read before; remove one of them, or rename it")
        if unreadable:
            raise FileRefused("unreadable", unreadable)

    def _entries(self) -> list[Entry]:
        shown = f"folder {str(self.folder)!r} of universe {self.universe!r}"
        if not self.folder.is_dir():
            raise SourceError(f"{shown} does not exist; correct source.path")
        listed = entries(self.folder)
        if not listed:
            raise SourceError(
                f"{shown} has no .csv or .parquet file; put the vendor's files there or correct source.path"
            )
        if listed[0].path == self.folder:
            raise SourceError(f"{shown} cannot be listed: {listed[0].told}; correct its permissions or source.path")
        named = [entry for entry in listed if not entry.reason]
        if named and all(self._stem(entry) is None for entry in named):
            raise SourceError(
                f"no file of {shown} is named as name = {self.source.name!r} says, for example {named[0].name!r}; "
                "correct source.name, which is without the suffix"
            )
        return listed

    def _no_layout(self, profile: Profile, example: str) -> str:
        """Why no file has the columns of the layout, and what to do about it."""
        if profile.name != "custom":
            return (
                f"no file in {str(self.folder)!r} has the columns of profile {profile.name!r} ({example}); "
                "name the layout with profile = 'custom' and a [columns] table"
            )
        _, header = self.header()
        columns = profile.columns.model_dump()
        wrong = [f"columns.{key} = {columns[key]!r}" for key in columns if columns[key] in profile.missing(header)]
        hint = nearest(columns[wrong[0].split(" ")[0].removeprefix("columns.")], header) if wrong else ""
        return (
            f"no file in {str(self.folder)!r} has the columns that [columns] of universe {self.universe!r} names "
            f"({example}); correct {', '.join(wrong)}{hint}"
        )

    def _profile(self, listed: list[Entry]) -> Profile:
        """The layout: as set, or for ``auto`` that of the first file whose header is known."""
        if self.source.columns is not None:
            return Profile("custom", self.source.columns)
        if self.source.profile != "auto":
            return PROFILES[self.source.profile]
        headers: dict[str, list[str]] = {}
        for entry in listed:
            try:
                header = _header(entry)
            except FileRefused:
                continue
            if found := detect(header):
                return found
            headers.setdefault(entry.name, header)
        if not headers:
            # nothing but broken files: the delivery names each of them, under any profile
            return PROFILES["alphavantage"]
        name, header = next(iter(headers.items()))
        raise SourceError(
            f"unknown column layout in {str(self.folder)!r}: {name} has {header}; known are "
            + "; ".join(f"{p.name} ({', '.join(p.required)})" for p in PROFILES.values())
            + ". Name yours with profile = 'custom' and a [columns] table"
        )

    def _rows(
        self, table: _Table, profile: Profile, owner: str | None, dates: dict[str, np.datetime64]
    ) -> tuple[RawRows, np.ndarray]:
        """Typed rows, and which of them name another instrument than the file does."""
        mapping = profile.columns
        size = len(table.line)
        numbers, bad = {}, np.zeros(size, bool)
        for field in NUMBERS:
            if column := getattr(mapping, field):
                numbers[field], wrong = to_numbers(table.columns[column])
                bad |= wrong
        for field in COMPARED:
            if column := getattr(mapping, field):
                have = column in table.columns
                numbers[field] = to_numbers(table.columns[column])[0] if have else np.full(size, np.nan)
        with np.errstate(over="ignore"):
            for field, unit in (("volume", mapping.volume_unit), ("amount", mapping.amount_unit)):
                if field in numbers and unit != 1:
                    numbers[field] *= unit
        foreign = np.zeros(size, bool)
        if mapping.instrument is None:
            instrument = np.full(size, owner, object)
        else:
            instrument = to_symbols(table.columns[mapping.instrument], profile.symbol)
            if owner is not None:
                other = instrument != owner
                foreign = other & np.not_equal(instrument, np.array(None, object)).astype(bool)
                instrument[other] = None
        days = to_dates(table.columns[mapping.date], mapping.date_format, dates)
        with np.errstate(all="ignore"):
            numbers = profile.as_traded(days, numbers)
        return RawRows(instrument, days, table.line, numbers, bad), foreign


def to_numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Type a column: float64 (N,) with NaN for an empty cell, and a mask of cells that are no finite number."""
    bad = np.zeros(len(column), bool)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        try:
            typed = column.cast(pa.float64())
        except pa.ArrowInvalid:
            text = pc.utf8_trim_whitespace(column)
            empty = pc.is_in(text, value_set=pa.array(EMPTY_CELLS, kind))
            number = pc.or_(empty, pc.match_substring_regex(text, f"^({_NUMBER.pattern})$"))
            bad = pc.invert(pc.fill_null(number, True)).to_numpy()
            keep = pc.and_(number, pc.invert(empty))
            # Arrow's parser knows no leading plus
            text = pc.replace_substring_regex(pc.if_else(keep, text, pa.scalar(None, kind)), r"^\+", "")
            typed = text.cast(pa.float64())
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        typed = column.cast(pa.float64(), safe=False)
    elif pa.types.is_null(kind):
        return np.full(len(column), np.nan), bad
    else:
        return np.full(len(column), np.nan), ~bad
    values = np.array(typed.to_numpy(), np.float64)
    infinite = np.isinf(values)
    values[infinite] = np.nan
    return values, bad | infinite


def to_dates(column: pa.ChunkedArray, form: str, known: dict[str, np.datetime64]) -> np.ndarray:
    """Type a column of dates: datetime64[D] (N,), NaT where it cannot be read or is of no year from 1000 to 9999.

    ``known`` remembers texts: files share their dates.
    """
    kind = column.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        days = np.array(column.cast(pa.date32(), safe=False).to_numpy(zero_copy_only=False), "M8[D]")
        days[(days < _EARLIEST) | (days > _LATEST)] = np.datetime64("NaT")
        return days
    if pa.types.is_integer(kind):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return np.full(len(column), np.datetime64("NaT"), "M8[D]")
    position, texts = text_codes(column)
    for text in texts:
        if text not in known:
            known[text] = _date(text.strip(), form)
    values = np.array([known[text] for text in texts] + [np.datetime64("NaT")], "M8[D]")
    return values[position]


def to_symbols(column: pa.ChunkedArray, symbol: Callable[[str], str | None]) -> np.ndarray:
    """Instruments in Qlib's spelling: object (N,), None where there is none."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        try:
            column = column.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return np.full(len(column), None, object)
    position, texts = text_codes(column)
    return np.array([symbol(text) for text in texts] + [None], object)[position]


def _date(text: str, form: str) -> np.datetime64:
    try:
        day = datetime.strptime(text, form)
    except ValueError:
        plain = _MIDNIGHT.sub("", text)
        return _date(plain, form) if plain != text else np.datetime64("NaT")
    # strptime also takes 2020131 for %Y%m%d; digits may only lack where a separator tells them apart
    shown = day.strftime(form)
    # and a year that begins with 0 is a typing error, not one long before any exchange
    same = shown == text or (re.findall(r"\d+", shown) != [shown] and _unpadded(shown) == _unpadded(text))
    return np.datetime64(day.date(), "D") if same and day.year >= 1000 else np.datetime64("NaT")


def _unpadded(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text).lower()


def _content(entry: Entry) -> bytes:
    data, unreadable, _ = (b"", "", 0) if entry.reason else entry.read()
    if entry.reason or unreadable:
        raise FileRefused(entry.reason or "unreadable", entry.told or unreadable)
    return data


def _header(entry: Entry) -> list[str]:
    data = _content(entry)
    if entry.path.suffix.lower() == ".parquet":
        return list(_parquet(data).schema_arrow.names)
    return _csv_header(data)[0]


def _read(path: Path, data: bytes, profile: Profile) -> _Table:
    return _read_parquet(data, profile) if path.suffix.lower() == ".parquet" else _read_csv(data, profile)


def _csv_header(data: bytes) -> tuple[list[str], int]:
    """Column names, and how many lines come before the first row."""
    body = data.removeprefix(_BOM)
    begin = body.lstrip()
    if not begin:
        raise FileRefused("empty_file", f"{len(data)} bytes, all blank")
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in body[:1000]:
        raise FileRefused("unreadable", "not UTF-8 text (UTF-16 or binary); save it as UTF-8")
    if begin[:1] in b"{[<":
        raise FileRefused("api_error_page", begin[:500].decode("utf-8", "replace"))
    line = _unix(begin[: LONGEST_LINE + 2]).split(b"\n", 1)[0]
    if len(line) > LONGEST_LINE:
        raise FileRefused("not_a_table", f"a first line of more than {LONGEST_LINE} bytes")
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise FileRefused("unreadable", f"the header is not UTF-8: {error}; save the file as UTF-8") from None
    try:
        header = [name.strip() for name in next(csv.reader([text], strict=True))]
    except csv.Error as error:
        raise FileRefused("not_a_table", f"{error}: {text[:500]}") from None
    if len(header) < 2:
        raise FileRefused("not_a_table", text[:500])
    return header, _unix(body[: len(body) - len(begin)]).count(b"\n") + 1


def _utf8(data: bytes) -> bytes:
    """The same text, with U+FFFD for bytes that are no UTF-8: they cost the rows whose cells are needed, no others."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode()
    return data


def _unix(data: bytes) -> bytes:
    """The same lines, ended by LF."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def _check(header: list[str], profile: Profile) -> None:
    if missing := profile.missing(header):
        raise FileRefused("unknown_columns", f"lacks {missing}; has {header}")
    if twice := sorted({name for name in profile.required if header.count(name) > 1}):
        raise FileRefused("unknown_columns", f"has {twice} more than once; has {header}")


def _read_csv(data: bytes, profile: Profile) -> _Table:
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    header, before = _csv_header(data)
    _check(header, profile)
    body = _utf8(_unix(data.removeprefix(_BOM)))
    screened, broken = _screened(body, before)
    odd: list[int] = []

    def remember(row: "pa.csv.InvalidRow") -> str:
        odd.append(row.number)
        return "skip"

    try:
        table = read_csv(
            pa.BufferReader(screened),
            # one thread: only then is a broken line's number told
            read_options=ReadOptions(use_threads=False, skip_rows=before, column_names=header, block_size=1 << 24),
            parse_options=ParseOptions(ignore_empty_lines=False, invalid_row_handler=remember),
            convert_options=ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=profile.wanted(header),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise FileRefused("header_without_rows", ",".join(header)) from None
        raise FileRefused("unreadable", f"{error}; save the file as UTF-8 CSV") from None
    line = np.arange(before + 1, before + 1 + table.num_rows + len(odd), dtype=np.int64)
    if odd:
        line = line[~np.isin(line, odd)]
        texts = zip(odd, _csv_lines(body, np.array(odd)), strict=True)
        broken += [(number, text, "wrong_columns") for number, text in texts if text.strip(_BLANK)]
    # a blank line comes as a row of empty cells, as do a line of commas, which is a row, and an emptied line
    empty = np.ones(table.num_rows, bool)
    for column in table.columns:
        if not empty.any():
            break
        empty &= pc.equal(column, "").to_numpy()
    if empty.any():
        at = np.flatnonzero(empty)
        keep = ~empty
        keep[at] = [bool(text.strip(_BLANK)) for text in _csv_lines(screened, line[at])]
        table, line = table.filter(pa.array(keep)), line[keep]
    if not len(line) and not broken:
        raise FileRefused("header_without_rows", ",".join(header))
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return _Table(columns, line, broken, partial(_csv_lines, body))


def _screened(body: bytes, before: int) -> tuple[bytes, list[tuple[int, str, str]]]:
    """The same lines, of which those that no parser should see are emptied; these lines, refused.

    Quoted cells that end on their line are written in the one way that every parser reads alike.
    """
    broken: list[tuple[int, str, str]] = []
    longest = len(body) > LONGEST_LINE and max(map(len, body.split(b"\n"))) > LONGEST_LINE
    if b'"' not in body and not longest:
        return body, broken
    lines = body.split(b"\n")
    for at in range(before, len(lines)):
        line = lines[at]
        if len(line) > LONGEST_LINE:
            cells = None
        elif b'"' in line:
            cells = _cells(line)
        else:
            continue
        if cells is None:
            broken.append((at + 1, line[:LONGEST_LINE].decode("utf-8", "replace"), "broken_line"))
            lines[at] = b""
        else:
            lines[at] = cells
    return b"\n".join(lines), broken


def _cells(line: bytes) -> bytes | None:
    """A line with its cells quoted where they must be; None where a quote does not end."""
    try:
        cells = next(csv.reader([line.decode()], strict=True))
    except csv.Error:
        return None
    text = ",".join('"' + cell.replace('"', '""') + '"' if set(cell) & set(',"') else cell for cell in cells)
    # a quoted nothing is a cell, and its line no blank one
    return text.encode() if text.strip() else b'""'


def _csv_lines(body: bytes, line: np.ndarray) -> list[str]:
    lines = body.split(b"\n")
    return [lines[at - 1].decode("utf-8", "replace") for at in line.tolist()]


def _parquet(data: bytes) -> "pa.parquet.ParquetFile":
    from pyarrow.parquet import ParquetFile

    try:
        if not data:
            raise FileRefused("empty_file", "0 bytes")
        return ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    except _DAMAGED as error:
        raise FileRefused("unreadable", f"{error}; deliver the file again") from None


def _read_parquet(data: bytes, profile: Profile) -> _Table:
    file = _parquet(data)
    try:
        names = file.schema_arrow.names
        _check(names, profile)
        if not file.metadata.num_rows:
            raise FileRefused("header_without_rows", ",".join(names))
        table = file.read(columns=profile.wanted(names))
        table.validate(full=True)
        if missing := profile.missing(table.column_names):
            raise FileRefused("unreadable", f"columns {missing} are damaged; deliver the file again")
    except _DAMAGED as error:
        raise FileRefused("unreadable", f"{error}; deliver the file again") from None

    def lines(line: np.ndarray) -> list[str]:
        cells = [[_shown(value) for value in column.take(pa.array(line - 1))] for column in table.columns]
        return [",".join(row) for row in zip(*cells, strict=True)]

    columns = {
        name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return _Table(columns, np.arange(1, table.num_rows + 1, dtype=np.int64), [], lines)


def _shown(value: pa.Scalar) -> str:
    """A Parquet cell as text; a value that Python has no word for (a year of 9 digits) as the number it is."""
    try:
        return "" if value.as_py() is None else str(value.as_py())
    except (ValueError, OverflowError):
        return str(value.value) if pa.types.is_temporal(value.type) else repr(value)
