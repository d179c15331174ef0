"""What is due at a time: every session after its close, training at month end, weekly upkeep."""

from collections.abc import Sequence
from datetime import date, timedelta

import dagster as dg
import numpy as np
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.defs.partitions import range_tags
from qdag.defs.requests import run_request
from qdag.defs.tags import REASON_TAG, UNIVERSE_TAG
from qdag.operations.survey import Request, survey
from qdag.schema import RAW_OHLCV
from qdag.settings import FilesSource, Settings


def build_schedules(
    platform: Platform,
    job: UnresolvedAssetJobDefinition,
    training: UnresolvedAssetJobDefinition,
    assets: Sequence[str],
    maintenance: dg.JobDefinition,
    running: bool,
) -> list[dg.ScheduleDefinition]:
    """Per universe the session of the day and month-end training, after the exchange's close; weekly upkeep."""
    status = dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED
    found = []
    for universe in platform.settings.universes:
        found += [
            _daily(platform, universe, job, assets, status),
            _month_end(platform, universe, training, status),
        ]
    weekly = dg.ScheduleDefinition(
        name="weekly_maintenance",
        job=maintenance,
        cron_schedule=platform.settings.automation.maintenance_cron,
        default_status=status,
        description="Compact and vacuum every table, and back up where the settings name a place.",
    )
    return [*found, weekly]


def _daily(
    platform: Platform,
    universe: str,
    job: UnresolvedAssetJobDefinition,
    assets: Sequence[str],
    status: dg.DefaultScheduleStatus,
) -> dg.ScheduleDefinition:
    settings = platform.settings
    zone, cron = _after_close(platform, universe, settings.automation.after_close_minutes)

    @dg.schedule(
        name=f"{universe}_daily",
        job=job,
        cron_schedule=cron,
        execution_timezone=zone,
        default_status=status,
        description=f"Every session of {universe}, {settings.automation.after_close_minutes} minutes after the close "
        "(half days too), and sessions before it that have not been stored yet.",
    )
    def daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = _local_day(context)
        if skip := _no_session(settings, platform, universe, day):
            return dg.SkipReason(skip)
        if isinstance(settings.universe(universe).source, FilesSource) and _is_done(platform, universe, day):
            return dg.SkipReason(f"session {day} has been delivered, and everything is up to date")
        start = _first_open(platform, universe, day)
        sessions = platform.calendar(universe).between(start, day)
        request = Request(universe, tuple(assets), start, day, len(sessions), f"session {day} has closed", "scheduled")
        return run_request(request, job.name)

    return daily


def _month_end(
    platform: Platform, universe: str, job: UnresolvedAssetJobDefinition, status: dg.DefaultScheduleStatus
) -> dg.ScheduleDefinition:
    automation = platform.settings.automation
    zone, cron = _after_close(platform, universe, automation.after_close_minutes + automation.training_after_minutes)

    @dg.schedule(
        name=f"{universe}_training",
        job=job,
        cron_schedule=cron,
        execution_timezone=zone,
        default_status=status,
        description=f"Train the model of the month after the last session of every month of {universe}.",
    )
    def month_end(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = _local_day(context)
        if skip := _no_session(platform.settings, platform, universe, day):
            return dg.SkipReason(skip)
        if np.datetime64(day) not in platform.calendar(universe).month_ends():
            return dg.SkipReason(f"{day} is not the last session of its month")
        month = f"{day:%Y-%m}"
        return dg.RunRequest(
            run_key=f"{universe}:training:{month}",
            tags={**range_tags(universe, month, month), UNIVERSE_TAG: universe, REASON_TAG: f"month {month} has ended"},
        )

    return month_end


def _after_close(platform: Platform, universe: str, minutes: int) -> tuple[str, str]:
    """Time zone and cron of a time after the close. Past midnight it is still the day of the session: 23:59 at most."""
    zone, close = platform.calendar(universe).close
    at = min(close.hour * 60 + close.minute + minutes, 24 * 60 - 1)
    return zone, f"{at % 60} {at // 60} * * *"


def _local_day(context: dg.ScheduleEvaluationContext) -> date:
    return context.scheduled_execution_time.date()


def _no_session(settings: Settings, platform: Platform, universe: str, day: date) -> str | None:
    spec = settings.universe(universe)
    if spec.end is not None and day > spec.end:
        return f"universe {universe} ended on {spec.end}"
    if day < spec.start or not platform.calendar(universe).contains(day):
        return f"{day} is no session of {spec.calendar}"
    return None


def _is_done(platform: Platform, universe: str, day: date) -> bool:
    stored, stale = platform.stored(RAW_OHLCV.name, universe), survey(platform, universe).stale
    return np.datetime64(day) in stored and not any(stale[asset.name] for asset in chain(platform.settings).sessions)


def _first_open(platform: Platform, universe: str, day: date) -> date:
    """The first session that raw_ohlcv does not reach yet, at most ``day``."""
    stored = platform.stored(RAW_OHLCV.name, universe)
    if not len(stored):
        return platform.settings.universe(universe).start
    return min(stored[-1].item() + timedelta(days=1), day)
