"""Cross-sectional quality of factors, dated by when it became known: IC, RankIC, coverage, ICIR, quintile spread.

The computation of one factor, all horizons:

1. Metric date t of horizon h belongs to signal session s = t - (h + 1) of the universe's calendar: the label
   ``Ref($close, -(h+1))/Ref($close, -1) - 1`` of s is known at the close of t and not before.
2. The members of the pool on s with a finite factor value are sorted once.
3. Per horizon, the pairs are those of them with a finite label; ranks come from walking the sorted members.
4. Pearson (ic), Spearman with average ranks (rank_ic) and the quintile spread (long_short) over the pairs.
5. Trailing ratios (icir, rank_icir) from these and, for dates before the first one wanted, from stored metrics.

No storage and no registry belong here: arrays in, Arrow out.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.errors import PanelError, SessionError, unknown
from qdag.factors.dates import ICIR_WINDOW, MetricDates, checked_calendar, checked_horizons, metric_dates
from qdag.schema import FACTOR_METRICS

ICIR_MINIMUM = 20
"""Fewest ICs in the trailing window for a ratio."""
MINIMUM_PAIRS = 3
"""Fewest pairs for ic and rank_ic: two points always correlate perfectly."""
MINIMUM_QUINTILE_PAIRS = 10
"""Fewest pairs for long_short: two per quintile; a difference of two stocks is no spread of portfolios."""

EQUAL_DEVIATION = 1e-12
"""Up to this standard deviation ICs count as equal: they are at most 1, so this is their rounding, not spread."""

_HISTORY_COLUMNS = ("universe", "date", "pool", "horizon", "factor", "ic", "rank_ic")
_BATCH_ROWS = 131_072


def factor_metrics(  # noqa: PLR0913 -- one keyword for each thing that metrics depend on
    features: Mapping[str, np.ndarray],
    labels: Mapping[int, np.ndarray],
    sessions: np.ndarray,
    pool: np.ndarray,
    *,
    pool_name: str,
    universe: str,
    dates: tuple[date, date],
    calendar: np.ndarray | None = None,
    history: pa.Table | None = None,
    window: int = ICIR_WINDOW,
    minimum: int = ICIR_MINIMUM,
    threads: int | None = None,
) -> pa.Table:
    """Compute the metrics of every factor, horizon and metric date in ``dates``.

    Parameters
    ----------
    features : mapping factor name ("table.column") -> float32 array (I, S). NaN and infinite are no value.
        Items are fetched a few at a time, so a mapping that loads on access keeps memory bounded.
    labels : mapping horizon h -> float32 or float64 array (I, S), ``Ref($close, -(h+1))/Ref($close, -1) - 1``
    sessions : array of datetime64[D], shape (S,): the columns of the arrays, a contiguous part of the calendar
        that covers `signal_sessions`
    pool : bool array (I, S), membership on each session
    pool_name, universe : written to the rows
    dates : first and last metric date wanted, inclusive, both sessions of the calendar
    calendar : array of datetime64[D], the universe's sessions from its first on; ``sessions`` when left out
    history : stored rows of this table (at least universe, date, pool, horizon, factor, ic, rank_ic) on
        `history_sessions`. Other universes, pools, horizons, factors and dates in it are not read; a date without a
        row counts as a date without an IC. With the metrics of all of them, the result equals the same dates of a
        computation from the universe's beginning.
    window, minimum : metric dates of the trailing ratios and the fewest ICs among them (at least 2)
    threads : factors computed at the same time; by default up to 16, as many as there are processors

    Returns
    -------
    pa.Table in `qdag.schema.FACTOR_METRICS`, ordered by factor (as given), horizon, date. There is a row for every
    metric date that has a signal session in the calendar, with nulls where a value is undefined:

    - ic, rank_ic: fewer than 3 pairs, or a constant side
    - coverage: a pool without members on the signal session
    - icir, rank_icir: fewer than ``minimum`` ICs in the window, or all equal (standard deviation up to 1e-12)
    - long_short: fewer than 10 pairs, or an empty top or bottom quintile. With p = (average rank - 1)/(n - 1) the
      bottom quintile is p <= 0.2 and the top is p > 0.8: pandas' ``qcut`` where no factor values are equal; equal
      values always stay together.

    Raises
    ------
    PanelError
        An array of another shape or dtype, or history with two rows for one key.
    SessionError
        A metric date outside the calendar, or ``sessions`` that lack a signal session.
    UnknownNameError
        History without a needed column.
    """
    batches = iter_factor_metrics(
        features,
        labels,
        sessions,
        pool,
        pool_name=pool_name,
        universe=universe,
        dates=dates,
        calendar=calendar,
        history=history,
        window=window,
        minimum=minimum,
        threads=threads,
    )
    return pa.Table.from_batches(batches, FACTOR_METRICS.arrow())


def iter_factor_metrics(  # noqa: PLR0913 -- one keyword for each thing that metrics depend on
    features: Mapping[str, np.ndarray],
    labels: Mapping[int, np.ndarray],
    sessions: np.ndarray,
    pool: np.ndarray,
    *,
    pool_name: str,
    universe: str,
    dates: tuple[date, date],
    calendar: np.ndarray | None = None,
    history: pa.Table | None = None,
    window: int = ICIR_WINDOW,
    minimum: int = ICIR_MINIMUM,
    threads: int | None = None,
    others: Mapping[str, np.ndarray] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Like `factor_metrics`, a batch of some factors of one pool at a time, for writing while computing.

    ``others`` are further pools by name, bool (I, S) like ``pool``: every feature is fetched once for all of them, and
    the batches of the same factors follow each other pool by pool.

    Everything but the features' shapes is checked before this returns, so a wrong call fails before a write begins.
    """
    sessions = checked_calendar(sessions, "sessions")
    calendar = sessions if calendar is None else checked_calendar(calendar, "calendar")
    horizons = checked_horizons(labels)
    pool = np.asarray(pool)
    others = dict(others or {})
    if pool_name in others:
        raise PanelError(f"pool {pool_name!r} is given twice; leave it out of the others")
    for mask in (pool, *others.values()):
        if mask.dtype != bool or mask.ndim != 2 or mask.shape[1] != len(sessions) or len(mask) != len(pool):
            raise PanelError(
                f"pool must be bool, shape (instruments, {len(sessions)} sessions), got {mask.dtype} {mask.shape}"
            )
    for horizon, values in labels.items():
        if values.shape != pool.shape or values.dtype not in (np.float32, np.float64):
            raise PanelError(
                f"label of horizon {horizon} must be float32 or float64, shape {pool.shape}, "
                f"got {values.dtype} {values.shape}"
            )
    if not 2 <= minimum <= window:
        raise PanelError(f"minimum must be from 2 to window, got minimum={minimum}, window={window}")
    threads = min(os.cpu_count() or 1, 16) if threads is None else threads
    if threads < 1:
        raise PanelError(f"threads must be at least 1, got {threads}")

    at = metric_dates(calendar, horizons, dates)
    needed = calendar[at.first : at.last]
    first = int(np.searchsorted(sessions, needed[0])) if len(needed) else 0
    if not np.array_equal(sessions[first : first + len(needed)], needed):
        missing = np.setdiff1d(needed, sessions)
        raise SessionError(
            f"metric dates {dates[0]} to {dates[1]} need factor values of {needed[0]} to {needed[-1]} "
            f"(see signal_sessions), but sessions {'lack ' + str(missing[0]) if len(missing) else 'have extra days'}"
        )
    columns = slice(first, first + len(needed))
    known = np.stack([np.ascontiguousarray(labels[h][:, columns].T) for h in horizons])
    pools = []
    for name, mask in {pool_name: pool, **others}.items():
        past = _past(history, universe, name, horizons, tuple(features), calendar[: at.start], window)
        pools.append(_pool(name, mask[:, columns], known, past))
    return _batches(features, pool.shape, pools, first, at, universe, window, minimum, threads)


