"""The rules of feature tables and of the labels, and the frames they are judged on: wide tables, summarised by column.

What only the features of a table know (bounds by definition, a slow second opinion, which are levels) is handed in.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from qdag.quality.checks import (
    INSTRUMENT_KEYS,
    Frames,
    Scope,
    bar_sessions,
    coded,
    covers,
    derived,
    keyed,
    numbers,
    read_frame,
    read_rows,
    row_days,
    session_frame,
    spans,
)
from qdag.quality.outcome import profile_table
from qdag.quality.profiles import DRIFT_REFERENCE, DRIFT_SESSIONS, QUANTILES, drift, profile
from qdag.quality.recompute import NO_SAMPLE, Cell, SecondOpinion, cells_of, recomputed_frame, sample
from qdag.quality.rule import Check, Rule
from qdag.schema import RAW_OHLCV
from qdag.settings import QualitySettings

Bounds = Mapping[str, tuple[float, float]]
"""Lowest and highest value that columns can have, by column."""
MATURE_SESSIONS = 252
"""Sessions of history after which missing values are judged: the longest rolling window has filled by then."""
SLACK = 1e-3
"""Bounds of float32 columns are as much wider: an oscillator's rounding noise around 0 stays visible."""


def rules(
    table: str, limits: QualitySettings, *, bounded: bool = False, recomputed: bool = False, least_nulls: float = 0.0
) -> tuple[Rule, ...]:
    """The rules of a feature table.

    Parameters
    ----------
    limits : the universe's
    bounded : features of the table have bounds by their definition
    recomputed : a sample of the table is computed again
    least_nulls : share of missing values that is allowed whatever the limits say
    """

    def summary(name: str, check: Check, column: str, meaning: str, **parameters: float) -> Rule:
        kind = "are infinite" if column == "infinite_share" else "have no value"
        says = f"{{{column}:.2%}} of {{rows}} rows {kind}"
        return Rule(
            name=name,
            table=table,
            check=check,
            kind="between",
            columns=(column,),
            meaning=meaning,
            frame="columns",
            parameters=parameters,
            says=says,
        )

    bounds = "The feature is bounded by its definition; outside it the computation or its input is wrong."
    return (
        *keyed(table, INSTRUMENT_KEYS, limits),
        covers(table),
        *([_recomputed(table)] if recomputed else []),
        summary(
            "no column all null",
            "completeness",
            "null_share",
            "A column holds nothing at all: its input is missing or its expression is wrong.",
            maximum=1,
            strict=True,
        ),
        summary(
            "null share",
            "completeness",
            "null_share",
            f"Share of missing values after the universe's first {MATURE_SESSIONS} sessions; suspensions count.",
            maximum=max(least_nulls, limits.feature_null_share),
        ),
        summary(
            "infinite share",
            "values",
            "infinite_share",
            "Divisions by zero; models and metrics drop these values.",
            maximum=limits.infinite_share,
        ),
        *([_bounded(table, bounds)] if bounded else []),
        Rule(
            name="distribution as in the year before",
            table=table,
            check="drift",
            kind="between",
            columns=("drift",),
            meaning=f"The last {DRIFT_SESSIONS} sessions against the {DRIFT_REFERENCE} before them: the population "
            "stability index over the reference's deciles and the median have both moved far, and further than so few "
            "instruments move by chance. A market in another state, or a broken input; models trained on the year "
            "before may not hold.",
            frame="drift",
            parameters={"maximum": 1.0},
            says="stability index {psi:.2f} against the year before, median moved by {shift:+.2f} interquartile "
            "ranges, over {instruments:.0f} instruments",
            asks=f"stability index <= {limits.drift:g} or median within {limits.drift_shift:g} interquartile ranges, "
            "both wider for few instruments",
        ),
    )


def label_rules(table: str, limits: QualitySettings) -> tuple[Rule, ...]:
    """The rules of the labels under the limits of a universe."""
    return (
        *keyed(table, INSTRUMENT_KEYS, limits),
        covers(table),
        _recomputed(table),
        Rule(
            name="no label before it is known",
            table=table,
            check="structure",
            kind="between",
            columns=("too_early",),
            meaning="A value whose last price is not stored yet: the label looked into data that does not exist.",
            frame="horizons",
            parameters={"maximum": 0},
            says="{too_early} values before their last price is stored",
        ),
        Rule(
            name="known labels present",
            table=table,
            check="completeness",
            kind="between",
            columns=("known_null_share",),
            meaning="Labels older than horizon + 1 sessions should be known, but around suspensions and on the last "
            "horizon + 1 rows of what was delisted: materialize the sessions again.",
            frame="horizons",
            parameters={"maximum": 0.2},
            says="{known_null_share:.1%} of {known_rows} labels that are known have no value",
        ),
        _bounded(
            table,
            "A forward return this large is an unadjusted split or a wrong price, or real news.",
        ),
    )


