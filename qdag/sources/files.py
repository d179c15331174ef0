"""A folder of CSV or Parquet files. Cells are typed here, so that a bad one costs its row and not its file.

In a CSV file a row is a line: lines end with LF, CRLF or CR, lines of white space are no rows, and a quoted cell that
does not end on its line costs the lines that it touches. A file is read whole. Its header is UTF-8, or it is refused;
a row with other bytes is refused where they are in a cell that is needed.
"""

import csv
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import SourceError, unknown
from qdag.settings import FilesSource, UniverseSettings
from qdag.sources.base import Cleaner, Delivery, FileVersion, RawRows
from qdag.sources.profiles import COMPARED, NUMBERS, PROFILES, Profile, detect

SUFFIXES = (".csv", ".parquet")
EMPTY_CELLS = ("", "null", "NULL", "None", "nan", "NaN", "NAN", "NA", "N/A")
LONGEST_LINE = 1 << 20
FRESH_NS = 2 * 10**9
"""A file that changed so shortly before it was read may change again at the same time: it is known by its digest."""
_BLANK = " \t\n\v\f"
# what Arrow raises on damaged bytes; a size that is no size can ask for any amount of memory
_DAMAGED = (pa.ArrowException, OSError, ValueError, MemoryError)
_BOM = b"\xef\xbb\xbf"
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

    Other suffixes than .csv and .parquet, and hidden files, are no part of the source. The order of delivery is that of
    the paths (as text, folder by folder), then of the lines: of two valid rows of an instrument and date the later one
    is the newer and wins. Times of modification mean nothing: a copy of the folder gives the same bars.
    """

    def __init__(self, universe: str, settings: UniverseSettings, source: FilesSource):
        self.universe = universe
        self.settings = settings
        self.folder = source.path.expanduser()
        self.source = source

    def deliver(self, sessions: np.ndarray, start: date, end: date) -> Delivery:
        """Read the folder; see ``Source.deliver``."""
        paths = self._paths()
        profile = self._profile(paths)
        wanted = self._wanted
        dates: dict[str, np.datetime64] = {}
        cleaner = Cleaner(self.universe, sessions, self.settings.start, start, end, profile.adjustment)
        seen = {owner for path in paths if (owner := self._owner(path, profile))}
        files = 0
        layouts: list[str] = []
        for path in self._looked_at(paths, profile):
            owner = self._owner(path, profile)
            files += 1
            name = path.relative_to(self.folder).as_posix()
            shown = profile.symbol(path.stem) or path.stem
            data, unreadable, modified = _bytes(path)
            version = FileVersion(name, hashlib.sha256(data).hexdigest(), len(data), modified=modified)
            try:
                if unreadable:
                    raise FileRefused("unreadable", unreadable)
                table = _read(path, data, profile)
            except FileRefused as refused:
                cleaner.version(version)
                cleaner.refuse_file(name, shown, refused.reason, str(refused))
                if refused.reason == "unknown_columns":
                    layouts.append(f"{name}: {refused}")
                continue
            rows, foreign = self._rows(table, profile, owner, dates)
            dated = rows.date[~np.isnat(rows.date)]
            first, last = (dated.min().item(), dated.max().item()) if len(dated) else (None, None)
            size = len(table.line) + len(table.broken)
            cleaner.version(replace(version, rows=size, first=first, last=last))
            seen.update(name for name in set(rows.instrument.tolist()) if name is not None)
            for line, text, reason in table.broken:
                cleaner.refuse_line(name, shown, line, text, reason)
            if owner is not None and foreign.any():
                known = rows.date[foreign & ~np.isnat(rows.date) & (rows.date >= np.datetime64(start, "D"))]
                told = f"{name} is named after one instrument and has {int(foreign.sum())} rows of others"
                if len(known):
                    cleaner.note(known.min(), owner, "ticker_reuse", float(foreign.sum()), 0.0, told)
            if wanted is not None and owner is None:
                listed = np.array([name is None or name in wanted for name in rows.instrument], bool)
                rows = rows.take(listed)
            cleaner.add(name, rows, table.text, shown)
        if layouts and len(layouts) == files:
            raise SourceError(
                f"no file in {str(self.folder)!r} has the columns of profile {profile.name!r} ({layouts[0]}); "
                "name the layout with profile = 'custom' and a [columns] table"
            )
        for instrument in sorted(wanted or ()):
            if instrument not in seen:
                raise unknown(f"instrument of universe {self.universe!r}", instrument, seen)
        return cleaner.finish(files)

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the files that would be read now; see ``FileSource.hashes``."""
        paths = self._paths()
        profile = self._profile(paths)
        found = self._looked_at(paths, profile)
        return {path.relative_to(self.folder).as_posix(): sha256_of(path) for path in found}

    def files(self) -> dict[str, Path]:
        """The files that would be read now, by their path in the folder; SourceError where there is none."""
        paths = self._paths()
        found = self._looked_at(paths, self._profile(paths))
        return {path.relative_to(self.folder).as_posix(): path for path in found}

    def owners(self, names: Iterable[str]) -> dict[str, str | None] | None:
        """The instrument of each file, by its path in the folder; None where files hold several instruments."""
        profile = self._profile(self._paths())
        if not (profile.named_files or profile.columns.instrument is None):
            return None
        return {name: profile.symbol(Path(name).stem) for name in names}

    def header(self) -> tuple[str, list[str]]:
        """The first file, by its path in the folder, whose column names can be read, and these names.

        Raises
        ------
        SourceError
            No folder, or no such file.
        """
        refused = ""
        for path in self._paths():
            name = path.relative_to(self.folder).as_posix()
            try:
                return name, _header(path)
            except (FileRefused, OSError) as error:
                refused = refused or f"{name}: {' '.join(str(error).split())[:200]}"
        raise SourceError(f"no file in {str(self.folder)!r} has a header ({refused}); deliver the files again")

    def look(self, most: int) -> FolderLook:
        """What the files hold, from at most so many of them, evenly chosen; for people, before anything is stored.

        Raises
        ------
        SourceError
            No folder, no file, or an unknown layout.
        """
        paths = self._paths()
        profile = self._profile(paths)
        mapping, known = profile.columns, dict[str, np.datetime64]()
        found = list(self._looked_at(paths, profile))
        chosen = [found[at] for at in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).astype(int))]
        rows, refused, unnamed = 0, dict[str, str](), list[str]()
        days = np.array([], "M8[D]")
        traded = np.array([], np.int64)
        names: set[str] = set()
        one_each = profile.named_files or mapping.instrument is None
        for path in chosen:
            name, owner = path.relative_to(self.folder).as_posix(), self._owner(path, profile)
            if one_each and owner is None:
                unnamed.append(name)
            data, unreadable, _ = _bytes(path)
            try:
                if unreadable:
                    raise FileRefused("unreadable", unreadable)
                table = _read(path, data, profile)
            except FileRefused as wrong:
                refused[name] = f"{wrong.reason}: {wrong}"
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
        size = sum(path.stat().st_size for path in found)
        return FolderLook(
            profile, len(found), len(chosen), size, rows, tuple(sorted(names)), days, traded, refused, tuple(unnamed)
        )

    @property
    def _wanted(self) -> set[str] | None:
        return set(self.settings.instruments) if self.settings.instruments is not None else None

    def _owner(self, path: Path, profile: Profile) -> str | None:
        """The one instrument of a file, where files are named after theirs."""
        one_each = profile.named_files or profile.columns.instrument is None
        return profile.symbol(path.stem) if one_each else None

    def _looked_at(self, paths: list[Path], profile: Profile) -> Iterator[Path]:
        """The files that may hold an instrument of the universe."""
        wanted = self._wanted
        for path in paths:
            owner = self._owner(path, profile)
            if wanted is None or owner is None or owner in wanted:
                yield path

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            raise SourceError(
                f"folder {str(self.folder)!r} of universe {self.universe!r} does not exist; correct source.path"
            )
        found = (path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        paths = sorted(p for p in found if not any(x.startswith(".") for x in p.relative_to(self.folder).parts))
        if not paths:
            raise SourceError(
                f"folder {str(self.folder)!r} of universe {self.universe!r} has no .csv or .parquet file; "
                "put the vendor's files there or correct source.path"
            )
        return paths

    def _profile(self, paths: list[Path]) -> Profile:
        """The layout: as set, or for ``auto`` that of the first file whose header is known."""
        if self.source.columns is not None:
            return Profile("custom", self.source.columns)
        if self.source.profile != "auto":
            return PROFILES[self.source.profile]
        headers: dict[str, list[str]] = {}
        for path in paths:
            try:
                header = _header(path)
            except FileRefused:
                continue
            if found := detect(header):
                return found
            headers.setdefault(path.relative_to(self.folder).as_posix(), header)
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
    """Type a column of dates: datetime64[D] (N,), NaT where it cannot be read.

    ``known`` remembers texts: files share their dates.
    """
    kind = column.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return np.array(column.cast(pa.date32(), safe=False).to_numpy(zero_copy_only=False), "M8[D]")
    if pa.types.is_integer(kind):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return np.full(len(column), np.datetime64("NaT"), "M8[D]")
    texts, position = _encoded(column)
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
    texts, position = _encoded(column)
    return np.array([symbol(text) for text in texts] + [None], object)[position]


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Distinct texts, and each row's position in them; a null's is -1."""
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.fill_null(-1))


def _date(text: str, form: str) -> np.datetime64:
    try:
        day = datetime.strptime(text, form)
    except ValueError:
        return np.datetime64("NaT")
    # strptime also takes 2020131 for %Y%m%d; digits may only lack where a separator tells them apart
    shown = day.strftime(form)
    # and a year that begins with 0 is a typing error, not one long before any exchange
    same = shown == text or (re.findall(r"\d+", shown) != [shown] and _unpadded(shown) == _unpadded(text))
    return np.datetime64(day.date(), "D") if same and day.year >= 1000 else np.datetime64("NaT")


def _unpadded(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text).lower()


def _header(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    with path.open("rb") as file:
        return _csv_header(file.read(1 << 16))[0]


def _read(path: Path, data: bytes, profile: Profile) -> _Table:
    return _read_parquet(data, profile) if path.suffix.lower() == ".parquet" else _read_csv(data, profile)


def _bytes(path: Path) -> tuple[bytes, str, int]:
    """What a file holds, why it cannot be read, if so, and when it was changed (ns; 0 where that was just now).

    What is hashed is what is parsed, also of a file that is rewritten meanwhile.
    """
    try:
        with path.open("rb") as file:
            modified = os.fstat(file.fileno()).st_mtime_ns
            # a change within the clock's tick would have the same time
            return file.read(), "", modified if time.time_ns() - modified > FRESH_NS else 0
    except OSError as error:
        return b"", str(error), 0


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; of nothing where it cannot be opened, which reading it reports."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return hashlib.sha256().hexdigest()


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


def _parquet(given: Path | bytes) -> "pa.parquet.ParquetFile":
    """A Parquet file, or the bytes of one."""
    from pyarrow.parquet import ParquetFile

    try:
        if not (len(given) if isinstance(given, bytes) else given.stat().st_size):
            raise FileRefused("empty_file", "0 bytes")
        source = pa.BufferReader(given) if isinstance(given, bytes) else given
        return ParquetFile(source, page_checksum_verification=True)
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
    """A Parquet cell as text; a value that Python has no word for (a year of 9 digits) as Arrow shows it."""
    try:
        return "" if value.as_py() is None else str(value.as_py())
    except (ValueError, OverflowError):
        return str(value.cast(pa.int64())) if pa.types.is_temporal(value.type) else repr(value)
