"""The quality page: one self-contained HTML file per universe and session, from what the checks have kept.

Nothing is judged here and nothing but the page is written; reading a page needs no server.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qdag.errors import MissingDataError
from qdag.quality import (
    DRIFT_REFERENCE,
    DRIFT_SESSIONS,
    QUANTILES,
    drift,
    levels,
    profile_table,
    quality_table,
)
from qdag.schema import FEATURE_TABLES
from qdag.sessions import calendar_for
from qdag.settings import QualitySettings, Settings
from qdag.store.files import write_text

if TYPE_CHECKING:
    from qdag.store.tables import TableStore

TIMELINE = 60
FAILING_PAGES = 5
SHOWN_COLUMNS = 8
SHOWN_DRIFTS = 6
JUDGED = ("raw_ohlcv", "qlib_bin", *FEATURE_TABLES, "labels", "factor_metrics", "predictions")
GOOD, WARN, ERROR, NONE = "good", "warn", "error", "none"
_ORDER = (NONE, GOOD, WARN, ERROR)


def page_path(settings: Settings, universe: str, day: date) -> Path:
    """Where the page of a universe and session lies."""
    settings.universe(universe)
    return settings.reports / universe / f"{day:%Y-%m-%d}.html"


def write_pages(settings: Settings, store: "TableStore", universe: str, sessions: np.ndarray) -> Path:
    """Write the page of the last of the sessions and of up to ``FAILING_PAGES`` of the newest on which a rule failed.

    Returns the path of the last session's page.
    """
    first, last = sessions[0].item(), sessions[-1].item()
    rules = _rules(store, universe, first, last)
    bad = rules[(rules["violations"] > 0) & (rules["severity"] != "notice")] if len(rules) else rules
    failing = [day for day in sorted(set(bad["date"])) if day != last][-FAILING_PAGES:] if len(bad) else []
    kept = Kept(settings, store, universe, failing[0] if failing else last, last)
    for day in failing:
        _write(settings, kept, day)
    return _write(settings, kept, last)


def newest_judged(settings: Settings, store: "TableStore", universe: str) -> date:
    """The newest session of the universe that some check has judged; MissingDataError where there is none.

    What was judged when the universe reached further does not count.
    """
    spec = settings.universe(universe)
    span = np.array([spec.start, spec.end or date.max], "M8[D]")
    names = [n for n in (quality_table(t).name for t in JUDGED) if store.exists(n)]
    judged = (store.sessions(name, universe) for name in names)
    inside = (days[(days >= span[0]) & (days <= span[1])] for days in judged)
    newest = [days[-1].item() for days in inside if len(days)]
    if not newest:
        raise MissingDataError(f"no check has judged universe {universe!r} yet; run `qdag materialize -u {universe}`")
    return max(newest)


def write_page(settings: Settings, store: "TableStore", universe: str, day: date) -> Path:
    """Write the page of one session; returns its path.

    Raises
    ------
    SessionError
        The day is no session of the universe.
    MissingDataError
        No check has judged the session yet.
    """
    return _write(settings, Kept(settings, store, universe, day, day), day)


def _write(settings: Settings, kept: "Kept", day: date) -> Path:
    html = render(gather(settings, kept, day))
    path = page_path(settings, kept.universe, day)
    write_text(path, html)
    return path


# -- what the page shows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drift:
    """One column's drift: index, shift of the median, whether both are beyond the limits, and quartiles of the sessions
    up to the page's."""

    table: str
    column: str
    psi: float
    shift: float
    drifted: bool
    lower: np.ndarray
    median: np.ndarray
    upper: np.ndarray


@dataclass(frozen=True)
class Page:
    """Everything on a page.

    ``rules``: rows of the quality tables of the session, with a ``table`` column. ``timeline``: state per table (rows)
    and session (columns). ``completeness``: table, column, rows, filled (share). ``bars``: bars by session.
    """

    universe: str
    day: date
    dagster: str
    rules: pd.DataFrame
    timeline: pd.DataFrame
    completeness: pd.DataFrame
    bars: pd.Series
    quarantine: pd.DataFrame
    findings: pd.DataFrame
    drifts: tuple[Drift, ...] = ()
    judged: tuple[str, ...] = ()
    missing: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> str:
        return _state(self.rules)


