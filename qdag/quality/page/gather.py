"""What the quality page of a session shows, from what the checks have kept. Nothing is judged or drawn here."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qdag.core.sessions import calendar_for
from qdag.errors import MissingDataError
from qdag.quality.outcome import profile_table, quality_table
from qdag.quality.profiles import DRIFT_REFERENCE, DRIFT_SESSIONS, QUANTILES, drift
from qdag.schema import FINDINGS, QUARANTINE, RAW_OHLCV
from qdag.settings import QualitySettings, Settings

if TYPE_CHECKING:
    from qdag.store.tables import TableStore

TIMELINE = 60
"""The page tells the outcome of so many sessions up to its own."""
SHOWN_DRIFTS = 6
"""So many of the columns that have drifted furthest are drawn."""
GOOD, WARN, ERROR, NONE = "good", "warn", "error", "none"
_ORDER = (NONE, GOOD, WARN, ERROR)

Tables = Mapping[str, frozenset[str] | None]
"""The judged tables in the order of the page, each with its columns whose drift says nothing; None where there is no
drift."""


@dataclass(frozen=True)
class Drift:
    """How far one column has drifted.

    Parameters
    ----------
    table, column : of which the values are
    psi : population stability index
    shift : of the median, in interquartile ranges
    drifted : both are beyond their limits
    lower, median, upper : quartiles of the sessions up to the page's
    """

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

    Parameters
    ----------
    universe, day : whose page it is
    dagster : address of the Dagster UI, which has the assets
    rules : rows of the quality tables of the session, with a ``table`` column
    timeline : state per table (rows) and session (columns)
    completeness : table, column, rows, filled (share)
    bars : bars by session
    quarantine, findings : rows of these tables in the sessions of the timeline
    drifts : the furthest first, those beyond their limits before the others
    judged : tables that were judged on the session
    missing : tables that were judged on other sessions of the timeline only
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
    missing: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The worst of what the rules say."""
        return _ORDER[int(_ranks(self.rules).max())] if len(self.rules) else NONE


class PageInputs:
    """What the checks have kept for the pages of the sessions from ``first`` to ``last``, read once for all of them."""

    def __init__(self, settings: Settings, store: "TableStore", universe: str, tables: Tables, first: date, last: date):
        self.universe = universe
        self.tables = tables
        calendar = calendar_for(settings.universe(universe))
        self.sessions = calendar.all
        at = calendar.position(first)
        since = self.sessions[max(0, at + 1 - TIMELINE)].item()
        far = self.sessions[max(0, at + 1 - DRIFT_REFERENCE - DRIFT_SESSIONS)].item()
        self.rules = read_outcomes(store, universe, tables, since, last)
        self.profiles = {}
        columns = ["date", "column", "rows", "nulls", "infinite", *QUANTILES]
        for table in tables:
            name = profile_table(table).name
            if store.exists(name):
                kept = store.read(name, universe, far, last, columns=columns)
                self.profiles[table] = kept.to_pandas(date_as_object=False)
        self.quarantine = _listed(store, QUARANTINE.name, universe, since, last)
        self.findings = _listed(store, FINDINGS.name, universe, since, last)


