"""Asset checks: the quality rules judged by Great Expectations, shown in Dagster. Nothing else imports the validator.

Checks run in the step that wrote the table, over the run's whole window: a failed ``structure`` check fails the step,
so nothing downstream of it starts; the others warn. Importing Great Expectations takes about ten seconds, so it is
imported when the first frame is judged.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from qdag import stages
from qdag.defs.partitions import Window
from qdag.errors import QdagError
from qdag.lineage import block
from qdag.quality import (
    CHECKS,
    LARGEST,
    Rule,
    RuleResult,
    Scope,
    describe,
    frames,
    kept_profile,
    offenders,
    outcome,
    profile_table,
    quality_table,
    rules_for,
)
from qdag.quality_report import write_pages

SHOWN_SESSIONS = 50
PAGE = "quality_report"
BLOCKING = "structure"


# -- Great Expectations -----------------------------------------------------------------------------------------------


@cache
def _context() -> Any:
    """One ephemeral context per process, silent: no progress bars, no analytics."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    context: Any = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    return context


@cache
def _definition() -> Any:
    """Where frames are handed in; making one takes as long as judging a small frame, so there is one."""
    source = _context().data_sources.add_pandas("frames")
    return source.add_dataframe_asset("frame").add_batch_definition_whole_dataframe("frame")


def _expectations(rule: Rule) -> list[Any]:
    """The rule in Great Expectations' terms, one expectation per column where the rule speaks of each."""
    import great_expectations.expectations as gxe

    p = rule.parameters
    if rule.kind == "unique":
        return [gxe.ExpectCompoundColumnsToBeUnique(column_list=list(rule.columns))]
    if rule.kind == "empty":
        return [gxe.ExpectTableRowCountToEqual(value=0)]
    if rule.kind == "ordered":
        first, second = rule.columns
        return [
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A=first,
                column_B=second,
                or_equal=not p.get("strict", False),
                ignore_row_if="either_value_is_missing",
            )
        ]
    if rule.kind == "not_null":
        return [gxe.ExpectColumnValuesToNotBeNull(column=c) for c in rule.columns]
    if rule.kind == "equals":
        return [gxe.ExpectColumnValuesToBeInSet(column=c, value_set=[p["value"]]) for c in rule.columns]
    bounds = {
        "min_value": p.get("minimum", -LARGEST),
        "max_value": p.get("maximum", LARGEST),
        "strict_min": p.get("strict", False),
        "strict_max": p.get("strict", False),
    }
    return [gxe.ExpectColumnValuesToBeBetween(column=c, **bounds) for c in rule.columns]


def evaluate(rules: Sequence[Rule], frame: pd.DataFrame) -> list[RuleResult]:
    """Judge rules on the frame that they speak of, in one validation.

    Parameters
    ----------
    rules : rules of one frame
    frame : shape (lines, columns); NaN is null. An empty frame passes everything.

    Returns
    -------
    One result per rule, in their order. A rule whose column the frame lacks fails.

    Raises
    ------
    QdagError
        Great Expectations could not judge a rule: that is an error, not a failed check.
    """
    results: dict[Rule, RuleResult] = {}
    judged: dict[int, Rule] = {}
    expectations = []
    for rule in rules:
        if absent := [c for c in rule.columns if c not in frame]:
            results[rule] = RuleResult(rule, len(frame), max(1, len(frame)), f"no column {', '.join(absent)}")
        elif frame.empty:
            results[rule] = RuleResult(rule, 0, 0, "nothing to judge")
        else:
            for expectation in _expectations(rule):
                expectation.meta = {"rule": len(judged)}
                expectations.append(expectation)
            judged[len(judged)] = rule
    if judged:
        # float32 would take the largest float64 for infinity and let infinity pass
        narrow = frame.select_dtypes(np.float32).columns
        frame = frame.astype(dict.fromkeys(narrow, np.float64))
        counts = _validate(expectations, frame, judged)
        for at, rule in judged.items():
            bad, dates = offenders(rule, frame) if counts[at] else ((), {})
            results[rule] = RuleResult(rule, len(frame), counts[at], describe(rule, frame, counts[at]), bad, dates)
    return [results[rule] for rule in rules]