class Kept:
    """What the checks have kept for the pages of the sessions from ``first`` to ``last``, read once for all of them."""

    def __init__(self, settings: Settings, store: "TableStore", universe: str, first: date, last: date):
        self.universe = universe
        calendar = calendar_for(settings.universe(universe))
        self.sessions = calendar.all
        at = calendar.position(first)
        since = self.sessions[max(0, at + 1 - TIMELINE)].item()
        far = self.sessions[max(0, at + 1 - DRIFT_REFERENCE - DRIFT_SESSIONS)].item()
        self.rules = _rules(store, universe, since, last)
        self.profiles = {}
        for table in JUDGED:
            name = profile_table(table).name
            if store.exists(name):
                columns = ["date", "column", "rows", "nulls", "infinite", *QUANTILES]
                self.profiles[table] = store.read(name, universe, far, last, columns=columns).to_pandas(
                    date_as_object=False
                )
        self.quarantine = _listed(store, "quarantine", universe, since, last)
        self.findings = _listed(store, "findings", universe, since, last)


def _slice(frame: pd.DataFrame, first: Any, last: Any) -> pd.DataFrame:
    return frame[(frame["date"] >= first) & (frame["date"] <= last)] if len(frame) else frame


def gather(settings: Settings, kept: Kept, day: date) -> Page:
    """What the page of a session shows; errors as in :func:`write_page`."""
    universe = kept.universe
    at = calendar_for(settings.universe(universe)).position(day)
    sessions = kept.sessions[max(0, at + 1 - TIMELINE) : at + 1]
    begin = sessions[0].item()
    history = _slice(kept.rules, begin, day)
    rules = history[history["date"] == day] if len(history) else history
    if not len(rules):
        raise MissingDataError(
            f"no check has judged {day} of universe {universe!r} yet; run `qdag materialize -u {universe} "
            f"--start {day} --end {day}`"
        )
    tables = [t for t in JUDGED if t in set(history["table"])]
    states = {t: dict.fromkeys(sessions.tolist(), NONE) for t in tables}
    for table, when, rank in zip(history["table"], history["date"], _ranks(history).tolist(), strict=True):
        states[table][when] = max(states[table][when], _ORDER[rank], key=_ORDER.index)
    filled, drifts = [], []
    bars = pd.Series(dtype=float)
    far = pd.Timestamp(kept.sessions[max(0, at + 1 - DRIFT_REFERENCE - DRIFT_SESSIONS)])
    for table in (t for t in tables if t in kept.profiles):
        profiles = _slice(kept.profiles[table], far, pd.Timestamp(day))
        today = profiles[profiles["date"] == pd.Timestamp(day)]
        filled.append(today.assign(table=table, filled=1 - today["nulls"] / today["rows"]))
        if table == "raw_ohlcv":
            recent = profiles[(profiles["column"] == "close") & (profiles["date"] >= pd.Timestamp(sessions[0]))]
            bars = recent.set_index("date")["rows"]
        elif table != "labels" and len(today):
            drifts += _drifts(table, profiles, today, pd.Timestamp(sessions[0]), settings.quality_for(universe))
    columns = ["table", "column", "rows", "filled"]
    completeness = pd.concat(filled)[columns] if filled else pd.DataFrame(columns=columns)
    drifts.sort(key=lambda d: (not d.drifted, -d.psi))
    due = [t for t in JUDGED if t in tables]
    judged = tuple(t for t in due if states[t][day] != NONE)
    return Page(
        universe,
        day,
        settings.dagster.ui_url.rstrip("/"),
        rules,
        pd.DataFrame(states).T.reindex(columns=sessions.tolist()),
        completeness,
        bars,
        _slice(kept.quarantine, begin, day),
        _slice(kept.findings, begin, day),
        tuple(drifts[:SHOWN_DRIFTS]),
        judged,
        tuple(t for t in due if t not in judged),
    )


def _rules(store: "TableStore", universe: str, start: date, end: date) -> pd.DataFrame:
    parts = []
    for table in JUDGED:
        name = quality_table(table).name
        if store.exists(name):
            parts.append(store.read(name, universe, start, end).to_pandas().assign(table=table))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _listed(store: "TableStore", table: str, universe: str, start: date, end: date) -> pd.DataFrame:
    return store.read(table, universe, start, end).to_pandas() if store.exists(table) else pd.DataFrame()


