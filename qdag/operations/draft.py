"""A first settings file for folders of vendor files, from what the files hold. Nothing is asked, nothing is stored.

What belongs here: guesses, each written into the file with its reason. What the files mean is told by ``sources``.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from qdag.calendars import region_of
from qdag.core.sessions import SessionCalendar
from qdag.errors import SessionError, SettingsError, SourceError
from qdag.settings import NAME_PATTERN, ColumnMapping, FilesSource, TrainingSettings, UniverseSettings
from qdag.sources.files import FilesFolder, FolderLook
from qdag.sources.files.profiles import PROFILES, detect
from qdag.text import listed

LOOKED_AT = 200
"""Files of a folder that are read; more tell no more."""
NAMED = 3
"""Instruments, or days, that are named of many."""
GOOD_FIT = 0.995
"""A calendar with this share of the files' days is looked no further from."""
CANDIDATES = ("XNYS", "XSHG", "XHKG", "XTKS", "XLON", "XETR", "XPAR", "XTSE", "XASX", "XKRX", "XTAI", "XBOM", "24/7")
"""Calendars that are tried, in this order."""
ADJUSTED_BY = {
    "factor": "the files' own adjustment factor",
    "events": "splits and dividends",
    "adjusted_close": "the adjusted close",
    "pre_close": "the previous close, adjusted for the day's event",
    "none": "nothing: no column tells splits or dividends, so returns over such days are wrong",
}
"""What tells the adjustment factor, by ``Profile.adjustment``."""
COLUMN_NAMES = {
    "date": ("date", "day", "datetime", "timestamp", "time", "trade_date", "trading_date", "dt"),
    "instrument": ("instrument", "symbol", "ticker", "code", "ts_code", "security", "sec_code"),
    "open": ("open", "o", "open_price"),
    "high": ("high", "h", "high_price"),
    "low": ("low", "l", "low_price"),
    "close": ("close", "c", "close_price", "last"),
    "volume": ("volume", "vol", "v"),
    "amount": ("amount", "turnover", "money", "value"),
    "factor": ("factor", "adj_factor", "adjust_factor"),
    "adjusted_close": ("adjusted_close", "adj_close", "adjclose"),
    "pre_close": ("pre_close", "preclose", "prev_close"),
}
"""Names that columns of unknown layouts often have, in lower case with underscores."""
DATE_FORMATS = ("%Y-%m-%d", "%Y%m%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y-%m-%d %H:%M:%S")
"""How dates of unknown layouts are tried to be read."""
RECENT = timedelta(days=10)
"""Files that end less than this ago are taken for a delivery that goes on: no end is set."""
_CHINESE = re.compile(r"(SH|SZ|BJ)\d{6}")
_DATE = re.compile(r"(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])")


@dataclass(frozen=True)
class Fit:
    """How well a calendar fits the days of some files."""

    calendar: str
    """Its code."""
    sessions: int
    """Its sessions between the first and the last day of the files."""
    hit: int
    """Days of the files that are sessions of it."""
    other: int
    """Days of the files that are none."""

    @property
    def share(self) -> float:
        """Of all days that are either, the part that is both."""
        return self.hit / max(1, self.sessions + self.other)


