"""Dagster's run launcher, which also tells whether a run's worker is still there.

The stock one cannot: a worker that dies together with its code server (a reboot, a killed container) leaves a run that
counts as running until its time is up, and nothing else of its universe starts meanwhile. ``dagster.yaml`` names
:class:`WatchedRunLauncher`; run monitoring asks it.
"""

import json
import os
import socket
from pathlib import Path

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import deserialize_value

from qdag.defs.tags import HOST_TAG

HERE = ("localhost", "127.0.0.1")
SERVER_SECONDS = 10
# a worker starts before its run's first event; clocks of the system and of the process table differ by ticks
CLOCK_SLACK = 5.0


class WatchedRunLauncher(DefaultRunLauncher):
    """Asks the code server that started a run and, where it is gone, the process table of this machine."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        server = json.loads(run.tags.get(GRPC_INFO_TAG, "{}"))
        known = _known_to(server, run.run_id) if server else None
        if known:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        local = server.get("host") in HERE if server else run.tags.get(HOST_TAG) == socket.gethostname()
        if local:
            return self._process(run)
        if known is None:
            # another machine: its code server answers again, or the run's time ends
            return CheckRunHealthResult(WorkerStatus.RUNNING, "the machine of its worker does not answer")
        return CheckRunHealthResult(WorkerStatus.FAILED, "its code server has started anew and knows no such run")

    def _process(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        events = self._instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
        for entry in reversed(events):
            metadata = entry.dagster_event.engine_event_data.metadata if entry.dagster_event else {}
            if "pid" in metadata:
                pid = int(str(metadata["pid"].value))
                if _alive(pid, entry.timestamp):
                    return CheckRunHealthResult(WorkerStatus.RUNNING)
                return CheckRunHealthResult(WorkerStatus.FAILED, f"its worker, process {pid}, is gone")
        return CheckRunHealthResult(WorkerStatus.RUNNING, "its worker has not said which process it is")


def _known_to(server: dict[str, object], run_id: str) -> bool | None:
    """Whether a code server runs this run; None where it does not answer."""
    client = DagsterGrpcClient(
        port=server.get("port"),  # type: ignore[arg-type]
        socket=server.get("socket"),  # type: ignore[arg-type]
        host=str(server["host"]),
        use_ssl=bool(server.get("use_ssl")),
    )
    try:
        answer = client.can_cancel_execution(CanCancelExecutionRequest(run_id=run_id), timeout=SERVER_SECONDS)
    except DagsterUserCodeUnreachableError:
        return None
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel


def _alive(pid: int, since: float) -> bool:
    """Whether a process lives that had started by ``since``: a number is given again to others."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = int(Path("/proc/stat").read_text().partition("\nbtime ")[2].split()[0])
    except (OSError, IndexError):
        return True
    state, ticks = fields[0], int(fields[19])
    return state != "Z" and boot + ticks / os.sysconf("SC_CLK_TCK") <= since + CLOCK_SLACK
