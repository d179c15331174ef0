"""The rules judged by Great Expectations, and the checks in real Dagster runs."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qdag import schema, stages
from qdag.defs import checks
from qdag.defs.checks import check_specs, checks_of, evaluate, run_checks
from qdag.defs.partitions import range_tags, run_windows, session_partitions
from qdag.errors import QdagError, UnknownNameError
from qdag.quality import LARGEST, Rule, profile_table, quality_table, rules_for, violations
from qdag.settings import Settings, SyntheticSource, UniverseSettings

DAYS = pd.date_range("2020-01-06", periods=4).astype("datetime64[s]")
KEYS = {"date": DAYS, "instrument": ["AAA", "BBB", "CCC", "DDD"]}
SESSIONS = {"date": DAYS, "is_session": True, "rows": 3, "expected": 3, "share": 1.0, "missing_bars": 0}

# a good frame of each table; one line of it is broken per rule
GOOD: dict[str, dict[str, dict[str, object]]] = {
    "raw_ohlcv": {
        "rows": {**KEYS, "open": 9.5, "high": 10.5, "low": 9.0, "close": 10.0, "volume": 100.0, "factor": 1.0,
                 "adjusted_return": [np.nan, 0.1, -0.1, 0.2], "move": [np.nan, 0.1, 0.1, 0.2], "jump_limit": 0.4,
                 "event_limit": 0.4, "spike": [np.nan, 0.1, 0.0, 0.3], "spike_limit": 0.3, "extreme": 10.5,
                 "around": 10.0, "factor_step": 1.0, "factor_error": [np.nan, 0, 0, 0.0], "unchanged": 1.0,
                 "split": 1.0, "dividend": 0.0, "volume_ratio": [np.nan, 1, 49, 0.1], "vwap": 10.0,
                 "vwap_outside": 0.0},
        "sessions": {**SESSIONS, "refused": 0, "refused_share": 0.0},
        "fields": {"field": ["open", "amount"], "rows": 9, "null_share": [0.0, 0.05]},
        "listings": {"date": [], "instrument": [], "absent": []},
        "refused_share": {"refused": [1], "files": [20], "share": [0.05]},
        "findings": {"date": [], "instrument": [], "kind": [], "detail": []},
        "conventions": {"date": [], "instrument": [], "kind": [], "detail": []},
        "instruments": {"instrument": ["AAA", "BBB"], "sessions": [10, 10], "rows": [10, 9], "share": [1.0, 0.9]},
        "refused_files": {"source": [], "reason": []},
        "refused_rows": {"source": [], "line": [], "reason": []},
    },
    "qlib_bin": {
        "calendar": {"date": DAYS, "is_session": True, "in_calendar": True},
        "bins": {"instrument": ["AAA", "AAA"], "field": ["close", "volume"], "different": [0, 0]},
        "adjusted": {"instrument": ["AAA", "AAA"], "field": ["close", "volume"], "difference": [0.0, 1e-7]},
        "pool_prices": {"date": DAYS, "pool": "all", "members": 10, "priced": 8, "share": [1.0, 0.9, 0.8, 0.7]},
        "pools": {"pool": ["csi300", "top"], "written": True},
        "pool_spans": {"pool": "top", "instrument": ["AAA", "AAA"], "start": date(2020, 1, 2),
                       "end": date(2020, 1, 3), "apart": True, "stored": True},
        "pool_sizes": {"date": DAYS, "pool": "top", "members": [8, 12, 10, 9], "size": 10,
                       "share": [0.8, 1.2, 1.0, 0.9]},
    },
    "technical_indicators": {
        "rows": KEYS,
        "bounds": {**KEYS, "column": "rsi_14", "low": 0.0, "high": 100.0, "value": [np.nan, 9, 9, 9], "within": True},
        "recomputed": {**KEYS, "column": "sma_5", "stored": 1.0, "expected": 1.0, "difference": [0, 0.1, 1.0, 0.5]},
        "drift": {"date": DAYS[3], "column": ["rsi_14", "sma_5"], "psi": [0.1, 3.0], "shift": 0.1,
                  "instruments": 20.0, "drift": [0.1, 1.0]},
        "sessions": SESSIONS,
        "columns": {"column": ["rsi_14", "sma_5"], "rows": [9, 9], "null_share": [0.3, 0.0], "infinite_share": 0.0},
    },
    "labels": {
        "rows": KEYS,
        "bounds": {**KEYS, "column": "label_1", "low": -0.9, "high": 3.0, "value": 0.1, "within": True},
        "recomputed": {**KEYS, "column": "label_1", "stored": 0.1, "expected": 0.1, "difference": [0, 0, 0.0, 1.0]},
        "sessions": SESSIONS,
        "horizons": {"label": ["label_1", "label_20"], "known_rows": 9, "known_null_share": [0.2, np.nan],
                     "too_early": 0},
    },
    "factor_metrics": {
        "rows": {"date": DAYS, "pool": "all", "horizon": 1, "factor": list("abcd"), "ic": [1.0, -1.0, 0.1, np.nan],
                 "rank_ic": 0.1, "coverage": [0.0, 1.0, 0.9, 0.8], "signal_date": DAYS - pd.Timedelta(days=1)},
        "sessions": SESSIONS,
        "factors": {"pool": "all", "factor": ["a", "b"], "coverage": [1.0, 0.5]},
    },
    "predictions": {
        "rows": {**KEYS, "score": [0.1, 0.2, -0.1, 1e30], "trained_on": DAYS - pd.Timedelta(days=1)},
        "sessions": SESSIONS,
        "scores": {"date": DAYS, "rows": 5, "distinct": [2, 3, 4, 5]},
    },
}  # fmt: skip
for frames_of_table in GOOD.values():
    frames_of_table["schema"] = {"column": ["date", "x"], "stored": True}
    frames_of_table["timeliness"] = {"last": [DAYS[3]], "due": [DAYS[3]], "behind": [0]}
FEATURE_COLUMNS = ("rsi_14", "sma_5", "label_1", "label_20")
EVERY_RULE = [rule for table in GOOD for rule in rules_for(table, FEATURE_COLUMNS) if rule.frame in GOOD[table]]


def good(rule: Rule) -> pd.DataFrame:
    return pd.DataFrame(GOOD[rule.table][rule.frame])


def broken(rule: Rule, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its last line just outside what the rule asks."""
    p, at, name = rule.parameters, len(frame) - 1, rule.columns[0] if rule.columns else ""
    frame = frame.copy()
    if rule.kind == "unique":
        frame.loc[at, list(rule.columns)] = frame.loc[0, list(rule.columns)]
    elif rule.kind == "not_null":
        frame.loc[at, rule.columns[-1]] = None
    elif rule.kind == "equals":
        frame.loc[at, rule.columns[-1]] = False
    elif rule.kind == "ordered":
        less = 0 if p.get("strict") else 1
        other = frame.loc[at, rule.columns[1]]
        frame.loc[at, name] = other - less if not isinstance(other, pd.Timestamp) else other
    elif rule.kind == "empty":
        line = {"date": DAYS[3], "instrument": "AAA", "source": "a.csv", "line": 3, "reason": "not_a_table"}
        return pd.DataFrame([{**line, "absent": 30, "kind": "factor_gap", "detail": "no factor"}])
    elif abs(p.get("maximum", LARGEST)) < LARGEST:
        frame[name] = frame[name].astype(float)
        frame.loc[at, name] = p["maximum"] + (0 if p.get("strict") else 0.01)
    elif p.get("minimum", -LARGEST) > -LARGEST:
        frame[name] = frame[name].astype(float)
        frame.loc[at, name] = p["minimum"] - (0 if p.get("strict") else 0.01)
    else:
        frame.loc[at, name] = np.inf
    return frame


