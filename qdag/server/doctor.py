"""What `qdag doctor` looks at: interpreter, libraries, the data of each universe, stores, tracking, disk; each with a
remedy. Of folders of files at most ``draft.LOOKED_AT`` are read."""

import importlib.metadata
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from qdag.core.sessions import calendar_for
from qdag.errors import QdagError, install_command, redact
from qdag.operations.draft import ADJUSTED_BY, LOOKED_AT, NAMED
from qdag.settings import (
    CONFIG_VARIABLE,
    POSTGRES_VARIABLE,
    FilesSource,
    QlibSource,
    Settings,
    UniverseSettings,
    WebSource,
    load_settings,
)
from qdag.sources.files import FilesFolder
from qdag.sources.qlib_dir import QlibFolder
from qdag.text import listed

LIBRARIES = (
    "dagster",
    "pyqlib",
    "pandas",
    "pyarrow",
    "deltalake",
    "numba",
    "ta-lib",
    "lightgbm",
    "mlflow",
    "great-expectations",
)
"""Packages that nothing works without."""
EXTRAS = {
    "torch": "torch",
    "kunquant": "bench",
    "yfinance": "sources",
    "akshare": "sources",
    "baostock": "sources",
}
"""Packages that some of it needs, and the extra that brings each."""
MIN_FREE_GIB = 2
"""Less free disk is told."""
STRAY_SHARE = 0.02
"""Of the days of files may be no session of their calendar; more is another exchange."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``remedy`` is empty when nothing has to be done."""

    part: str
    """What was looked at."""
    found: str
    """What was seen there, without user and password of an address."""
    ok: bool = True
    """Whether qdag can work with it."""
    remedy: str = ""
    """What to do about it."""

    def __post_init__(self) -> None:
        # addresses of stores may hold passwords
        object.__setattr__(self, "found", redact(self.found))


