"""What `qdag doctor` looks at: interpreter, libraries, stores, tracking, disk; each with a remedy."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qdag.errors import QdagError, install_command
from qdag.settings import POSTGRES_VARIABLE, Settings, load_settings

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
EXTRAS = {
    "torch": "torch",
    "kunquant": "bench",
    "yfinance": "sources",
    "akshare": "sources",
    "baostock": "sources",
}
MIN_FREE_GIB = 2


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``remedy`` is empty when nothing has to be done."""

    part: str
    found: str
    ok: bool = True
    remedy: str = ""


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
    yield from _stores(settings)


def _library(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", False, "run `make setup`")


def _stores(settings: Settings) -> Iterator[Finding]:
    yield Finding("universes", ", ".join(f"{n} ({u.source.kind})" for n, u in settings.universes.items()))
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


def _tracking(settings: Settings) -> Finding:
    uri = settings.tracking_uri
    if uri.startswith("sqlite:///"):
        there = Path(uri.removeprefix("sqlite:///")).exists()
        return Finding("MLflow", f"{uri}{'' if there else ' (not yet created)'}")
    if uri.startswith(("http://", "https://")):
        import urllib.error
        import urllib.request

        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5):
                return Finding("MLflow", f"{uri} answers")
        except (OSError, urllib.error.URLError) as error:
            return Finding("MLflow", f"{uri}: {error}", False, "start the MLflow server or correct mlflow.tracking_uri")
    return Finding("MLflow", uri)
