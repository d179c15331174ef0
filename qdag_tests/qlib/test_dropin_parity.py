"""Whole frames of the engine's provider against Qlib's own."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from frames_compared import differing

from qdag.features.catalogue import expressions
from qdag_tests.reference import operator_expressions, write_provider

RANGE = ("2015-02-20", "2015-04-24")
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
FIELDS = ["$close", "Mean($close, 5)/$close", LABEL, "$volume>1000000", "Std(Ref($open, 2)-$low, 7)", "$close"]
# which of several spreads, equal but for the rounding of Qlib's running sums, is least
BY_ROUNDING = "IdxMin(Std("


def both(start: Any, folder: Path, asks: list[tuple[Any, ...]], **options: Any) -> list[tuple[Any, Any]]:
    """(engine's, Qlib's) frame of each ask: instruments, fields, first and last day, and more of D.features."""
    answers = []
    for engine in (True, False):
        data = start(folder, engine, **options)
        answers.append([data.features(ask[0], ask[1], *ask[2:4], **(ask[4] if len(ask) > 4 else {})) for ask in asks])
    return list(zip(*answers, strict=True))


def names_of(pool: str, *filters: Any) -> dict[str, Any]:
    from qlib.data.data import InstrumentProvider

    found: dict[str, Any] = InstrumentProvider.instruments(pool, filter_pipe=list(filters))
    return found


def test_instruments_and_ranges(market: Path, qlib_on: Any) -> None:
    spans = {"T0003": [(pd.Timestamp("2015-01-05"), pd.Timestamp("2015-02-27"))], "T0001": [], "T0002": None}
    asks = [
        (names_of("all"), FIELDS, *RANGE),
        (names_of("index"), FIELDS, *RANGE),
        (names_of("index"), FIELDS, None, None),
        (["T0002", "T0001", "T0001", "nobody"], FIELDS, "2015-04-01", None),
        (("t0003",), FIELDS, None, "2015-01-20"),
        (spans, FIELDS, *RANGE),
        (spans, ["$close"], "2014-01-01", "2030-01-01"),
        (pd.Index(["T0011", "T0012"]), FIELDS, "2015-02-28", "2015-03-01"),
        (names_of("all"), FIELDS, "2015-05-01", "2015-05-01", {"disk_cache": 0}),
        (names_of("all"), FIELDS, "2015-06-30", None, {"disk_cache": 1}),
    ]
    for ours, theirs in both(qlib_on, market, asks):
        assert not differing(ours, theirs)


def test_nothing_found_is_the_same_nothing(market: Path, qlib_on: Any) -> None:
    asks = [
        (["T0001"], ["$close"], "2015-04-20", "2015-03-20"),
        (["T0001"], ["$close"], "2035-01-01", None),
        (["T0001"], ["$close"], None, "2001-01-01"),
        (["T0001"], ["$nothing", "Mean($nothing, 3)"], None, None),
        (["nobody"], ["$close"], None, None),
        ([], ["$close"], None, None),
        (["T0003"], ["$close"], "2015-06-01", None),
    ]
    for ours, theirs in both(qlib_on, market, asks):
        assert not len(ours)
        pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.parametrize("range_", [RANGE, (None, None)], ids=["part", "whole"])
def test_every_operator(market: Path, qlib_on: Any, range_: tuple[Any, Any]) -> None:
    """Windows of all history and EMA too, which Qlib begins at the range."""
    fields = list(operator_expressions((5, 20)).values())
    [(ours, theirs)] = both(qlib_on, market, [(names_of("all"), fields, *range_)])
    apart = differing(ours, theirs)
    assert not [name for name in apart if not name.startswith(BY_ROUNDING)]


def test_filters(market: Path, qlib_on: Any) -> None:
    from qlib.data.filter import ExpressionDFilter, NameDFilter

    cheap = ExpressionDFilter("Mean($close, 3)<25", fstart_time="2015-02-01", keep=True)
    named = NameDFilter("T000[0-6]", fend_time="2015-05-01")
    asks = [
        (names_of("all", cheap), FIELDS, *RANGE),
        (names_of("all", named, cheap), FIELDS, *RANGE),
        (names_of("index", named), FIELDS, None, None),
    ]
    for ours, theirs in both(qlib_on, market, asks):
        assert len(ours)
        assert not differing(ours, theirs)


def test_processors_of_instruments(market: Path, qlib_on: Any) -> None:
    processors = {"inst_processors": [{"class": "Weekly", "module_path": "weekly"}, None]}
    asks = [
        (names_of("all"), FIELDS, *RANGE, processors),
        (["T0011", "nobody"], FIELDS, *RANGE, processors),
        (["nobody"], FIELDS, *RANGE, processors),
    ]
    for ours, theirs in both(qlib_on, market, asks):
        assert not differing(ours, theirs)


def test_directories_of_others(ragged: Path, qlib_on: Any) -> None:
    """Own field names, files of other lengths, values after the calendar, and missing files."""
    plain = ["$adjclose", "$AdjOpen", "$turnover", "Mean($adjclose, 5)", "$turnover/$adjclose", "Mean($turnover, 3)",
             "Ref($adjclose, -4)/$adjclose", "Greater($turnover, $adjopen)", "$factor", "Slope($factor, 5)",
             "$adjclose*$factor", "Mean($turnover/$adjclose, 4)"]  # fmt: skip
    asks = [
        (names_of("all"), plain, None, None),
        (names_of("all"), plain, "2020-03-20", None),
        (names_of("all"), plain, "2020-01-06", "2020-01-20"),
        (["AAA", "COM1", "CCC"], ["Corr($adjclose, $adjopen, 5)", "If($adjclose>$adjopen, $adjopen, 1)"], None, None),
    ]
    for ours, theirs in both(qlib_on, ragged, asks):
        assert not differing(ours, theirs)


def test_what_qlib_refuses_of_uneven_files_is_refused(ragged: Path, qlib_on: Any) -> None:
    for engine in (True, False):
        with pytest.raises(ValueError, match="identically-labeled"):
            qlib_on(ragged, engine).features(["CCC"], ["Mean($turnover>$adjclose, 5)"])


def test_the_sample(tmp_path: Path, qlib_on: Any) -> None:
    from benchmarks.parity import market_panel

    write_provider(market_panel("sample", tmp_path, 100), tmp_path / "sample")
    fields = list(expressions("alpha158").values())
    [(ours, theirs)] = both(qlib_on, tmp_path / "sample", [(names_of("all"), fields, "2012-12-01", None)])
    assert ours.shape[1] == 158
    assert not differing(ours, theirs)


@pytest.mark.parametrize("name", ["Alpha158", "Alpha360"])
def test_handlers_of_qlib(tmp_path: Path, qlib_on: Any, name: str) -> None:
    from qlib.contrib.data import handler
    from qlib.data.dataset.handler import DataHandlerLP

    from benchmarks.alpha158 import synthetic_panel

    panel = synthetic_panel(5, 100)
    write_provider(panel, tmp_path / "market")
    days = [str(day) for day in panel.sessions]
    # ProcessInf takes a minute for such a frame, whoever made it
    norms = [{"class": "ZScoreNorm"}, {"class": "Fillna"}]
    found = []
    for engine in (True, False):
        qlib_on(tmp_path / "market", engine)
        made = getattr(handler, name)(
            "all", days[40], days[-1], infer_processors=norms, fit_start_time=days[40], fit_end_time=days[80]
        )
        found.append([made.fetch(data_key=key) for key in (DataHandlerLP.DK_R, DataHandlerLP.DK_I, DataHandlerLP.DK_L)])
    for ours, theirs in zip(*found, strict=True):
        assert not differing(ours, theirs)
