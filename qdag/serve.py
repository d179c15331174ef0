"""The servers of `qdag up`: Dagster UI with daemon, and the MLflow UI, as children that stop with it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress

from qdag.errors import QdagError
from qdag.settings import Settings

HOST = "127.0.0.1"
READY_SECONDS = 180
STOP_SECONDS = 30


def serve(settings: Settings, port: int, mlflow_port: int, say: Callable[[str], object], automate: bool = False) -> int:
    """Start both servers, print their addresses once they answer, wait for an interrupt, stop them.

    ``automate``: sensors and schedules are on, whatever the settings say.
    Returns 0 after an interrupt, 1 when a server ended by itself.

    Raises
    ------
    QdagError
        A port is taken, or a server did not answer in time.
    """
    for what, number in (("Dagster UI", port), ("MLflow UI", mlflow_port)):
        if _taken(number):
            raise QdagError(f"port {number} for the {what} is in use; stop what uses it or choose another port")
    environment = {
        **os.environ,
        "QDAG_DAGSTER__UI_URL": f"http://{HOST}:{port}",
        "QDAG_MLFLOW__UI_URL": f"http://{HOST}:{mlflow_port}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **({"QDAG_AUTOMATION__ENABLED": "true"} if automate else {}),
    }
    dagster = [sys.executable, "-m", "dagster", "dev", "-m", "qdag.definitions", "-h", HOST, "-p", str(port)]
    mlflow = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", settings.tracking_uri]
    mlflow += ["--artifacts-destination", str(settings.artifacts), "--workers", "1"]
    mlflow += ["--host", HOST, "--port", str(mlflow_port)]
    children = {"Dagster UI": _start(dagster, environment)}
    if settings.mlflow.tracking_uri is None:
        children["MLflow UI"] = _start(mlflow, environment)
    # started in the background of a script, SIGINT comes ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        say("starting ...")
        _wait(f"http://{HOST}:{port}/server_info", children)
        say(f"Dagster UI   http://{HOST}:{port}")
        if "MLflow UI" in children:
            _wait(f"http://{HOST}:{mlflow_port}/health", children)
            say(f"MLflow UI    http://{HOST}:{mlflow_port}")
        else:
            say(f"MLflow       {settings.tracking_uri}")
        say("press Ctrl+C to stop")
        while not (ended := [name for name, child in children.items() if child.poll() is not None]):
            time.sleep(0.5)
        say(f"{ended[0]} ended by itself with code {children[ended[0]].returncode}")
        return 1
    except KeyboardInterrupt:
        say("stopping ...")
        return 0
    finally:
        _stop(children)


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # An own process group, so that one signal reaches all of it; SIGINT restored because a non-interactive shell
    # starts background jobs with it ignored, and then they would never stop.
    return subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def _wait(url: str, children: dict[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        for name, child in children.items():
            if child.poll() is not None:
                raise QdagError(f"{name} ended while starting, with code {child.returncode}; its output is above")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise QdagError(f"{url} did not answer within {READY_SECONDS} s; its output is above")


def _stop(children: dict[str, subprocess.Popen[bytes]]) -> None:
    for child in children.values():
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
    for child in children.values():
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS)
        # whatever a server left behind in its own group
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
