"""Dagster's event log with one transaction per batch and one row per event, on its own tables.

Stock storage opens connections and commits several times for every event, tells each session and asset of a range run
twice, planned and done, and on SQLite stores each of these in two files. Here a batch is one transaction, a run plans
the sessions of an asset in one event, and an event is one row of one table. A history that the stock classes wrote is
read on.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import sqlalchemy as db
from dagster import AssetKey, DagsterEventType, EventLogRecord, EventRecordsFilter
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.base import PlannedMaterializationInfo
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData, deserialize_value
from dagster_postgres.event_log import PostgresEventLogStorage
from sqlalchemy.engine import Connection, Engine

PAGE_BYTES = 16384
"""Of a new SQLite file. An event is about 2 kB: of SQLite's usual pages of 4 kB, which hold one, half is empty."""
# any constant does: it names the lock under which asset events are written
_ADVISORY_LOCK = 0x71646167

# rows of the event table that need nothing but the tags, the asset's summary row or the check's planned rows
_BULK = {
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_OBSERVATION,
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED,
}
_INDEXED = ASSET_EVENTS | ASSET_CHECK_EVENTS


class _Transaction(threading.local):
    """The connections of this thread's open transaction, by shard; empty outside one."""

    def __init__(self) -> None:
        self.connections: dict[str, Connection] = {}


