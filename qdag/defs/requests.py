"""Requests as runs: under which key, whether one waits already, what is asked for again, and in what pieces."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg
from dagster._core.events import RunFailureReason
from dagster._core.storage.tags import AUTO_RETRY_RUN_ID_TAG, RUN_FAILURE_REASON_TAG, WILL_RETRY_TAG

from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.core.windows import pieces
from qdag.defs.partitions import RANGE_END, RANGE_START, range_tags, run_windows
from qdag.defs.tags import REASON_LENGTH, REASON_TAG, REQUEST_TAG, UNIVERSE_TAG
from qdag.operations.survey import Request

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


def idle(instance: dg.DagsterInstance, universes: Iterable[str], reasons: list[str]) -> Iterator[str]:
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