def draft(folders: Sequence[Path], target: Path) -> str:
    """Text of a settings file with one universe per folder.

    Parameters
    ----------
    folders : each has the files of one universe
    target : the settings file to be; paths in it are relative to its folder

    Raises
    ------
    SettingsError
        Two folders would be universes of one name.
    SourceError
        A folder that does not exist, has no file of daily bars, or files whose layout is not known.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        name = universe_name(folder)
        if name in named:
            raise SettingsError(
                f"{folder} and {named[name]} would both be universe {name!r}; rename one of the folders"
            )
        named[name] = folder
    parts = ["# Written by `qdag init` from what the files hold. All keys: docs/settings.md, or `qdag settings`.\n"]
    parts.append(_line('home = ".qdag"', "everything that is produced lies here") + "\n")
    parts += [_universe(name, folder, target) for name, folder in named.items()]
    parts.append(_line("# [custom_factors]", "columns of your own, as Qlib expressions"))
    parts.append('# gap = "$open/Ref($close, 1) - 1"\n')
    return "\n".join(parts)


def universe_name(folder: Path) -> str:
    """A valid universe name for a folder: its own, in lower case."""
    name = re.sub(r"[^a-z0-9]+", "_", folder.resolve().name.lower()).strip("_")[:40]
    return name if re.fullmatch(NAME_PATTERN, name) else f"u_{name}"[:40].strip("_")


def _universe(name: str, folder: Path, target: Path) -> str:
    source, looked = recognise(name, folder)
    if not len(looked.days):
        wrong = next(iter(looked.refused.items()), ("", "no row has a date that can be read"))
        raise SourceError(f"no file of {str(folder)!r} has a dated row ({': '.join(filter(None, wrong))})")
    fit = best_calendar(looked)
    first, last = looked.days[0].item(), looked.days[-1].item()
    lines = [f"[universes.{name}]"]
    lines.append(_line(f'calendar = "{fit.calendar}"', _fit_words(fit)))
    lines.append(_line(f"start = {first}", "first day of the files"))
    coming = "# " if last >= date.today() - RECENT else ""
    lines.append(
        _line(f"{coming}end = {last}", "last day of the files; without it, every session up to today is expected")
    )
    lines += ["", f"[universes.{name}.source]", _line('kind = "files"', _files_words(looked))]
    path = os.path.relpath(folder.resolve(), target.resolve().parent)
    lines.append(f"path = {_quoted(str(folder.resolve()) if path.startswith('..') else Path(path).as_posix())}")
    lines.append(_line(f'profile = "{looked.profile.name}"', f"adjusted by {ADJUSTED_BY[looked.profile.adjustment]}"))
    if source.name:
        lines.append(_line(f"name = {_quoted(source.name)}", "CHECK: what the files' names have in common"))
    lines.append(f"# instruments: {listed(looked.instruments, NAMED)}")
    for heading, told in (
        ("no table, left out", looked.refused),
        ("its name is no symbol", dict.fromkeys(looked.unnamed, "")),
    ):
        for file, why in list(told.items())[:3]:
            lines.append(f"# {heading}: {file} {' '.join(why.split())[:80]}".rstrip())
    if source.columns:
        lines += ["", _line(f"[universes.{name}.source.columns]", "CHECK: guessed from the names; prices must be raw")]
        given = source.columns.model_dump(exclude_defaults=True)
        lines += [f"{field} = {_quoted(column)}" for field, column in given.items()]
    windows = TrainingSettings()
    if fit.sessions < windows.train_sessions + windows.valid_sessions + windows.test_sessions + 30:
        lines += ["", *_short_training(name, fit.sessions)]
    index = "csi300" if region_of(fit.calendar) == "cn" else "sp500"
    lines += [
        "",
        _line(f"# [universes.{name}.pools]", "members on each day, besides `all`; docs/pools.md"),
        f'# {index} = {{ kind = "index", index = "{index}" }}',
        '# liquid = { kind = "top", size = 50 }',
        "",
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _short_training(name: str, sessions: int) -> list[str]:
    """Windows of a model that fit into a short history: three fifths to learn, a fifth each to stop and to judge."""
    train, others = max(20, sessions * 6 // 10 - 30), max(5, sessions * 2 // 10 - 10)
    return [
        _line(f"[universes.{name}.training]", f"shorter than the default: the files have {sessions:,} sessions"),
        f"train_sessions = {train}",
        f"valid_sessions = {others}",
        f"test_sessions = {others}",
    ]


def recognise(name: str, folder: Path) -> tuple[FilesSource, FolderLook]:
    """The source that a folder is, with a layout guessed from the column names where it is no known one.

    Raises
    ------
    SourceError
        No folder, no file with a header, or columns without a name that tells what they hold.
    """
    known = FilesSource(path=folder)
    file, header = _folder(name, known).header()
    if detect(header):
        known = _named(name, known)
        return known, _folder(name, known).look(LOOKED_AT)
    columns = guessed_columns(header)
    missing = [f for f, about in ColumnMapping.model_fields.items() if about.is_required() and f not in columns]
    if missing:
        raise SourceError(
            f"unknown column layout in {str(folder)!r}: {file} has {header}; known are "
            + "; ".join(f"{p.name} ({', '.join(p.required)})" for p in PROFILES.values())
            + f". No column is named like {' or '.join(missing)}: write the universe yourself, with profile = 'custom' "
            "and a [columns] table; see docs/settings.md"
        )
    best: tuple[FilesSource, FolderLook] | None = None
    for form in DATE_FORMATS:
        source = FilesSource(path=folder, profile="custom", columns=ColumnMapping(**columns, date_format=form))
        looked = _folder(name, source).look(3)
        if best is None or looked.traded.sum() > best[1].traded.sum():
            best = source, looked
    assert best is not None
    source = _named(name, best[0])
    return source, _folder(name, source).look(LOOKED_AT)


def _named(name: str, source: FilesSource) -> FilesSource:
    """The same source with the form of its files' names, where they are named after their instruments and have one."""
    folder = _folder(name, source)
    files = [entry for entry in folder.files().values() if not entry.reason]
    if folder.owners(()) is None or (form := name_pattern([entry.path.stem for entry in files])) is None:
        return source
    try:
        return FilesSource.model_validate({**source.model_dump(), "name": form})
    except ValidationError:
        return source


