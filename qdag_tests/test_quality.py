"""The rules as data and the frames they are judged on, without the validator: every mask against hand-made lines."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qdag import quality, schema, stages
from qdag.errors import MissingDataError, SessionError, UnknownNameError
from qdag.quality import CHECKS, KINDS, Offence, Rule, RuleResult, Scope, frames, offenders, rules_for, violations
from qdag.settings import FilesSource, QualitySettings, Settings, SyntheticSource, UniverseSettings
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
    rules = rules_for(table, ("label_1", "label_5", "rsi_14"))
    assert len({r.name for r in rules}) == len(rules) > 1
    for rule in rules:
        assert rule.table == table
        assert rule.kind in KINDS
        assert rule.check in CHECKS
        assert (rule.severity == "error") == (rule.check == "structure")
        assert (rule.severity == "notice") == rule.notice
        assert rule.limit
        assert len(rule.meaning) > 10


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="alpha158"):
        rules_for("alpha15")
    with pytest.raises(UnknownNameError, match="between"):
        Rule("x", "labels", "values", "betwen", ("a",), "")
    with pytest.raises(UnknownNameError, match="structure"):
        Rule("x", "labels", "structur", "between", ("a",), "")  # type: ignore[arg-type]


def test_bounds_name_real_features() -> None:
    from qdag.features.catalogue import feature_set

    for table, bounds in quality.FEATURE_BOUNDS.items():
        if table == "labels":
            continue
        names = [f.name for f in feature_set(table)]
        found = quality.bounds_of(table, names)
        used = {n if n in bounds else n.rstrip("0123456789") for n in found}
        assert used == set(bounds), table
    declared = {f.name: f.meaning for f in feature_set("technical_indicators")}
    in_words = {name for name, meaning in declared.items() if "0..100" in meaning and "leave" not in meaning}
    percent = {n for n, b in quality.FEATURE_BOUNDS["technical_indicators"].items() if b == quality.PERCENT}
    assert in_words == percent
    assert len(quality.bounds_of("alpha158", [f.name for f in feature_set("alpha158")])) > 120
    assert quality.bounds_of("labels", ["label_20"]) == {"label_20": (-0.9, 3.0)}


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
    assert [line.instrument for line in lines] == ["e", "c", "h", "g", "f", "b"]
    assert (lines[0].date, lines[0].value, lines[0].limit) == ("2020-01-05", "30", "0 <= value <= 10")
    assert lines[0].sentence == "x = 30"
    assert len(days) == 6
    assert days[date(2020, 1, 2)] == (1, (lines[5],))


def test_offenders_of_a_date_are_its_worst_and_all_are_counted() -> None:
    rule = Rule("r", "labels", "values", "ordered", ("limit", "move"), "", "rows", {}, "moved {move:.0%}")
    frame = pd.DataFrame(
        {"date": pd.Timestamp("2020-01-01"), "instrument": [f"i{n:02}" for n in range(20)], "limit": 0.1, "move": 0.2}
    )
    frame.loc[7, "move"] = 0.9
    lines, days = offenders(rule, frame)
    assert (lines[0].instrument, lines[0].value, lines[0].limit, lines[0].sentence) == (
        "i07", "0.9", "limit 0.1", "moved 90%",
    )  # fmt: skip
    count, worst = days[date(2020, 1, 1)]
    assert (count, len(worst), worst[0]) == (20, quality.OFFENDERS_OF_DATE, lines[0])


def test_results_of_parts_add_up() -> None:
    rule = Rule("r", "labels", "values", "between", ("x",), "")
    none = RuleResult(rule, 0, 0, "nothing to judge")
    good = RuleResult(rule, 10, 0, "1 .. 2")
    worst = Offence("2020-01-02", "a", "inf", "finite", "x = inf")
    bad = RuleResult(rule, 5, 2, "1 .. inf; 2 outside", (worst,) * 6, {START: (2, (worst,))})
    assert none.passed
    assert (none + good).observed == "1 .. 2"
    total = none + bad + good + bad
    assert (total.judged, total.violations, total.passed) == (20, 4, False)
    assert total.observed == bad.observed
    assert len(total.offenders) == quality.OFFENDERS
    assert total.dates == {START}
    assert RuleResult(Rule("r", "labels", "values", "empty", (), "", notice=True), 3, 3, "3 listed").passed


# -- frames on a real store -------------------------------------------------------------------------------------------


def test_raw_frames_of_good_bars(scope: Scope) -> None:
    put(scope, schema.RAW_OHLCV, bars(scope.sessions()))
    found = named("raw_ohlcv", scope, tuple(c.name for c in schema.RAW_OHLCV.columns))
    assert set(found) == {
        "schema", "timeliness", "rows", "sessions", "instruments", "fields", "listings", "refused_files",
        "refused_rows", "refused_share", "findings", "conventions", "profile",
    }  # fmt: skip
    assert found["schema"]["stored"].all()
    assert named("raw_ohlcv", scope, ("date", "bid"))["schema"]["stored"].tolist() == [True, False]
    assert len(found["rows"]) == 3 * len(scope.sessions())
    assert found["sessions"]["share"].eq(1).all()
    assert found["instruments"]["share"].eq(1).all()
    np.testing.assert_allclose(found["rows"]["adjusted_return"].dropna(), 0.001, rtol=1e-9)
    assert found["refused_files"].empty
    assert "amount" not in set(found["fields"]["field"])
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
    assert set(days) == set(sessions[11:15].tolist())


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
    assert found["refused_rows"][["reason", "source", "line"]].to_numpy().tolist() == [["high_below_low", "AAA.csv", 7]]
    assert found["sessions"][["refused", "refused_share"]].to_numpy().tolist() == [[1, 0]]
    share = named("raw_ohlcv", scope)["refused_share"]
    assert share[["refused", "files", "share"]].to_numpy().tolist() == [[1, 4, 1 / 4]]


def test_a_broken_delivery_stops_the_chain(scope: Scope) -> None:
    put(scope, schema.RAW_OHLCV, bars(scope.sessions()))
    name = [f"X{i}" for i in range(5)]
    rows = pd.DataFrame({"date": date(2020, 2, 3), "instrument": name, "source": name, "line": 7, "row": ""})
    files = rows.assign(line=0, reason="api_error_page").head(3)
    put(scope, schema.QUARANTINE, pd.concat([rows.assign(reason="null_price"), files]))
    found = named("raw_ohlcv", scope)
    assert found["refused_share"][["refused", "files", "share"]].to_numpy().tolist() == [[3, 6, 1 / 2]]
    day = found["sessions"][found["sessions"]["refused"] > 0]
    assert day[["refused", "refused_share"]].to_numpy().tolist() == [[5, 5 / 8]]
    for rule in rules_for("raw_ohlcv"):
        if rule.name in ("few files refused", "few rows refused"):
            assert rule.severity == "error"
            assert violations(rule, found[rule.frame]).sum() == 1


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
    from qdag.store.bars import read_panel
    from qdag.store.qlib.writer import QlibBinWriter

    frame = bars(scope.sessions())
    gap = (frame["instrument"] == "BBB") & (frame["date"] == scope.sessions()[9])
    put(scope, schema.RAW_OHLCV, frame[~gap])
    provider = scope.settings.provider("toy")
    calendar = scope.calendar()
    QlibBinWriter(provider).write(read_panel(scope.store, "toy", scope.sessions()), calendar.all, calendar.future(5))
    found = named("qlib_bin", scope)
    rules = rules_for("qlib_bin")
    assert not any(violations(r, found[r.frame]).any() for r in rules if r.check == "structure")
    assert found["pool_prices"][["members", "priced"]].to_numpy().tolist()[9] == [3, 2]
    assert set(found["bins"]["instrument"]) == set(NAMES)
    assert {"close", "volume", "factor"} <= set(found["bins"]["field"])

    path = provider / "features" / "bbb" / "close.day.bin"
    values = np.fromfile(path, "<f4")
    values[1:] = np.roll(values[1:], -1)
    values.tofile(path)
    (provider / "features" / "ccc" / "volume.day.bin").unlink()
    lines, _ = offenders(rules[1], named("qlib_bin", scope)["bins"])
    assert {(line.instrument, line.sentence.split(":")[0]) for line in lines} == {("BBB", "close"), ("CCC", "volume")}
    apart = named("qlib_bin", scope)["adjusted"].set_index(["instrument", "field"])["difference"]
    assert apart[("BBB", "close")] > 1e-4
    assert apart.drop([("BBB", "close")]).max() < 1e-6

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
    for name in QualitySettings.model_fields:
        assert f"`{name}`" in page
    for table, bounds in quality.FEATURE_BOUNDS.items():
        assert f"`{table}`" in page or table == "labels"
        assert bounds


# -- what the rows before say ------------------------------------------------------------------------------------------


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


def test_a_jump_is_told_from_an_event(scope: Scope) -> None:
    frame = bars(scope.sessions())
    # AAA: a split that nobody told; BBB: the same split, adjusted; CCC: adjusted although the price did not move
    frame = move(scope, frame, "AAA", 10, 0.5)
    frame = move(scope, frame, "BBB", 10, 0.5, factor=2.0)
    frame = move(scope, frame, "CCC", 10, 1.0, factor=2.0)
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "no jump without an event") == [(10, "AAA")]
    assert failing(scope, "events leave no jump") == [(10, "CCC")]
    # split and dividend say that there was no event
    assert failing(scope, "factor follows the events") == [(10, "BBB"), (10, "CCC")]


def test_the_factor_of_a_split_and_a_dividend(scope: Scope) -> None:
    frame = bars(scope.sessions())
    frame = move(scope, frame, "AAA", 10, 0.5, factor=2.0)
    at = (frame["instrument"] == "AAA") & (frame["date"] == scope.sessions()[10])
    frame.loc[at, "split"] = 2.0
    before = frame.loc[(frame["instrument"] == "BBB") & (frame["date"] == scope.sessions()[9]), "close"].item()
    frame = move(scope, frame, "BBB", 10, 1.0, factor=1 / (1 - 0.5 / before))
    frame.loc[(frame["instrument"] == "BBB") & (frame["date"] == scope.sessions()[10]), "dividend"] = 0.5
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "factor follows the events") == []


def test_price_limits_by_board_and_date() -> None:
    chinext = "SZ300001"
    settings = Settings(
        universes={
            "cn": UniverseSettings(source=SyntheticSource(), calendar="XSHG", start=START, region="cn"),
            "us": UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=START, quality={"jump": 0.3}),
        },
        quality=QualitySettings(stale_sessions=9),
    )
    limits = settings.quality_for("cn")
    names = np.array(["SH600000", chinext, "SH688001", "BJ430001"], object)
    days = np.array(["2020-08-21", "2020-08-24"], "M8[D]")
    codes, when = np.repeat(np.arange(4), 2), np.tile(days, 4)
    band = quality._price_limits(limits, names, codes, when).reshape(4, 2)
    early = quality._price_limits(limits, names, np.zeros(2, int), np.array(["1996-12-13", "1996-12-16"], "M8[D]"))
    assert np.isnan(early[0])
    assert early[1] == 0.1
    assert band.tolist() == [[0.1, 0.1], [0.1, 0.2], [0.2, 0.2], [0.3, 0.3]]
    assert (limits.stale_sessions, settings.quality_for("us").stale_sessions) == (9, 9)
    assert (limits.jump, settings.quality_for("us").jump) == (0.4, 0.3)
    assert settings.quality_for("us").price_limits == ()


def test_a_high_or_low_far_out_of_everything_near_it_is_a_spike(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions, ("BLK", "SPL", "WIDE", "LOW", "NEW"))
    day = np.searchsorted(sessions, frame["date"].to_numpy().astype("M8[D]"))

    def at(name: str, where: int) -> pd.Series:
        return (frame["instrument"] == name) & (day == where)

    # a digit too many: 999 where the bar closes at 728.5
    frame.loc[at("BLK", 19), ["open", "high", "low", "close"]] = [730.0, 735.0, 720.0, 731.0]
    frame.loc[at("BLK", 20), ["open", "high", "low", "close"]] = [732.0, 999.0, 722.3, 728.5]
    # a split that the factor tells: the range before it is on the other scale
    frame = move(scope, frame, "SPL", 20, 0.25, factor=4.0)
    # the range of the session before was as wide
    frame.loc[at("WIDE", 20), "high"] = 15.5
    frame.loc[at("WIDE", 21), "high"] = 15.8
    frame.loc[at("LOW", 30), "low"] = 5.0
    frame.loc[at("NEW", 0), "high"] = 20.0
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "no spike in a bar") == [(0, "NEW"), (20, "BLK"), (30, "LOW")]
    lines, _ = offenders(
        next(r for r in rules_for("raw_ohlcv") if r.name == "no spike in a bar"), named("raw_ohlcv", scope)["rows"]
    )
    said = {line.instrument: line.sentence for line in lines}
    assert said["BLK"].startswith("999 lies 35.9% beyond 735, ")
    assert said["LOW"].startswith("5 lies 6")


def test_a_spike_beyond_the_exchanges_limit(tmp_path: Path) -> None:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XSHG", start=START, end=END, region="cn")
    settings = Settings(home=tmp_path, universes={"toy": universe})
    scope = Scope(TableStore(settings.tables), settings, "toy", START, END)
    frame = bars(scope.sessions(), ("SH600001", "SH600002")).assign(split=None, dividend=None)
    days = frame["date"].to_numpy().astype("M8[D]")
    for name, times in (("SH600001", 1.08), ("SH600002", 1.13)):
        one = (frame["instrument"] == name) & (days == scope.sessions()[30])
        frame.loc[one, "high"] = frame.loc[one, "high"] * times
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "no spike in a bar") == [(30, "SH600002")]


def test_a_price_limit_is_rounded_to_ticks_and_spares_listings(tmp_path: Path) -> None:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XSHG", start=START, end=END, region="cn")
    settings = Settings(home=tmp_path, universes={"toy": universe})
    scope = Scope(TableStore(settings.tables), settings, "toy", START, END)
    names = ("SH600001", "SH600002", "SH600003")
    frame = bars(scope.sessions(), names).assign(split=None, dividend=None)
    prices = ["open", "high", "low", "close", "vwap"]
    frame[prices] = 1.04
    days = frame["date"].to_numpy().astype("M8[D]")
    # 1.04 x 1.1 = 1.144 is rounded to 1.14; 1.15 is one tick beyond, 1.17 is more
    for name, price in ((names[0], 1.15), (names[1], 1.17), (names[2], 1.40)):
        frame.loc[(frame["instrument"] == name) & (days >= scope.sessions()[32]), prices] = price
    # listed on session 30: its limit begins with the sixth row
    frame = frame[(frame["instrument"] != names[2]) | (days >= scope.sessions()[30])]
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "no jump without an event") == [(32, names[1])]
    listed = named("raw_ohlcv", scope)["listings"]
    assert listed[["instrument", "absent"]].to_numpy().tolist() == [[names[2], 30]]


def test_stale_prices_lost_and_strange_volumes(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions)
    day = np.searchsorted(sessions, frame["date"].to_numpy().astype("M8[D]"))
    stale = (frame["instrument"] == "AAA") & (day >= 20) & (day < 27)
    frame.loc[stale, ["open", "high", "low", "close", "vwap"]] = [10.0, 10.1, 9.9, 10.0, 10.0]
    frame.loc[(frame["instrument"] == "BBB") & (day == 30), "volume"] = 0.0
    frame.loc[(frame["instrument"] == "CCC") & (day == 30), "volume"] = 60_000.0
    frame.loc[(frame["instrument"] == "CCC") & (day == 31), "vwap"] = 100.0
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "price moves") == [(25, "AAA"), (26, "AAA")]
    assert failing(scope, "bars traded") == [(30, "BBB")]
    assert failing(scope, "volume plausible") == [(30, "CCC")]
    assert failing(scope, "vwap inside the range") == [(31, "CCC")]


def test_what_is_said_of_a_row_does_not_depend_on_the_window(tmp_path: Path) -> None:
    universe = UniverseSettings(source=SyntheticSource(instruments=60), calendar="XNYS", start=START, end=END)
    platform = stages.Platform.open(Settings(home=tmp_path, universes={"toy": universe}))
    stages.raw_ohlcv(platform, "toy", START, END)
    whole = named("raw_ohlcv", Scope(platform.store, platform.settings, "toy", START, END))["rows"]
    for day in (date(2020, 3, 2), END):
        part = named("raw_ohlcv", Scope(platform.store, platform.settings, "toy", day, END))["rows"]
        same = whole[whole["date"] >= pd.Timestamp(day)].reset_index(drop=True)
        columns = ["instrument", "adjusted_return", "jump_limit", "event_limit", "factor_error", "volume_ratio"]
        pd.testing.assert_frame_equal(
            part[columns].astype({"instrument": str}), same[columns].astype({"instrument": str}), rtol=1e-9
        )


def test_a_table_behind_its_source(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions[:-3])
    put(scope, schema.RAW_OHLCV, frame)
    put(scope, FEATURES, frame[frame["date"] < sessions[-5]][["date", "instrument"]].assign(KMID=1.0, MA5=1.0))
    assert named("raw_ohlcv", scope)["timeliness"]["behind"].tolist() == [3]
    assert named("alpha158", scope)["timeliness"]["behind"].tolist() == [2]
    early = Scope(scope.store, scope.settings, "toy", START, sessions[5].item())
    assert "timeliness" not in named("raw_ohlcv", early)
    # half an hour before the close of the session after the last stored one
    now = datetime(2020, 3, 27, 19, 30, tzinfo=UTC)
    on_time = Scope(scope.store, scope.settings, "toy", START, END, now)
    assert named("raw_ohlcv", on_time)["timeliness"]["behind"].tolist() == [0]


def test_sessions_after_the_newest_delivered_one_are_late_and_not_broken(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions[:-3])
    put(scope, schema.RAW_OHLCV, frame[frame["date"] != sessions[10]])
    assert failing_sessions(scope, "every session has bars") == [sessions[10].item()]
    assert failing_sessions(scope, "sessions complete") == [sessions[10].item()]
    late = replace(scope, start=sessions[-2].item())
    found = named("raw_ohlcv", late)
    assert found["sessions"].empty
    (line,) = found["timeliness"].to_dict("records")
    rule = next(r for r in rules_for("raw_ohlcv") if r.name == "up to date")
    (said,), _ = offenders(rule, pd.DataFrame([line]))
    assert f"set the universe's end = {sessions[-4]}" in said.sentence
    # the newest day was delivered, and every row of it refused: that is no delay
    names = [f"X{i}" for i in range(6)]
    rows = pd.DataFrame({"date": sessions[-2].item(), "instrument": names, "source": names, "line": 7, "row": ""})
    put(scope, schema.QUARANTINE, rows.assign(reason="null_price"))
    assert failing_sessions(scope, "few rows refused") == [sessions[-2].item()]
    assert sessions[-2].item() in failing_sessions(scope, "every session has bars")


def failing_sessions(scope: Scope, name: str) -> list[date]:
    rule = next(r for r in rules_for("raw_ohlcv") if r.name == name)
    frame = named("raw_ohlcv", scope)[rule.frame]
    return [day.date() for day in frame.loc[violations(rule, frame), "date"]]


def test_a_session_that_has_not_closed_is_not_judged(tmp_path: Path) -> None:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=START)
    settings = Settings(home=tmp_path, universes={"toy": universe})
    # half an hour before the close of Friday
    now = datetime(2020, 3, 27, 19, 30, tzinfo=UTC)
    scope = Scope(TableStore(settings.tables), settings, "toy", START, END, now)
    sessions = scope.sessions()
    assert sessions[-1].item() == date(2020, 3, 26)
    put(scope, schema.RAW_OHLCV, bars(sessions))
    found = named("raw_ohlcv", scope)
    for rule in rules_for("raw_ohlcv"):
        assert not violations(rule, found[rule.frame]).any(), rule.name
    assert named("raw_ohlcv", replace(scope, start=date(2020, 3, 27))) == {}
    at_close = replace(scope, start=date(2020, 3, 27), now=datetime(2020, 3, 27, 20, 0, tzinfo=UTC))
    assert at_close.sessions().tolist() == [date(2020, 3, 27)]
    assert at_close.sessions(before=2).tolist() == [date(2020, 3, 25), date(2020, 3, 26), date(2020, 3, 27)]


# -- computed again ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> stages.Platform:
    universe = UniverseSettings(
        source=SyntheticSource(instruments=20), calendar="XNYS", start=date(2019, 1, 2), end=date(2019, 12, 31)
    )
    home = tmp_path_factory.mktemp("computed")
    settings = Settings(home=home, universes={"toy": universe}, quality=QualitySettings(sampled_cells=60))
    platform = stages.Platform.open(settings)
    for stage in (stages.raw_ohlcv, stages.qlib_bin, stages.labels):
        stage(platform, "toy", universe.start, date(2019, 12, 31))
    for table in schema.FEATURE_TABLES[:4]:
        stages.feature_stage(table)(platform, "toy", universe.start, date(2019, 12, 31))
    return platform


def columns_of(platform: stages.Platform, table: str) -> tuple[str, ...]:
    spec = stages.table_spec(platform.settings, table)
    assert spec is not None
    return tuple(c.name for c in spec.columns)


@pytest.mark.parametrize("table", [*schema.FEATURE_TABLES[:4], "labels"])
def test_the_slow_second_opinion_agrees_with_what_the_stages_store(computed: stages.Platform, table: str) -> None:
    columns = columns_of(computed, table)
    scope = Scope(computed.store, computed.settings, "toy", date(2019, 6, 3), date(2019, 12, 31))
    found = named(table, scope, columns)
    again = found["recomputed"]
    assert again["column"].nunique() == len(quality.references(table, columns)) >= 4
    assert len(again) == 60 * again["column"].nunique()
    assert again["difference"].max() < 0.1
    assert again["stored"].notna().mean() > 0.8
    assert found["bounds"]["within"].all()


def test_a_stale_table_is_found_out(computed: stages.Platform) -> None:
    scope = Scope(computed.store, computed.settings, "toy", date(2019, 6, 3), date(2019, 12, 31))
    table = computed.store.read("price_features", "toy").to_pandas()
    rule = next(r for r in rules_for("price_features") if r.name == "a sample computed again")
    try:
        spoiled = table.assign(momentum_20=table["momentum_20"] + np.float32(0.001))
        spec = stages.table_spec(computed.settings, "price_features")
        assert spec is not None
        rows = pa.Table.from_pandas(spoiled, spec.arrow(), preserve_index=False)
        computed.store.replace(spec, "toy", date(2019, 1, 2), date(2019, 12, 31), rows, {})
        again = named("price_features", scope, columns_of(computed, "price_features"))["recomputed"]
        assert set(again.loc[violations(rule, again), "column"]) == {"momentum_20"}
    finally:
        rows = pa.Table.from_pandas(table, spec.arrow(), preserve_index=False)
        computed.store.replace(spec, "toy", date(2019, 1, 2), date(2019, 12, 31), rows, {})


@pytest.mark.parametrize(
    ("stored", "expected", "close", "agrees"),
    [(1.0, 1.0, 5, True), (np.nan, np.nan, 5, True), (np.nan, 1.0, 5, False), (1.0, np.nan, 5, False),
     (np.inf, np.inf, 5, True), (1.0, 1.001, 5, False), (1e-9, 2e-9, 5, True)],
)  # fmt: skip
def test_when_two_values_agree(stored: float, expected: float, close: float, agrees: bool) -> None:
    from qdag.quality_reference import difference

    assert (difference("alpha158", "KMID", stored, expected, close) <= 1) == agrees


# -- distributions -----------------------------------------------------------------------------------------------------


def test_profiles_count_and_have_the_quantiles() -> None:
    days = np.repeat(np.array(["2020-01-02", "2020-01-03"], "M8[D]"), 21)
    matrix = np.stack([np.tile(np.arange(21.0), 2), np.full(42, np.nan)], axis=1)
    matrix[0, 0], matrix[21, 0] = np.nan, np.inf
    found = quality.profile(days, ["x", "y"], matrix)
    assert found[["rows", "nulls", "infinite"]].to_numpy().tolist() == [
        [21, 1, 0],
        [21, 21, 0],
        [21, 0, 1],
        [21, 21, 0],
    ]
    first = found.iloc[0][list(quality.QUANTILES)].astype(float)
    np.testing.assert_allclose(first, np.quantile(np.arange(1.0, 21), np.linspace(0, 1, 21), method="nearest"))
    assert found.iloc[1][list(quality.QUANTILES)].isna().all()


def profiles(days: np.ndarray, shift: float, rng: np.random.Generator) -> pd.DataFrame:
    parts = [quality.profile(np.full(500, day), ["x"], shift + rng.normal(size=(500, 1))) for day in days]
    return pd.concat(parts, ignore_index=True)


def test_drift_is_none_for_the_same_and_large_for_another_distribution() -> None:
    rng = np.random.default_rng(1)
    days = np.arange("2020-01-01", "2020-05-01", dtype="M8[D]")
    history = profiles(days[:100], 0, rng)
    limits = QualitySettings(drift=0.5, drift_shift=0.5)

    def drift(history: pd.DataFrame, current: pd.DataFrame) -> pd.DataFrame:
        return quality.drift(history, current, limits)

    same, moved = (drift(history, profiles(days[100:120], shift, rng)) for shift in (0.0, 1.0))
    assert same[["column", "date"]].to_numpy().tolist() == [["x", pd.Timestamp(days[119])]]
    assert same["psi"].item() < 0.02
    # both normal with unit variance: the index is about the square of the shift
    assert moved["psi"].item() == pytest.approx(1.0, abs=0.2)
    assert moved["shift"].item() == pytest.approx(1 / 1.349, abs=0.05)
    assert moved["instruments"].item() == 500
    assert same["drift"].item() < 0.1
    # beyond both limits: (1.0 - 9 / 500) / 0.5 and 0.74 / (0.5 + 4 / sqrt(500))
    assert moved["drift"].item() == pytest.approx(0.741 / (0.5 + 4 / 500**0.5), rel=0.05)
    # 60 sessions before are needed
    assert drift(history.iloc[:30], profiles(days[30:50], 0, rng)).empty
    assert drift(pd.DataFrame(), pd.DataFrame(columns=["date", "column", *quality.QUANTILES])).empty


def test_drift_needs_index_and_shift_beyond_what_so_few_instruments_do_by_chance() -> None:
    rng = np.random.default_rng(2)
    days = np.arange("2020-01-01", "2020-06-01", dtype="M8[D]")

    def drifted(instruments: int, scale: float, shift: float) -> bool:
        def of(days: np.ndarray, values: Callable[[], np.ndarray]) -> pd.DataFrame:
            return pd.concat([quality.profile(np.full(instruments, d), ["x"], values()) for d in days])

        shape = (instruments, 1)
        history = of(days[:120], lambda: rng.normal(size=shape))
        current = of(days[120:140], lambda: shift + scale * rng.normal(size=shape))
        found = quality.drift(history, current, QualitySettings(drift=2.0))
        assert found["psi"].item() > 2
        return bool(found["drift"].item() > 1)

    # everything in one bin: an index of about 6, and a median that stays
    assert not drifted(300, 0.001, 0.0)
    assert drifted(300, 1.0, 3.0)
    # a shift of 2.2 interquartile ranges is more than 300 instruments do by chance, and not more than five
    assert drifted(300, 0.5, 3.0)
    assert not drifted(5, 0.5, 3.0)
    assert drifted(5, 0.5, 9.0)


def test_levels_do_not_drift(computed: stages.Platform) -> None:
    table = "technical_indicators"
    columns = columns_of(computed, table)
    scope = Scope(computed.store, computed.settings, "toy", date(2019, 1, 2), date(2019, 12, 31))
    judged = set(named(table, scope, columns)["drift"]["column"])
    assert judged == set(columns) - {"universe", "date", "instrument"} - quality.levels(table)
    assert {"sma_20", "atr_14", "obv_120"} <= quality.levels(table)
    assert quality.levels("custom_factors") == frozenset()


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_outcomes_by_session() -> None:
    sessions = np.array(["2020-01-02", "2020-01-03", "2020-01-06"], "M8[D]")
    one = Offence("2020-01-03", "AAA", "9", "value <= 1", "x = 9")
    general = Offence("", "x", "0.9", "value <= 0.5", "null_share = 0.9")
    rule = Rule("r", "labels", "values", "between", ("x",), "because", "rows", {"maximum": 1})
    column = Rule("c", "labels", "completeness", "between", ("x",), "because", "columns", {"maximum": 0.5})
    results = [
        RuleResult(rule, 9, 2, "0 .. 9; 2 outside", (one,), {date(2020, 1, 3): (2, (one,))}),
        RuleResult(column, 4, 1, "0 .. 0.9; 1 outside", (general,)),
    ]
    kept = quality.outcome(results, "toy", sessions).to_pandas().set_index(["rule", "date"])
    assert kept.loc["r", "violations"].tolist() == [0, 2, 0]
    assert kept.loc["c", "violations"].tolist() == [0, 0, 1]
    assert '"AAA"' in kept.loc[("r", date(2020, 1, 3)), "offenders"]
    assert kept.loc[("r", date(2020, 1, 6)), "offenders"] == "[]"
    assert "null_share" in kept.loc[("c", date(2020, 1, 6)), "offenders"]
    assert set(kept["judged_from"]) == {date(2020, 1, 2)}


# -- the vendors' own files --------------------------------------------------------------------------------------------


def test_every_known_defect_of_the_real_files_is_found(real_market: Path, tmp_path: Path) -> None:
    us = ("BF.B", "ODFL", "MNST", "NDAQ", "CHTR", "GILD", "VTRS", "CARR", "AAPL")
    cn = ("SZ000011", "SZ000014", "SZ000019", "SH600018", "SH603073", "SZ301439", "BJ430556", "SH600009")
    universes = {
        "us": UniverseSettings(
            source=FilesSource(path=real_market / "us_daily"), calendar="XNYS", start=date(1999, 11, 1),
            end=date(2021, 4, 21), instruments=us,
        ),
        "cn": UniverseSettings(
            source=FilesSource(path=real_market / "cn_daily"), calendar="XSHG", start=date(1991, 1, 2),
            end=date(2023, 3, 17), instruments=cn, region="cn",
        ),
    }  # fmt: skip
    platform = stages.Platform.open(Settings(home=tmp_path, universes=universes))
    seen: dict[tuple[str, str], set[str]] = {}
    for name, spec in universes.items():
        assert spec.end is not None
        stages.raw_ohlcv(platform, name, spec.start, spec.end)
        found = named("raw_ohlcv", Scope(platform.store, platform.settings, name, spec.start, spec.end))
        for rule in rules_for("raw_ohlcv", (), platform.settings.quality_for(name)):
            frame = found[rule.frame]
            wrong = frame[violations(rule, frame)]
            if "instrument" in wrong:
                seen[name, rule.name] = set(wrong["instrument"].astype(str))
            # the exchange was open before the first of these instruments was listed, and one file of nine is many
            allowed = ("every session has bars", "few files refused")
            assert rule.check != "structure" or rule.name in allowed or wrong.empty, rule.name
        reasons = found["refused_rows"].groupby("instrument")["reason"].agg(lambda r: r.value_counts().to_dict())
        if name == "cn":
            assert reasons["SH600018"] == {"null_price": 1448}
            assert all(reasons[i] == {"close_outside_range": 1} for i in cn[:3])
    assert seen["us", "no file refused"] == {"BF.B"}
    assert seen["us", "bars traded"] == {"ODFL", "MNST", "NDAQ", "CHTR", "GILD"}
    assert {"VTRS", "CARR", "NDAQ", "CHTR"} <= seen["us", "listings and returns"]
    assert seen["cn", "no file refused"] == {"SZ301439", "BJ430556"}
    assert seen["cn", "no row refused"] == {"SZ000011", "SZ000014", "SZ000019", "SH600018"}
    assert "SH603073" in seen["cn", "listings and returns"]
    assert "SZ000011" in seen["cn", "instruments complete"] | seen["cn", "listings and returns"]