def examine(config: str | None = None) -> Iterator[Finding]:
    """Look at everything, one finding after the other; nothing is created or changed."""
    version = ".".join(map(str, sys.version_info[:3]))
    supported = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Finding("Python", version, supported, "" if supported else "use Python 3.11 or 3.12")
    for name in LIBRARIES:
        yield _library(name)
    for name, extra in EXTRAS.items():
        try:
            yield Finding(f"{name} (optional)", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(f"{name} (optional)", "not installed", True, f"where wanted: {install_command(extra)}")
    try:
        import talib

        yield Finding("TA-Lib", f"{talib.__ta_version__.decode().split()[0]}, {len(talib.get_functions())} functions")
    except ImportError as error:
        yield Finding("TA-Lib", str(error), False, "reinstall with `make setup`")
    try:
        settings = load_settings(config)
    except QdagError as error:
        yield Finding("settings", str(error), False, "correct the settings file or the QDAG_ variable")
        return
    for name in settings.universes:
        yield from _data(settings, name)
    yield from _stores(settings)
    yield from _settings_file(Path(config or os.environ.get(CONFIG_VARIABLE) or "qdag.toml"))


def _data(settings: Settings, name: str) -> Iterator[Finding]:
    """What the source of a universe holds, and whether it fits what is set."""
    spec, part = settings.universe(name), f"universe {name}"
    try:
        calendar = calendar_for(spec)
        last = calendar.closed_before(datetime.now(UTC))
        sessions = calendar.between(spec.start, last)
        span = f"{len(sessions):,} sessions of {calendar.name}, {spec.start} .. {last}"
        yield Finding(part, f"{span}, region {spec.region}")
        if isinstance(spec.source, FilesSource):
            yield from _files(name, spec, spec.source, sessions)
        elif isinstance(spec.source, QlibSource):
            days, instruments = QlibFolder(name, spec, spec.source).index()
            span = f"{days[0]} .. {days[-1]}" if len(days) else "no day"
            yield Finding(f"data of {name}", f"Qlib directory {spec.source.path}: {span}; {listed(instruments, NAMED)}")
        elif isinstance(spec.source, WebSource):
            yield Finding(
                f"data of {name}", f"{spec.source.kind}: {listed(spec.instruments or (), NAMED)}; not asked now"
            )
        else:
            yield Finding(f"data of {name}", f"{spec.source.kind}, made here")
    except QdagError as error:
        yield Finding(f"data of {name}", str(error), False, "see what was found")


def _files(name: str, spec: UniverseSettings, source: FilesSource, sessions: np.ndarray) -> Iterator[Finding]:
    part, looked = f"data of {name}", FilesFolder(name, spec, source).look(LOOKED_AT)
    of = "" if looked.looked_at == looked.files else f" ({looked.looked_at} looked at)"
    found = [
        f"{source.path}: {looked.files:,} files{of}, layout {looked.profile.name}",
        listed(looked.instruments, NAMED),
    ]
    if len(looked.days):
        found.append(f"{looked.days[0]} .. {looked.days[-1]}")
    if looked.profile.adjustment == "none":
        yield Finding(
            part,
            f"adjusted by {ADJUSTED_BY['none']}",
            True,
            "name a column as factor, adjusted_close, split, dividend or pre_close in [columns]",
        )
    else:
        found.append(f"adjusted by {ADJUSTED_BY[looked.profile.adjustment]}")
    wrong = []
    if not len(np.intersect1d(looked.days, sessions)):
        wrong.append(f"none of their days is a session from {spec.start} on: correct start, end or calendar")
    if looked.refused:
        file, why = next(iter(looked.refused.items()))
        found.append(f"left out as no table: {len(looked.refused)}, for example {file} ({' '.join(why.split())[:60]})")
    if looked.unnamed:
        found.append(f"{len(looked.unnamed)} with a name that is no symbol, for example {looked.unnamed[0]}")
    yield Finding(part, "; ".join(found), not wrong, "; ".join(wrong))
    inside = looked.days[(looked.days >= sessions[:1]) & (looked.days <= sessions[-1:])] if len(sessions) else sessions
    outside = np.setdiff1d(inside, sessions)
    if len(outside):
        few = len(outside) <= STRAY_SHARE * len(inside)
        told = f"{len(outside):,} days in the range are no session of {spec.calendar}: "
        remedy = "their rows are refused" if few else "set the calendar of their exchange: their rows are refused"
        yield Finding(part, told + listed(outside.astype(str).tolist(), NAMED), few, remedy)
    late = sessions[sessions > looked.days[-1]] if len(looked.days) else sessions[:0]
    if len(late):
        yield Finding(
            part,
            f"the files end on {looked.days[-1]}, {len(late):,} sessions before the universe does",
            True,
            f"deliver newer files, or set end = {looked.days[-1]}",
        )
    early = int((looked.days < sessions[0]).sum()) if len(sessions) else 0
    if early:
        yield Finding(part, f"{early:,} days of the files lie before start", True, "set an earlier start to have them")


def _library(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", False, "run `make setup`")


def _stores(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    writable = os.access(existing, os.W_OK)
    yield Finding(
        "data home",
        f"{home}{'' if home.exists() else ' (not yet created)'}",
        writable,
        "" if writable else "set QDAG_HOME",
    )
    free = shutil.disk_usage(existing).free / 2**30
    enough = free >= MIN_FREE_GIB
    yield Finding(
        "disk", f"{free:.1f} GiB free", enough, "" if enough else f"free at least {MIN_FREE_GIB} GiB or move QDAG_HOME"
    )
    from qdag.store.tables import TableStore

    names = TableStore(settings.tables).names() if settings.tables.exists() else []
    yield Finding("tables", ", ".join(names) or "none yet", True, "" if names else "qdag demo, or qdag materialize")
    yield (
        _postgres()
        if os.environ.get(POSTGRES_VARIABLE)
        else Finding("Dagster storage", f"SQLite in {settings.dagster_home}")
    )
    yield _tracking(settings)


def _settings_file(file: Path) -> Iterator[Finding]:
    """Whether others can read a settings file that holds secrets: URLs of alerts, or credentials in an address."""
    if not file.exists():
        return
    text = file.read_text("utf-8")
    secret = bool(tomllib.loads(text).get("alerts", {}).get("urls")) or redact(text) != text
    mode = file.stat().st_mode & 0o777
    if secret and mode & 0o077:
        told = f"{file} holds secrets and its mode is {mode:o}: others can read it"
        yield Finding("settings file", told, False, f"chmod 600 {file}")
    else:
        yield Finding("settings file", str(file))


def _postgres() -> Finding:
    import psycopg2

    try:
        url = os.environ[POSTGRES_VARIABLE].replace("postgresql+psycopg2://", "postgresql://")
        with psycopg2.connect(url, connect_timeout=5) as connection:
            number = connection.server_version
        return Finding("Dagster storage", f"PostgreSQL {number // 10000}")
    except psycopg2.Error as error:
        remedy = f"start the server or correct {POSTGRES_VARIABLE}; unset it to use SQLite"
        return Finding("Dagster storage", str(error).strip().splitlines()[0], False, remedy)


def _tracking_server(uri: str) -> Finding:
    """Whether the server answers who is named in the address; its page of health is open to all, its store is not."""
    import base64
    import http.client
    import urllib.error
    import urllib.request

    from qdag.models.connection import LOGIN_REMEDY, apart

    plain, user, password = apart(uri)
    request = urllib.request.Request(f"{plain.rstrip('/')}/api/2.0/mlflow/experiments/search?max_results=1")
    if user or password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=5):
            return Finding("MLflow", f"{uri} answers")
    except urllib.error.HTTPError as error:
        refused = error.code == http.HTTPStatus.UNAUTHORIZED
        remedy = LOGIN_REMEDY if refused else "correct mlflow.tracking_uri, or see the log of the MLflow server"
        return Finding("MLflow", f"{uri}: {error}", False, remedy)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Finding("MLflow", f"{uri}: {error}", False, "start the MLflow server or correct mlflow.tracking_uri")


def _tracking(settings: Settings) -> Finding:
    uri = settings.tracking_uri
    if uri.startswith("sqlite:///"):
        from qdag.models.relocation import other_homes

        there = Path(uri.removeprefix("sqlite:///")).exists()
        if others := other_homes(settings):
            told = f"{uri} was moved or copied: its models are looked for in {', '.join(others)}"
            return Finding("MLflow", told, True, "nothing: the next run or `qdag up` has it point here")
        return Finding("MLflow", f"{uri}{'' if there else ' (not yet created)'}")
    if uri.startswith(("http://", "https://")):
        return _tracking_server(uri)
    return Finding("MLflow", uri)
