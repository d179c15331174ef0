"""What columns looked like on each session (counts and quantiles), and how far they have drifted from the year before.

Arrays and frames only; no I/O belongs here.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from qdag.settings import QualitySettings

PROFILE_ROWS = 1000
"""Quantiles are of up to so many evenly spaced rows of a session."""
DRIFT_SESSIONS = 20
"""Drift is measured over so many sessions at a time."""
DRIFT_REFERENCE = 252
"""They are compared with up to so many sessions before them."""
DRIFT_LEAST = 60
"""Fewer sessions before are nothing to compare with."""
DRIFT_STEP = 3
"""Every third session of the reference is taken: neighbours say almost the same."""
LEAST_SHARE = 1e-3
"""A bin without values counts as having this share, so that its logarithm is finite."""
QUANTILES = tuple(f"q{p:03d}" for p in range(0, 101, 5))
"""Columns of a profile: quantiles in steps of 5 %, from the least to the largest value."""
_PLACES = np.linspace(0, 1, len(QUANTILES))


def profile(days: np.ndarray, columns: Sequence[str], matrix: np.ndarray) -> pd.DataFrame:
    """Per session and column: rows, nulls, infinities, and quantiles of up to ``PROFILE_ROWS`` evenly spaced rows.

    Parameters
    ----------
    days : datetime64[D], shape (N,), increasing
    columns : names of the matrix's columns
    matrix : floats, shape (N, len(columns)); NaN is null

    Returns
    -------
    One line per session and column, quantiles NaN where there is no finite value.
    """
    sessions, begins = np.unique(days, return_index=True)
    edges = np.append(begins, len(days))
    rows, nulls, infinite, quantiles = [], [], [], []
    for low, high in pairwise(edges.tolist()):
        block = matrix[low:high]
        missing = np.isnan(block)
        rows.append(np.full(len(columns), high - low))
        nulls.append(missing.sum(axis=0))
        infinite.append(np.isinf(block).sum(axis=0))
        part = np.where(np.isinf(block), np.nan, block)[:: -(-(high - low) // PROFILE_ROWS)]
        part = np.sort(part, axis=0)
        valid = (~np.isnan(part)).sum(axis=0)
        at = np.rint(_PLACES[:, None] * np.maximum(valid - 1, 0)).astype(np.int64)
        quantiles.append(np.take_along_axis(part, at, axis=0).T)
    empty = np.empty((0, len(QUANTILES)))
    frame = pd.DataFrame(np.concatenate(quantiles) if quantiles else empty, columns=list(QUANTILES), dtype=np.float32)
    keys = {"date": np.repeat(sessions, len(columns)).astype("M8[s]"), "column": np.tile(columns, len(sessions))}
    counted = {
        name: np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)
        for name, parts in (("rows", rows), ("nulls", nulls), ("infinite", infinite))
    }
    return pd.concat([pd.DataFrame({**keys, **counted}), frame], axis=1)


def drift(history: pd.DataFrame, current: pd.DataFrame, limits: QualitySettings) -> pd.DataFrame:
    """How far each column has moved, for every ``DRIFT_SESSIONS`` sessions of ``current``, the newest last.

    Both frames are profiles. The last ``DRIFT_SESSIONS`` sessions are compared with up to ``DRIFT_REFERENCE`` before
    them: the distribution of several sessions is the mean of theirs, each taken as straight between its quantiles. With
    p and q the shares of both between the reference's deciles, the index is sum (p - q) ln (p / q).

    Few instruments differ by chance. Of n independent ones in ten bins the index is 9 / n on average, and the standard
    error of a median about 1 / sqrt(n) interquartile ranges: the first is taken off the index, four of the second widen
    what is allowed to the median.

    Returns
    -------
    date (the newest session compared), column, psi (the index), shift (of the median, in interquartile ranges of the
    reference), instruments (with a value, in the mean of the sessions), drift (above 1 where both psi and shift are
    beyond the limits), reference_sessions; no line where fewer than ``DRIFT_LEAST`` sessions came before.
    """
    both = pd.concat([history, current[["date", "column", *QUANTILES]]], ignore_index=True)
    columns = ["date", "column", "psi", "shift", "instruments", "drift", "reference_sessions"]
    lines: list[pd.DataFrame] = []
    sessions = np.unique(both["date"].to_numpy())
    own = np.unique(current["date"].to_numpy())
    ends = np.arange(len(sessions), len(sessions) - max(len(own), 1), -DRIFT_SESSIONS)
    ends = ends[ends - DRIFT_SESSIONS >= DRIFT_LEAST]
    if not len(ends) or current.empty:
        return pd.DataFrame(columns=columns)
    features = [c for c in dict.fromkeys(current["column"]) if c is not None]
    at = pd.Index(features).get_indexer(both["column"])
    cube = np.full((len(features), len(sessions), len(QUANTILES)), np.nan)
    kept = at >= 0
    places = np.searchsorted(sessions, both["date"].to_numpy())
    cube[at[kept], places[kept]] = both.loc[kept, list(QUANTILES)].to_numpy(np.float64)
    seen = np.full((len(features), len(sessions)), np.nan)
    where = pd.Index(features).get_indexer(current["column"]), np.searchsorted(sessions, current["date"].to_numpy())
    seen[where] = (current["rows"] - current["nulls"] - current["infinite"]).to_numpy(np.float64)
    for end in sorted(ends.tolist()):
        begin = end - DRIFT_SESSIONS
        past = cube[:, max(0, begin - DRIFT_REFERENCE) : begin][:, ::-DRIFT_STEP]
        psi, shift, known = _stability(past, cube[:, begin:end])
        known *= DRIFT_STEP
        psi[known < DRIFT_LEAST] = np.nan
        counted = np.isfinite(seen[:, begin:end])
        few = np.where(counted, seen[:, begin:end], 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        n = np.maximum(few, 1)
        moved = np.minimum((psi - 9 / n) / limits.drift, np.abs(shift) / (limits.drift_shift + 4 / np.sqrt(n)))
        block = {"column": features, "psi": psi, "shift": shift, "instruments": few, "drift": moved}
        lines.append(pd.DataFrame({"date": pd.Timestamp(sessions[end - 1]), **block, "reference_sessions": known}))
    return pd.concat(lines, ignore_index=True)[columns]


def _stability(reference: np.ndarray, current: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index, shift and known sessions of each column; quantiles by column and session, shape (F, sessions, Q)."""
    known = (~np.isnan(reference[:, :, 0])).sum(axis=1)
    # quantiles are evenly spaced: all of them together are a sample of the mean distribution; NaN sorts to the end
    pooled, latest = (np.sort(x.reshape(len(x), -1), axis=1) for x in (reference, current))
    sizes = [np.maximum((~np.isnan(x)).sum(axis=1), 1) for x in (pooled, latest)]

    def quantile(x: np.ndarray, size: np.ndarray, share: float) -> np.ndarray:
        return x[np.arange(len(x)), np.rint(share * (size - 1)).astype(int)]

    edges = np.stack([quantile(pooled, sizes[0], tenth / 10) for tenth in range(1, 10)], axis=1)
    shares = []
    for values, size in zip((pooled, latest), sizes, strict=True):
        below = np.stack([(values <= edges[:, i : i + 1]).sum(axis=1) for i in range(9)], axis=1) / size[:, None]
        whole = np.concatenate([np.zeros((len(values), 1)), below, np.ones((len(values), 1))], axis=1)
        shares.append(np.maximum(np.diff(whole, axis=1), LEAST_SHARE))
    q, p = shares
    spread = quantile(pooled, sizes[0], 0.75) - quantile(pooled, sizes[0], 0.25)
    moved = quantile(latest, sizes[1], 0.5) - quantile(pooled, sizes[0], 0.5)
    shift = np.divide(moved, spread, out=np.zeros(len(moved)), where=spread > 0)
    psi = ((p - q) * np.log(p / q)).sum(axis=1)
    return np.where(np.isnan(latest[:, 0]), np.nan, psi), shift, known
