"""Server processes as children: real, short ones."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from qdag.errors import QdagError
from qdag.server import children as module
from qdag.server.children import Children

LIVES = "import time; print('begun', flush=True); time.sleep(60)"


@pytest.fixture
def said():
    return []


@pytest.fixture
def children(tmp_path, said):
    made = Children(tmp_path / "logs", dict(os.environ), said.append)
    yield made
    made.stop()


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def until(holds, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def log(tmp_path: Path, name: str = "server.log") -> str:
    path = tmp_path / "logs" / name
    return path.read_text() if path.exists() else ""


def processes(children: Children) -> list[int]:
    return [child.process.pid for child in children._children if child.process]


def test_a_server_that_dies_is_started_again_and_it_is_said(children, said, tmp_path):
    children.start("Server", python(LIVES))
    until(lambda: log(tmp_path).count("begun") == 1)
    assert children.watch()
    assert said == []
    [pid] = processes(children)
    os.kill(pid, signal.SIGKILL)
    until(lambda: children.watch() and processes(children) != [pid])
    assert said == [f"Server was ended by signal 9; starting it again (log: {tmp_path / 'logs' / 'server.log'})"]
    until(lambda: log(tmp_path).count("begun") == 2)


def test_a_server_that_cannot_be_kept_alive_ends_it_with_its_own_words(children, said, tmp_path):
    children.start("Server", python("print('no such table'); raise SystemExit(7)"))
    until(lambda: not children.watch())
    assert said[-2] == "Server ended with code 7 again, 3 times within a minute of its start: giving up"
    assert said[-1].endswith("server.log ends with:\n" + "\n".join(["no such table"] * 3))


def test_a_server_that_lost_a_part_of_itself_is_started_again(children, said, tmp_path):
    part = tmp_path / "part"
    children.start("Server", python(LIVES), whole=lambda pid: part.exists())
    # it may take a while to get it
    assert children.watch()
    part.touch()
    assert children.watch()
    [pid] = processes(children)
    part.unlink()
    assert children.watch()
    assert processes(children) != [pid]
    assert "lost a process of its own; starting it again" in said[0]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_never_gets_its_part_is_started_again(children, said, monkeypatch):
    monkeypatch.setattr(module, "SHORT_SECONDS", 0.0)
    children.start("Server", python(LIVES), whole=lambda pid: False)
    assert children.watch()
    assert "lost a process of its own" in said[0]


def test_new_errors_of_a_log_are_told_once_and_nothing_else(children, said, tmp_path):
    lines = [
        "\x1b[32m2026-11-28 13:32:55 +0000\x1b[0m - dagster.daemon - \x1b[34mERROR\x1b[0m - Sensor tick failed",
        "2026-11-28 13:32:55 +0000 - dagster.daemon - INFO - all is well",
        "2026/11/28 13:32:56 ERROR mlflow.server: no space left",
        "2026/11/28 13:32:57 ERROR mlflow.server: no space left",
        "Traceback of an ERROR",
    ]
    code = f"import time; print({chr(10).join(lines)!r}, flush=True); time.sleep(60)"
    children.start("Server", python(code))
    until(lambda: log(tmp_path).count("Traceback") == 1)
    assert children.watch()
    assert children.watch()
    path = tmp_path / "logs" / "server.log"
    assert said == [
        f"Server: Sensor tick failed (log: {path})",
        f"Server: mlflow.server: no space left (log: {path})",
    ]


def test_logs_are_private_kept_once_and_bounded(children, tmp_path, monkeypatch):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "server.log").write_text("the time before")
    children.start("Server", python(LIVES))
    until(lambda: "begun" in log(tmp_path))
    assert log(tmp_path, "server.log.1") == "the time before"
    assert (logs / "server.log").stat().st_mode & 0o777 == 0o600
    monkeypatch.setattr(module, "LOG_BYTES", 3)
    assert children.watch()
    assert log(tmp_path) == ""
    assert log(tmp_path, "server.log.1") == "begun\n"


def test_waiting_ends_with_the_log_of_the_one_that_failed(children):
    children.start("Good", python(LIVES))
    children.wait(lambda: True, "Good", 1)
    with pytest.raises(QdagError, match=r"Good did not answer within 0 s.*good.log ends with"):
        children.wait(lambda: False, "Good", 0.3)
    children.start("Bad", python("print('port 3000 is taken'); raise SystemExit(3)"))
    with pytest.raises(QdagError, match=r"(?s)Bad ended with code 3 while starting.*bad.log.*port 3000 is taken"):
        children.wait(lambda: False, "Good", 20)


def test_stopping_ends_what_they_started_too(children, tmp_path):
    # a server that leaves a process behind, started before it was itself started again
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {LIVES!r}]); {LIVES}"
    children.start("Server", python(code))
    until(lambda: log(tmp_path).count("begun") == 2)
    [pid] = processes(children)
    os.kill(pid, signal.SIGKILL)
    until(lambda: children.watch() and processes(children) != [pid])
    until(lambda: log(tmp_path).count("begun") == 4)
    groups = [pid, *processes(children)]
    # what a dead server has started goes on, for it may be a run
    os.killpg(pid, 0)
    children.stop()
    for group in groups:
        until(lambda group=group: not alive(group))


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_folder_for_logs_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "logs").write_text("")
    with pytest.raises(QdagError, match="logs cannot be written below"):
        Children(tmp_path / "logs", {}, print).start("Server", python(LIVES))
