"""Asset checks: how the quality rules came out, in Dagster's terms. What judges is :mod:`qdag.quality`.

Checks run in the step that wrote the table, over the run's whole window: a failed ``structure`` check fails the step,
so nothing downstream of it starts; the others warn.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg

from qdag.assets.asset import Asset
from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.defs.partitions import Window
from qdag.quality import CHECKS, Rule, RuleResult, Scope, judge
from qdag.quality.outcome import hold_back, keep
from qdag.quality.page import write_pages
from qdag.quality.rule import BLOCKING
from qdag.settings import QualitySettings, Settings

SHOWN_SESSIONS = 50
"""So many of the newest failing sessions are listed in a check's metadata."""
PAGE = "quality_report"
"""Name of the metadata that links to the quality page."""


def checks_of(settings: Settings, asset: Asset) -> list[str]:
    """Names of the checks of an asset."""
    present = {rule.check for rule in asset.rules(settings, QualitySettings())}
    return [check for check in CHECKS if check in present]


def check_specs(settings: Settings, asset: Asset) -> list[dg.AssetCheckSpec]:
    """Declare the checks of an asset: ``structure`` blocks, the others warn."""
    return [
        dg.AssetCheckSpec(check, asset=asset.name, description=CHECKS[check], blocking=check == BLOCKING)
        for check in checks_of(settings, asset)
    ]


@dataclass(frozen=True)
class Checked:
    """The results of a step's checks, for its ``MaterializeResult``, and the quality pages of the windows."""

    results: list[dg.AssetCheckResult]
    pages: dict[Window, Path]


def run_checks(
    asset: Asset, platform: Platform, windows: Sequence[Window], context: dg.AssetExecutionContext
) -> Checked:
    """Judge what a step has written, universe by universe.

    Dagster has one result of a check for a run: it has failed where it failed for any universe, and says for which.
    """
    settings, table = platform.settings, asset.name
    checks, pages = checks_of(settings, asset), dict[Window, Path]()
    if not checks:
        return Checked([], pages)
    began = time.perf_counter()
    shown = chain(settings).judged()
    results: dict[Window, list[RuleResult]] = {}
    said: dict[Window, dict[Rule, str]] = {}
    for window in windows:
        scope = Scope(platform.store, platform.settings, window.universe, window.start, window.end)
        judged = judge(asset.rules(settings, scope.limits), asset.frames(scope))
        said[window] = {result.rule: _told(result, scope) for result in judged.results if not result.passed}
        for told in said[window].values():
            context.log.warning(f"{table} of {window.universe}: {told}")
        keep(scope, table, judged.results, judged.profile, platform.provenance)
        if len(sessions := scope.sessions()):
            pages[window] = write_pages(scope.settings, scope.store, scope.universe, sessions, shown)
        hold_back(scope, table, judged.results, platform.provenance)
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


def page_of(checked: Checked, window: Window) -> dict[str, Any]:
    """The link to the quality page of a window, for the metadata of the asset too."""
    return {PAGE: dg.MetadataValue.path(str(checked.pages[window]))} if window in checked.pages else {}


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
