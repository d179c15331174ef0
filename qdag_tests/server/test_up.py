"""`qdag up` as a person has it: real servers on loopback, started once for the file."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from qdag_tests.servers import free_port

BUDGET_MIB = 1536


@dataclass
class Up:
    process: subprocess.Popen[bytes]
    home: Path
    port: int
    mlflow_port: int
    console: Path

    def said(self) -> str:
        return self.console.read_text()

    def until(self, holds: Callable[[], Any], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, self.said()
            assert self.process.poll() is None, self.said()
            time.sleep(0.2)

    def ask(self, path: str, body: bytes | None = None, mlflow: bool = False, **headers: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.mlflow_port if mlflow else self.port}{path}"
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, given), timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def graphql(self, query: str) -> Any:
        status, text = self.ask("/graphql", json.dumps({"query": query}).encode(), Content_Type="application/json")
        assert status == 200, text
        return json.loads(text)["data"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    port, mlflow_port = int(free_port()), int(free_port())
    environ = {**os.environ, "QDAG_HOME": str(folder / "home")}
    environ.pop("QDAG_CONFIG", None)
    command = [sys.executable, "-m", "qdag", "up", "--port", str(port), "--mlflow-port", str(mlflow_port)]
    with (folder / "console").open("wb") as console:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdout=console, stderr=console, start_new_session=True
        )
    made = Up(process, folder / "home", port, mlflow_port, folder / "console")
    try:
        made.until(lambda: "press Ctrl+C" in made.said())
        yield made
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        finally:
            process.kill()


def test_the_console_has_addresses_and_nothing_else(up):
    assert up.said().splitlines() == [
        f"starting ... (logs in {up.home / 'logs'})",
        f"Dagster UI   http://127.0.0.1:{up.port}/asset-groups",
        f"MLflow UI    http://127.0.0.1:{up.mlflow_port}",
        "press Ctrl+C to stop",
    ]
    logs = {path.name for path in (up.home / "logs").iterdir()}
    assert logs == {"code-server.log", "dagster-ui.log", "daemon.log", "mlflow-ui.log"}


def test_the_dagster_ui_answers_itself_alone(up):
    mutation = 'mutation { wipeAssets(assetPartitionRanges: [{assetKey: {path: ["raw_ohlcv"]}}]) { __typename } }'
    body, kind = json.dumps({"query": mutation}).encode(), {"Content_Type": "application/json"}
    own = f"http://127.0.0.1:{up.port}"
    quoted = urllib.request.quote(mutation)
    refused = [
        up.ask("/server_info", Host="evil.example"),
        up.ask(f"/graphql?query={quoted}"),
        up.ask(f"/graphql?query={quoted}", Origin="http://evil.example", Sec_Fetch_Site="cross-site"),
        up.ask("/graphql", body, Content_Type="text/plain; application/json"),
        up.ask("/graphql", body, **kind, Origin="http://evil.example"),
        up.ask("/report_asset_materialization/raw_ohlcv", b"{}", **kind),
    ]
    assert [status for status, _ in refused] == [403] * 6
    assert all(text.startswith("refused: ") for _, text in refused)
    page = up.ask("/asset-groups", Sec_Fetch_Site="same-origin")
    assert page[0] == 200
    assert "<!DOCTYPE html>" in page[1]
    assert up.ask("/graphql", b'{"query": "{ version }"}', **kind, Origin=own)[0] == 200


@pytest.mark.parametrize(("origin", "status"), [("own", 101), (None, 101), ("http://evil.example", 403)])
def test_its_websocket_answers_itself_alone(up, origin, status):
    lines = ["GET /graphql HTTP/1.1", f"Host: 127.0.0.1:{up.port}", "Connection: Upgrade", "Upgrade: websocket"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
    lines += ["Sec-WebSocket-Protocol: graphql-ws"]
    if origin:
        lines.append(f"Origin: {origin if origin != 'own' else f'http://127.0.0.1:{up.port}'}")
    with socket.create_connection(("127.0.0.1", up.port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        assert connection.recv(100).split()[1] == str(status).encode()


def test_first_pages_invite_to_nothing(up):
    assert up.graphql("{ shouldShowNux }") == {"shouldShowNux": False}
    status, page = up.ask("/", mlflow=True)
    assert status == 200
    [remembered] = re.findall(r"Object.entries\((\{.*?\})\)", page)
    assert json.loads(remembered)["mlflow.workflowType_v1"] == "machine_learning"
    assert '"#/experiments/1/runs?workflowType=machine_learning"' in page
    # the names are MLflow's own
    scripts = re.findall(r'src="(static-files/static/js/main[^"]*)"', page)
    program = up.ask(f"/{scripts[0]}", mlflow=True)[1]
    for name in json.loads(remembered):
        assert f'"{name.removesuffix("_v1")}"' in program


def test_mlflow_offers_no_assistant_and_answers_no_other_name(up):
    assert up.ask("/ajax-api/3.0/mlflow/assistant/config", mlflow=True)[0] == 403
    experiments = "/api/2.0/mlflow/experiments/search?max_results=9"
    status, text = up.ask(experiments, mlflow=True)
    assert status == 200
    [made] = [e for e in json.loads(text)["experiments"] if e["name"] == "qdag"]
    assert made["artifact_location"] == (up.home / "mlflow" / "artifacts").as_uri()
    assert up.ask(experiments, mlflow=True, Host="evil.example")[0] == 403


def test_at_rest_it_fits_a_small_machine(up):
    processes = [psutil.Process(up.process.pid), *psutil.Process(up.process.pid).children(recursive=True)]
    assert len(processes) == 6
    assert sum(process.memory_info().rss for process in processes) / 2**20 < BUDGET_MIB


def test_a_code_server_that_is_killed_comes_back(up):
    location = """{ repositoryOrError(repositorySelector:
        {repositoryName: "__repository__", repositoryLocationName: "qdag"}) { __typename } }"""
    loaded = {"repositoryOrError": {"__typename": "Repository"}}
    assert up.graphql(location) == loaded
    [proxy] = [p for p in psutil.Process(up.process.pid).children() if "code-server" in p.cmdline()]
    [server] = proxy.children()
    # the process that holds the definitions, which nobody but `up` misses
    server.kill()
    up.until(lambda: "code server lost a process of its own; starting it again" in up.said())
    up.until(lambda: up.graphql(location) == loaded)
    [other] = [p for p in psutil.Process(up.process.pid).children() if "code-server" in p.cmdline()]
    assert other.pid != proxy.pid


def test_a_taken_port_is_named(up, tmp_path):
    command = [sys.executable, "-m", "qdag", "up", "--port", str(up.port), "--mlflow-port", free_port()]
    ended = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "QDAG_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert f"port {up.port} for the Dagster UI is in use" in ended.stderr


def test_an_interrupt_ends_all_of_it(up):
    processes = psutil.Process(up.process.pid).children(recursive=True)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(90) == 0
    assert up.said().splitlines()[-1] == "stopping ..."
    assert psutil.wait_procs(processes, 10)[1] == []
