"""Runs of the chain in this process, recorded by Dagster like any other: what `qdag materialize` does."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg
import numpy as np
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

from qdag.assets.chain import chain
from qdag.assets.platform import Platform, Report
from qdag.core.windows import ends
from qdag.defs.build import REFRESH_JOB, SESSION_JOB, TRAINING_JOB, build_defs
from qdag.defs.failures import root_cause
from qdag.defs.partitions import range_tags
from qdag.defs.tags import (
    ACCEPT_TAG,
    COMMAND,
    HOST_TAG,
    INSTRUMENTS_TAG,
    ORIGIN_TAG,
    REASON_LENGTH,
    REASON_TAG,
    REPOSITORY,
    UNIVERSE_TAG,
)
from qdag.errors import SessionError
from qdag.settings import Settings

# events go to Dagster's storage; the caller shows progress and the outcome
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Checked:
    """How one check came out; ``description`` says what was seen where it failed."""

    asset: str
    check: str
    passed: bool
    severity: str
    description: str


@dataclass
class Launched:
    """Outcome of the runs: per asset its metadata, the checks, the first error of a failed run, and what to know.

    ``seconds`` is what the runs took in all: computing, checks, and Dagster's records.
    """

    success: bool = True
    runs: list[str] = field(default_factory=list)
    assets: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: list[Checked] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


def launch(
    settings: Settings,
    universe: str,
    start: date | None = None,
    end: date | None = None,
    assets: list[str] | None = None,
    months: int = 3,
    report: Report | None = None,
    instruments: Sequence[str] | None = None,
    accepted: Sequence[str] = (),
    reason: str = "",
) -> Launched:
    """Materialize assets of one universe over the sessions of [start, end]: what is made from bars, then models,
    then what is made from models.

    Of the whole chain, models that there is too little history for, and what no model can be used for, are left out
    with a note; named ones fail.

    Parameters
    ----------
    start, end : first and last day; the universe's own range by default
    assets : names to materialize; all by default
    months : train at the ends of the last so many whole months of the range
    instruments : the only ones that the source is asked for; see ``qdag.assets.raw_ohlcv``
    accepted : those that it may take stored rows of
    reason : why, for the runs' pages

    Raises
    ------
    SessionError
        The range has no session, or models are asked for by name and no month of it has had its last session.
    UnknownNameError
        No such universe or asset.
    """
    spec = settings.universe(universe)
    platform = Platform.open(settings, report) if report else Platform.open(settings)
    calendar = platform.calendar(universe)
    last = platform.last_session(universe)
    # a side that is left out is the universe's own, or the other side where that lies outside the universe
    first = start or min(spec.start, end or spec.start)
    final = end or max(last, first)
    sessions = platform.window(universe, first, final)
    if len(sessions) == 0:
        raise SessionError(
            f"universe {universe!r} has no session from {first} to {final}; it runs from {spec.start} to {last}"
        )
    whole = chain(settings)
    wanted = {whole[name].name for name in assets or whole.names}
    models = wanted & {asset.name for asset in whole.months}
    scores = wanted & {asset.name for asset in whole.after_months}
    month_ends = calendar.month_ends()
    trained = np.intersect1d(month_ends, sessions).tolist()[-months:] if months else []
    outcome = Launched()
    if models and months and not trained:
        untrained = _untrained(sessions, month_ends[month_ends <= np.datetime64(last)])
        if assets:
            raise SessionError(untrained)
        outcome.notes.append(untrained)
    began = time.perf_counter()
    definitions = build_defs(settings, platform)
    named = {INSTRUMENTS_TAG: ",".join(instruments or ()), ACCEPT_TAG: ",".join(accepted)}
    asked = {tag: text for tag, text in (named | {REASON_TAG: reason[:REASON_LENGTH]}).items() if text}
    instance = dg.DagsterInstance.get()

    def run(job: str, names: set[str], begin: str, finish: str) -> None:
        if names and outcome.success:
            tags = range_tags(universe, begin, finish) | {UNIVERSE_TAG: universe} | asked
            _run(definitions.resolve_job_def(job), instance, names, tags, outcome)

    def lacking(names: set[str], day: date) -> str:
        """Why assets that nobody asked for by name are left out as of a day."""
        if assets or not outcome.success:
            return ""
        return next(filter(None, (whole[name].lacking(platform, universe, day) for name in sorted(names))), "")

    run(SESSION_JOB, wanted - models - scores, *map(str, ends(sessions)))
    skipped = {day: told for day in trained if (told := lacking(models, day))}
    if skipped:
        outcome.notes.append(f"no model is trained at {', '.join(map(str, skipped))}: {[*skipped.values()][-1]}")
    trained = [day for day in trained if day not in skipped]
    for day in trained:
        run(TRAINING_JOB, models, f"{day:%Y-%m}", f"{day:%Y-%m}")
    scored = sessions[sessions > np.datetime64(trained[0])] if trained and models else sessions
    if len(scored) and (told := lacking(scores, scored[-1].item())):
        outcome.notes.append(f"nothing is scored: {told}")
    elif len(scored):
        run(REFRESH_JOB, scores, *map(str, ends(scored)))
    outcome.seconds = time.perf_counter() - began
    return outcome


def _untrained(sessions: np.ndarray, month_ends: np.ndarray) -> str:
    """Why no model is trained on a range without a month end, and which range would have one."""
    first, final = sessions[0].item(), sessions[-1].item()
    before, after = month_ends[month_ends < sessions[0]], month_ends[month_ends > sessions[-1]]
    ask = [f"--end {after[0]}"] if len(after) else []
    ask += [f"--start {before[-1]}"] if len(before) else []
    return (
        f"no model is trained: models are trained on the last session of a month, and {first} .. {final} has none; "
        + (f"ask with {' or '.join(ask)}" if ask else "no month of the universe has had its last session yet")
    )


def _run(
    job: dg.JobDefinition, instance: dg.DagsterInstance, names: set[str], tags: dict[str, str], outcome: Launched
) -> None:
    result = job.execute_in_process(
        instance=instance,
        tags={
            **tags,
            ORIGIN_TAG: COMMAND,
            HOST_TAG: socket.gethostname(),
            # no code server gives the run an origin; with its label, the job's pages list it like any other
            REPOSITORY_LABEL_TAG: REPOSITORY,
        },
        run_config=QUIET,
        raise_on_error=False,
        asset_selection=[dg.AssetKey(name) for name in sorted(names)],
    )
    outcome.runs.append(result.run_id)
    outcome.success &= result.success
    for event in result.all_events:
        if event.is_step_materialization and event.asset_key:
            metadata = event.step_materialization_data.materialization.metadata
            outcome.assets[event.asset_key.to_user_string()] = {key: value.value for key, value in metadata.items()}
        elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            outcome.checks.append(
                Checked(
                    evaluation.asset_key.to_user_string(),
                    evaluation.check_name,
                    evaluation.passed,
                    evaluation.severity.value,
                    evaluation.description or "",
                )
            )
        elif event.is_step_failure:
            outcome.errors.append(f"{event.step_key}: {root_cause(event.step_failure_data.error)}")
