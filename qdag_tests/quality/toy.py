"""A small universe of three plain instruments, and what the tests of quality say of it."""

from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa

from qdag import schema
from qdag.quality import Scope
from qdag.quality.rule import violations
from qdag_tests import stages
from qdag_tests.stages import frames, rules_for

TABLES = (*stages.FEATURE_TABLES, "raw_ohlcv", "qlib_bin", "labels", "factor_metrics", "predictions")
START, END = date(2020, 1, 2), date(2020, 3, 31)
NAMES = ("AAA", "BBB", "CCC")


def bars(sessions: np.ndarray, names: tuple[str, ...] = NAMES) -> pd.DataFrame:
    """Plain bars: close 10, 11, 12 by instrument, rising 0.1 % a session."""
    frame = pd.MultiIndex.from_product([sessions.astype("M8[s]"), names], names=["date", "instrument"]).to_frame(
        index=False
    )
    growth = 1.001 ** np.searchsorted(sessions, frame["date"].to_numpy().astype("M8[D]"))
    close = growth * (10.0 + np.tile(np.arange(len(names)), len(sessions)))
    return frame.assign(
        universe="toy", open=close, high=close * 1.01, low=close * 0.99, close=close, volume=1000.0,
        amount=None, vwap=close, factor=1.0, split=1.0, dividend=0.0,
    )  # fmt: skip


def put(scope: Scope, spec: schema.TableSpec, frame: pd.DataFrame, start: date = START, end: date = END) -> None:
    frame = frame.assign(universe="toy", date=pd.to_datetime(frame["date"]).dt.date)
    scope.store.replace(spec, "toy", start, end, pa.Table.from_pandas(frame, spec.arrow(), preserve_index=False), {})


def named(table: str, scope: Scope, columns: tuple[str, ...] = ()) -> dict[str, pd.DataFrame]:
    parts: dict[str, list[pd.DataFrame]] = {}
    for name, frame in frames(table, scope, columns):
        parts.setdefault(name, []).append(frame)
    return {name: pd.concat(part, ignore_index=True) for name, part in parts.items()}


FEATURES = schema.feature_table("alpha158", [("KMID", "body"), ("MA5", "mean")], "two features")


def move(scope: Scope, frame: pd.DataFrame, name: str, at: int, times: float, factor: float = 1.0) -> pd.DataFrame:
    """From session ``at`` on, the close of an instrument is ``times`` as high and its factor ``factor`` times."""
    later = (frame["instrument"] == name) & (frame["date"].to_numpy().astype("M8[D]") >= scope.sessions()[at])
    frame.loc[later, ["open", "high", "low", "close", "vwap"]] *= times
    frame.loc[later, "factor"] *= factor
    return frame


def failing(scope: Scope, name: str) -> list[tuple[str, str]]:
    """Session position and instrument of the rows that break a rule of raw_ohlcv."""
    found = named("raw_ohlcv", scope)
    rule = next(r for r in rules_for("raw_ohlcv", (), scope.limits) if r.name == name)
    frame = found[rule.frame]
    wrong = frame[violations(rule, frame)]
    days = np.searchsorted(scope.sessions(), wrong["date"].to_numpy().astype("M8[D]"))
    return [(int(d), str(i)) for d, i in zip(days, wrong["instrument"], strict=True)]


def failing_sessions(scope: Scope, name: str) -> list[date]:
    rule = next(r for r in rules_for("raw_ohlcv") if r.name == name)
    frame = named("raw_ohlcv", scope)[rule.frame]
    return [day.date() for day in frame.loc[violations(rule, frame), "date"]]


def columns_of(platform: stages.Platform, table: str) -> tuple[str, ...]:
    spec = stages.table_spec(platform.settings, table)
    assert spec is not None
    return tuple(c.name for c in spec.columns)