def _validate(expectations: list[Any], frame: pd.DataFrame, judged: dict[int, Rule]) -> dict[int, int]:
    """Violations per rule position."""
    import great_expectations as gx

    batch = _definition().get_batch(batch_parameters={"dataframe": frame})
    suite = gx.ExpectationSuite(name="rules", expectations=expectations)
    # counts only: asking for the index of every unexpected row takes seconds on a frame that fails widely
    outcome = batch.validate(suite, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
    counts = dict.fromkeys(judged, 0)
    for result in outcome.results:
        at = result.expectation_config.meta["rule"]
        raised = result.exception_info.get("exception_message")
        details = result.result
        if raised or ("unexpected_count" not in details and "observed_value" not in details):
            rule = judged[at]
            raise QdagError(
                f"rule {rule.name!r} of {rule.table} cannot be judged on {list(frame)}: {raised or details}"
            )
        found = details["unexpected_count"] if "unexpected_count" in details else details["observed_value"]
        counts[at] += 0 if result.success else max(1, int(found))
    return counts


@dataclass(frozen=True)
class Judged:
    """How every rule of a table came out over a window, and what the table's columns looked like in it."""

    results: list[RuleResult]
    profile: pd.DataFrame


def judge(table: str, scope: Scope, columns: Sequence[str] = ()) -> Judged:
    """Judge every rule of a table over a window; ``columns`` are the declared ones.

    The results come in the order of :func:`qdag.quality.rules_for`. Rules of a frame that does not exist (a window
    without sessions) pass with nothing to judge.
    """
    rules = rules_for(table, columns, scope.limits)
    results = {rule: RuleResult(rule, 0, 0, "nothing to judge") for rule in rules}
    profile = pd.DataFrame()
    for name, frame in frames(table, scope, columns):
        if name == "profile":
            profile = frame
        for result in evaluate([r for r in rules if r.frame == name], frame):
            results[result.rule] = results[result.rule] + result
    return Judged(list(results.values()), profile)


# -- Dagster ----------------------------------------------------------------------------------------------------------


def checks_of(table: str) -> list[str]:
    """Names of the checks of an asset."""
    # the label rules are per column, and any column shows which checks there are
    present = {rule.check for rule in rules_for(table, ("label_1",))}
    return [check for check in CHECKS if check in present]


def check_specs(table: str) -> list[dg.AssetCheckSpec]:
    """Declare the checks of an asset: ``structure`` blocks, the others warn."""
    return [
        dg.AssetCheckSpec(check, asset=table, description=CHECKS[check], blocking=check == BLOCKING)
        for check in checks_of(table)
    ]


@dataclass(frozen=True)
class Checked:
    """The results of a step's checks, for its ``MaterializeResult``, and the quality pages of the windows."""

    results: list[dg.AssetCheckResult]
    pages: dict[Window, Path]


def run_checks(
    table: str, platform: stages.Platform, windows: Sequence[Window], context: dg.AssetExecutionContext
) -> Checked:
    """Judge what a step has written, universe by universe.

    Dagster has one result of a check for a run: it has failed where it failed for any universe, and says for which.
    """
    checks, pages = checks_of(table), dict[Window, Path]()
    if not checks:
        return Checked([], pages)
    began = time.perf_counter()
    spec = stages.table_spec(platform.settings, table)
    columns = [column.name for column in spec.columns] if spec else []
    results: dict[Window, list[RuleResult]] = {}
    said: dict[Window, dict[Rule, str]] = {}
    for window in windows:
        scope = Scope(platform.store, platform.settings, window.universe, window.start, window.end)
        judged = judge(table, scope, columns)
        said[window] = {result.rule: _told(result, scope) for result in judged.results if not result.passed}
        for told in said[window].values():
            context.log.warning(f"{table} of {window.universe}: {told}")
        if page := keep(table, platform, scope, judged):
            pages[window] = page
        _hold_back(table, platform, scope, judged)
        results[window] = judged.results
    seconds = time.perf_counter() - began
    found = []
    for check in checks:
        mine = {window: [r for r in rules if r.rule.check == check] for window, rules in results.items()}
        found.append(_check_result(table, check, mine, said, seconds, pages))
    return Checked(found, pages)


def _told(result: RuleResult, scope: Scope) -> str:
    """A broken rule for people: the worst line, how many more, where to look; and what to do where the chain stops."""
    told = result.told(scope.universe, scope.sessions()[-1].item())
    return f"{told} {result.rule.meaning}" if result.rule.severity == "error" else told


def _hold_back(table: str, platform: stages.Platform, scope: Scope, judged: Judged) -> None:
    """Record the sessions that broke a rule that blocks: until they are judged again, what reads them waits."""
    broken = [r for r in judged.results if r.rule.check == BLOCKING and not r.passed]
    days = None if any(not r.dates for r in broken) else {day for r in broken for day in r.dates}
    checks = BLOCKING if broken else ""
    block(platform.store, scope.universe, table, scope.start, scope.end, checks, platform.provenance, days)


def page_of(checked: Checked, window: Window) -> dict[str, Any]:
    """The link to the quality page of a window, for the metadata of the asset too."""
    return {PAGE: dg.MetadataValue.path(str(checked.pages[window]))} if window in checked.pages else {}


def keep(table: str, platform: stages.Platform, scope: Scope, judged: Judged) -> Path | None:
    """Store how the rules came out and what the columns looked like, and write the quality pages.

    Returns the page of the window's last session; None for a window without sessions.
    """
    sessions = scope.sessions()
    if not len(sessions):
        return None
    store, universe = platform.store, scope.universe
    days = sessions[0].item(), sessions[-1].item()
    kept = outcome(judged.results, universe, sessions)
    store.replace(quality_table(table), universe, *days, kept, platform.provenance)
    if len(judged.profile):
        seen = kept_profile(table, universe, judged.profile)
        store.replace(profile_table(table), universe, *days, seen, platform.provenance)
    return write_pages(platform.settings, store, universe, sessions)


def _check_result(
    table: str,
    check: str,
    results: Mapping[Window, Sequence[RuleResult]],
    said: Mapping[Window, Mapping[Rule, str]],
    seconds: float,
    pages: Mapping[Window, Path],
) -> dg.AssetCheckResult:
    failed = {window: [r for r in rules if not r.passed] for window, rules in results.items()}
    every = [(window.universe, r) for window, rules in results.items() for r in rules]
    metadata: dict[str, Any] = {
        "universe": ", ".join(window.universe for window in results),
        "window": ", ".join(dict.fromkeys(f"{window.start} .. {window.end}" for window in results)),
        "failed_rules": sum(map(len, failed.values())),
        "rules": _table(
            {
                "universe": universe,
                "rule": r.rule.name,
                "passed": "noted" if r.rule.notice else "yes" if r.passed else "NO",
                "required": r.rule.limit,
                "observed": r.observed,
                "rows judged": r.judged,
                "violations": r.violations,
                "if it fails": r.rule.meaning,
            }
            for universe, r in every
        ),
    }
    if worst := [
        {"universe": universe, "rule": r.rule.name, **asdict(o)}
        for universe, r in every
        if r.violations
        for o in r.offenders
    ]:
        metadata["offenders"] = _table(worst)
    dates: dict[tuple[date, str], list[RuleResult]] = {}
    for window, rules in failed.items():
        for result in rules:
            for day in result.by_date:
                dates.setdefault((day, window.universe), []).append(result)
    if dates:
        metadata["failing_sessions"] = len(dates)
        metadata["sessions"] = _table(
            {
                "session": str(day),
                "universe": universe,
                "violations": sum(r.by_date[day][0] for r in broken),
                "rules": ", ".join(r.rule.name for r in broken),
            }
            for (day, universe), broken in sorted(dates.items(), key=lambda item: item[0])[-SHOWN_SESSIONS:]
        )
    for window, page in pages.items():
        metadata[f"{PAGE}_{window.universe}" if len(pages) > 1 else PAGE] = dg.MetadataValue.path(str(page))
    metadata["seconds_of_all_checks"] = round(seconds, 3)
    return dg.AssetCheckResult(
        asset_key=table,
        check_name=check,
        passed=not any(failed.values()),
        severity=dg.AssetCheckSeverity.ERROR if check == BLOCKING else dg.AssetCheckSeverity.WARN,
        description="\n".join(
            f"{window}: " + ("\n".join(said[window][r.rule] for r in failed[window]) or f"{len(rules)} rules hold")
            for window, rules in results.items()
        ),
        metadata=metadata,
    )


def _table(records: Iterable[dict[str, Any]]) -> dg.TableMetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(record) for record in records])