class _BatchedEventLog(SqlEventLogStorage):
    """``store_event_batch`` in one transaction; single asset events, too, are one transaction each.

    What a run plans of an asset is one event that names all of its partitions. Dagster writes such events where
    storage says that it supports them, but its readers do not look into them: those of a failed run would not show as
    failed. The two readers that ask what was planned do so here.
    """

    _open: _Transaction

    @contextmanager
    def _begin(self, run_ids: Iterable[str]) -> Iterator[dict[str, Connection]]:
        """Open one transaction over the index and the runs' shards; commit on success, roll back on any error."""
        raise NotImplementedError

    def _insert(self, connections: Mapping[str, Connection], rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Insert rows of the event table and return their ids in the index, in the order of ``rows``."""
        statement = db.insert(SqlEventLogStorageTable).returning(
            SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
        )
        return [int(i) for i in connections[INDEX_SHARD_NAME].execute(statement, rows).scalars()]

    @contextmanager
    def _transaction(self, run_ids: Iterable[str]) -> Iterator[dict[str, Connection]]:
        if self._open.connections:
            yield self._open.connections
            return
        with self._begin(run_ids) as connections:
            # Dagster's methods ask for connections; inside the transaction they get these
            self._open.connections = connections
            try:
                yield connections
            finally:
                self._open.connections = {}

    @property
    def supports_partition_subset_in_asset_materialization_planned_events(self) -> bool:
        return True

    def _planned(self, asset_key: AssetKey, after: int | None = None) -> Iterator[tuple[int, str, frozenset[str]]]:
        """What runs planned of an asset in one event each, latest first: the event's id, the run, the partitions."""
        columns = SqlEventLogStorageTable.c
        query = (
            db.select(columns.id, columns.run_id, columns.event)
            .where(columns.asset_key == asset_key.to_string())
            .where(columns.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value)
            .where(columns.partition.is_(None))
            .order_by(columns.id.desc())
        )
        if after is not None:
            query = query.where(columns.id > after)
        query = self._add_assets_wipe_filter_to_query(query, self._get_assets_details([asset_key]), [asset_key])
        with self.index_connection() as connection:
            rows = connection.execute(query).fetchall()
        for event_id, run_id, event in rows:
            subset = deserialize_value(event, EventLogEntry).get_dagster_event().partitions_subset
            yield event_id, run_id, frozenset(subset.get_partition_keys() if subset else ())

    def get_latest_planned_materialization_info(
        self, asset_key: AssetKey, partition: str | None = None
    ) -> PlannedMaterializationInfo | None:
        found = super().get_latest_planned_materialization_info(asset_key, partition)
        if partition is not None:
            for event_id, run_id, partitions in self._planned(asset_key, found.storage_id if found else None):
                if partition in partitions:
                    return PlannedMaterializationInfo(storage_id=event_id, run_id=run_id)
        return found

    def get_latest_asset_partition_materialization_attempts_without_materializations(
        self, asset_key: AssetKey, after_storage_id: int | None = None
    ) -> Mapping[str, tuple[str, int]]:
        alone = super().get_latest_asset_partition_materialization_attempts_without_materializations(
            asset_key, after_storage_id
        )
        latest = dict(alone)
        for event_id, run_id, partitions in self._planned(asset_key, after_storage_id):
            for partition in partitions:
                if partition not in latest or latest[partition][1] < event_id:
                    latest[partition] = run_id, event_id
        done = self.get_latest_storage_id_by_partition(
            asset_key, DagsterEventType.ASSET_MATERIALIZATION, after_cursor=after_storage_id
        )
        return {partition: it for partition, it in latest.items() if it[1] > done.get(partition, 0)}

    def store_event(self, event: EventLogEntry) -> None:
        if event.is_dagster_event and event.dagster_event_type in _INDEXED:
            with self._transaction([event.run_id]):
                self._store(event)
        else:
            self._store(event)

    def _store(self, event: EventLogEntry) -> None:
        """Store one event as Dagster's own classes do."""
        super().store_event(event)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store all of the events or, on any error, none.

        The result is that of storing them one by one, except that an asset's summary row is written once per kind
        of event instead of once per event: only the last one would remain.
        """
        if not events:
            return
        bulk = all(event.dagster_event_type in _BULK for event in events)
        # serialised before the transaction, which then holds its locks for a shorter time
        rows = [self._event_to_row(event) for event in events] if bulk else []
        with self._transaction({event.run_id for event in events}) as connections:
            if not bulk:
                for event in events:
                    self._store(event)
                return
            index = connections[INDEX_SHARD_NAME]
            ids = self._insert(connections, rows)
            assets = [(e, i) for e, i in zip(events, ids, strict=True) if e.dagster_event_type in ASSET_EVENTS]
            self._store_asset_event_tags(index, [e for e, _ in assets], [i for _, i in assets])
            last = {(e.get_dagster_event().asset_key, e.dagster_event_type): (e, i) for e, i in assets}
            # by asset: two runs take the summary rows' locks in the same order
            for event, event_id in sorted(last.values(), key=lambda x: (str(x[0].get_dagster_event().asset_key), x[1])):
                self._store_asset_event(index, event, event_id)
            for event, event_id in zip(events, ids, strict=True):
                if event.dagster_event_type in ASSET_CHECK_EVENTS:
                    self.store_asset_check_event(event, event_id)


class SqliteEventLog(_BatchedEventLog, SqliteEventLogStorage):
    """Events in one SQLite file, the stock class's index over all runs.

    The stock class has a file for each run besides, and stores there again what the index has: the events of assets
    and checks, which are most of a history. A run that has such a file, of an earlier version, is read from it and
    ends in it.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None):
        self._open = _Transaction()
        super().__init__(base_dir, inst_data)
        # one transaction may hold the lock for two files
        self._db_lock = threading.RLock()  # type: ignore[assignment]

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "SqliteEventLog":
        return cls(inst_data=inst_data, **config_value)

    def _initdb(self, engine: Engine, for_index_shard: bool = False) -> None:
        with engine.connect() as connection:
            # without effect on a file that has pages; the mode, Dagster's own, writes the first one
            connection.execute(db.text(f"PRAGMA page_size = {PAGE_BYTES}"))
            connection.execute(db.text("PRAGMA journal_mode = WAL"))
        super()._initdb(engine, for_index_shard)

    def _shard(self, run_id: str | None) -> str:
        """Where a run's events are: in a file of its own, if there is one, or in the index."""
        own = run_id is not None and os.path.exists(super().path_for_shard(run_id))
        return run_id if own and run_id is not None else INDEX_SHARD_NAME

    def path_for_shard(self, run_id: str) -> str:
        # asked for the file to watch
        return super().path_for_shard(self._shard(run_id))

    def run_connection(self, run_id: str | None = None) -> Any:
        return self._connect(self._shard(run_id))

    @property
    def is_run_sharded(self) -> bool:
        return False

    def get_event_records(
        self, event_records_filter: EventRecordsFilter, limit: int | None = None, ascending: bool = False
    ) -> Sequence[EventLogRecord]:
        return self._get_event_records(event_records_filter, limit, ascending)

    def _store(self, event: EventLogEntry) -> None:
        if self._shard(event.run_id) == INDEX_SHARD_NAME:
            SqlEventLogStorage.store_event(self, event)
        else:
            super()._store(event)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        if shard in self._open.connections:
            yield self._open.connections[shard]
        else:
            with super()._connect(shard) as connection:
                yield connection

    @contextmanager
    def _begin(self, run_ids: Iterable[str]) -> Iterator[dict[str, Connection]]:
        connections: dict[str, Connection] = {}
        with ExitStack() as stack:
            # closed in reverse: the index commits last, and a run killed in between counts as missing, never as done
            for shard in (INDEX_SHARD_NAME, *sorted({self._shard(run_id) for run_id in run_ids} - {INDEX_SHARD_NAME})):
                connections[shard] = stack.enter_context(super()._connect(shard))
            yield connections

    def _insert(self, connections: Mapping[str, Connection], rows: Sequence[Mapping[str, Any]]) -> list[int]:
        for run_id in connections.keys() - {INDEX_SHARD_NAME}:
            of_run = [row for row in rows if row["run_id"] == run_id]
            connections[run_id].execute(db.insert(SqlEventLogStorageTable), of_run)
        return super()._insert(connections, rows)


class PostgresEventLog(_BatchedEventLog, PostgresEventLogStorage):
    """Events in one PostgreSQL table.

    Asset events are written under an advisory lock, so that ids become visible in increasing order: sensors and
    automation read "everything after id n" and would miss a long batch that commits after a later, shorter one.
    """

    def __init__(
        self, postgres_url: str, should_autocreate_tables: bool = True, inst_data: ConfigurableClassData | None = None
    ):
        self._open = _Transaction()
        super().__init__(postgres_url, should_autocreate_tables, inst_data)

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "PostgresEventLog":
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        if self._open.connections:
            yield self._open.connections[INDEX_SHARD_NAME]
        else:
            with super()._connect() as connection:
                yield connection

    @contextmanager
    def _begin(self, run_ids: Iterable[str]) -> Iterator[dict[str, Connection]]:
        with super()._connect() as connection:
            connection = connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                connection.execute(db.select(db.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                yield {INDEX_SHARD_NAME: connection}
