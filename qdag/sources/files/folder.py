"""A folder of files as a source: which instrument a file is of, its layout, and its rows in the order of delivery."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from qdag.errors import SourceError, nearest, unknown
from qdag.settings import FilesSource, UniverseSettings
from qdag.sources.cleaning import Cleaner
from qdag.sources.files import csv, parquet
from qdag.sources.files.cells import to_dates, to_numbers, to_symbols
from qdag.sources.files.entries import Entry, entries
from qdag.sources.files.profiles import PROFILES, Profile, detect, name_regex, plain_name
from qdag.sources.files.table import FileRefused, FileTable
from qdag.sources.protocol import Delivery, FileVersion
from qdag.sources.reasons import FindingKind, Reason
from qdag.sources.rows import COMPARED, NUMBERS, RawRows


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
                if refused.reason == Reason.UNKNOWN_COLUMNS:
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
                    cleaner.note(known.min(), owner, FindingKind.TICKER_REUSE, float(foreign.sum()), 0.0, told)
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
                return entry.name, _read_header(entry)
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
            raise FileRefused(Reason.BAD_FILE_NAME, told)
        if owner is None and (profile.columns.instrument is None or self._form):
            raise FileRefused(Reason.BAD_INSTRUMENT, f"{stem!r} is no symbol; rename the file")
        if owner and (other := cleaner.clash(owner)):
            raise FileRefused(Reason.NAME_CLASH, f"{other!r} was read before; remove one of them, or rename it")
        if unreadable:
            raise FileRefused(Reason.UNREADABLE, unreadable)

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
                header = _read_header(entry)
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
        self, table: FileTable, profile: Profile, owner: str | None, dates: dict[str, np.datetime64]
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


def source_of(universe: str, settings: UniverseSettings, source: FilesSource, downloads: Path | None) -> FilesFolder:
    """See ``qdag.sources.open``."""
    return FilesFolder(universe, settings, source)


def _content(entry: Entry) -> bytes:
    data, unreadable, _ = (b"", "", 0) if entry.reason else entry.read()
    if entry.reason or unreadable:
        raise FileRefused(entry.reason or Reason.UNREADABLE, entry.told or unreadable)
    return data


def _read_header(entry: Entry) -> list[str]:
    data = _content(entry)
    if entry.path.suffix.lower() == ".parquet":
        return parquet.read_header(data)
    return csv.read_header(data)[0]


def _read(path: Path, data: bytes, profile: Profile) -> FileTable:
    return (parquet if path.suffix.lower() == ".parquet" else csv).read(data, profile)