def _drifts(
    table: str, profiles: pd.DataFrame, today: pd.DataFrame, since: pd.Timestamp, limits: QualitySettings
) -> list[Drift]:
    today = today[~today["column"].isin(levels(table))]
    found = drift(profiles[profiles["date"] < today["date"].iloc[0]], today, limits)
    found = found[found["psi"].notna()].sort_values(["drift", "psi"], ascending=False).head(SHOWN_DRIFTS)
    recent = profiles[profiles["date"] >= since]
    lines = []
    for column, psi, shift, beyond in found[["column", "psi", "shift", "drift"]].itertuples(index=False):
        mine = recent[recent["column"] == column].sort_values("date")
        lower, median, upper = (mine[q].to_numpy(np.float64) for q in ("q025", "q050", "q075"))
        lines.append(Drift(table, str(column), psi, shift, beyond > 1, lower, median, upper))
    return lines


def _state(rules: pd.DataFrame) -> str:
    """The worst of what the rules say."""
    if not len(rules):
        return NONE
    return _ORDER[int(_ranks(rules).max())]


def _ranks(rules: pd.DataFrame) -> np.ndarray:
    """Position in ``_ORDER`` of what each rule says."""
    failed = rules["violations"].to_numpy() > 0
    ranks = rules["severity"].map({"error": 3, "warn": 2}).fillna(1).to_numpy(np.int64)
    return np.where(failed, ranks, 1)


# -- HTML --------------------------------------------------------------------------------------------------------------

