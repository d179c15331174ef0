import errno
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from qdag.errors import QdagError
from qdag.server.home import DAGSTER_YAML, prepare, refused
from qdag.settings import Settings
from qdag_tests.servers import unprivileged

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    # whatever prepare sets is undone
    for name in ("DAGSTER_HOME", "QDAG_HOME", "QDAG_CONFIG", "DAGSTER_EVENT_BATCH_SIZE", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)


def test_the_root_file_is_the_one_that_is_used(tmp_path):
    assert (ROOT / "dagster.yaml").samefile(DAGSTER_YAML)
    folder = prepare(Settings(home=tmp_path))
    assert (folder / "dagster.yaml").read_bytes() == DAGSTER_YAML.read_bytes()


def test_a_changed_file_in_the_home_is_refreshed(tmp_path):
    folder = prepare(Settings(home=tmp_path))
    (folder / "dagster.yaml").write_text("old: true")
    prepare(Settings(home=tmp_path))
    assert (folder / "dagster.yaml").read_bytes() == DAGSTER_YAML.read_bytes()


def test_children_see_the_same_home_and_settings(tmp_path, monkeypatch):
    file = tmp_path / "mine.toml"
    file.write_text("")
    monkeypatch.chdir(tmp_path)
    prepare(Settings(home=Path("here")), "mine.toml")
    assert os.environ["QDAG_HOME"] == str(tmp_path / "here")
    assert os.environ["DAGSTER_HOME"] == str(tmp_path / "here" / "dagster")
    assert os.environ["QDAG_CONFIG"] == str(file)


def test_a_home_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(QdagError, match="set QDAG_HOME elsewhere"):
        prepare(Settings(home=tmp_path / "file"))


@pytest.fixture
def closed(tmp_path):
    """A home that was used and cannot be written any more."""
    home = tmp_path / "home"
    prepare(Settings(home=home))
    (home / "tables").mkdir()
    for folder in (home, home / "dagster", home / "tables"):
        folder.chmod(0o555)
    yield home
    for folder in (home, home / "dagster", home / "tables"):
        folder.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize(
    "command",
    [
        ("materialize", "raw_ohlcv", "--start", "2013-02-25", "--end", "2013-03-01"),
        ("webserver", "none.yaml"),
        ("up", "--port", "1", "--mlflow-port", "2"),
    ],
)
def test_a_home_that_cannot_be_written_is_said_in_one_sentence(closed, tmp_path, command):
    done = subprocess.run(
        [sys.executable, "-m", "qdag", *command],
        cwd=tmp_path,
        env={**os.environ, "QDAG_HOME": str(closed)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=unprivileged,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    told = " ".join(done.stderr.split())
    assert "Traceback" not in told
    assert "cannot be written" in told
    assert str(closed) in told
    assert "set QDAG_HOME" in told


def test_what_a_home_refuses_is_told_from_what_others_do(tmp_path, monkeypatch):
    monkeypatch.setenv("QDAG_HOME", "/data")
    caused = RuntimeError("the run failed")
    caused.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/data/tables/x")
    assert refused(caused) == (
        "data home '/data' cannot be written: No space left on device (/data/tables/x); mount it writable, own it, "
        "or make room; or set QDAG_HOME elsewhere"
    )
    for error in (
        PermissionError(errno.EACCES, "Permission denied", "/data/dagster/storage.lock"),
        OSError("Unable to open file /data/t/1.json#1\n ↳ Read-only file system (os error 30)"),
        sqlite3.OperationalError("attempt to write a readonly database"),
    ):
        assert refused(error).startswith("data home '/data' cannot be written: ")
    for error in (
        PermissionError(errno.EACCES, "Permission denied", "/market/us.csv"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/x"),
        OSError("Unable to open file /elsewhere/x (os error 13)"),
        ValueError("/data"),
    ):
        assert refused(error) == ""