def test_every_rule_has_a_good_frame() -> None:
    tables = {*GOOD, *(t for t in schema.FEATURE_TABLES)}
    assert {r.table for r in EVERY_RULE} == set(GOOD)
    for table in tables:
        like = "technical_indicators" if table in schema.FEATURE_TABLES else table
        for rule in rules_for(table, FEATURE_COLUMNS):
            assert rule.frame in GOOD[like], rule
            assert set(rule.columns) <= set(GOOD[like][rule.frame]), rule


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: f"{rule.table}: {rule.name}")
def test_rule_passes_on_good_lines_and_fails_on_a_broken_one(rule: Rule) -> None:
    frame = good(rule)
    (result,) = evaluate([rule], frame)
    assert result.passed, result
    assert result.judged == len(frame)
    frame = broken(rule, frame)
    (result,) = evaluate([rule], frame)
    assert result.passed == rule.notice
    assert result.violations == violations(rule, frame).sum() == (2 if rule.kind == "unique" else 1)
    assert len(result.offenders) == result.violations
    if "date" in frame:
        assert frame["date"].iloc[-1].date() in result.dates
    assert result.observed
    said = result.told("toy", date(2020, 1, 31))
    assert said.startswith(" on ".join(w for w in (result.offenders[0].instrument, result.offenders[0].date) if w))
    assert len(result.offenders[0].sentence) > 5, said
    assert f"({rule.name}). See `qdag " in said
    assert "-u toy" in said
    assert "{" not in said
    assert "nan" not in said.replace("finance", "") or rule.kind == "not_null"


