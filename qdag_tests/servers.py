"""The code server and the daemon as processes of their own, as docker-compose.yml has them, on loopback."""

import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from qdag.server.home import DAGSTER_YAML

HOST = "127.0.0.1"
# what `qdag up` gives its processes
ENVIRON = {"OMP_WAIT_POLICY": "PASSIVE", "DAGSTER_EVENT_BATCH_SIZE": "1000"}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return str(probe.getsockname()[1])


def write_instance(home: Path, pace: Mapping[str, Mapping[str, Any]]) -> None:
    """Make DAGSTER_HOME with the delivered dagster.yaml, whose sections get the given values."""
    home.mkdir(parents=True)
    configured = yaml.safe_load(DAGSTER_YAML.read_text())
    for section, values in pace.items():
        target = configured[section]
        target.get("config", target).update(values)
    (home / "dagster.yaml").write_text(yaml.safe_dump(configured))


def commands(port: str) -> dict[str, list[str]]:
    return {
        "code server": ["dagster", "api", "grpc", "-m", "qdag.definitions", "-h", HOST, "-p", port],
        "daemon": ["dagster._daemon", "run", "--grpc-port", port, "--grpc-host", HOST],
    }


def start(command: list[str], folder: Path, log: IO[Any], environ: Mapping[str, str] | None = None) -> Any:
    """Start one of the ``commands`` in a session of its own, so that its workers can be found; SIGINT stops it."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=None if environ is None else dict(environ),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def unprivileged() -> None:
    """Let file modes bind this process, run by root too."""
    libc, drop = ctypes.CDLL(None), 24
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(drop, capability, 0, 0, 0)
