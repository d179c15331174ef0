"""A folder of CSV or Parquet files. Cells are typed here, so that a bad one costs its row and not its file."""

import csv
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import SourceError, unknown
from qdag.settings import FilesSource, UniverseSettings
from qdag.sources.base import Cleaner, Delivery, RawRows
from qdag.sources.profiles import NUMBERS, PROFILES, Profile, detect

SUFFIXES = (".csv", ".parquet")
EMPTY_CELLS = ("", "null", "NULL", "None", "nan", "NaN", "NAN", "NA", "N/A")
_BOM = b"\xef\xbb\xbf"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class FileRefused(Exception):
    """A file is no table of the layout; ``reason`` is one of ``FILE_REASONS``."""

    def __init__(self, reason: str, text: str):
        self.reason = reason
        super().__init__(text)


@dataclass(frozen=True)
class _Table:
    """Columns of a file as delivered, the 1-based line of each row, and lines with a wrong number of cells."""

    columns: dict[str, pa.ChunkedArray]
    line: np.ndarray
    broken: list[tuple[int, str]]
    text: Callable[[np.ndarray], Iterable[str]]


class FilesFolder:
    """Daily bars from a folder and its sub-folders: one file per instrument, or files with an instrument column.

    Other suffixes than .csv and .parquet, and hidden files, are no part of the source. The order of delivery is that of
    the paths, then of the lines: of two rows of an instrument and date the later one is the newer.
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
        wanted = set(self.settings.instruments) if self.settings.instruments is not None else None
        owners = {path: profile.symbol(path.stem) for path in paths}
        one_each = profile.named_files or profile.columns.instrument is None
        dates: dict[str, np.datetime64] = {}
        cleaner = Cleaner(self.universe, sessions, self.settings.start, start, end, profile.adjustment)
        seen = {owner for owner in owners.values() if owner} if one_each else set()
        files = 0
        layouts: list[str] = []
        for path in paths:
            owner = owners[path] if one_each else None
            if wanted is not None and owner is not None and owner not in wanted:
                continue
            files += 1
            name = path.relative_to(self.folder).as_posix()
            shown = owners[path] or path.stem
            try:
                table = _read(path, profile)
            except FileRefused as refused:
                cleaner.refuse_file(name, shown, refused.reason, str(refused))
                if refused.reason == "unknown_columns":
                    layouts.append(f"{name}: {refused}")
                continue
            rows = self._rows(table, profile, path.stem, owner, dates)
            seen.update(name for name in set(rows.instrument.tolist()) if name is not None)
            for line, text in table.broken:
                cleaner.refuse_line(name, shown, line, text)
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
        self, table: _Table, profile: Profile, stem: str, owner: str | None, dates: dict[str, np.datetime64]
    ) -> RawRows:
        mapping = profile.columns
        size = len(table.line)
        numbers, bad = {}, np.zeros(size, bool)
        for field in NUMBERS:
            if column := getattr(mapping, field):
                numbers[field], wrong = to_numbers(table.columns[column])
                bad |= wrong
        if mapping.volume_unit != 1:
            numbers["volume"] *= mapping.volume_unit
        if "amount" in numbers and mapping.amount_unit != 1:
            numbers["amount"] *= mapping.amount_unit
        if mapping.instrument is None:
            instrument = np.full(size, owner, object)
        else:
            instrument = to_symbols(table.columns[mapping.instrument], profile.symbol)
            if owner is not None:
                instrument[instrument != owner] = None
        return RawRows(
            instrument, to_dates(table.columns[mapping.date], mapping.date_format, dates), table.line, numbers, bad
        )


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
        column = column.cast(pa.string())
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
    same = shown == text or (re.findall(r"\d+", shown) != [shown] and _unpadded(shown) == _unpadded(text))
    return np.datetime64(day.date(), "D") if same else np.datetime64("NaT")


def _unpadded(text: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", text).lower()


def _header(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    with path.open("rb") as file:
        return _csv_header(file.read(1 << 16))[0]


def _read(path: Path, profile: Profile) -> _Table:
    return _read_parquet(path, profile) if path.suffix.lower() == ".parquet" else _read_csv(path, profile)


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
    line = begin.split(b"\n", 1)[0]
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise FileRefused("unreadable", f"the header is not UTF-8: {error}; save the file as UTF-8") from None
    header = [name.strip() for name in next(csv.reader([text]))]
    if len(header) < 2:
        raise FileRefused("not_a_table", text[:500])
    return header, body[: len(body) - len(begin)].count(b"\n") + 1


def _check(header: list[str], profile: Profile) -> None:
    if missing := profile.missing(header):
        raise FileRefused("unknown_columns", f"lacks {missing}; has {header}")
    if twice := sorted({name for name in profile.required if header.count(name) > 1}):
        raise FileRefused("unknown_columns", f"has {twice} more than once; has {header}")


def _read_csv(path: Path, profile: Profile) -> _Table:
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileRefused("unreadable", str(error)) from None
    header, before = _csv_header(data)
    _check(header, profile)
    body = data.removeprefix(_BOM)
    blank: list[int] = []
    broken: list[tuple[int, str]] = []

    def odd(row: "pa.csv.InvalidRow") -> str:
        if row.text.strip():
            broken.append((row.number, row.text))
        else:
            blank.append(row.number)
        return "skip"

    try:
        table = read_csv(
            pa.BufferReader(body),
            # one thread: only then is a broken line's number told
            read_options=ReadOptions(use_threads=False, skip_rows=before, column_names=header, block_size=1 << 24),
            parse_options=ParseOptions(ignore_empty_lines=False, invalid_row_handler=odd),
            convert_options=ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=list(profile.required),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise FileRefused("header_without_rows", ",".join(header)) from None
        raise FileRefused("unreadable", f"{error}; save the file as UTF-8 CSV") from None
    size = table.num_rows
    if not size and not broken:
        raise FileRefused("header_without_rows", ",".join(header))
    line = np.arange(before + 1, before + 1 + size + len(blank) + len(broken), dtype=np.int64)
    if blank or broken:
        line = line[~np.isin(line, [*blank, *(number for number, _ in broken)])]
    # a blank line comes as a row of empty cells, as does a line of commas, which is a row
    empty = np.ones(size, bool)
    for column in table.columns:
        if not empty.any():
            break
        empty &= pc.equal(column, "").to_numpy()
    if empty.any():
        at = np.flatnonzero(empty)
        keep = ~empty
        keep[at] = [bool(text.strip()) for text in _csv_lines(body, line[at])]
        table, line = table.filter(pa.array(keep)), line[keep]
        if not len(line) and not broken:
            raise FileRefused("header_without_rows", ",".join(header))
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return _Table(columns, line, broken, partial(_csv_lines, body))


def _csv_lines(body: bytes, line: np.ndarray) -> list[str]:
    lines = body.split(b"\n")
    return [lines[at - 1].decode("utf-8", "replace").rstrip("\r") for at in line.tolist()]


def _parquet(path: Path) -> "pa.parquet.ParquetFile":
    from pyarrow.parquet import ParquetFile

    try:
        if not path.stat().st_size:
            raise FileRefused("empty_file", "0 bytes")
        return ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise FileRefused("unreadable", f"{error}; deliver the file again") from None


def _read_parquet(path: Path, profile: Profile) -> _Table:
    file = _parquet(path)
    _check(file.schema_arrow.names, profile)
    if not file.metadata.num_rows:
        raise FileRefused("header_without_rows", ",".join(file.schema_arrow.names))
    try:
        table = file.read(columns=list(profile.required))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise FileRefused("unreadable", f"{error}; deliver the file again") from None

    def lines(line: np.ndarray) -> list[str]:
        return [",".join("" if v is None else str(v) for v in r.values()) for r in table.take(line - 1).to_pylist()]

    columns = {
        name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return _Table(columns, np.arange(1, table.num_rows + 1, dtype=np.int64), [], lines)
