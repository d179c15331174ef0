"""The quality page as HTML: numbers become texts and coordinates here, markup is in ``page.html.j2`` alone.

Every text is escaped by the template engine. The page has no scripts and loads nothing from elsewhere.
"""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qdag.quality.page.gather import ERROR, GOOD, NONE, TIMELINE, WARN, Drift, Page
from qdag.quality.profiles import DRIFT_LEAST
from qdag.schema import RAW_OHLCV

if TYPE_CHECKING:
    from jinja2 import Template

SHOWN_COLUMNS = 8
"""So many of a table's least complete columns are shown."""
WORDS = {GOOD: "passed", WARN: "warned", ERROR: "failed", NONE: "not judged"}
"""What the states of a table and session mean."""
OFFENCE = ("date", "instrument", "value", "limit", "sentence")
"""Columns of the worst lines of a rule."""


def render(page: Page) -> str:
    """The page as HTML."""
    broken = page.rules["violations"] > 0
    notice = page.rules["severity"] == "notice"
    table_rank = {table: at for at, table in enumerate((*page.judged, *page.missing))}
    failed = page.rules[broken & ~notice]
    order = failed.assign(first=failed["severity"] != "error", at=failed["table"].map(table_rank))
    return _template().render(
        page=page,
        words=WORDS,
        headline=_headline(page),
        chips=[(table, str(page.timeline[page.day][table])) for table in (*page.judged, *page.missing)],
        bars=page.bars.get(pd.Timestamp(page.day)),
        holding=int((~broken & ~notice).sum()),
        asked=int((~notice).sum()),
        timeline=_timeline(page),
        failures=[_rule(r) for r in _records(order.sort_values(["first", "at"], kind="stable"))],
        notices=[_rule(r) for r in _records(page.rules[broken & notice])],
        rules=[(_state(r), r) for r in _records(page.rules)],
        completeness=_completeness(page),
        drifts=[(WARN if d.drifted else GOOD, d, _band(d)) for d in page.drifts],
        drift_least=DRIFT_LEAST,
        timeline_sessions=TIMELINE,
        quarantine=_listing(page, page.quarantine, "reason", "source", "first"),
        findings=_listing(page, page.findings, "kind", "detail", "last"),
    )


@cache
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["commas"] = lambda n: f"{int(n):,}"
    environment.filters["counted"] = _counted
    return environment.get_template("page.html.j2")


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


def _headline(page: Page) -> str:
    failed = page.rules[page.rules["violations"] > 0]
    errors, warnings = ((failed["severity"] == s).sum() for s in ("error", "warn"))
    return {
        GOOD: "Every rule holds",
        WARN: f"{_counted(warnings, 'rule')} to look at; nothing stops the chain",
        ERROR: f"{_counted(errors, 'structural rule')} broken: what follows is stopped",
    }[page.verdict]


def _timeline(page: Page) -> dict[str, Any]:
    """Positions and titles of the timeline's bars and cells."""
    days, step, gap, left, top = list(page.timeline.columns), 14, 20, 150, 46
    rows = page.bars.reindex(pd.to_datetime(days))
    most = rows.max()
    bars = []
    for i, (day, count) in enumerate(zip(days, rows.tolist(), strict=True)):
        if most > 0 and count == count:
            size = max(1.0, 34 * count / most)
            title = f"{day}: {int(count):,} bars"
            bars.append({"x": left + i * step + 2, "y": f"{38 - size:.1f}", "height": f"{size:.1f}", "title": title})
    lines = []
    for j, (table, states) in enumerate(zip(page.timeline.index, page.timeline.to_dict("records"), strict=True)):
        cells = [
            {
                "x": left + i * step + 1,
                "state": state,
                "title": f"{table}, {when}: {WORDS[state]}",
                "own": when == page.day,
            }
            for i, (when, state) in enumerate(states.items())
        ]
        lines.append({"table": table, "y": top + j * gap, "cells": cells})
    return {
        "days": days,
        "width": left + len(days) * step + 8,
        "height": top + len(page.timeline) * gap + 4,
        "text": left - 10,
        "bar_width": step - 4,
        "cell_width": step - 2,
        "cell_height": gap - 5,
        "bars": bars,
        "lines": lines,
    }


def _records(frame: pd.DataFrame) -> list[Any]:
    return list(frame.itertuples(index=False))


def _state(rule: Any) -> str:
    """How a rule came out, as a state of the page."""
    return GOOD if not rule.violations else {"error": ERROR, "warn": WARN}.get(rule.severity, NONE)


def _rule(rule: Any) -> dict[str, Any]:
    """A broken rule with the worst lines; columns in which no line says anything are left out."""
    lines = json.loads(rule.offenders)
    heading = [h for h in OFFENCE if any(line[h] for line in lines)]
    return {
        "rule": rule,
        "state": {"error": ERROR, "warn": WARN}.get(rule.severity, "notice"),
        "heading": heading,
        "lines": [[line[h] for h in heading] for line in lines],
        "more": rule.violations - len(lines) if lines else 0,
    }


def _completeness(page: Page) -> list[dict[str, Any]]:
    """Per table the share of values over all columns, and the least complete ones; of raw_ohlcv every column."""
    groups = []
    for table, part in page.completeness.groupby("table", sort=False):
        bars = []
        shown = part
        if table != RAW_OHLCV.name:
            whole = 1 - (part["rows"] * (1 - part["filled"])).sum() / max(part["rows"].sum(), 1)
            bars.append(_bar(f"all {len(part)} columns", whole))
            worst = part.sort_values("filled", kind="stable")
            shown = worst[worst["filled"] < 1].head(SHOWN_COLUMNS)
        filled = zip(shown["column"], shown["filled"].tolist(), strict=True)
        bars += [_bar(column, share) for column, share in filled if share == share]
        groups.append({"table": table, "bars": bars})
    return groups


def _bar(name: str, share: float) -> dict[str, str]:
    return {
        "name": name,
        "state": GOOD if share >= 0.95 else WARN if share > 0 else NONE,
        "width": f"{share * 100:.2f}",
        "shown": "none" if share == 0 else f"{share:.2%}" if share < 0.99995 else "100 %",
    }


def _band(found: Drift, width: int = 200, height: int = 52) -> dict[str, Any] | None:
    """Quartile band and median as points of a small drawing; None where there is nothing finite."""
    values = np.concatenate([found.lower, found.upper])
    if not np.isfinite(values).any():
        return None
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span = (high - low) or 1.0
    n = len(found.median)

    def points(series: np.ndarray, order: Iterable[int]) -> str:
        return " ".join(
            f"{3 + i * (width - 6) / max(n - 1, 1):.1f},{height - 4 - (series[i] - low) / span * (height - 8):.1f}"
            for i in order
            if np.isfinite(series[i])
        )

    band = points(found.upper, range(n)) + " " + points(found.lower, range(n - 1, -1, -1))
    return {"width": width, "height": height, "band": band, "median": points(found.median, range(n))}


def _listing(page: Page, frame: pd.DataFrame, key: str, column: str, which: str) -> list[list[Any]]:
    """Lines counted by a column: its value, how many on the session and in all, and the first or last of ``column``."""
    if not len(frame):
        return []
    today = frame[frame["date"] == page.day].groupby(key).size()
    groups = frame.groupby(key)[column]
    total = pd.DataFrame({"rows": groups.size(), "shown": groups.agg(which)}).sort_values("rows", ascending=False)
    return [[word, int(today.get(word, 0)), int(r.rows), r.shown] for word, r in total.iterrows()]