def test_a_broken_rule_is_told_as_a_sentence_with_its_worst_line_and_where_to_look() -> None:
    rule = next(r for r in rules_for("raw_ohlcv") if r.name == "no jump without an event")
    frame = pd.concat([good(rule)] * 2, ignore_index=True)
    frame.loc[[2, 5], ["adjusted_return", "move"]] = [[-0.5, 0.5], [0.9, 0.9]]
    (result,) = evaluate([rule], frame)
    assert result.told("us", date(2020, 1, 31)) == (
        "BBB on 2020-01-07: moved +90.0% without an event, limit 40.0%; 1 more of 8 (no jump without an event). "
        "See `qdag report -u us --date 2020-01-07`."
    )
    drift = next(r for r in rules_for("technical_indicators", FEATURE_COLUMNS) if r.check == "drift")
    line = {"date": DAYS[3], "column": "rsi_14", "psi": 3.53, "shift": 2.2, "instruments": 20.0, "drift": 1.2}
    (result,) = evaluate([drift], pd.DataFrame([line]))
    assert result.told("us", date(2020, 1, 31)).startswith(
        "rsi_14 on 2020-01-09: stability index 3.53 against the year before, median moved by +2.20 interquartile "
        "ranges, over 20 instruments (distribution as in the year before). See"
    )
    (result,) = evaluate([replace(rule, columns=("absent", "move"))], frame)
    assert result.told("us", date(2020, 1, 31)).startswith("no column absent; 7 more of 8 (no jump")


def test_counts_equal_plain_pandas_on_random_bars() -> None:
    rng = np.random.default_rng(3)
    rules = [r for r in rules_for("raw_ohlcv") if r.frame == "rows"]
    n = 2_000
    frame = pd.DataFrame({name: rng.normal(1, 1, n) for name in ("open", "high", "low", "close", "volume", "factor")})
    frame = frame.mask(rng.random(frame.shape) < 0.05).assign(
        date=np.datetime64("2020-01-01", "s") + rng.integers(0, 40, n) * np.timedelta64(86400, "s"),
        instrument=rng.choice([*"abcdefgh", None], n),
        move=rng.choice([0.0, np.inf, np.nan, 2.0], n),
        jump_limit=0.4,
        event_limit=0.1,
        spike=rng.choice([0.0, 0.5, np.nan], n),
        spike_limit=0.3,
        extreme=1.0,
        around=1.0,
        adjusted_return=0.0,
        factor_step=1.0,
        factor_error=rng.choice([0.0, 1.0, np.nan], n),
        unchanged=rng.choice([1.0, 9.0], n),
        volume_ratio=rng.choice([1.0, np.inf, 0.0], n),
        vwap=1.0,
        vwap_outside=rng.choice([0.0, 1.0], n),
        split=1.0,
        dividend=0.0,
    )
    for result in evaluate(rules, frame):
        # a rule of several columns judges each, so a line with two bad cells counts twice
        each = [(c,) for c in result.rule.columns]
        columns = each if result.rule.kind in ("between", "not_null") else [result.rule.columns]
        expected = sum(violations(replace(result.rule, columns=c), frame).sum() for c in columns)
        assert result.violations == expected, result.rule.name
        assert result.violations > 0
        assert len(result.offenders) == 10


def test_float32_infinity_fails() -> None:
    rule = Rule("r", "alpha158", "values", "between", ("x",), "")
    (result,) = evaluate([rule], pd.DataFrame({"x": np.array([np.inf, 3e38, np.nan], np.float32)}))
    assert result.violations == 1