def guessed_columns(header: Sequence[str]) -> dict[str, str]:
    """Field -> column, for the columns whose names are usual."""
    plain = {re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_"): column for column in reversed(header)}
    found = {field: next((plain[n] for n in names if n in plain), None) for field, names in COLUMN_NAMES.items()}
    return {field: column for field, column in found.items() if column is not None}


def _folder(name: str, source: FilesSource) -> FilesFolder:
    # calendar and start do not matter to what files hold
    return FilesFolder(name, UniverseSettings(source=source, calendar="XNYS", start=date(1900, 1, 1)), source)


def best_calendar(looked: FolderLook) -> Fit:
    """The exchange whose sessions are nearest to the days of the files; the first that fits well."""
    # a day that only one file in fifty has may be a typing error
    days = looked.days[looked.traded * 50 >= looked.traded.max()]
    chinese = looked.instruments and sum(map(bool, map(_CHINESE.fullmatch, looked.instruments)))
    order = sorted(CANDIDATES, key=lambda code: code != "XSHG") if chinese else CANDIDATES
    best: Fit | None = None
    for code in order:
        fit = _fit(code, days)
        if fit is not None and (best is None or fit.share > best.share):
            best = fit
        if best is not None and best.share >= GOOD_FIT:
            break
    if best is None:
        raise SourceError(
            f"no exchange calendar has sessions from {days[0]} to {days[-1]}; check the dates of the files"
        )
    return best


def _fit(code: str, days: np.ndarray) -> Fit | None:
    try:
        sessions = SessionCalendar(code, days[0].item(), days[-1].item()).all
    except SessionError:
        return None
    hit = int(np.isin(days, sessions).sum())
    return Fit(code, len(sessions), hit, len(days) - hit)


def _fit_words(fit: Fit) -> str:
    words = f"the files have {fit.hit:,} of its {fit.sessions:,} sessions, and {fit.other:,} other days"
    return words if fit.share >= 0.97 else f"CHECK: {words}; no other exchange fits better"


def _files_words(looked: FolderLook) -> str:
    part = "" if looked.looked_at == looked.files else f", {looked.looked_at} of them looked at"
    return f"{looked.files:,} files{part}, {looked.rows:,} rows, {len(looked.instruments):,} instruments"


def _line(setting: str, why: str) -> str:
    return f"{setting:<38} # {why}"


def name_pattern(stems: Sequence[str]) -> str | None:
    """What the names of files have in common, as ``"DA-{instrument}-T-{date}"``; None where they are plain symbols.

    Only whole words between separators count: SH600000 and SH600001 have no prefix in common.
    """
    dated = [_DATE.sub("{date}", stem, count=1) if _DATE.search(stem) else stem for stem in stems]
    words = [re.split(r"([-_ ])", stem) for stem in dated]
    shortest = min(map(len, words), default=0)
    front = next((i for i in range(shortest) if len({w[i] for w in words}) > 1), shortest)
    back = next((i for i in range(shortest - front) if len({w[-1 - i] for w in words}) > 1), shortest - front)
    front -= front % 2
    back -= back % 2
    if len(set(stems)) < 2 or front + back == 0:
        return None
    first = words[0]
    return "".join([*first[:front], "{instrument}", *first[len(first) - back :]])


__all__ = ["ADJUSTED_BY", "LOOKED_AT", "best_calendar", "draft", "name_pattern", "recognise", "universe_name"]