def gather(settings: Settings, inputs: PageInputs, day: date) -> Page:
    """What the page of a session shows.

    Raises
    ------
    SessionError
        The day is no session of the universe.
    MissingDataError
        No check has judged the session yet.
    """
    universe = inputs.universe
    at = calendar_for(settings.universe(universe)).position(day)
    sessions = inputs.sessions[max(0, at + 1 - TIMELINE) : at + 1]
    begin = sessions[0].item()
    history = _slice(inputs.rules, begin, day)
    rules = history[history["date"] == day] if len(history) else history
    if not len(rules):
        raise MissingDataError(
            f"no check has judged {day} of universe {universe!r} yet; run `qdag materialize -u {universe} "
            f"--start {day} --end {day}`"
        )
    judged = set(history["table"])
    tables = [t for t in inputs.tables if t in judged]
    states = {t: dict.fromkeys(sessions.tolist(), NONE) for t in tables}
    for table, when, rank in zip(history["table"], history["date"], _ranks(history).tolist(), strict=True):
        states[table][when] = max(states[table][when], _ORDER[rank], key=_ORDER.index)
    filled, drifts = [], []
    bars = pd.Series(dtype=float)
    far = pd.Timestamp(inputs.sessions[max(0, at + 1 - DRIFT_REFERENCE - DRIFT_SESSIONS)])
    since = pd.Timestamp(sessions[0])
    for table in (t for t in tables if t in inputs.profiles):
        profiles = _slice(inputs.profiles[table], far, pd.Timestamp(day))
        today = profiles[profiles["date"] == pd.Timestamp(day)]
        filled.append(today.assign(table=table, filled=1 - today["nulls"] / today["rows"]))
        if table == RAW_OHLCV.name:
            recent = profiles[(profiles["column"] == "close") & (profiles["date"] >= since)]
            bars = recent.set_index("date")["rows"]
        levels = inputs.tables[table]
        if levels is not None and len(today):
            compared = today[~today["column"].isin(levels)]
            drifts += _drifts(table, profiles, compared, since, settings.quality_for(universe))
    columns = ["table", "column", "rows", "filled"]
    completeness = pd.concat(filled)[columns] if filled else pd.DataFrame(columns=columns)
    drifts.sort(key=lambda d: (not d.drifted, -d.psi))
    return Page(
        universe=universe,
        day=day,
        dagster=settings.dagster.ui_url.rstrip("/"),
        rules=rules,
        timeline=pd.DataFrame(states).T.reindex(columns=sessions.tolist()),
        completeness=completeness,
        bars=bars,
        quarantine=_slice(inputs.quarantine, begin, day),
        findings=_slice(inputs.findings, begin, day),
        drifts=tuple(drifts[:SHOWN_DRIFTS]),
        judged=tuple(t for t in tables if states[t][day] != NONE),
        missing=tuple(t for t in tables if states[t][day] == NONE),
    )


def read_outcomes(store: "TableStore", universe: str, tables: Tables, start: date, end: date) -> pd.DataFrame:
    """Rows of the quality tables from one day to another, with a ``table`` column; empty where nothing was judged."""
    parts = []
    for table in tables:
        name = quality_table(table).name
        if store.exists(name):
            parts.append(store.read(name, universe, start, end).to_pandas().assign(table=table))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _listed(store: "TableStore", table: str, universe: str, start: date, end: date) -> pd.DataFrame:
    return store.read(table, universe, start, end).to_pandas() if store.exists(table) else pd.DataFrame()


def _slice(frame: pd.DataFrame, first: Any, last: Any) -> pd.DataFrame:
    return frame[(frame["date"] >= first) & (frame["date"] <= last)] if len(frame) else frame


def _drifts(
    table: str, profiles: pd.DataFrame, today: pd.DataFrame, since: pd.Timestamp, limits: QualitySettings
) -> list[Drift]:
    """The columns of a table that have drifted furthest, with their quartiles since a session."""
    if today.empty:
        return []
    found = drift(profiles[profiles["date"] < today["date"].iloc[0]], today, limits)
    found = found[found["psi"].notna()].sort_values(["drift", "psi"], ascending=False).head(SHOWN_DRIFTS)
    recent = profiles[profiles["date"] >= since]
    lines = []
    for column, psi, shift, beyond in found[["column", "psi", "shift", "drift"]].itertuples(index=False):
        mine = recent[recent["column"] == column].sort_values("date")
        lower, median, upper = (mine[q].to_numpy(np.float64) for q in ("q025", "q050", "q075"))
        lines.append(Drift(table, str(column), psi, shift, beyond > 1, lower, median, upper))
    return lines


def _ranks(rules: pd.DataFrame) -> np.ndarray:
    """Position in ``_ORDER`` of what each rule says."""
    failed = rules["violations"].to_numpy() > 0
    ranks = rules["severity"].map({"error": 3, "warn": 2}).fillna(1).to_numpy(np.int64)
    return np.where(failed, ranks, 1)