def _bounded(table: str, meaning: str) -> Rule:
    """The rule that a value lies within what its column allows, on the frame ``bounds``."""
    return Rule(
        name="values within their bounds",
        table=table,
        check="values",
        kind="equals",
        columns=("within",),
        meaning=meaning,
        frame="bounds",
        parameters={"value": True},
        says="{column} = {value:.6g}, must be in {low:g} .. {high:.6g}",
    )


def _recomputed(table: str) -> Rule:
    """The rule that a sample computed again is what is stored, on the frame ``recomputed``."""
    return Rule(
        name="a sample computed again",
        table=table,
        check="structure",
        kind="between",
        columns=("difference",),
        meaning="Stored values differ from a slow computation from raw_ohlcv: they are stale or wrong. Materialize "
        "qlib_bin and this table again; if it stays, the engine is wrong.",
        frame="recomputed",
        parameters={"maximum": 1.0},
        says="{column}: stored {stored:.7g}, computed again {expected:.7g}",
    )


def frames(
    scope: Scope,
    table: str,
    columns: Sequence[str] = (),
    *,
    bounds: Bounds | None = None,
    opinion: SecondOpinion | None = None,
    levels: Collection[str] = (),
) -> Frames:
    """Yield the frames of a feature table; none for a window without a session.

    Parameters
    ----------
    columns : the declared ones, keys included; those that are stored where left out
    bounds : of the columns that have some by their definition
    opinion : how a sample is computed again; none is where left out
    levels : columns that move with the market, so that their drift says nothing

    Raises
    ------
    MissingDataError
        The table does not exist.
    """
    window = scope.sessions()
    if not len(window):
        return
    yield from derived(scope, table, columns)
    values = _values(scope, table, columns)
    described = yield from _summaries(scope, table, window, values, bounds or {}, opinion)
    yield "profile", described
    compared = described[~described["column"].isin(levels)]
    yield "drift", drift(_history(scope, table), compared, scope.limits)


def label_frames(
    scope: Scope,
    table: str,
    columns: Sequence[str] = (),
    *,
    bounds: Bounds | None = None,
    opinion: SecondOpinion | None = None,
) -> Frames:
    """Yield the frames of the labels, ``label_<horizon>``; none for a window without a session.

    They are judged from before the window on, where its prices make earlier labels known. Parameters and errors as of
    :func:`frames`.
    """
    if not len(scope.sessions()):
        return
    yield from derived(scope, table, columns)
    values = _values(scope, table, columns)
    horizons = [int(c.removeprefix("label_")) for c in values]
    known = _Known(horizons, bar_sessions(scope))
    sessions = scope.sessions(before=max(horizons, default=-1) + 1)
    described = yield from _summaries(scope, table, sessions, values, bounds or {}, opinion, known.add)
    yield "horizons", known.frame(values)
    yield "profile", described[described["date"] >= pd.Timestamp(scope.sessions()[0])]


class _Known:
    """Counts, by horizon, of the labels that are old enough to be known, of those without a value, and of values that
    are there too early."""

    def __init__(self, horizons: Sequence[int], bars: np.ndarray):
        self.horizons, self.bars = horizons, bars
        self.counts = np.zeros((len(horizons), 3), np.int64)

    def add(self, days: np.ndarray, matrix: np.ndarray) -> None:
        """Count rows: their days, and their labels by column."""
        for i, horizon in enumerate(self.horizons):
            enough = len(self.bars) > horizon
            old = days < self.bars[-horizon - 1] if enough else np.zeros(len(days), bool)
            null = np.isnan(matrix[:, i])
            self.counts[i] += old.sum(), (old & null).sum(), (~old & ~null).sum()

    def frame(self, columns: Sequence[str]) -> pd.DataFrame:
        """One line per horizon."""
        known, null, early = self.counts.T
        share = np.where(known > 0, null / np.maximum(known, 1), np.nan)
        return pd.DataFrame({"label": columns, "known_rows": known, "known_null_share": share, "too_early": early})


def _values(scope: Scope, table: str, columns: Sequence[str]) -> list[str]:
    """The declared columns that are stored, without the keys."""
    stored = scope.store.columns(table)
    return [c for c in (columns or stored) if c in stored and c not in ("universe", *INSTRUMENT_KEYS)]