_CSS = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#647084;--line:#e3e7ed;--good:#1a9e6b;
--warn:#d98a00;--error:#d0364c;--none:#cfd6df;--accent:#3563d9;--track:#eaeef3}
@media(prefers-color-scheme:dark){:root{--bg:#10141b;--card:#191f29;--ink:#e7ebf2;--soft:#93a0b4;--line:#2a3340;
--good:#34c38a;--warn:#f0ad3d;--error:#f2647a;--none:#394352;--accent:#7da2ff;--track:#252d39}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:1120px;margin:0 auto;padding:32px 24px 56px}a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}h1{font-size:26px;line-height:1.25;margin:2px 0 4px;letter-spacing:-.01em}
h2{font-size:16px;margin:0 0 14px}h3{font-size:14px;margin:0}p{margin:0}.soft{color:var(--soft)}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin-top:18px}
.hero{border-left:6px solid var(--state)}.hero .eyebrow{color:var(--soft);font-size:13px}
.chips{display:flex;flex-wrap:wrap;gap:8px;margin-top:14px}.chip{display:inline-flex;align-items:center;gap:7px;
border:1px solid var(--line);border-radius:999px;padding:3px 12px;font-size:13px;color:var(--ink)}
.dot{width:9px;height:9px;border-radius:50%;background:var(--state);flex:none}
.good{--state:var(--good)}.warn{--state:var(--warn)}.error{--state:var(--error)}.none,.notice{--state:var(--none)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(310px,1fr));gap:18px}.grid>.card{margin-top:0}
.grid{margin-top:18px}table{border-collapse:collapse;width:100%;font-size:13.5px}
th{text-align:left;color:var(--soft);font-weight:500;padding:4px 12px 6px 0;border-bottom:1px solid var(--line)}
td{padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}tr:last-child td{border-bottom:0}
.num{text-align:right;white-space:nowrap}td.name{white-space:nowrap}
.rule{border-top:1px solid var(--line);padding:16px 0 8px}.rule:first-of-type{border-top:0;padding-top:0}
.rule header{display:flex;align-items:baseline;gap:10px;flex-wrap:wrap}.rule .dot{align-self:center}
.rule .seen{margin-left:auto;font-size:13px;color:var(--soft)}.rule>p{margin:4px 0 10px 19px;color:var(--soft);
font-size:13.5px}.rule>.scroll{margin-left:19px}.scroll{overflow-x:auto}
.fill{display:grid;grid-template-columns:minmax(120px,170px) 1fr 62px;gap:6px 12px;align-items:center;font-size:13.5px}
.track{height:8px;border-radius:4px;background:var(--track);overflow:hidden}.track i{display:block;height:100%;
background:var(--state);border-radius:4px}.group{grid-column:1/-1;margin-top:10px;font-weight:600}
.group:first-child{margin-top:0}svg{display:block;max-width:100%}.key{display:flex;gap:16px;font-size:12.5px;
color:var(--soft);margin-top:10px;flex-wrap:wrap}.key span{display:inline-flex;gap:6px;align-items:center}
.spark{display:grid;grid-template-columns:1fr 200px;gap:12px;align-items:center;padding:8px 0;
border-bottom:1px solid var(--line)}.spark:last-child{border:0}footer{margin-top:26px;color:var(--soft);font-size:13px}
@media(max-width:560px){main{padding:18px 12px}.spark{grid-template-columns:1fr}}
"""
_WORDS = {GOOD: "passed", WARN: "warned", ERROR: "failed", NONE: "not judged"}


def render(page: Page) -> str:
    """The page as HTML: no scripts, nothing loaded from elsewhere; every text of the data is escaped."""
    body = [
        _hero(page),
        _timeline(page),
        _failures(page),
        f'<div class="grid">{_completeness(page)}{_drift(page)}</div>',
        f'<div class="grid">{_quarantine(page)}{_found(page)}</div>',
        _notices(page),
        _every_rule(page),
    ]
    title = f"Data quality of {escape(page.universe)}, {page.day}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_CSS}</style></head><body><main>{''.join(body)}"
        f"<footer>Written by qdag from the tables <code>quality_*</code> and <code>profile_*</code>. "
        f'<a href="{escape(page.dagster)}/asset-groups">Assets in Dagster</a></footer></main></body></html>\n'
    )


def _hero(page: Page) -> str:
    failed = page.rules[page.rules["violations"] > 0]
    errors, warnings = ((failed["severity"] == s).sum() for s in ("error", "warn"))
    words = {
        GOOD: "Every rule holds",
        WARN: f"{_count(warnings, 'rule')} to look at; nothing stops the chain",
        ERROR: f"{_count(errors, 'structural rule')} broken: what follows is stopped",
    }[page.verdict]
    chips = []
    for table in (*page.judged, *page.missing):
        state = str(page.timeline[page.day][table])
        chips.append(
            f'<a class="chip {state}" href="{_asset(page, table)}"><i class="dot"></i>{escape(table)} '
            f'<span class="soft">{_WORDS[state]}</span></a>'
        )
    rows = page.bars.get(pd.Timestamp(page.day))
    bars = f" &middot; {int(rows):,} bars" if rows is not None else ""
    rules = page.rules[page.rules["severity"] != "notice"]
    good = int((rules["violations"] == 0).sum())
    return (
        f'<section class="card hero {page.verdict}"><div class="eyebrow">Data quality &middot; universe '
        f"<b>{escape(page.universe)}</b> &middot; {page.day:%A}, {page.day.day} {page.day:%B %Y}</div><h1>{words}</h1>"
        f'<p class="soft">{good} of {len(rules)} rules hold in {_count(len(page.judged), "table")}{bars}</p>'
        f'<div class="chips">{"".join(chips)}</div></section>'
    )


def _timeline(page: Page) -> str:
    days, step, gap, left, top = list(page.timeline.columns), 14, 20, 150, 46
    width, height = left + len(days) * step + 8, top + len(page.timeline) * gap + 4
    parts = []
    rows = page.bars.reindex(pd.to_datetime(days))
    most = rows.max()
    for i, day in enumerate(days):
        count = rows.iloc[i]
        if most > 0 and count == count:
            size = max(1.0, 34 * count / most)
            parts.append(
                f'<rect x="{left + i * step + 2}" y="{38 - size:.1f}" width="{step - 4}" height="{size:.1f}" rx="2" '
                f'fill="var(--accent)" opacity=".55"><title>{day}: {int(count):,} bars</title></rect>'
            )
    parts.append(f'<text x="{left - 10}" y="30" text-anchor="end" class="l">bars</text>')
    for j, (table, states) in enumerate(zip(page.timeline.index, page.timeline.to_dict("records"), strict=True)):
        y = top + j * gap
        parts.append(f'<text x="{left - 10}" y="{y + 12}" text-anchor="end" class="l">{escape(str(table))}</text>')
        for i, (when, state) in enumerate(states.items()):
            ring = ' stroke="var(--ink)" stroke-width="1.5"' if when == page.day else ""
            parts.append(
                f'<rect x="{left + i * step + 1}" y="{y}" width="{step - 2}" height="{gap - 5}" rx="3" '
                f'fill="var(--{state})"{ring}><title>{escape(str(table))}, {when}: {_WORDS[state]}</title></rect>'
            )
    key = "".join(
        f'<span><i class="dot {state}" style="--state:var(--{state})"></i>{_WORDS[state]}</span>'
        for state in (GOOD, WARN, ERROR, NONE)
    )
    return (
        f'<section class="card"><h2>Last {_count(len(days), "session")}</h2><div class="scroll">'
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="Outcome by table and session">'
        f"<style>.l{{font:12px system-ui,sans-serif;fill:var(--soft)}}</style>{''.join(parts)}</svg></div>"
        f'<div class="key">{key}<span>{days[0]} to {days[-1]}</span></div></section>'
    )


def _failures(page: Page) -> str:
    failed = page.rules[(page.rules["violations"] > 0) & (page.rules["severity"] != "notice")]
    if not len(failed):
        return ""
    order = failed.assign(first=failed["severity"] != "error", at=failed["table"].map(JUDGED.index))
    rules = [_rule(page, r) for r in _records(order.sort_values(["first", "at"], kind="stable"))]
    return f'<section class="card"><h2>Rules that do not hold</h2>{"".join(rules)}</section>'


def _rule(page: Page, rule: Any) -> str:
    state = ERROR if rule.severity == "error" else WARN if rule.severity == "warn" else "notice"
    lines = json.loads(rule.offenders)
    heading = ("date", "instrument", "value", "limit", "sentence")
    shown = [h for h in heading if any(line[h] for line in lines)]
    rows = [[line[h] for h in shown] for line in lines]
    more = rule.violations - len(lines)
    tail = f'<p class="soft" style="margin-top:6px;font-size:13px">and {more:,} more</p>' if lines and more > 0 else ""
    return (
        f'<article class="rule {state}"><header><i class="dot"></i><h3>{escape(rule.rule)}</h3>'
        f'<a href="{_asset(page, rule.table)}">{escape(rule.table)}</a><span class="soft">{escape(rule.check)}</span>'
        f'<span class="seen">{rule.violations:,} of {rule.judged:,} judged since {rule.judged_from}</span></header>'
        f"<p>{escape(rule.meaning)} <br>Required: <b>{escape(rule.required)}</b>; seen: {escape(rule.observed)}.</p>"
        f'<div class="scroll">{_table(shown, rows) if rows else ""}{tail}</div></article>'
    )


def _completeness(page: Page) -> str:
    parts = []
    for table, part in page.completeness.groupby("table", sort=False):
        whole = 1 - (part["rows"] * (1 - part["filled"])).sum() / max(part["rows"].sum(), 1)
        worst = part.sort_values("filled", kind="stable")
        shown = part if table == "raw_ohlcv" else worst[worst["filled"] < 1].head(SHOWN_COLUMNS)
        parts.append(f'<div class="group">{escape(str(table))}</div>')
        if table != "raw_ohlcv":
            parts.append(_bar(f"all {len(part)} columns", whole))
        parts += [_bar(c, share) for c, share in zip(shown["column"], shown["filled"].tolist(), strict=True)]
    inside = "".join(parts) or '<p class="soft">No distributions kept for this session.</p>'
    return (
        '<section class="card"><h2>Completeness <span class="soft">share of rows with a value</span></h2>'
        f'<div class="fill">{inside}</div></section>'
    )


def _bar(name: str, share: float) -> str:
    if share != share:
        return ""
    state = GOOD if share >= 0.95 else WARN if share > 0 else NONE
    shown = "none" if share == 0 else f"{share:.2%}" if share < 0.99995 else "100 %"
    return (
        f'<span>{escape(name)}</span><span class="track {state}"><i style="width:{share * 100:.2f}%"></i></span>'
        f'<span class="num soft">{shown}</span>'
    )


def _drift(page: Page) -> str:
    if not page.drifts:
        inside = '<p class="soft">Fewer than 60 sessions are kept before this one: nothing to compare with.</p>'
    else:
        inside = "".join(_spark(d) for d in page.drifts)
    return (
        '<section class="card"><h2>Distribution drift <span class="soft">median and quartiles, last 60 sessions</span>'
        f"</h2>{inside}</section>"
    )


def _spark(found: Drift) -> str:
    state = WARN if found.drifted else GOOD
    return (
        f'<div class="spark {state}"><div><b>{escape(found.column)}</b> <span class="soft">{escape(found.table)}</span>'
        f'<br><span class="soft">stability index <b style="color:var(--state)">{found.psi:.2f}</b>, median '
        f"{found.shift:+.2f} IQR</span></div>{_band(found)}</div>"
    )


def _band(found: Drift, width: int = 200, height: int = 52) -> str:
    """Quartile band and median as a small drawing."""
    values = np.concatenate([found.lower, found.upper])
    if not np.isfinite(values).any():
        return ""
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
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(found.column)}"><polygon points="{band}" fill="var(--state)" opacity=".18"/>'
        f'<polyline points="{points(found.median, range(n))}" fill="none" stroke="var(--state)" stroke-width="1.8"/>'
        "</svg>"
    )


def _quarantine(page: Page) -> str:
    heading = ("reason", "for example", "first", "source")
    return _listing(page, page.quarantine, "Quarantine", "by reason", "Nothing was refused.", heading)


def _found(page: Page) -> str:
    heading = ("kind", "the newest", "last", "detail")
    none = "Nothing was noticed while ingesting."
    return _listing(page, page.findings, "Findings", "valid but noticeable", none, heading)


def _listing(
    page: Page, frame: pd.DataFrame, title: str, words: str, none: str, heading: tuple[str, str, str, str]
) -> str:
    """Lines counted by a column, with one of another column shown: ``heading`` is key, heading, which one, column."""
    key, shown, which, column = heading
    if len(frame):
        today = frame[frame["date"] == page.day].groupby(key).size()
        groups = frame.groupby(key)[column]
        total = pd.DataFrame({"rows": groups.size(), "shown": groups.agg(which)}).sort_values("rows", ascending=False)
        rows = [[word, today.get(word, 0), r.rows, r.shown] for word, r in total.iterrows()]
        inside = _table([key, "this session", "60 sessions", shown], rows)
    else:
        inside = f'<p class="soft">{none}</p>'
    return f'<section class="card"><h2>{title} <span class="soft">{words}</span></h2>{inside}</section>'


def _notices(page: Page) -> str:
    seen = page.rules[(page.rules["violations"] > 0) & (page.rules["severity"] == "notice")]
    if not len(seen):
        return ""
    return f'<section class="card"><h2>To know</h2>{"".join(_rule(page, r) for r in _records(seen))}</section>'


def _every_rule(page: Page) -> str:
    rows = []
    for rule in _records(page.rules):
        state = GOOD if not rule.violations else {"error": ERROR, "warn": WARN}.get(rule.severity, NONE)
        rows.append(
            f'<tr class="{state}"><td class="name"><i class="dot" style="display:inline-block;margin-right:8px"></i>'
            f"{escape(rule.rule)}</td><td>{escape(rule.table)}</td><td>{escape(rule.check)}</td>"
            f"<td>{escape(rule.required)}</td><td>{escape(rule.observed)}</td></tr>"
        )
    head = "".join(f"<th>{h}</th>" for h in ("rule", "table", "check", "required", "seen in the run's window"))
    return (
        f'<section class="card"><details><summary><b>All {len(rows)} rules</b></summary><div class="scroll" '
        f'style="margin-top:12px"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        "</details></section>"
    )


def _records(frame: pd.DataFrame) -> list[Any]:
    return list(frame.itertuples(index=False))


def _table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def cell(value: object) -> str:
        number = isinstance(value, int | np.integer)
        return f'<td class="num">{value:,}</td>' if number else f"<td>{escape(str(value))}</td>"

    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _asset(page: Page, table: str) -> str:
    return escape(f"{page.dagster}/assets/{table}?view=checks&partition={page.day}%7C{page.universe}")


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"
