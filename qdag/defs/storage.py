"""Dagster's own storage (runs, events, schedules): which database, and one transaction per batch of asset events.

Stock storage opens connections and commits several times for every event, and a range run has two events per session
and asset. Here a batch is one transaction. What is stored, and where, is as Dagster's own classes do it, so a history
written by either is read by both. ``dagster.yaml`` names :class:`QdagStorage`; nothing else in qdag uses this module.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as db
from dagster import DagsterEventType, DagsterInstance, Field, StringSource
from dagster._config.config_schema import UserConfigSchema
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs.base import RunStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.base import ScheduleStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError

from qdag.errors import SettingsError
from qdag.settings import POSTGRES_VARIABLE, load_settings
from qdag.store.files import locked

BATCH_VARIABLE = "DAGSTER_EVENT_BATCH_SIZE"
BATCH_SIZE = 1000
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
    """``store_event_batch`` in one transaction; single asset events, too, are one transaction each."""

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

    def store_event(self, event: EventLogEntry) -> None:
        if event.is_dagster_event and event.dagster_event_type in _INDEXED:
            with self._transaction([event.run_id]):
                super().store_event(event)
        else:
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
                    super().store_event(event)
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
    """Events in one SQLite file per run and an index over all runs.

    A batch is whole or absent in each file. The run's file is committed just before the index, so a process killed
    between the two commits leaves sessions that count as missing, never sessions that wrongly count as done.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None):
        self._open = _Transaction()
        super().__init__(base_dir, inst_data)
        # one transaction holds the lock for two files
        self._db_lock = threading.RLock()  # type: ignore[assignment]

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "SqliteEventLog":
        return cls(inst_data=inst_data, **config_value)

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
            # closed in reverse: the index commits last
            for shard in (INDEX_SHARD_NAME, *sorted(run_ids)):
                connections[shard] = stack.enter_context(super()._connect(shard))
            yield connections

    def _insert(self, connections: Mapping[str, Connection], rows: Sequence[Mapping[str, Any]]) -> list[int]:
        by_run: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_run.setdefault(row["run_id"], []).append(row)
        for run_id, of_run in by_run.items():
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


class QdagStorage(DagsterStorage, ConfigurableClass):
    """Runs, events and schedules in PostgreSQL where ``QDAG_POSTGRES_URL`` is set, else in SQLite.

    In ``dagster.yaml``::

        storage:
          custom:
            module: qdag.defs.storage
            class: QdagStorage
            config: {}

    The SQLite files are in the option ``base_dir`` where it is given, else in ``$DAGSTER_HOME``, else in ``dagster``
    under the data home: the places of the stock storage. Every process that loads the instance batches events from
    then on (``DAGSTER_EVENT_BATCH_SIZE``, 1000 unless it is set; 0 turns batches off).
    """

    def __init__(
        self,
        runs: RunStorage,
        events: EventLogStorage,
        schedules: ScheduleStorage,
        inst_data: ConfigurableClassData | None = None,
    ):
        self._runs = runs
        self._events = events
        self._schedules = schedules
        self._inst_data = inst_data
        super().__init__()

    @classmethod
    def sqlite(cls, base_dir: str | Path, inst_data: ConfigurableClassData | None = None) -> "QdagStorage":
        """Open or create the SQLite files below ``base_dir``, laid out as the stock storage does."""
        base = Path(base_dir).absolute()
        # Dagster creates its tables where it finds none: two processes that start at once would both
        with locked(base / "storage.lock"):
            return cls(
                SqliteRunStorage.from_local(str(base / "history")),
                SqliteEventLog(str(base / "history" / "runs")),
                SqliteScheduleStorage.from_local(str(base / "schedules")),
                inst_data,
            )

    @classmethod
    def postgres(cls, url: str, inst_data: ConfigurableClassData | None = None) -> "QdagStorage":
        """Open the database at ``url``, creating Dagster's tables where they are missing."""
        address = psycopg2_url(url)
        return cls(PostgresRunStorage(address), PostgresEventLog(address), PostgresScheduleStorage(address), inst_data)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {"base_dir": Field(StringSource, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "QdagStorage":
        # Dagster reads the variable at every event; a run worker or the UI's server has no other place to get it from
        os.environ.setdefault(BATCH_VARIABLE, str(BATCH_SIZE))
        if url := os.environ.get(POSTGRES_VARIABLE):
            return cls.postgres(url, inst_data)
        base_dir = config_value.get("base_dir") or os.environ.get("DAGSTER_HOME") or load_settings().dagster_home
        return cls.sqlite(base_dir, inst_data)

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @property
    def run_storage(self) -> RunStorage:
        return self._runs

    @property
    def event_log_storage(self) -> EventLogStorage:
        return self._events

    @property
    def schedule_storage(self) -> ScheduleStorage:
        return self._schedules

    def register_instance(self, instance: DagsterInstance) -> None:
        super().register_instance(instance)
        for part in (self._runs, self._events, self._schedules):
            if not part.has_instance:
                part.register_instance(instance)

    def dispose(self) -> None:
        for part in (self._events, self._runs, self._schedules):
            part.dispose()


def psycopg2_url(url: str) -> str:
    """Return a PostgreSQL URL that names the psycopg2 driver, the only one Dagster's storage works with.

    ``postgres://`` and ``postgresql://`` (which SQLAlchemy 2.1 takes for psycopg 3) are rewritten; a URL that names
    another database or driver raises :class:`SettingsError`. No password appears in the message.
    """
    try:
        parsed: URL = make_url(url)
    except ArgumentError:
        parsed = URL.create("")
    if parsed.drivername not in ("postgres", "postgresql", "postgresql+psycopg2"):
        raise SettingsError(
            f"{POSTGRES_VARIABLE} begins with {parsed.drivername or 'no scheme'!r}; "
            "give postgresql://USER:PASSWORD@HOST:5432/DATABASE, or unset it to use SQLite"
        )
    return parsed.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)