def _summaries(
    scope: Scope,
    table: str,
    sessions: np.ndarray,
    values: Sequence[str],
    bounds: Bounds,
    opinion: SecondOpinion | None,
    seen: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> Generator[tuple[str, pd.DataFrame], None, pd.DataFrame]:
    """Yield the frames of keys, columns, sessions, bounds and the sample; return the profiles of the sessions.

    ``seen`` is shown the days and values of every part of the table that is read.
    """
    bars = bar_sessions(scope)
    mature = bars[MATURE_SESSIONS] if len(bars) > MATURE_SESSIONS else None
    picked = sample(scope, table, sessions) if opinion else NO_SAMPLE
    bounds = {c: bounds[c] for c in values if c in bounds}
    parts, covered, outside, profiles = [], [], [], []
    cells: list[Cell] = []
    for start, end in spans(scope, table, sessions):
        rows = read_rows(scope, table, start, end, [*INSTRUMENT_KEYS, *values])
        days = row_days(rows)
        codes, names = coded(rows)
        instrument = pd.Categorical.from_codes(codes, pd.Index(names, dtype=object))
        keys = pd.DataFrame({"date": days.astype("M8[s]"), "instrument": instrument})
        parts.append(keys)
        covered.append(_covered(scope, sessions, start, end, days, codes, names))
        # column by column: every reader of the matrix takes columns
        matrix = np.empty((len(values), len(days)), np.float32).T
        for i, name in enumerate(values):
            matrix[:, i] = numbers(rows, name)
        outside += _out_of_bounds(keys, values, matrix, bounds)
        cells += cells_of(picked, keys, values, matrix)
        profiles.append(profile(days, values, matrix))
        if seen:
            seen(days, matrix)
    yield "rows", pd.concat([part.astype({"instrument": object}) for part in parts], ignore_index=True)
    described = pd.concat(profiles, ignore_index=True)
    # what a young universe lacks says nothing
    old = described[described["date"] >= pd.Timestamp(mature)] if mature is not None else described.iloc[:0]
    totals = old.groupby("column", sort=False)[["rows", "nulls", "infinite"]].sum().reset_index()
    shares = {f"{k}_share": totals[c] / totals["rows"] for k, c in (("null", "nulls"), ("infinite", "infinite"))}
    yield "columns", totals[["column", "rows"]].assign(**shares)
    yield "sessions", pd.concat(covered, ignore_index=True)
    yield "bounds", _bounds_frame(bounds, outside)
    yield "recomputed", recomputed_frame(scope, cells, opinion)
    return described


def _covered(
    scope: Scope,
    sessions: np.ndarray,
    start: np.datetime64,
    end: np.datetime64,
    days: np.ndarray,
    codes: np.ndarray,
    names: Sequence[str],
) -> pd.DataFrame:
    """The session frame of a part of a table, with the rows of raw_ohlcv that have no row in it."""
    frame = session_frame(sessions[(sessions >= start) & (sessions <= end)], days)
    bars = read_rows(scope, RAW_OHLCV.name, start, end, INSTRUMENT_KEYS)
    bar_days = row_days(bars)
    bar_codes = pc.fill_null(pc.index_in(bars["instrument"], value_set=pa.array(names, pa.string())), -1).to_numpy()
    width = len(names) + 1
    have = days.astype(np.int64) * width + codes
    want = bar_days.astype(np.int64) * width + bar_codes
    lost = bar_days[(bar_codes < 0) | ~np.isin(want, have)]
    at, count = np.unique(lost, return_counts=True)
    missing = pd.Series(count, index=at.astype("M8[s]"))
    return frame.assign(missing_bars=frame["date"].map(missing).fillna(0).astype(np.int64))


def _out_of_bounds(keys: pd.DataFrame, values: Sequence[str], matrix: np.ndarray, bounds: Bounds) -> list[pd.DataFrame]:
    """Lines of the values that leave their bounds; null and infinity are judged elsewhere."""
    found = []
    for name, (low, high) in bounds.items():
        column = matrix[:, values.index(name)]
        largest = float(np.finfo(np.float32).max)
        wrong = (column < np.float32(low - SLACK)) | (column > np.float32(min(high + SLACK, largest)))
        wrong &= np.isfinite(column)
        if wrong.any():
            lines = keys[wrong].astype({"instrument": object})
            found.append(lines.assign(column=name, value=column[wrong].astype(np.float64), low=low, high=high))
    return found


def _bounds_frame(bounds: Bounds, outside: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One line per bounded column, and one per value that leaves its bounds."""
    lines = [{"column": c, "low": low, "high": high, "value": np.nan} for c, (low, high) in bounds.items()]
    frame = pd.DataFrame(lines, columns=["column", "low", "high", "value"]).assign(within=True, instrument="")
    frame["date"] = pd.Series(pd.NaT, index=frame.index, dtype="M8[s]")
    return pd.concat([frame, *(part.assign(within=False) for part in outside)], ignore_index=True)


def _history(scope: Scope, table: str) -> pd.DataFrame:
    """Stored profiles of the sessions before the window that its drift is measured against."""
    name = profile_table(table).name
    before = scope.sessions(before=DRIFT_REFERENCE + DRIFT_SESSIONS)[: -len(scope.sessions())]
    if not len(before) or not scope.store.exists(name):
        return pd.DataFrame()
    return read_frame(scope, name, before[0], before[-1], ["date", "column", *QUANTILES])
