"""What `qdag up` serves: the Dagster UI with its code server and daemon, and the MLflow UI, until interrupted."""

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from qdag.errors import QdagError, redact
from qdag.server.children import Children
from qdag.settings import CODE_LOCATION, Settings

HOST = "127.0.0.1"
READY_SECONDS = 180
LOOK_SECONDS = 0.5
RUNS_SECONDS = 5.0
_RUNS = """query($since: Float!) { runsOrError(filter: {updatedAfter: $since}, limit: 50) { ... on Runs { results {
    runId jobName status startTime endTime tags { key value } } } } }"""


def serve(settings: Settings, port: int, mlflow_port: int, say: Callable[[str], object], automate: bool = False) -> int:
    """Start the servers, print their addresses once they answer, tell runs and errors, stop all when interrupted.

    A server that dies is started again. What they write is in ``<home>/logs``.
    ``automate``: sensors and schedules are on, whatever the settings say.
    Returns 0 after an interrupt, 1 when a server could not be kept alive.

    Raises
    ------
    QdagError
        A port is taken, or a server did not answer in time.
    """
    for what, number in (("Dagster UI", port), ("MLflow UI", mlflow_port)):
        if _taken(number):
            raise QdagError(f"port {number} for the {what} is in use; stop what uses it or choose another port")
    ui, mlflow_ui = f"http://{HOST}:{port}", f"http://{HOST}:{mlflow_port}"
    environment = {
        **os.environ,
        "QDAG_DAGSTER__UI_URL": ui,
        "QDAG_MLFLOW__UI_URL": mlflow_ui,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # MLflow's job workers judge language models; nothing here asks them to
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **({"QDAG_AUTOMATION__ENABLED": "true"} if automate else {}),
    }
    # started in the background of a script, SIGINT comes ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    children = Children(settings.home / "logs", environment, say)
    # closed to others, and of a short name: the path of a socket has little room
    folder = Path(tempfile.mkdtemp(prefix="qdag-"))
    try:
        say(f"starting ... (logs in {settings.home / 'logs'})")
        python = [sys.executable, "-m"]
        if settings.mlflow.tracking_uri is None:
            children.start("MLflow UI", [*python, "qdag.server.experiments", HOST, str(mlflow_port)])
        code = folder / "code.sock"
        module = ["-m", "qdag.definitions", "--location-name", CODE_LOCATION]
        children.start(
            "code server",
            [*python, "dagster", "code-server", "start", "--socket", str(code), *module],
            whole=_has_child,
        )
        children.wait(lambda: _listens(code), "code server", READY_SECONDS)
        workspace = folder / "workspace.yaml"
        server = {"host": "localhost", "socket": str(code), "location_name": CODE_LOCATION}
        workspace.write_text(json.dumps({"load_from": [{"grpc_server": server}]}))
        children.start(
            "Dagster UI", [*python, "qdag", "webserver", str(workspace), "--host", HOST, "--port", str(port)]
        )
        children.start("daemon", [*python, "dagster._daemon", "run", "--workspace", str(workspace)])
        children.wait(lambda: _answers(f"{ui}/server_info"), "Dagster UI", READY_SECONDS)
        say(f"Dagster UI   {ui}/asset-groups")
        if settings.mlflow.tracking_uri is None:
            children.wait(lambda: _answers(f"{mlflow_ui}/health"), "MLflow UI", READY_SECONDS)
            say(f"MLflow UI    {mlflow_ui}")
        else:
            say(f"MLflow       {redact(settings.tracking_uri)}")
        say("press Ctrl+C to stop")
        runs = _Runs(ui, say)
        while children.watch():
            runs.look()
            time.sleep(LOOK_SECONDS)
        return 1
    except KeyboardInterrupt:
        say("stopping ...")
        return 0
    finally:
        children.stop()
        shutil.rmtree(folder, ignore_errors=True)


class _Runs:
    """Tells, a line at a time, of runs that have begun or ended since the last look."""

    def __init__(self, ui: str, say: Callable[[str], object]):
        self._ui, self._say = ui, say
        self._since = time.time()
        self._next = 0.0
        self._known: dict[str, str] = {}

    def look(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + RUNS_SECONDS
        body = json.dumps({"query": _RUNS, "variables": {"since": self._since}}).encode()
        request = urllib.request.Request(f"{self._ui}/graphql", body, {"Content-Type": "application/json"})
        asked = time.time()
        try:
            with urllib.request.urlopen(request, timeout=RUNS_SECONDS) as answer:
                found = json.load(answer)["data"]["runsOrError"]["results"]
        except (OSError, KeyError, TypeError, ValueError):
            # the UI is busy or just being started again: what happens meanwhile is told by the next look
            return
        # a run may be written a moment after the time that it carries
        self._since = asked - 2 * RUNS_SECONDS
        for run in reversed(found):
            if run["status"] in ("STARTED", "SUCCESS", "FAILURE", "CANCELED") and (
                self._known.get(run["runId"]) != run["status"]
            ):
                self._known[run["runId"]] = run["status"]
                self._say(_told(run) + (f"  {self._ui}/runs/{run['runId']}" if run["status"] == "FAILURE" else ""))


def _told(run: dict[str, Any]) -> str:
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    first, last = (tags.get(f"dagster/asset_partition_range_{side}", "") for side in ("start", "end"))
    span = first if first == last else f"{first} .. {last}"
    seconds = run["endTime"] - run["startTime"] if run["endTime"] and run["startTime"] else None
    words = [f"{datetime.now():%H:%M:%S}", "run", run["runId"][:8], run["jobName"], span, run["status"].lower()]
    return " ".join(word for word in [*words, f"in {seconds:.0f} s" if seconds is not None else ""] if word)


def _has_child(pid: int) -> bool:
    """Whether a code server still has the process in which the definitions are: it does not notice its death."""
    import psutil

    try:
        children = psutil.Process(pid).children()
        return any(child.status() != psutil.STATUS_ZOMBIE for child in children)
    except psutil.Error:
        return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _taken(number: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, number)) == 0
