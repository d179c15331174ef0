"""The machine and the servers: ``[engine]``, ``[mlflow]``, ``[dagster]``, ``[automation]`` and ``[retention]``."""

import os
from typing import Annotated

from pydantic import AfterValidator, Field

from qdag.calendars import cron_mistake
from qdag.settings.base import Count, FrozenModel, Seconds, Sessions, Text, WebAddress

CODE_LOCATION = "qdag"
"""Dagster's name of what ``qdag.definitions`` defines, in ``qdag up``, ``workspace.yaml`` and the containers."""


class EngineSettings(FrozenModel):
    """How the expression engine uses the machine."""

    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 16),
        description="threads that compute at once; by default one per processor, at most 16",
    )
    block_instruments: Count = Field(
        default=128, description="most instruments that a thread computes at once; fewer, less memory"
    )


class MlflowSettings(FrozenModel):
    """Where experiments are tracked; the default is a SQLite store under the data home."""

    tracking_uri: Text | None = Field(
        default=None, description="address of the store or server; without it, SQLite under the home"
    )
    experiment: Text = Field(default="qdag", description="experiment that runs are tracked in")
    ui_url: WebAddress = Field(default="http://127.0.0.1:5000", description="where links to runs and models lead")

    def runs_url(self, experiment_id: str) -> str:
        """Where the UI shows the runs of an experiment as a table of models; without it, it shows one of chats."""
        return f"{self.ui_url.rstrip('/')}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


class DagsterSettings(FrozenModel):
    """Where the Dagster UI is reached."""

    ui_url: WebAddress = Field(
        default="http://127.0.0.1:3000", description="where links to runs and assets lead; its host is answered"
    )
    allowed_hosts: tuple[Annotated[str, Field(pattern=r"^([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])$")], ...] = Field(
        default=(), description="further host names, without port, under which the UI answers"
    )


def _cron(text: str) -> str:
    if mistake := cron_mistake(text):
        raise ValueError(f"{mistake}; write minute hour day month weekday, for example '0 3 * * 0'")
    return text


class AutomationSettings(FrozenModel):
    """What runs without a person."""

    enabled: bool = Field(default=False, description="sensors and schedules are on unless stopped in the UI")
    after_close_minutes: Annotated[int, Field(ge=0, le=1200)] = Field(
        default=60, description="minutes from the exchange's close to the daily run"
    )
    training_after_minutes: Annotated[int, Field(ge=0, le=1200)] = Field(
        default=60, description="minutes from the daily run to month-end training"
    )
    maintenance_cron: Annotated[Text, AfterValidator(_cron)] = Field(
        default="0 3 * * 0", description="compact, vacuum and back up tables; minute hour day month weekday, UTC"
    )
    backup: Text | None = Field(
        default=None, description="folder or object store URL of the backup; without it, none is made"
    )
    chunk_sessions: Sessions = Field(default=250, description="sessions of one run of a backfill, at most")
    landing_seconds: Seconds = Field(
        default=10, description="a file that changed within so many seconds may still be being written"
    )
    done_marker: bool = Field(default=False, description="a file counts when FILE.done lies beside it")
    max_runtime_seconds: Annotated[int, Field(ge=60, le=30 * 86400)] = Field(
        default=4 * 3600, description="seconds after which a run is stopped"
    )
    tick_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(
        default=15,
        description="seconds between two looks of the sensors of files and stale sessions; of alerts, twice as many",
    )
    again_seconds: Seconds = Field(
        default=3600, description="seconds until a request whose run failed is asked for again; each time twice as many"
    )


class RetentionSettings(FrozenModel):
    """Which old versions of the tables a vacuum leaves readable; those that registered models read always stay."""

    versions: Count = Field(default=10, description="newest versions of each table that stay")
    days: Annotated[float, Field(ge=0, le=36_525)] = Field(
        default=30, description="days; versions that were current within them stay"
    )
