"""What is looked for at every tick: landed files and stale sessions.

Which sessions changed and what is stale is told by ``qdag.operations``; here it becomes runs.
"""

import json

import dagster as dg
import numpy as np
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.core.windows import NO_SESSIONS
from qdag.defs.requests import ask, chunks, idle, lost
from qdag.operations.landing import Cursor, arrivals, cursor_file
from qdag.operations.survey import Survey, survey
from qdag.schema import RAW_OHLCV
from qdag.settings import FilesSource
from qdag.views.stale import NOTHING_YET


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
        for universe in idle(context.instance, watched, reasons):
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
        for universe in idle(context.instance, settings.universes, reasons):
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
                stored = len(platform.stored(RAW_OHLCV.name, universe))
                up_to_date = f"everything is up to date{_stale_models(platform, seen)}" if stored else NOTHING_YET
                reasons.append(f"{universe}: {waiting or up_to_date}")
        return dg.SensorResult(
            run_requests=requests, skip_reason=None if requests else dg.SkipReason("; ".join(reasons))
        )

    return [landing, stale_sessions] if watched else [stale_sessions]


def _stale_models(platform: Platform, seen: Survey) -> str:
    made_by_month = [asset.name for asset in chain(platform.settings).months]
    days = np.unique(np.concatenate([NO_SESSIONS, *(seen.stale[name].sessions for name in made_by_month)]))
    return f"; models of {', '.join(map(str, days))} were trained on what changed since" if len(days) else ""
