"""The frames of feature tables and labels."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from qdag import schema
from qdag.features.catalogue import feature_set
from qdag.quality import Scope, checks, features
from qdag_tests import stages
from qdag_tests.quality.toy import FEATURES, bars, columns_of, named, put
from qdag_tests.stages import frames


def test_feature_frames(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MATURE_SESSIONS", 40)
    monkeypatch.setattr(checks, "CHUNK_ROWS", 50)
    sessions = scope.sessions()
    frame = bars(sessions)
    put(scope, schema.RAW_OHLCV, frame)
    old = frame["date"].to_numpy().astype("M8[D]") >= sessions[40]
    values = frame[["date", "instrument"]].assign(KMID=1.0, MA5=np.where(old, 2.0, np.nan))
    values.loc[values.index[-1], "KMID"] = np.inf
    values.loc[values.index[-2:], "MA5"] = np.nan
    lost = (values["date"] == sessions[3]) & (values["instrument"] == "BBB")
    put(scope, FEATURES, values[~lost])
    parts = [name for name, _ in frames("alpha158", scope, [c.name for c in FEATURES.columns])]
    assert parts.count("rows") == 1
    found = named("alpha158", scope, tuple(c.name for c in FEATURES.columns))
    mature = 3 * (len(sessions) - 40)
    columns = found["columns"].set_index("column")
    assert columns["rows"].tolist() == [mature, mature]
    assert columns.loc["MA5", "null_share"] == pytest.approx(2 / mature)
    assert columns.loc["KMID", "infinite_share"] == pytest.approx(1 / mature)
    assert found["sessions"].loc[found["sessions"]["missing_bars"] > 0, "date"].tolist() == [pd.Timestamp(sessions[3])]
    assert found["sessions"]["date"].is_unique
    assert len(found["sessions"]) == len(sessions)


def test_young_universes_are_not_judged_for_missing_values(scope: Scope) -> None:
    frame = bars(scope.sessions())
    put(scope, schema.RAW_OHLCV, frame)
    put(scope, FEATURES, frame[["date", "instrument"]].assign(KMID=np.nan, MA5=np.nan))
    assert named("alpha158", scope)["columns"].empty


def test_a_table_without_the_window_misses_every_bar(scope: Scope) -> None:
    frame = bars(scope.sessions())
    put(scope, schema.RAW_OHLCV, frame)
    put(scope, FEATURES, frame[["date", "instrument"]].assign(KMID=1.0, MA5=1.0).iloc[:0])
    assert named("alpha158", scope)["sessions"]["missing_bars"].eq(3).all()


def test_labels_are_known_one_session_after_their_horizon(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions)
    put(scope, schema.RAW_OHLCV, frame)
    position = np.searchsorted(sessions, frame["date"].to_numpy().astype("M8[D]"))
    spec = schema.labels_table((1, 5))
    known = len(sessions) - 1 - position
    good = frame[["date", "instrument"]].assign(
        label_1=np.where(known >= 2, 0.01, np.nan), label_5=np.where(known >= 6, 0.05, np.nan)
    )
    columns = tuple(c.name for c in spec.columns)
    put(scope, spec, good)
    found = named("labels", scope, columns)["horizons"].set_index("label")
    assert found["known_rows"].tolist() == [3 * (len(sessions) - 2), 3 * (len(sessions) - 6)]
    assert found["known_null_share"].tolist() == [0, 0]
    assert found["too_early"].tolist() == [0, 0]
    last = sessions[-1].item()
    daily = named("labels", Scope(scope.store, scope.settings, "toy", last, last), columns)
    # the six sessions before, whose labels the window's prices make known, are judged again
    assert daily["sessions"]["date"].tolist() == list(pd.to_datetime(sessions[-7:]))
    assert daily["sessions"]["is_session"].all()
    assert daily["horizons"].set_index("label")["known_rows"].tolist() == [15, 3]
    put(
        scope, spec, good.assign(label_1=np.where(known >= 1, 0.01, np.nan), label_5=np.where(known >= 7, 0.05, np.nan))
    )
    found = named("labels", scope, columns)["horizons"].set_index("label")
    assert found["too_early"].tolist() == [3, 0]
    assert found["known_null_share"].tolist() == pytest.approx([0, 1 / (len(sessions) - 6)])


def test_levels_do_not_drift(computed: stages.Platform) -> None:
    table = "technical_indicators"
    columns = columns_of(computed, table)
    scope = Scope(computed.store, computed.settings, "toy", date(2019, 1, 2), date(2019, 12, 31))
    judged = set(named(table, scope, columns)["drift"]["column"])
    assert judged == set(columns) - {"universe", "date", "instrument"} - feature_set(table).levels
    assert {"sma_20", "atr_14", "obv_120"} <= feature_set(table).levels