def test_a_missing_column_fails_and_what_cannot_be_judged_raises() -> None:
    rule = Rule("r", "labels", "values", "between", ("x",), "", "rows", {"minimum": 0})
    (result,) = evaluate([rule], pd.DataFrame({"y": [1, 2]}))
    assert (result.passed, result.violations, result.observed) == (False, 2, "no column x")
    (result,) = evaluate([rule], pd.DataFrame({"x": []}))
    assert (result.passed, result.observed) == (True, "nothing to judge")
    with pytest.raises(QdagError, match="'r' of labels cannot be judged"):
        evaluate([rule], pd.DataFrame({"x": ["a", "b"]}))


def test_great_expectations_is_quiet_and_sends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    # as in a new process, whatever has run in this one
    for made in (checks._context, checks._definition):
        made.cache_clear()
    rule = Rule("r", "labels", "values", "not_null", ("x",), "")
    evaluate([rule], pd.DataFrame({"x": [1, 2]}))
    assert capfd.readouterr() == ("", "")
    context = checks._context()
    assert context is checks._context()
    assert context.config.analytics_enabled is False
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert "posthog" not in sys.modules
    assert not any(context.variables.progress_bars.values())
    # one data source for all frames; it keeps none but the last
    assert [s.name for s in context.data_sources.all().values()] == ["frames"]


def test_loading_the_checks_imports_no_validator() -> None:
    code = (
        "import sys, qdag.defs.checks as c\n"
        "for t in ('raw_ohlcv', 'alpha158', 'labels'): c.check_specs(t)\n"
        "print('great_expectations' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_specs_block_on_structure_only() -> None:
    for table in ("raw_ohlcv", "qlib_bin", *schema.FEATURE_TABLES, "labels", "factor_metrics", "predictions"):
        specs = check_specs(table)
        assert [s.name for s in specs] == checks_of(table)
        assert [s.name for s in specs if s.blocking] == ["structure"]
        assert all(s.asset_key == dg.AssetKey(table) for s in specs)
    assert checks_of("raw_ohlcv") == checks_of("labels") == ["structure", "completeness", "timeliness", "values"]
    assert checks_of("alpha158") == ["structure", "completeness", "timeliness", "values", "drift"]
    assert checks_of("qlib_bin") == ["structure", "completeness"]
    assert check_specs("trained_model") == []
    with pytest.raises(UnknownNameError, match="alpha158"):
        check_specs("alpha15")


# -- in real runs -----------------------------------------------------------------------------------------------------

START, END = date(2020, 1, 2), date(2020, 1, 31)


@pytest.fixture
def platform(tmp_path: Path) -> stages.Platform:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=START, end=END)
    return stages.Platform.open(Settings(home=tmp_path, universes={"toy": universe}))


def bars(sessions: np.ndarray) -> pd.DataFrame:
    frame = pd.MultiIndex.from_product([sessions.tolist(), ["AAA", "BBB"]], names=["date", "instrument"])
    frame = frame.to_frame(index=False)
    # a close that moves, within the day's range
    return frame.assign(
        universe="toy", open=10.0, high=11.0, low=9.0, close=10.0 + frame.index % 3 / 10,
        volume=100.0, amount=1000.0, vwap=10.0, factor=1.0,
        split=1.0, dividend=0.0,
    )  # fmt: skip


def run(
    platform: stages.Platform, spoil: Callable[[pd.DataFrame], pd.DataFrame], end: date
) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """Materialize a chain of two, the first of which stores spoiled bars."""
    partitions = session_partitions(platform.settings)
    ran: list[str] = []

    @dg.asset(
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=check_specs("raw_ohlcv"),
    )
    def raw_ohlcv(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        [window] = run_windows(context.run.tags, ["toy"])
        sessions = platform.calendar("toy").between(window.start, window.end)
        rows = pa.Table.from_pandas(spoil(bars(sessions)), schema.RAW_OHLCV.arrow(), preserve_index=False)
        platform.store.replace(schema.RAW_OHLCV, "toy", window.start, window.end, rows, {})
        return dg.MaterializeResult(check_results=run_checks("raw_ohlcv", platform, [window], context).results)

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run(), deps=[raw_ohlcv])
    def downstream() -> dg.MaterializeResult:
        ran.append("downstream")
        return dg.MaterializeResult()

    result = dg.materialize(
        [raw_ohlcv, downstream],
        tags=range_tags("toy", START.isoformat(), end.isoformat()),
        raise_on_error=False,
        instance=dg.DagsterInstance.ephemeral(),
    )
    return result, ran


