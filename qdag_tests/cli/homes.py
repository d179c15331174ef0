"""Small data homes, commands on them, and damage to them."""

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

from typer.testing import CliRunner

from qdag.cli import app

TOML = """
home = "home"
horizons = [1, 5]
[universes.toy]
calendar = "XNYS"
start = 2018-01-02
end = 2018-06-29
source = { kind = "synthetic", seed = 3, instruments = 6 }
[universes.east]
calendar = "XSHG"
start = 2018-01-02
end = 2018-06-29
source = { kind = "synthetic", seed = 4, instruments = 4 }
"""
START, END = date(2018, 1, 2), date(2018, 6, 29)
TABLES = ("basic_statistics", "labels", "raw_ohlcv")


def environment(**more: str) -> dict[str, str]:
    """Variables of a command: those of this process but qdag's and Dagster's, and a wide terminal."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("QDAG_", "DAGSTER_"))}
    return clean | {"COLUMNS": "160"} | more


def command(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The command as a person uses it, in a process of its own, in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "qdag", *arguments],
        cwd=folder,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=300,
    )


def qdag(folder, *arguments, code=0):
    """Output of `qdag data` in this process, after its exit code was looked at."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["data", *map(str, arguments), "--config", str(folder / "qdag.toml")]
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def file_of(platform, table, universe="toy", month="2018-03"):
    files = platform.store.files(table).to_pylist()
    path = next(f["path"] for f in files if (f["universe"], f["month"]) == (universe, month))
    return platform.store.folder(table) / path


def contents(platform, universe="toy"):
    return {table: platform.store.read(table, universe).to_pandas() for table in TABLES}


def spoil(platform):
    file_of(platform, "raw_ohlcv").unlink()
    flipped = file_of(platform, "basic_statistics")
    content = bytearray(flipped.read_bytes())
    content[len(content) // 3] ^= 1
    flipped.write_bytes(content)
    file_of(platform, "labels", "east", "2018-05").write_bytes(b"<html>moved</html>")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
