"""Qlib's processors of cross-sections without a pandas call for each day; the same bits. Importing it imports Qlib."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from qlib.data.dataset import processor
from qlib.data.dataset.processor import get_group_columns
from qlib.utils.data import zscore

DAYS = "datetime"


class CSZScoreNorm(processor.CSZScoreNorm):
    """Qlib's ``CSZScoreNorm``: columns less their mean over a day, by their standard deviation (ddof 1).

    Bits are those of Qlib's class, which is used where ``method`` is ``robust`` or columns are not of one float type.
    """

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        groups = self.fields_group if isinstance(self.fields_group, list) else [self.fields_group]
        chosen = [get_group_columns(df, group) for group in groups]
        if self.zscore_func is not zscore or not all(_plain(df, columns) for columns in chosen):
            return super().__call__(df)
        for columns in chosen:
            _put(df, columns, _by_day(df, columns, _standard))
        return df


class CSZFillna(processor.CSZFillna):
    """Qlib's ``CSZFillna``: NaN becomes the column's mean over the day, with the bits of Qlib's class."""

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        columns = get_group_columns(df, self.fields_group)
        if not _plain(df, columns):
            return super().__call__(df)
        _put(df, columns, _by_day(df, columns, _filled))
        return df


class ProcessInf(processor.ProcessInf):
    """Qlib's ``ProcessInf``: an infinity becomes the mean of the column's other values of the day, rows are sorted.

    Bits are those of Qlib's class, which is used where columns are not of one float type.
    """

    def __call__(self, df: pd.DataFrame) -> pd.DataFrame:
        if not _plain(df, df.columns):
            return super().__call__(df)
        values = _by_day(df, df.columns, _finite)
        return pd.DataFrame(values.T, df.index, df.columns, copy=False).sort_index()


def use() -> None:
    """Give these classes to configurations that name Qlib's processors, in this process."""
    for one in (CSZScoreNorm, CSZFillna, ProcessInf):
        setattr(processor, one.__name__, one)


def _plain(df: pd.DataFrame, columns: Any) -> bool:
    """Whether pandas would compute in the columns' own type, and every row has a day."""
    types = set(df[columns].dtypes) if len(df) else set()
    return (
        len(types) == 1
        and next(iter(types)) in (np.float32, np.float64)
        and df.index.nlevels == 2
        and DAYS in df.index.names
        and not df.index.get_level_values(DAYS).hasnans
    )


def _slices(df: pd.DataFrame) -> Iterator[slice | np.ndarray]:
    """The rows of each day."""
    codes, days = pd.factorize(df.index.get_level_values(DAYS))
    if (np.diff(codes) >= 0).all():
        bounds = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), len(codes)]
        yield from (slice(a, b) for a, b in pairwise(bounds))
    else:
        order = np.argsort(codes, kind="stable")
        yield from np.split(order, np.cumsum(np.bincount(codes, minlength=len(days)))[:-1])


def _by_day(df: pd.DataFrame, columns: Any, function: Any) -> np.ndarray:
    """A function of a day's values (columns, instruments), each row contiguous, for all days: (columns, rows)."""
    values = df[columns].to_numpy().T
    found = np.empty(values.shape, values.dtype)
    with np.errstate(all="ignore"):
        for rows in _slices(df):
            found[:, rows] = function(np.ascontiguousarray(values[:, rows]))
    return found


def _put(df: pd.DataFrame, columns: Any, values: np.ndarray) -> None:
    df[columns] = pd.DataFrame(values.T, df.index, columns, copy=False)


def _means(values: np.ndarray) -> np.ndarray:
    """(columns, 1). By pandas itself: how it sums depends on what is installed beside it."""
    return pd.DataFrame(values.T).mean().to_numpy()[:, None]


def _standard(values: np.ndarray) -> np.ndarray:
    spread = pd.DataFrame(values.T).std().to_numpy()[:, None]
    return (values - _means(values)) / spread


def _filled(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), _means(values), values)


def _finite(values: np.ndarray) -> np.ndarray:
    infinite = np.isinf(values)
    for column in np.flatnonzero(infinite.any(axis=1)):
        values[column, infinite[column]] = pd.Series(values[column][~infinite[column]]).mean()
    return values
