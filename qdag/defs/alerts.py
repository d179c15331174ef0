"""Sensors that raise and deliver alerts. What an alert is and how it is sent belongs to ``qdag.alerts``.

Raising and delivering are apart: a target that does not answer holds up no condition, a condition that cannot be judged
is an alert itself, and what was raised waits in the outbox whatever becomes of the tick.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from qdag import alerts
from qdag.assets.platform import Platform
from qdag.defs.failures import root_cause
from qdag.defs.partitions import run_windows
from qdag.errors import QdagError
from qdag.schema import FACTOR_METRICS, QLIB_BIN, RAW_OHLCV

PAGE = 1000
READING_SECONDS = 20
FAILED_CHECKS = 25
# an event is dated when it is made and stored a little later; the outbox knows what it has had
CHECKS_AGAIN_SECONDS = 3600
JUDGED_FOR_FAILURES = (RAW_OHLCV.name, QLIB_BIN)


@dataclass
class _Seen:
    """The conditions' cursor: events before ``since`` raise nothing, but are the history of durations."""

    since: float = field(default_factory=lambda: datetime.now(UTC).timestamp())
    checked: float = 0.0
    materializations: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, cursor: str | None) -> "_Seen":
        return cls(**json.loads(cursor)) if cursor else cls()


def build_alert_sensors(
    platform: Platform, assets: Sequence[dg.AssetsDefinition], running: bool = False
) -> list[dg.SensorDefinition]:
    """The sensors: failed runs, conditions, delivery. ``running``: on by default, else they are started in the UI."""
    outbox = alerts.Outbox(platform.settings)
    tick = platform.settings.automation.tick_seconds
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
    keys = [key for asset in assets for key in asset.keys]
    checks = [spec.key for asset in assets for spec in asset.check_specs]

    # runs of the command have no code location: all runs of the instance are watched
    @dg.run_failure_sensor(
        name="run_failure_alerts",
        description="Raises an alert for every failed run, with the root cause of each failed step.",
        monitor_all_code_locations=True,
        minimum_interval_seconds=2 * tick,
        default_status=status,
    )
    def run_failure_alerts(context: dg.RunFailureSensorContext) -> None:
        outbox.put([failed_run(platform, context)])

    @dg.sensor(
        name="alert_conditions",
        description="Judges failed checks, late data, durations, failed instruments and IC; raises what is new.",
        minimum_interval_seconds=4 * tick,
        default_status=status,
    )
    def alert_conditions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        seen = _Seen.read(context.cursor)
        found = list(_judge(platform, outbox, context, seen, keys, checks))
        new = outbox.put(found)
        broken = [alert for alert in found if alert.kind == "alerting_error"]
        words = [f"{len(found)} found, {new} new"] + [f"{alert.what}: {alert.detail}" for alert in broken]
        return dg.SensorResult(skip_reason="; ".join(words), cursor=json.dumps(asdict(seen)))

    @dg.sensor(
        name="alert_delivery",
        description="Sends the alerts that wait. The tick fails when a target fails; the alert is sent again later.",
        minimum_interval_seconds=2 * tick,
        default_status=status,
    )
    def alert_delivery(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        done = outbox.deliver()
        if done.failed or done.given_up:
            raise QdagError(str(done))
        none = "" if alerts.targets_of(platform.settings) else "; no target is set, see `qdag alerts test`"
        return dg.SkipReason(f"{done}{none}")

    return [run_failure_alerts, alert_conditions, alert_delivery]


def failed_run(platform: Platform, context: dg.RunFailureSensorContext) -> alerts.Alert:
    """The alert of a failed run, from its steps' failures; without any, from the failure of the run itself."""
    run = context.dagster_run
    errors = {
        event.step_key or "run": root_cause(event.step_failure_data.error)
        for event in context.get_step_failure_events()
    }
    if not errors:
        errors["run"] = context.failure_event.message or "failed"
    universe, sessions = _window(platform, run.tags)
    return alerts.run_failed(platform.settings, run.run_id, run.job_name, universe, sessions, errors)


def _window(platform: Platform, tags: Mapping[str, str]) -> tuple[str, str]:
    """Universes and days of a run, empty for a run that is not of the chain."""
    try:
        windows = run_windows(tags, platform.settings.universes)
    except (dg.DagsterInvariantViolationError, ValueError):
        windows = []
    if not windows:
        return "", ""
    return ", ".join(window.universe for window in windows), f"{windows[0].start} .. {windows[0].end}"


def _judge(
    platform: Platform,
    outbox: alerts.Outbox,
    context: dg.SensorEvaluationContext,
    seen: _Seen,
    keys: Iterable[dg.AssetKey],
    checks: Iterable[dg.AssetCheckKey],
) -> Iterator[alerts.Alert]:
    """Alerts of every condition; one that cannot be judged yields the alert that says so, and the others go on."""
    settings, store = platform.settings, platform.store

    def guarded(
        name: str, of: str, condition: Callable[..., Iterable[alerts.Alert | None]], *arguments: Any
    ) -> Iterator[alerts.Alert]:
        try:
            for alert in condition(*arguments):
                if alert:
                    yield alert
        except Exception as error:
            context.log.exception(f"alert condition {name} {of}")
            yield alerts.condition_broken(settings, name, of, error)

    now = datetime.now(UTC)
    stop = time.monotonic() + READING_SECONDS
    after = max(seen.since, seen.checked - CHECKS_AGAIN_SECONDS)
    yield from guarded("blocked_check", "", _checks, platform, context.instance, checks, after)
    seen.checked = now.timestamp()
    for key in keys:
        yield from guarded("slow_run", key.to_user_string(), _runs, platform, outbox, context.instance, key, seen, stop)
    for universe in settings.universes:
        yield from guarded("late_data", universe, lambda u: [alerts.late_data(platform, u, now)], universe)
        version = store.version(FACTOR_METRICS.name)
        if version is not None and seen.metrics.get(universe) != version:
            yield from guarded("ic_drop", universe, alerts.ic_drops, platform, universe)
            seen.metrics[universe] = version


def _checks(
    platform: Platform, instance: dg.DagsterInstance, checks: Iterable[dg.AssetCheckKey], after: float
) -> Iterator[alerts.Alert]:
    """Failed checks of severity ERROR. By time, not by id: Dagster numbers a check when its run is planned."""
    for key in checks:
        failures = instance.event_log_storage.get_asset_check_execution_history(
            key, limit=FAILED_CHECKS, status={AssetCheckExecutionRecordStatus.FAILED}
        )
        for record in failures:
            evaluation = record.event.get_dagster_event().asset_check_evaluation_data if record.event else None
            if not record.event or not evaluation or record.event.timestamp <= after:
                continue
            if evaluation.severity == dg.AssetCheckSeverity.ERROR:
                run = instance.get_run_by_id(record.run_id)
                yield alerts.check_failed(
                    platform.settings,
                    record.run_id,
                    key.asset_key.to_user_string(),
                    key.name,
                    *_window(platform, run.tags if run else {}),
                    evaluation.description or "failed",
                )


def _runs(
    platform: Platform,
    outbox: alerts.Outbox,
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    seen: _Seen,
    stop: float,
) -> Iterator[alerts.Alert | None]:
    """Durations and failed instruments of an asset's materializations since the cursor, one per run and universe."""
    asset = key.to_user_string()
    more = True
    while more and time.monotonic() < stop:
        page = instance.fetch_materializations(
            dg.AssetRecordsFilter(key, after_storage_id=seen.materializations.get(asset, 0)), PAGE, ascending=True
        )
        more = page.has_more
        for record in page.records:
            # first, so that an event that breaks its condition is reported once and not in every tick
            seen.materializations[asset] = record.storage_id
            event = record.asset_materialization
            metadata: dict[str, Any] = {k: v.value for k, v in event.metadata.items()} if event else {}
            # of a range of sessions, the last one's event says how long all of them took
            if {"universe", "window", "seconds"} - metadata.keys():
                continue
            universe, window = str(metadata["universe"]), str(metadata["window"])
            earlier = outbox.note_duration(
                asset,
                universe,
                f"{record.run_id}|{universe}",
                int(metadata.get("sessions", 0)),
                float(metadata["seconds"]),
            )
            if earlier is None or record.timestamp <= seen.since:
                continue
            yield alerts.slow_run(
                platform.settings, asset, universe, window, record.run_id, float(metadata["seconds"]), earlier
            )
            if asset in JUDGED_FOR_FAILURES:
                start, end = map(date.fromisoformat, window.split(" .. "))
                stored = int(metadata.get("instruments", 0))
                yield alerts.failed_instruments(platform, asset, universe, start, end, stored, record.run_id)
