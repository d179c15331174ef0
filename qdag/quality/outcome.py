"""What is kept of a judgement: how the rules came out by session, what the columns looked like, and what is held back.

The tables are declared here; the quality page is drawn from them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from qdag.lineage import block
from qdag.quality.checks import Scope
from qdag.quality.profiles import QUANTILES
from qdag.quality.result import RuleResult
from qdag.quality.rule import BLOCKING
from qdag.schema import UNIVERSE, Column, TableSpec

_DAY = Column("date", "date32", "session that the line is about", nullable=False)


def quality_table(table: str) -> TableSpec:
    """How the rules of a table came out, by session; read by the quality report."""
    return TableSpec(
        f"quality_{table}",
        ("universe", "date", "rule"),
        (
            UNIVERSE,
            _DAY,
            Column("rule", "string", "name of the rule", nullable=False),
            Column("check", "string", "asset check that it belongs to"),
            Column("severity", "string", "error, warn or notice"),
            Column("violations", "int64", "lines of the session that break it; on the last session of the window also "
                   "those that are about no session"),
            Column("required", "string", "what is asked"),
            Column("observed", "string", "what was seen in the window"),
            Column("judged", "int64", "lines judged in the window"),
            Column("meaning", "string", "why it matters and what to do"),
            Column("offenders", "string", "JSON list of the worst lines: date, instrument, value, limit, sentence"),
            Column("judged_from", "date32", "first session of the window that was judged"),
        ),
        f"Outcome of the quality rules of {table}, one row per rule and session.",
        yearly=True,
        remade=f"the rules are judged again when {table} is materialized",
    )  # fmt: skip


def profile_table(table: str) -> TableSpec:
    """Distributions of a table's columns by session; drift is measured against them."""
    return TableSpec(
        f"profile_{table}",
        ("universe", "date", "column"),
        (
            UNIVERSE,
            _DAY,
            Column("column", "string", "column of the table", nullable=False),
            Column("rows", "int64", "rows of the session"),
            Column("nulls", "int64", "rows without a value"),
            Column("infinite", "int64", "infinite values"),
            *(Column(q, "float32", f"{int(q[1:])} % quantile of the finite values") for q in QUANTILES),
        ),
        f"What the columns of {table} looked like on each session: counts and quantiles across instruments.",
        yearly=True,
        remade=f"they are measured again when {table} is materialized",
    )


def outcome(results: Sequence[RuleResult], universe: str, sessions: np.ndarray) -> pa.Table:
    """Rows of :func:`quality_table` for the sessions of a window (at least one)."""
    lines: list[dict[str, Any]] = []
    days: list[date] = sessions.tolist()
    for result in results:
        rule = result.rule
        inside = {day: result.by_date[day] for day in days if day in result.by_date}
        undated = result.violations - sum(count for count, _ in inside.values())
        for day in days:
            count, worst = inside.get(day, (0, ()))
            if day == days[-1] and undated:
                others = tuple(o for o in result.offenders if o not in worst and o.date not in map(str, inside))
                count, worst = count + undated, worst + others
            lines.append(
                {
                    "universe": universe,
                    "date": day,
                    "rule": rule.name,
                    "check": rule.check,
                    "severity": rule.severity,
                    "violations": count,
                    "required": rule.limit,
                    "observed": result.observed,
                    "judged": result.judged,
                    "meaning": rule.meaning,
                    "offenders": json.dumps([asdict(o) for o in worst]) if worst else "[]",
                    "judged_from": days[0],
                }
            )
    return pa.Table.from_pylist(lines, schema=quality_table("any").arrow())


def kept_profile(table: str, universe: str, frame: pd.DataFrame) -> pa.Table:
    """Rows of :func:`profile_table`."""
    frame = frame.assign(universe=universe, date=frame["date"].dt.date)
    return pa.Table.from_pandas(frame, schema=profile_table(table).arrow(), preserve_index=False)


def keep(
    scope: Scope, table: str, results: Sequence[RuleResult], profile: pd.DataFrame, provenance: Mapping[str, str]
) -> None:
    """Store how the rules of a table came out on a window and what its columns looked like; nothing without sessions.

    Parameters
    ----------
    results : of every rule
    profile : the frame of this name; may be empty
    provenance : of the commits
    """
    sessions = scope.sessions()
    if not len(sessions):
        return
    days = sessions[0].item(), sessions[-1].item()
    kept = outcome(results, scope.universe, sessions)
    scope.store.replace(quality_table(table), scope.universe, *days, kept, provenance)
    if len(profile):
        seen = kept_profile(table, scope.universe, profile)
        scope.store.replace(profile_table(table), scope.universe, *days, seen, provenance)


def hold_back(scope: Scope, table: str, results: Sequence[RuleResult], provenance: Mapping[str, str]) -> None:
    """Record the sessions that broke a rule that blocks: until they are judged again, what reads them waits.

    A broken rule whose lines are about no session holds the whole window back.
    """
    broken = [r for r in results if r.rule.check == BLOCKING and not r.passed]
    days = None if any(not r.dates for r in broken) else {day for r in broken for day in r.dates}
    block(scope.store, scope.universe, table, scope.start, scope.end, BLOCKING if broken else "", provenance, days)
