"""Dagster's own storage (runs, events, schedules): which database.

``dagster.yaml`` names :class:`QdagStorage`; nothing else in qdag uses this module.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import DagsterInstance, Field, StringSource
from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.runs.base import RunStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.base import ScheduleStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from dagster_postgres.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage import PostgresScheduleStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from qdag.defs.event_log import PostgresEventLog, SqliteEventLog
from qdag.errors import SettingsError
from qdag.settings import POSTGRES_VARIABLE, load_settings
from qdag.store.files import locked

BATCH_VARIABLE = "DAGSTER_EVENT_BATCH_SIZE"
BATCH_SIZE = 1000


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