def outcomes(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    evaluations = result.get_asset_check_evaluations()
    assert len(evaluations) == 4
    return {e.check_name: e for e in evaluations}


@pytest.mark.parametrize("end", [START, END], ids=["one session", "range"])
def test_good_bars_pass_and_the_chain_goes_on(platform: stages.Platform, end: date) -> None:
    result, ran = run(platform, lambda frame: frame, end)
    assert result.success
    assert ran == ["downstream"]
    found = outcomes(result)
    # a run of one session early in January is judged to be behind
    assert {name for name, e in found.items() if not e.passed} <= {"timeliness"}
    assert found["timeliness"].passed == (end == END)
    rules = found["structure"].metadata["rules"].records
    assert {r.data["rule"] for r in rules} == {r.name for r in rules_for("raw_ohlcv") if r.check == "structure"}
    assert {r.data["passed"] for r in rules} == {"yes"}
    assert found["structure"].metadata["failed_rules"].value == 0


def test_a_structural_failure_stops_what_follows(platform: stages.Platform) -> None:
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[[5, 6], "high"] = 8.0
        return frame

    result, ran = run(platform, spoil, END)
    assert not result.success
    assert ran == []
    found = outcomes(result)
    assert not found["structure"].passed
    assert found["structure"].blocking
    assert found["structure"].severity == dg.AssetCheckSeverity.ERROR
    assert found["completeness"].passed
    metadata = found["structure"].metadata
    assert metadata["failed_rules"].value == 3
    assert metadata["failing_sessions"].value == 2
    failing = [r.data for r in metadata["sessions"].records]
    assert [f["session"] for f in failing] == ["2020-01-06", "2020-01-07"]
    assert [f["violations"] for f in failing] == [3, 3]
    assert "high not below low" in failing[0]["rules"]
    worst = [r.data for r in metadata["offenders"].records if r.data["rule"] == "high not below low"]
    assert [(w["date"], w["instrument"]) for w in worst] == [("2020-01-06", "BBB"), ("2020-01-07", "AAA")]
    assert worst[0] == {"universe": "toy", "rule": "high not below low", "date": "2020-01-06", "instrument": "BBB",
                        "value": "9", "limit": "high 8", "sentence": "high = 8, low = 9"}  # fmt: skip
    page = Path(metadata["quality_report"].path)
    assert page == platform.settings.reports / "toy" / "2020-01-31.html"
    assert "structural rule" in page.with_name("2020-01-06.html").read_text()
    kept = platform.store.read(quality_table("raw_ohlcv").name, "toy").to_pandas()
    broken_days = kept.loc[(kept["rule"] == "high not below low") & (kept["violations"] > 0), "date"]
    assert broken_days.tolist() == [date(2020, 1, 6), date(2020, 1, 7)]
    assert len(platform.store.sessions(profile_table("raw_ohlcv").name, "toy")) == 21
    said = str(found["structure"].description)
    assert said.startswith("toy 2020-01-02 .. 2020-01-31: ")
    assert "BBB on 2020-01-06: high = 8, low = 9; 1 more of 42 (high not below low). See `qdag report -u toy" in said
    assert found["completeness"].description == "toy 2020-01-02 .. 2020-01-31: 6 rules hold"
    assert (metadata["universe"].value, metadata["window"].value) == ("toy", "2020-01-02 .. 2020-01-31")


def test_an_incomplete_delivery_warns_and_a_missing_session_blocks(platform: stages.Platform) -> None:
    sparse, ran = run(platform, lambda f: f[(f["instrument"] == "AAA") | (f.index % 6 == 1)], END)
    assert sparse.success
    assert ran == ["downstream"]
    found = outcomes(sparse)
    assert found["structure"].passed
    assert not found["completeness"].passed
    assert found["completeness"].severity == dg.AssetCheckSeverity.WARN
    absent, ran = run(platform, lambda f: f[f["date"] != date(2020, 1, 15)], END)
    assert not absent.success
    assert ran == []
    failing = outcomes(absent)["structure"].metadata["sessions"].records
    assert [r.data["session"] for r in failing] == ["2020-01-15"]


def test_a_window_without_sessions_passes_with_nothing_to_judge(platform: stages.Platform) -> None:
    weekend = checks.Window("toy", date(2020, 1, 4), date(2020, 1, 5))
    results = run_checks("alpha158", platform, [weekend], dg.build_asset_context()).results
    assert [r.passed for r in results] == [True] * 5
    assert not platform.settings.reports.exists()
    records = results[0].metadata["rules"].records
    assert {r.data["observed"] for r in records} == {"nothing to judge"}