@dataclass(frozen=True)
class _Pool:
    """What the metrics of all factors in one pool share.

    ``rows`` are the instruments that are ever a member (None: all); arrays are (sessions, members) and (horizons,
    sessions, members).
    """

    name: str
    rows: np.ndarray | None
    members: np.ndarray
    labels: np.ndarray
    order: np.ndarray
    count: np.ndarray
    ranks: np.ndarray
    past: np.ndarray


def _pool(name: str, mask: np.ndarray, labels: np.ndarray, past: np.ndarray) -> _Pool:
    from qdag.factors import kernels

    ever = mask.any(axis=1)
    # an index is a small part of a market: its metrics need not walk over everybody
    rows = None if ever.all() else np.flatnonzero(ever)
    if rows is not None:
        mask, labels = mask[rows], np.ascontiguousarray(labels[:, :, rows])
    members = np.ascontiguousarray(mask.T)
    order, count, ranks = (
        np.stack(parts) for parts in zip(*(kernels.rank_labels(label, members) for label in labels), strict=True)
    )
    return _Pool(name, rows, members, labels, order, count, ranks, past)


def _batches(
    features: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    pools: list[_Pool],
    first: int,
    at: MetricDates,
    universe: str,
    window: int,
    minimum: int,
    threads: int,
) -> Iterator[pa.RecordBatch]:
    from qdag.factors import kernels

    steps = np.array(at.horizons, np.int64)
    length = at.stop - at.start

    def one(pool: _Pool, index: int, values: np.ndarray) -> dict[str, np.ndarray]:
        ic, rank_ic, coverage, long_short, n = kernels.cross_sections(
            values if pool.rows is None else values[pool.rows],
            first, pool.members, pool.labels, pool.order, pool.count, pool.ranks, steps, at.start - at.first, length,
            MINIMUM_PAIRS, MINIMUM_QUINTILE_PAIRS,
        )  # fmt: skip
        (icir, icir_n), (rank_icir, _) = (
            kernels.trailing_ratio(np.concatenate([before[index], now], axis=1), window, minimum, EQUAL_DEVIATION)
            for before, now in zip(pool.past, (ic, rank_ic), strict=True)
        )
        return {
            "ic": ic,
            "rank_ic": rank_ic,
            "coverage": coverage,
            "n": n,
            "icir": icir,
            "rank_icir": rank_icir,
            "icir_n": icir_n,
            "long_short": long_short,
        }

    # (horizon, metric date) of the rows of one factor: those with a signal session
    positions = np.arange(at.start, at.stop)
    exists = positions - (steps[:, None] + 1) >= 0
    row_horizon, row_date = np.nonzero(exists)
    if not len(row_horizon):
        return
    date_of = at.calendar[at.start + row_date]
    signal_of = at.calendar[at.start + row_date - (steps[row_horizon] + 1)]
    per_batch = max(threads, _BATCH_ROWS // len(row_horizon), 1)
    schema = FACTOR_METRICS.arrow()
    names = enumerate(features)
    with ThreadPoolExecutor(threads) as workers:
        while chunk := list(islice(names, per_batch)):
            # values are fetched here, one per free worker: the mapping may read a store that is not thread-safe
            results: list[dict[str, np.ndarray]] = []
            for begin in range(0, len(chunk), threads):
                some = [(i, _checked(name, features[name], shape)) for i, name in chunk[begin:][:threads]]
                results += workers.map(lambda item: one(*item), [(pool, *item) for item in some for pool in pools])
            rows = len(row_horizon)
            factor = np.repeat(np.arange(len(chunk), dtype=np.int32), rows)
            for at_pool, pool in enumerate(pools):
                data = {
                    "universe": pa.repeat(universe, len(factor)),
                    "date": pa.array(np.tile(date_of, len(chunk))),
                    "pool": pa.repeat(pool.name, len(factor)),
                    "horizon": pa.array(np.tile(steps[row_horizon].astype(np.int32), len(chunk))),
                    "factor": pa.array([name for _, name in chunk]).take(pa.array(factor)),
                    "signal_date": pa.array(np.tile(signal_of, len(chunk))),
                }
                for column in results[0]:
                    values = np.concatenate([result[column][exists] for result in results[at_pool :: len(pools)]])
                    data[column] = pa.array(values, mask=np.isnan(values) if values.dtype.kind == "f" else None)
                yield pa.RecordBatch.from_arrays([data[name] for name in schema.names], schema=schema)


def _checked(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.dtype != np.float32 or values.shape != shape:
        raise PanelError(f"factor {name!r} must be float32, shape {shape}, got {values.dtype} {values.shape}")
    return np.ascontiguousarray(values)


def _past(
    history: pa.Table | None,
    universe: str,
    pool: str,
    horizons: tuple[int, ...],
    factors: tuple[str, ...],
    before: np.ndarray,
    window: int,
) -> np.ndarray:
    """Stored ic and rank_ic of the window - 1 calendar sessions before the start, (2, F, H, window - 1), else NaN."""
    past = np.full((2, len(factors), len(horizons), window - 1), np.nan)
    if history is None:
        return past
    for column in _HISTORY_COLUMNS:
        if column not in history.column_names:
            raise unknown("column of the metrics history", column, history.column_names)
    days = before[len(before) - min(window - 1, len(before)) :]
    if not len(days) or not history.num_rows:
        return past
    history = history.select(list(_HISTORY_COLUMNS)).filter(
        (pc.field("universe") == universe)
        & (pc.field("pool") == pool)
        & (pc.field("date") >= pa.scalar(days[0].astype(date)))
        & (pc.field("date") <= pa.scalar(days[-1].astype(date)))
        & pc.field("horizon").isin(list(horizons))
        & pc.field("factor").isin(pa.array(factors, pa.string()))
    )
    at_date = pc.index_in(history["date"], pa.array(days)).to_numpy()
    if history["date"].num_chunks and pc.index_in(history["date"], pa.array(days)).null_count:
        stray = pc.filter(history["date"], pc.invert(pc.is_in(history["date"], pa.array(days))))[0]
        raise SessionError(f"metrics history has date {stray}, which is no session of the calendar; pass the calendar")
    at_factor = pc.index_in(history["factor"], pa.array(factors, pa.string())).to_numpy()
    at_horizon = np.searchsorted(np.array(horizons), history["horizon"].to_numpy())
    cell = (at_factor.astype(np.int64), at_horizon, at_date.astype(np.int64) + (window - 1 - len(days)))
    flat = np.ravel_multi_index(cell, past.shape[1:])
    if len(np.unique(flat)) != len(flat):
        values, counts = np.unique(flat, return_counts=True)
        f, h, d = np.unravel_index(values[counts > 1][0], past.shape[1:])
        raise PanelError(
            f"metrics history has several rows for factor {factors[f]!r}, horizon {horizons[h]}, "
            f"date {days[d - (window - 1 - len(days))]}; read one version of the table"
        )
    for k, column in enumerate(("ic", "rank_ic")):
        past[k][cell] = history[column].to_numpy()
    return past
