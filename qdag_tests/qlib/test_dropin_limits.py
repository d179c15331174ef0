"""What the engine's provider leaves to Qlib, what it refuses, and what it keeps."""

import ast
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames_compared import differing
from hypothesis import given
from hypothesis import strategies as st

from qdag.errors import ExpressionError, MissingDataError, PanelError, SettingsError, StoreError, UnknownNameError
from qdag.qlib.bins import Bins
from qdag.settings import load_settings

NAMES = ["T0000", "T0003"]


def provider_of(data: Any) -> Any:
    from qlib.data.data import DatasetD

    return DatasetD._provider


def test_registered_operators_are_qlibs_and_said_once(
    market: Path, qlib_on: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from doubled import Doubled

    fields = ["Doubled($close)", "Mean($close, 5)", "Mean(Doubled($close), 3)/$open"]
    found = []
    for engine in (True, False):
        data = qlib_on(market, engine, custom_ops=[Doubled])
        caplog.clear()
        with caplog.at_level(logging.WARNING, "qdag.qlib"):
            found.append(data.features(NAMES, fields, "2015-02-20", None))
            data.features(NAMES, fields, "2015-02-20", None, disk_cache=0)
        told = [record.message for record in caplog.records if record.name == "qdag.qlib"]
        assert len(told) == (2 if engine else 0)
        assert all("Doubled is an operator of yours" in line for line in told)
    assert not differing(*found)


def test_an_operator_of_ones_own_under_a_known_name_is_qlibs(market: Path, qlib_on: Any) -> None:
    from doubled import Mean

    data = qlib_on(market, True, custom_ops=[Mean])
    frame = data.features(NAMES, ["Mean($close)", "$close"])
    np.testing.assert_array_equal(frame["Mean($close)"], 2 * frame["$close"])
    data = qlib_on(market, True)
    assert not data.features(NAMES, ["Mean($close, 1)"])["Mean($close, 1)"].equals(frame["Mean($close)"])


def test_another_frequency_is_qlibs(market: Path, qlib_on: Any, caplog: pytest.LogCaptureFixture) -> None:
    minutes = pd.date_range("2015-01-05 09:30", periods=4, freq="min").strftime("%Y-%m-%d %H:%M:%S")
    (market / "calendars" / "1min.txt").write_text("\n".join(minutes) + "\n")
    for name in NAMES:
        np.array([0, 1, 2, 3, 4], "<f4").tofile(market / "features" / name.lower() / "close.1min.bin")
    found = []
    for engine in (True, False):
        data = qlib_on(market, engine)
        with caplog.at_level(logging.WARNING, "qdag.qlib"):
            found.append(data.features(NAMES, ["$close", "Mean($close, 2)"], freq="1min"))
    assert len(found[0]) == 8
    assert not differing(*found)
    assert [r.message for r in caplog.records if "freq='1min'" in r.message]


def test_another_feature_provider_is_qlibs(market: Path, qlib_on: Any) -> None:
    theirs = {"class": "Flat", "module_path": "flat"}
    data = qlib_on(market, True, feature_provider=theirs)
    assert (data.features(NAMES, ["$close", "Sum($close, 2)"], "2015-03-02", "2015-03-03")["$close"] == 7).all()


HOSTILE = [
    "__import__('os').system('true')",
    "$close.__class__",
    "Mean($close, __import__('os').getpid())",
    "(lambda: 0)()",
    "[x for x in ().__class__.__base__.__subclasses__()]",
    "Operators._ops.clear()",
    "eval('1')",
    "Mean($close, 5);import os",
    "f'{$close}'",
    "Feature('close').__init__",
    "P(__import__('os'))",
    "Mean(*$close)",
    "Mean(**$close)",
    "Ref($close, 9**9**9**9)",
    "$close if open('/etc/passwd') else $open",
    "Ref('/../../secret', 1)",
    "\x00",
    "",
    "(" * 500 + "$close" + ")" * 500,
    "Abs(" * 300 + "$close" + ")" * 300,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_refused(market: Path, qlib_on: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = qlib_on(market, True)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was evaluated")

    for name in ("system", "getpid"):
        monkeypatch.setattr(os, name, never)
    with pytest.raises(ExpressionError):
        data.features(NAMES, ["$close", text])


@given(st.text(alphabet="$close Mean(,5)'\"_.[]{}:=lambdx*-+/P@;\\\n", max_size=60))
def test_no_text_is_evaluated_that_is_no_expression(market: Path, qlib_on: Any, text: str) -> None:
    from qlib.data.ops import Operators
    from qlib.utils import parse_field

    from qdag.qlib.expressions import Ours, Sorter

    if not Operators._ops:
        qlib_on(market, True)
    try:
        (found,) = Sorter().sort([text.replace(" ", "")])
    except ExpressionError:
        return
    if not isinstance(found, Ours):
        nodes = list(ast.walk(ast.parse(parse_field(found.text), mode="eval")))
        assert {node.id for node in nodes if isinstance(node, ast.Name)} <= {"Operators", "Feature", "PFeature"}
        assert {node.attr for node in nodes if isinstance(node, ast.Attribute)} <= set(Operators._ops)


def test_files_are_read_once_and_again_when_they_change(market: Path, tmp_path: Path, qlib_on: Any) -> None:
    folder = shutil.copytree(market, tmp_path / "market")
    data = qlib_on(folder, True)
    before = data.features(NAMES, ["$close", "Ref($close, 1)"])
    bins = provider_of(data).bins
    held = bins.held
    assert len(bins.known) == 2
    again = data.features(NAMES, ["Mean($close, 5)"], "2015-03-02", "2015-04-01")
    assert len(again)
    assert bins.held == held
    path = folder / "features" / "t0000" / "close.day.bin"
    content = np.fromfile(path, "<f4")
    content[1:] *= 2
    content.tofile(path)
    after = data.features(NAMES, ["$close", "Ref($close, 1)"])
    np.testing.assert_array_equal(after.loc["T0000"], 2 * before.loc["T0000"])
    pd.testing.assert_frame_equal(after.loc[["T0003"]], before.loc[["T0003"]])


def test_a_longer_calendar_is_seen(market: Path, tmp_path: Path, qlib_on: Any) -> None:
    folder = shutil.copytree(market, tmp_path / "market")
    data = qlib_on(folder, True)
    assert len(data.features(["T0000"], ["$close"])) == 130
    with (folder / "calendars" / "day.txt").open("a") as file:
        file.write("2015-07-02\n")
    with (folder / "features" / "t0000" / "close.day.bin").open("ab") as file:
        file.write(np.array([50.0], "<f4").tobytes())
    frame = data.features(["T0000"], ["$close"])
    assert frame.loc[("T0000", "2015-07-02"), "$close"] == 50


def test_memory_is_bounded(market: Path) -> None:
    folders = [str(path) for path in sorted((market / "features").iterdir())]
    small = Bins(1500)
    whole = Bins(1 << 30)
    fields = ["open", "high", "low", "close"]
    for low, high in ((0, 130), (20, 60), (100, 150)):
        a, b = small.block(folders, fields, low, high), whole.block(folders, fields, low, high)
        assert small.held <= 1500
        assert small.held == sum(values.nbytes for _, _, values in small.known.values())
        for field in fields:
            np.testing.assert_array_equal(a.values[field], b.values[field])
            np.testing.assert_array_equal(a.first[field], b.first[field])
            np.testing.assert_array_equal(a.last[field], b.last[field])
    assert whole.held > 1500


def test_the_plain_configuration(market: Path) -> None:
    import qlib
    from qlib.data import D

    provider = {"class": "EngineDatasetProvider", "module_path": "qdag.qlib", "kwargs": {"threads": 1}}
    qlib.init(provider_uri=str(market), region="us", dataset_provider=provider, logging_level=50)
    assert provider_of(D).threads == 1
    assert len(D.features(NAMES, ["$close"]))
    # as Qlib does it for each of its processes
    assert len(pickle.loads(pickle.dumps(provider_of(D))).dataset(NAMES, ["$close"]))


def test_a_universe_of_the_settings(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qdag.qlib

    monkeypatch.setenv("QDAG_CONFIG", str(toy))
    qdag.qlib.init(universe="toy", processors=False, logging_level=50)
    from qlib.config import C
    from qlib.data import D

    assert C.region == "us"
    assert C.dpm.get_data_uri("day") == load_settings(toy).provider("toy")
    frame = D.features(D.instruments("all"), ["$close", "Mean($close, 5)"])
    assert frame["$close"].notna().mean() > 0.9
    with pytest.raises(UnknownNameError, match=r"'toi'.*toy"):
        qdag.qlib.init(universe="toi")


def test_bad_input_is_said(market: Path, tmp_path: Path, qlib_on: Any) -> None:
    import qdag.qlib

    for arguments in ({}, {"provider_uri": market, "universe": "toy"}):
        with pytest.raises(SettingsError, match=r"give provider_uri=.* or universe="):
            qdag.qlib.init(**arguments)
    with pytest.raises(MissingDataError, match="no Qlib provider at"):
        qdag.qlib.init(tmp_path)
    for options, said in (({"threads": 0}, "threads=0"), ({"cache_bytes": -1}, "cache_bytes=-1")):
        with pytest.raises(PanelError, match=said):
            qlib_on(market, True, **options).features(NAMES, ["$close"])
    data = qlib_on(market, True)
    with pytest.raises(UnknownNameError, match=r"pool 'indx'.*index"):
        data.features(data.instruments("indx"), ["$close"])
    with pytest.raises(UnknownNameError, match="is a text"):
        data.features("all", ["$close"])
    with pytest.raises(ExpressionError, match=r"'Maen'.*Mean"):
        data.features(NAMES, ["Maen($close, 5)"])


def test_a_field_that_nobody_has_is_told(market: Path, qlib_on: Any, caplog: pytest.LogCaptureFixture) -> None:
    data = qlib_on(market, True)
    with caplog.at_level(logging.WARNING, "qdag.qlib"):
        frame = data.features(NAMES, ["$close", "$clsoe"], "2015-03-02", "2015-03-02")
    assert frame["$clsoe"].isna().all()
    assert any("$clsoe" in r.message and "close" in r.message for r in caplog.records)


def test_a_damaged_file_is_named(market: Path, tmp_path: Path, qlib_on: Any) -> None:
    folder = shutil.copytree(market, tmp_path / "market")
    path = folder / "features" / "t0000" / "close.day.bin"
    for content in (b"abc", np.array([np.nan, 1], "<f4").tobytes()):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"close\.day\.bin"):
            qlib_on(folder, True).features(NAMES, ["$close"])


def test_a_directory_that_goes_is_said(market: Path, tmp_path: Path, qlib_on: Any) -> None:
    shutil.copytree(market, tmp_path / "market")
    data = qlib_on(tmp_path / "market", True)
    shutil.rmtree(tmp_path / "market")
    with pytest.raises(MissingDataError, match="no Qlib provider of daily data"):
        data.features(NAMES, ["$close"])
