"""What runs without a person: sensors on landed files and on stale sessions, schedules per universe, upkeep.

Which sessions changed and what is stale is told by ``qdag.operations``; here it becomes runs.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import numpy as np
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.events import RunFailureReason
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, RUN_FAILURE_REASON_TAG, WILL_RETRY_TAG

from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.core.windows import NO_SESSIONS, pieces
from qdag.defs.partitions import RANGE_END, RANGE_START, range_tags, run_windows
from qdag.defs.tags import REASON_LENGTH, REASON_TAG, REQUEST_TAG, UNIVERSE_TAG
from qdag.operations.landing import Cursor, arrivals, cursor_file
from qdag.operations.survey import Request, Survey, survey
from qdag.schema import RAW_OHLCV
from qdag.settings import FilesSource, Settings

MAINTENANCE_JOB = "maintenance"
ATTEMPTS_SEEN = 6
RETRIES_SEEN = 50
LOST_ATTEMPTS = 12
LOST_SECONDS = 7 * 86400.0
# a retry is launched within seconds; a daemon that never comes back holds nothing up
RETRY_SECONDS = 300
BUSY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def run_request(request: Request, job: str, attempt: str = "") -> dg.RunRequest:
    """A run for what is to be computed; asked for again in the same state it is the same run, unless as another
    ``attempt``."""
    key = f"{request.universe}:{request.start}:{request.end}:{'+'.join(request.assets)}:{request.state}"
    return dg.RunRequest(
        run_key=key + attempt,
        job_name=job,
        asset_selection=[dg.AssetKey(name) for name in request.assets],
        tags={
            **range_tags(request.universe, request.start.isoformat(), request.end.isoformat()),
            UNIVERSE_TAG: request.universe,
            REASON_TAG: request.reason[:REASON_LENGTH],
            REQUEST_TAG: key,
        },
    )


def busy(instance: dg.DagsterInstance, universe: str) -> str | None:
    """Id of a run of the universe, whoever asked for it, that waits or runs, or that failed and is about to be
    retried."""
    for run in instance.get_runs(dg.RunsFilter(statuses=BUSY)):
        if _is_of(run, universe):
            return run.run_id
    failed = dg.RunsFilter(tags={WILL_RETRY_TAG: "true"}, statuses=[dg.DagsterRunStatus.FAILURE])
    for record in instance.get_run_records(failed, limit=RETRIES_SEEN):
        run = record.dagster_run
        pending = AUTO_RETRY_RUN_ID_TAG not in run.tags
        if pending and _is_of(run, universe) and time.time() - (record.end_time or 0) < RETRY_SECONDS:
            return run.run_id
    return None


def _idle(instance: dg.DagsterInstance, universes: Iterable[str], reasons: list[str]) -> Iterator[str]:
    """The universes without a run; of the others the reason is told."""
    for universe in universes:
        if run := busy(instance, universe):
            reasons.append(f"{universe}: run {run[:8]} is not finished")
        else:
            yield universe


def _is_of(run: dg.DagsterRun, universe: str) -> bool:
    """Whether a run is about the universe, alone or with others."""
    if UNIVERSE_TAG in run.tags:
        return run.tags[UNIVERSE_TAG] == universe
    try:
        return bool(run_windows(run.tags, [universe]))
    except (dg.DagsterInvariantViolationError, ValueError):
        return False


def ask(
    instance: dg.DagsterInstance, request: Request, job: str, again_seconds: float
) -> tuple[dg.RunRequest | None, str]:
    """The run to ask for, or why not: what was asked for in the same state is asked for again only where it failed,
    after ``again_seconds``, and after each further failure twice as long."""
    wanted = run_request(request, job)
    earlier = instance.get_run_records(dg.RunsFilter(tags={REQUEST_TAG: wanted.tags[REQUEST_TAG]}), limit=ATTEMPTS_SEEN)
    if not earlier:
        return wanted, request.reason
    last = earlier[0]
    told = f"{request.reason}; asked for before, and run {last.dagster_run.run_id[:8]}"
    if last.dagster_run.status is not dg.DagsterRunStatus.FAILURE:
        word = "was canceled" if last.dagster_run.status is dg.DagsterRunStatus.CANCELED else "left it so"
        return None, f"{told} {word}: run it again in the UI, or `qdag refresh`"
    due = (last.end_time or 0.0) + again_seconds * 2 ** (len(earlier) - 1)
    if time.time() < due:
        return None, f"{told} failed: again at {datetime.fromtimestamp(due, UTC):%Y-%m-%d %H:%M} UTC"
    return run_request(request, job, f":after-{last.dagster_run.run_id[:8]}"), request.reason


def lost(instance: dg.DagsterInstance, universe: str, again_seconds: float) -> list[dg.RunRequest]:
    """Requests whose run died, past its retries, and that are due again: its tables may be written while its checks
    and its sessions in Dagster are not. A run that a failed step ended is another matter: that would fail again."""
    failed = dg.RunsFilter(tags={UNIVERSE_TAG: universe}, statuses=[dg.DagsterRunStatus.FAILURE])
    found, done = [], set()
    for record in instance.get_run_records(failed, limit=RETRIES_SEEN):
        run = record.dagster_run
        key = run.tags.get(REQUEST_TAG)
        if key is None or key in done or time.time() - (record.end_time or 0.0) > LOST_SECONDS:
            continue
        done.add(key)
        tries = instance.get_run_records(dg.RunsFilter(tags={REQUEST_TAG: key}), limit=LOST_ATTEMPTS + 1)
        if tries[0].dagster_run.run_id != run.run_id or len(tries) > LOST_ATTEMPTS:
            continue
        stopped = run.tags.get(RUN_FAILURE_REASON_TAG) == RunFailureReason.STEP_FAILURE.value
        if stopped or time.time() < (record.end_time or 0.0) + again_seconds * 2 ** (len(tries) - 1):
            continue
        kept = (RANGE_START, RANGE_END, UNIVERSE_TAG, REASON_TAG, REQUEST_TAG)
        found.append(
            dg.RunRequest(
                run_key=f"{key}:after-{run.run_id[:8]}",
                job_name=run.job_name,
                asset_selection=sorted(run.asset_selection or ()),
                tags={name: run.tags[name] for name in kept},
            )
        )
    # in the order of time, so that no part is computed before what it looks back on
    return sorted(found, key=lambda request: request.tags[RANGE_START])


def chunks(platform: Platform, request: Request) -> list[Request]:
    """A long request as runs of at most ``chunk_sessions`` sessions, in order: a run that dies loses one of them.

    What reads its source whole for any part is not cut.
    """
    whole = chain(platform.settings)
    if all(whole[name].read_whole for name in request.assets):
        return [request]
    sessions = platform.calendar(request.universe).between(request.start, request.end)
    cut = pieces(sessions, platform.settings.automation.chunk_sessions)
    return [replace(request, start=p[0].item(), end=p[-1].item(), sessions=len(p)) for p in cut]


def build_sensors(platform: Platform, job: UnresolvedAssetJobDefinition, running: bool) -> list[dg.SensorDefinition]:
    """The landing sensor, where a universe reads files, and the sensor of stale sessions."""
    settings = platform.settings
    automation = settings.automation
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
    watched = [name for name, spec in settings.universes.items() if isinstance(spec.source, FilesSource)]

    @dg.sensor(
        name="landing",
        job=job,
        minimum_interval_seconds=automation.tick_seconds,
        default_status=status,
        description="New and changed files of every universe that reads a folder: one run of raw_ohlcv over the "
        "sessions whose rows they change. A file that is still being written waits.",
    )
    def landing(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        seen: dict[str, str] = {}
        requests: list[dg.RunRequest] = []
        reasons: list[str] = []
        for universe in _idle(context.instance, watched, reasons):
            try:
                kept = cursor_file(platform, universe)
                found = arrivals(platform, universe, Cursor.read(kept))
                found.cursor.write(kept)
                seen[universe], reason = found.cursor.digest(), found.reason
                if found.request:
                    request, reason = ask(context.instance, found.request, job.name, automation.again_seconds)
                    requests += [request] if request else []
            except Exception as error:
                # whatever is wrong with one universe's files, the others' go on
                context.log.exception(f"the files of universe {universe} cannot be looked at")
                reason = f"its files cannot be looked at: {error}"
            reasons.append(f"{universe}: {reason}")
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else dg.SkipReason("; ".join(reasons) or "no universe reads files"),
            cursor=json.dumps(seen),
        )

    @dg.sensor(
        name="stale_sessions",
        job=job,
        minimum_interval_seconds=automation.tick_seconds,
        default_status=status,
        description="Runs for exactly the sessions that would be computed differently now: never computed, of another "
        "definition, or with corrected inputs, by whatever way the correction came. Models are marked, not retrained.",
    )
    def stale_sessions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        requests: list[dg.RunRequest] = []
        reasons: list[str] = []
        for universe in _idle(context.instance, settings.universes, reasons):
            if died := lost(context.instance, universe, automation.again_seconds):
                requests += died
                continue
            try:
                seen = survey(platform, universe)
            except Exception as error:
                # whatever is wrong with one universe, the others go on
                context.log.exception(f"what is stale in universe {universe} cannot be told")
                reasons.append(f"{universe}: what is stale cannot be told: {error}")
                continue
            wanted = [part for request in seen.requests for part in chunks(platform, request)]
            for part in wanted:
                request, reason = ask(context.instance, part, job.name, automation.again_seconds)
                requests += [request] if request else []
                reasons += [] if request else [f"{universe}: {part.start} .. {part.end}: {reason}"]
            if not wanted:
                waiting = "; ".join(map(str, seen.blocked))
                up_to_date = f"everything is up to date{_stale_models(platform, seen)}"
                reasons.append(f"{universe}: {waiting or up_to_date}")
        return dg.SensorResult(
            run_requests=requests, skip_reason=None if requests else dg.SkipReason("; ".join(reasons))
        )

    return [landing, stale_sessions] if watched else [stale_sessions]


def _stale_models(platform: Platform, seen: Survey) -> str:
    made_by_month = [asset.name for asset in chain(platform.settings).months]
    days = np.unique(np.concatenate([NO_SESSIONS, *(seen.stale[name].sessions for name in made_by_month)]))
    return f"; models of {', '.join(map(str, days))} were trained on what changed since" if len(days) else ""


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


def maintenance_job(platform: Platform) -> dg.JobDefinition:
    """Compact, vacuum, back up: one op each, so that the UI tells which failed."""

    @dg.op(description="Merge small files of every table.")
    def compact_tables(context: dg.OpExecutionContext) -> None:
        from qdag.operations.upkeep import compact

        for table, (before, after) in compact(platform).items():
            context.log.info(f"{table}: {before} files, now {after}")

    @dg.op(ins={"after": dg.In(dg.Nothing)}, description="Delete what no version needs that is kept.")
    def vacuum_tables(context: dg.OpExecutionContext) -> None:
        from qdag.operations.upkeep import vacuum

        for expired in vacuum(platform):
            files, size = len(expired.files), expired.size / 2**20
            context.log.info(f"{expired.table}: {files} files deleted, {size:,.1f} MiB")

    @dg.op(ins={"after": dg.In(dg.Nothing)}, description="Copy what is new to the backup of the settings.")
    def back_up_tables(context: dg.OpExecutionContext) -> None:
        from qdag.models.saved import not_saved
        from qdag.operations.upkeep import back_up

        target = platform.settings.automation.backup
        if target is None:
            context.log.info("no backup: automation.backup is not set")
            return

        def told(table: str, done: int, total: int) -> None:
            if done == total:
                context.log.info(f"{table}: {total} files are in the backup")

        made = back_up(platform, target, told)
        context.log.info(f"backup {made.id}: {made.copied} of {made.files} files copied, {made.copied_size:,} bytes")
        if missing := not_saved(platform.settings):
            context.log.info(missing)

    @dg.job(name=MAINTENANCE_JOB, description="Upkeep of the tables.", executor_def=dg.in_process_executor)
    def maintenance() -> None:
        back_up_tables(after=vacuum_tables(after=compact_tables()))

    return maintenance
