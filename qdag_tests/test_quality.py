"""The rules as data and the frames they are judged on, without the validator: every mask against hand-made lines."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qdag import quality, schema
from qdag.errors import MissingDataError, SessionError, UnknownNameError
from qdag.quality import CHECKS, KINDS, Rule, RuleResult, Scope, frames, offenders, rules_for, violations
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag.store.tables import TableStore

TABLES = (*schema.FEATURE_TABLES, "raw_ohlcv", "qlib_bin", "labels", "factor_metrics", "predictions")
START, END = date(2020, 1, 2), date(2020, 3, 31)
NAMES = ("AAA", "BBB", "CCC")


@pytest.fixture
def scope(tmp_path: Path) -> Scope:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=START, end=END)
    settings = Settings(home=tmp_path, universes={"toy": universe})
    return Scope(TableStore(settings.tables), settings, "toy", START, END)


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


@pytest.mark.parametrize("table", TABLES)
def test_rules_are_named_once_and_say_what_to_do(table: str) -> None:
    rules = rules_for(table, ("label_1", "label_5", *quality.INDICATOR_BOUNDS))
    assert len({r.name for r in rules}) == len(rules) > 1
    for rule in rules:
        assert rule.table == table
        assert rule.kind in KINDS
        assert rule.check in CHECKS
        assert (rule.severity == "error") == (rule.check == "structure")
        assert rule.limit
        assert len(rule.meaning) > 10


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="alpha158"):
        rules_for("alpha15")
    with pytest.raises(UnknownNameError, match="between"):
        Rule("x", "labels", "values", "betwen", ("a",), "")
    with pytest.raises(UnknownNameError, match="structure"):
        Rule("x", "labels", "structur", "between", ("a",), "")  # type: ignore[arg-type]


def test_bounds_name_real_indicators() -> None:
    from qdag.features.indicators import FEATURES

    declared = {f.name: f.meaning for f in FEATURES}
    assert set(quality.INDICATOR_BOUNDS) <= set(declared)
    in_words = {name for name, meaning in declared.items() if "0..100" in meaning and "leave" not in meaning}
    assert in_words == {n for n, bounds in quality.INDICATOR_BOUNDS.items() if bounds == quality.PERCENT}


def masks() -> Iterator[tuple[str, Rule, dict[str, list[object]], list[bool]]]:
    inf, nan = np.inf, np.nan

    def rule(kind: str, columns: tuple[str, ...], **parameters: object) -> Rule:
        return Rule("r", "labels", "values", kind, columns, "", "rows", parameters)

    yield "unique", rule("unique", ("a", "b")), {"a": [1, 1, 2, 1], "b": [1, 2, 1, 1]}, [True, False, False, True]
    yield "not_null", rule("not_null", ("a", "b")), {"a": [1, nan, 1], "b": ["x", "x", None]}, [False, True, True]
    yield (
        "between",
        rule("between", ("a",), minimum=0, maximum=1),
        {"a": [0, 1, -0.1, 1.1, nan]},
        [False, False, True, True, False],
    )
    yield "strict", rule("between", ("a",), minimum=0, maximum=1, strict=True), {"a": [0, 1, 0.5]}, [True, True, False]
    yield "finite", rule("between", ("a",)), {"a": [inf, -inf, nan, 1e300]}, [True, True, False, False]
    yield "one side", rule("between", ("a",), minimum=0), {"a": [inf, 5, -1]}, [True, False, True]
    yield "any column", rule("between", ("a", "b"), minimum=0), {"a": [1, 1, -1], "b": [1, -1, 1]}, [False, True, True]
    yield "ordered", rule("ordered", ("a", "b")), {"a": [2, 1, 1, nan], "b": [1, 1, 2, 1]}, [False, False, True, False]
    yield "after", rule("ordered", ("a", "b"), strict=True), {"a": [2, 1], "b": [1, 1]}, [False, True]
    yield "equals", rule("equals", ("a",), value=True), {"a": [True, False]}, [False, True]
    yield "empty", rule("empty", ()), {"a": [1]}, [True]


@pytest.mark.parametrize(("name", "rule", "data", "expected"), masks(), ids=lambda x: x if isinstance(x, str) else "")
def test_violations(name: str, rule: Rule, data: dict[str, list[object]], expected: list[bool]) -> None:
    assert violations(rule, pd.DataFrame(data)).tolist() == expected


def test_float32_infinity_is_a_violation() -> None:
    rule = Rule("r", "labels", "values", "between", ("a",), "")
    assert violations(rule, pd.DataFrame({"a": np.array([np.inf, 3e38], np.float32)})).tolist() == [True, False]


def test_offenders_are_worst_first_with_their_dates() -> None:
    rule = Rule("r", "labels", "values", "between", ("x",), "", "rows", {"minimum": 0, "maximum": 10})
    dates = pd.date_range("2020-01-01", periods=8)
    frame = pd.DataFrame({"date": dates, "instrument": list("abcdefgh"), "x": [1, 11, -5, 10, 30, 12, 13, 14], "y": 0})
    lines, days = offenders(rule, frame)
    assert [line["instrument"] for line in lines] == ["e", "c", "h", "g", "f"]
    assert set(lines[0]) == {"date", "instrument", "x"}
    assert len(days) == 6
    assert date(2020, 1, 2) in days


def test_results_of_parts_add_up() -> None:
    rule = Rule("r", "labels", "values", "between", ("x",), "")
    none = RuleResult(rule, 0, 0, "nothing to judge")
    good = RuleResult(rule, 10, 0, "1 .. 2")
    bad = RuleResult(rule, 5, 2, "1 .. inf; 2 outside", ({"x": np.inf},) * 4, frozenset([START]))
    assert none.passed
    assert (none + good).observed == "1 .. 2"
    total = none + bad + good + bad
    assert (total.judged, total.violations, total.passed) == (20, 4, False)
    assert total.observed == bad.observed
    assert len(total.offenders) == quality.OFFENDERS
    assert total.dates == {START}


# -- frames on a real store -------------------------------------------------------------------------------------------


def test_raw_frames_of_good_bars(scope: Scope) -> None:
    put(scope, schema.RAW_OHLCV, bars(scope.sessions()))
    found = named("raw_ohlcv", scope, tuple(c.name for c in schema.RAW_OHLCV.columns))
    assert set(found) == {"schema", "rows", "sessions", "instruments", "refused_files", "refused_rows"}
    assert found["schema"]["stored"].all()
    assert named("raw_ohlcv", scope, ("date", "bid"))["schema"]["stored"].tolist() == [True, False]
    assert len(found["rows"]) == 3 * len(scope.sessions())
    assert found["sessions"]["share"].eq(1).all()
    assert found["instruments"]["share"].eq(1).all()
    np.testing.assert_allclose(found["rows"]["adjusted_return"].dropna(), 0.001, rtol=1e-9)
    assert found["refused_files"].empty
    for rule in rules_for("raw_ohlcv"):
        assert not violations(rule, found[rule.frame]).any(), rule.name


def test_completeness_counts_gaps_but_not_late_listings_or_delistings(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions)
    day = frame["date"].to_numpy().astype("M8[D]")
    late = (frame["instrument"] == "BBB") & (day < sessions[30])
    gone = (frame["instrument"] == "CCC") & (day > sessions[10])
    gap = (frame["instrument"] == "AAA") & (day >= sessions[5]) & (day < sessions[15])
    put(scope, schema.RAW_OHLCV, frame[~(late | gone | gap)])
    found = named("raw_ohlcv", scope)
    spans = found["instruments"].set_index("instrument")
    assert spans.loc["BBB", "share"] == 1
    assert spans.loc["CCC", "share"] == 1
    assert spans.loc["AAA", "sessions"] == len(sessions)
    assert spans.loc["AAA", "rows"] == len(sessions) - 10
    by_session = found["sessions"]
    # session 5..10: CCC alone trades and AAA is expected; 11..14: nobody trades, both are still expected
    assert by_session["share"].tolist()[4:12] == [1.0, *[0.5] * 6, 0.0]
    assert by_session["rows"].tolist()[11:15] == [0] * 4
    # the delisted CCC is no longer expected more than 20 sessions after its last row
    assert by_session["expected"].tolist()[30:32] == [3, 2]
    every = next(r for r in rules_for("raw_ohlcv") if r.name == "every session has bars")
    _, days = offenders(every, by_session)
    assert days == set(sessions[11:15].tolist())


def test_a_short_window_remembers_who_was_there(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions)
    put(scope, schema.RAW_OHLCV, frame[~((frame["date"] == sessions[-1]) & (frame["instrument"] != "AAA"))])
    last = sessions[-1].item()
    found = named("raw_ohlcv", Scope(scope.store, scope.settings, "toy", last, last))
    assert found["rows"]["instrument"].tolist() == ["AAA"]
    assert found["sessions"][["rows", "expected"]].to_numpy().tolist() == [[1, 3]]
    assert found["rows"]["adjusted_return"].tolist() == pytest.approx([0.001])
    assert found["instruments"]["instrument"].tolist() == ["AAA"]


def test_refused_files_and_rows(scope: Scope) -> None:
    put(scope, schema.RAW_OHLCV, bars(scope.sessions()))
    refused = pd.DataFrame(
        {
            "date": [START, date(2020, 2, 3), date(2020, 2, 4)],
            "instrument": ["DDD", "AAA", "AAA"],
            "source": ["DDD.csv", "AAA.csv", "AAA.csv"],
            "line": [0, 7, 8],
            "reason": ["not_a_table", "high_below_low", "high_below_low"],
            "row": ["{}", "x", "y"],
        }
    )
    put(scope, schema.QUARANTINE, refused)
    february = Scope(scope.store, scope.settings, "toy", date(2020, 2, 3), date(2020, 2, 3))
    assert named("raw_ohlcv", scope)["refused_files"]["source"].tolist() == ["DDD.csv"]
    found = named("raw_ohlcv", february)
    assert found["refused_files"].empty
    assert found["refused_rows"][["reason", "refused", "share"]].to_numpy().tolist() == [["high_below_low", 1, 1 / 4]]


FEATURES = schema.feature_table("alpha158", [("KMID", "body"), ("MA5", "mean")], "two features")


def test_feature_frames(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "MATURE_SESSIONS", 40)
    monkeypatch.setattr(quality, "CHUNK_ROWS", 50)
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
    assert parts.count("rows") > 2
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


def test_metric_and_prediction_frames(scope: Scope) -> None:
    sessions = scope.sessions()[:2]
    scores = bars(sessions)[["date", "instrument"]].assign(score=[1.0, 2.0, 3.0, 4.0, 4.0, 4.0], model="m/1")
    put(scope, schema.PREDICTIONS, scores.assign(trained_on=date(2019, 12, 31)))
    found = named("predictions", scope)
    assert found["scores"]["distinct"].tolist() == [3, 1]
    assert found["sessions"]["rows"].tolist()[:3] == [3, 3, 0]
    metrics = pd.DataFrame(
        {"date": np.repeat(sessions.astype("M8[s]"), 2), "pool": "all", "horizon": 1, "factor": ["a.x", "a.y"] * 2}
    ).assign(
        signal_date=date(2019, 12, 30), ic=0.1, rank_ic=0.1, coverage=[1.0, 0.5, 0.5, 0.1], n=3, icir=0.0, rank_icir=0.0
    )
    put(scope, schema.FACTOR_METRICS, metrics.assign(icir_n=1, long_short=0.0))
    found = named("factor_metrics", scope)
    assert found["factors"].set_index("factor")["coverage"].to_dict() == pytest.approx({"a.x": 0.75, "a.y": 0.3})
    assert found["sessions"]["date"].tolist() == list(pd.to_datetime(sessions))


def test_empty_and_reversed_windows(scope: Scope) -> None:
    weekend = Scope(scope.store, scope.settings, "toy", date(2020, 2, 1), date(2020, 2, 2))
    for table in TABLES:
        assert list(frames(table, weekend)) == []
    before = Scope(scope.store, scope.settings, "toy", date(2010, 1, 4), date(2010, 1, 8))
    assert len(before.sessions()) == 0
    with pytest.raises(SessionError, match="2020-03-31"):
        Scope(scope.store, scope.settings, "toy", END, START).sessions()
    with pytest.raises(MissingDataError):
        list(frames("raw_ohlcv", scope))
    with pytest.raises(MissingDataError, match="materialize qlib_bin"):
        list(frames("qlib_bin", scope))


def test_bins_are_compared_with_the_table(scope: Scope) -> None:
    from qdag.store.panels import read_panel
    from qdag.store.qlib_bin import QlibBinWriter

    frame = bars(scope.sessions())
    gap = (frame["instrument"] == "BBB") & (frame["date"] == scope.sessions()[9])
    put(scope, schema.RAW_OHLCV, frame[~gap])
    provider = scope.settings.provider("toy")
    calendar = scope.calendar()
    QlibBinWriter(provider).write(read_panel(scope.store, "toy", scope.sessions()), calendar.all, calendar.future(5))
    found = named("qlib_bin", scope)
    rules = rules_for("qlib_bin")
    assert not any(violations(rule, found[rule.frame]).any() for rule in rules)
    assert set(found["bins"]["instrument"]) == set(NAMES)
    assert {"close", "volume", "factor"} <= set(found["bins"]["field"])

    path = provider / "features" / "bbb" / "close.day.bin"
    values = np.fromfile(path, "<f4")
    values[1:] = np.roll(values[1:], -1)
    values.tofile(path)
    (provider / "features" / "ccc" / "volume.day.bin").unlink()
    lines, _ = offenders(rules[1], named("qlib_bin", scope)["bins"])
    assert {(line["instrument"], line["field"]) for line in lines} == {("BBB", "close"), ("CCC", "volume")}

    day = provider / "calendars" / "day.txt"
    text = day.read_text().split()
    day.write_text("\n".join([*text[:5], *text[6:-1], "2020-04-04"]) + "\n")
    wrong = named("qlib_bin", scope)["calendar"]
    broken = wrong.loc[violations(rules[0], wrong), "date"].dt.strftime("%Y-%m-%d").tolist()
    assert broken == [text[5], text[-1], "2020-04-04"]


def test_importing_the_rules_imports_no_orchestrator_and_no_validator() -> None:
    heavy = {"dagster", "great_expectations", "mlflow", "qlib"}
    code = f"import sys, qdag.quality; print(sorted(set(sys.modules) & {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_page_of_the_rules_names_them_all() -> None:
    page = (Path(__file__).parents[1] / "docs" / "checks.md").read_text("utf-8")
    for table in TABLES:
        for rule in rules_for(table):
            assert rule.name in page, f"{table}: {rule.name}"
    for name in quality.INDICATOR_BOUNDS:
        assert f"`{name}`" in page
