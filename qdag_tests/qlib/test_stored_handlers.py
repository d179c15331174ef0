"""Handlers on stored tables against Qlib's own handlers on the same directory."""

import logging
import pickle
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames_compared import differing

from qdag.assets.platform import Platform
from qdag.errors import MissingDataError, SettingsError, UnknownNameError
from qdag.settings import load_settings
from qdag_tests import stages

RANGE = {"start_time": "2018-03-01", "end_time": "2018-12-31"}
FIT = {"fit_start_time": "2018-03-01", "fit_end_time": "2018-09-28"}
NORMS = [{"class": "RobustZScoreNorm", "kwargs": {"fields_group": "feature"}}, {"class": "Fillna"}]


@pytest.fixture
def on_toy(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Qlib on the engine on the directory of the universe."""
    import qdag.qlib

    monkeypatch.setenv("QDAG_CONFIG", str(toy))
    qdag.qlib.init(universe="toy", processors=False, logging_level=50, kernels=1)
    return qdag.qlib


def all_of(handler: Any) -> list[pd.DataFrame]:
    from qlib.data.dataset.handler import DataHandlerLP

    return [handler.fetch(data_key=key) for key in (DataHandlerLP.DK_R, DataHandlerLP.DK_I, DataHandlerLP.DK_L)]


def own_copy(toy: Path, on_toy: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """A copy of the home that may be changed, with Qlib on its directory."""
    config = shutil.copytree(toy.parent, folder / "copy") / "qdag.toml"
    monkeypatch.setenv("QDAG_CONFIG", str(config))
    on_toy.init(universe="toy", processors=False, logging_level=50)
    return Platform.open(load_settings(config))


def remove(platform: Platform, table: str, first: date, last: date) -> None:
    spec = stages.table_spec(platform.settings, table)
    assert spec is not None
    platform.store.replace(spec, "toy", first, last, spec.arrow().empty_table(), {})


@pytest.mark.parametrize("instruments", ["all", "liquid", ["SYN00001", "SYN00004"]], ids=["all", "pool", "list"])
def test_alpha158_is_qlibs(on_toy: Any, instruments: Any, caplog: pytest.LogCaptureFixture) -> None:
    from qlib.contrib.data.handler import Alpha158

    options = {"instruments": instruments, "infer_processors": NORMS, **RANGE, **FIT}
    with caplog.at_level(logging.WARNING, "qdag.qlib"):
        stored = all_of(on_toy.Alpha158Stored(**options))
    assert not caplog.records
    for ours, theirs in zip(stored, all_of(Alpha158(**options)), strict=True):
        assert not differing(ours, theirs)


def test_alpha360_is_computed_where_it_is_not_stored(on_toy: Any, caplog: pytest.LogCaptureFixture) -> None:
    from qlib.contrib.data.handler import Alpha360

    options = {"instruments": "all", "infer_processors": NORMS, **RANGE, **FIT}
    with caplog.at_level(logging.WARNING, "qdag.qlib"):
        stored = all_of(on_toy.Alpha360Stored(**options))
    assert [r.message for r in caplog.records] == ["alpha360 is not stored: the engine computes it"]
    for ours, theirs in zip(stored, all_of(Alpha360(**options)), strict=True):
        assert not differing(ours, theirs)


def test_sessions_that_are_not_stored_are_computed(
    toy: Path, on_toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    platform = own_copy(toy, on_toy, tmp_path, monkeypatch)
    whole = all_of(on_toy.Alpha158Stored(**RANGE))
    gone = date(2018, 5, 1), date(2018, 5, 31)
    for table in ("alpha158", "technical_indicators"):
        remove(platform, table, *gone)
    with caplog.at_level(logging.WARNING, "qdag.qlib"):
        found = all_of(on_toy.Alpha158Stored(**RANGE))
    assert len(caplog.records) == 1
    assert "of alpha158 from 2018-05-01 to 2018-05-31 are not stored" in caplog.messages[0]
    for ours, theirs in zip(found, whole, strict=True):
        pd.testing.assert_frame_equal(ours, theirs)
    with pytest.raises(MissingDataError, match="not all of its columns are expressions; materialize technical"):
        on_toy.StoredHandler(features=["technical_indicators"], **RANGE)


def test_tables_and_columns_are_chosen(on_toy: Any) -> None:
    from qlib.data import D

    names = ["alpha158.KMID", "technical_indicators.rsi_14", "custom_factors"]
    handler = on_toy.StoredHandler(features=names, label="label_5", suspended=False, learn_processors=[], **RANGE)
    frame = handler.fetch(col_set=handler.CS_RAW)
    assert list(frame.columns) == [
        ("feature", "KMID"), ("feature", "rsi_14"), ("feature", "gap"), ("label", "label_5")
    ]  # fmt: skip
    fields = ["$close", "($close-$open)/$open", "$open/Ref($close, 1)-1", "Ref($close, -6)/Ref($close, -1) - 1"]
    asked = D.features(D.instruments("all"), fields, *RANGE.values()).dropna(subset=["$close"]).swaplevel().sort_index()
    assert frame.index.equals(asked.index)
    for ours, theirs in zip((("feature", "KMID"), ("feature", "gap"), ("label", "label_5")), fields[1:], strict=True):
        np.testing.assert_allclose(frame[ours], asked[theirs], rtol=1e-5)


def test_versions_that_are_pinned(toy: Path, on_toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = own_copy(toy, on_toy, tmp_path, monkeypatch)
    store = platform.store
    versions = {"alpha158": store.version("alpha158"), "labels": store.version("labels")}
    before = on_toy.Alpha158Stored(versions=versions, **RANGE).fetch()
    assert before.index.equals(on_toy.Alpha158Stored(suspended=False, **RANGE).fetch().index)
    remove(platform, "alpha158", date(2018, 5, 1), date(2018, 5, 31))
    pd.testing.assert_frame_equal(on_toy.Alpha158Stored(versions=versions, **RANGE).fetch(), before)
    newest = {"alpha158": store.version("alpha158")}
    assert len(on_toy.Alpha158Stored(versions=newest, **RANGE).fetch()) < len(before)
    pooled = on_toy.Alpha158Stored(versions=versions, instruments="liquid", **RANGE).fetch()
    assert pooled.index.equals(on_toy.Alpha158Stored(suspended=False, instruments="liquid", **RANGE).fetch().index)
    with pytest.raises(MissingDataError, match=r"Ref\(\$close, -3\).*nothing is computed where versions are given"):
        on_toy.Alpha158Stored(versions=versions, label=(["Ref($close, -3)"], ["A"]), **RANGE)


def test_datasets_of_qlib_work_and_are_pickled(on_toy: Any) -> None:
    from qlib.data.dataset import DatasetH, TSDatasetH

    handler = on_toy.Alpha158Stored(learn_processors=[{"class": "DropnaLabel"}], **RANGE)
    again = pickle.loads(pickle.dumps(handler))
    again.setup_data()
    pd.testing.assert_frame_equal(again.fetch(), handler.fetch())
    segments = {"train": ("2018-03-01", "2018-08-31"), "test": ("2018-09-03", "2018-12-31")}
    tables = DatasetH(handler, segments).prepare(["train", "test"])
    assert [frame.shape[1] for frame in tables] == [159, 159]
    series = TSDatasetH(handler=handler, segments=segments, step_len=5).prepare("test")
    assert series[0].shape == (5, 159)


def test_bad_input_is_said(toy: Path, on_toy: Any, market: Path, qlib_on: Any) -> None:
    for options, error, said in (
        ({"universe": "toi"}, UnknownNameError, "'toi'"),
        ({"features": ["alpha159"]}, UnknownNameError, r"'alpha159'.*alpha158"),
        ({"features": ["alpha158.KMIT"]}, UnknownNameError, r"'KMIT'.*KMID"),
        ({"features": ["alpha158", "alpha158.KMID"]}, SettingsError, "twice"),
        ({"features": []}, SettingsError, "features is empty"),
        ({"label": "label_6"}, UnknownNameError, r"'label_6'.*label_5"),
        ({"versions": {"alpha360": 3}}, UnknownNameError, "'alpha360'"),
        ({"instruments": "liqid"}, UnknownNameError, r"'liqid'.*liquid"),
        ({"freq": "1min"}, SettingsError, "freq='1min'"),
        ({"inst_processors": [{"class": "Weekly"}]}, SettingsError, "inst_processors"),
    ):
        with pytest.raises(error, match=said):
            on_toy.StoredHandler(**options, **RANGE)
    qlib_on(market, True)
    with pytest.raises(SettingsError, match="the directory of no universe"):
        on_toy.StoredHandler(**RANGE)
    with pytest.raises(SettingsError, match=r"call qdag\.qlib\.init\(universe='toy'\)"):
        on_toy.StoredHandler(universe="toy", **RANGE)
