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
from qdag.defs.partitions import range_tags, run_window, session_partitions
from qdag.errors import QdagError, UnknownNameError
from qdag.quality import INDICATOR_BOUNDS, LARGEST, SLACK, Rule, rules_for, violations
from qdag.settings import Settings, SyntheticSource, UniverseSettings

DAYS = pd.date_range("2020-01-06", periods=4).astype("datetime64[s]")
KEYS = {"date": DAYS, "instrument": ["AAA", "BBB", "CCC", "DDD"]}
SESSIONS = {"date": DAYS, "is_session": True, "rows": 3, "expected": 3, "share": 1.0, "missing_bars": 0}

# a good frame of each table; one line of it is broken per rule
GOOD: dict[str, dict[str, dict[str, object]]] = {
    "raw_ohlcv": {
        "rows": {**KEYS, "open": 9.5, "high": 10.5, "low": 9.0, "close": 10.0, "volume": 100.0, "factor": 1.0,
                 "adjusted_return": [np.nan, 0.1, -0.1, 0.2], "vwap_over_close": 1.0},
        "sessions": SESSIONS,
        "instruments": {"instrument": ["AAA", "BBB"], "sessions": [10, 10], "rows": [10, 9], "share": [1.0, 0.9]},
        "refused_files": {"source": [], "reason": []},
        "refused_rows": {"reason": ["high_below_low", "null_price"], "share": [0.001, 0.01]},
    },
    "qlib_bin": {
        "calendar": {"date": DAYS, "is_session": True, "in_calendar": True},
        "bins": {"instrument": ["AAA", "AAA"], "field": ["close", "volume"], "different": [0, 0]},
    },
    "technical_indicators": {
        "rows": {**KEYS, **{name: np.float32(low) for name, (low, _) in INDICATOR_BOUNDS.items()}},
        "sessions": SESSIONS,
        "columns": {"column": ["rsi_14", "sma_5"], "rows": [9, 9], "null_share": [0.3, 0.0], "infinite_share": 0.0},
    },
    "labels": {
        "rows": {**KEYS, "label_1": np.array([0.1, np.nan, -0.1, 0], np.float32), "label_20": np.float32(0.5)},
        "sessions": SESSIONS,
        "horizons": {"label": ["label_1", "label_20"], "known_null_share": [0.2, np.nan], "too_early": 0},
    },
    "factor_metrics": {
        "rows": {"date": DAYS, "pool": "all", "horizon": 1, "factor": list("abcd"), "ic": [1.0, -1.0, 0.1, np.nan],
                 "rank_ic": 0.1, "coverage": [0.0, 1.0, 0.9, 0.8], "signal_date": DAYS - pd.Timedelta(days=1)},
        "sessions": SESSIONS,
        "factors": {"factor": ["a", "b"], "coverage": [1.0, 0.5]},
    },
    "predictions": {
        "rows": {**KEYS, "score": [0.1, 0.2, -0.1, 1e30], "trained_on": DAYS - pd.Timedelta(days=1)},
        "sessions": SESSIONS,
        "scores": {"date": DAYS, "distinct": [2, 3, 4, 5]},
    },
}  # fmt: skip
for frames_of_table in GOOD.values():
    frames_of_table["schema"] = {"column": ["date", "x"], "stored": True}
FEATURE_COLUMNS = (*INDICATOR_BOUNDS, "label_1", "label_20")
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
        return pd.DataFrame({"source": ["a.csv"], "reason": ["not_a_table"]})
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
    assert not result.passed
    assert result.violations == violations(rule, frame).sum() == (2 if rule.kind == "unique" else 1)
    assert len(result.offenders) == result.violations
    if "date" in frame:
        assert frame["date"].iloc[-1].date() in result.dates
    assert result.observed


def test_counts_equal_plain_pandas_on_random_bars() -> None:
    rng = np.random.default_rng(3)
    rules = [r for r in rules_for("raw_ohlcv") if r.frame == "rows"]
    n = 2_000
    frame = pd.DataFrame({name: rng.normal(1, 1, n) for name in ("open", "high", "low", "close", "volume", "factor")})
    frame = frame.mask(rng.random(frame.shape) < 0.05).assign(
        date=np.datetime64("2020-01-01", "s") + rng.integers(0, 40, n) * np.timedelta64(86400, "s"),
        instrument=rng.choice([*"abcdefgh", None], n),
        adjusted_return=rng.choice([0.0, np.inf, -np.inf, np.nan, 2.0], n),
        vwap_over_close=rng.choice([1.0, 0.1, 2.0], n),
    )
    for result in evaluate(rules, frame):
        # a rule of several columns judges each, so a line with two bad cells counts twice
        each = [(c,) for c in result.rule.columns]
        columns = each if result.rule.kind in ("between", "not_null") else [result.rule.columns]
        expected = sum(violations(replace(result.rule, columns=c), frame).sum() for c in columns)
        assert result.violations == expected, result.rule.name
        assert result.violations > 0
        assert len(result.offenders) == 5


def test_float32_infinity_fails_and_bounds_have_slack() -> None:
    rule = Rule("r", "alpha158", "values", "between", ("x",), "")
    (result,) = evaluate([rule], pd.DataFrame({"x": np.array([np.inf, 3e38, np.nan], np.float32)}))
    assert result.violations == 1
    rsi = next(r for r in rules_for("technical_indicators", ("rsi_14",)) if r.columns == ("rsi_14",))
    values = np.array([-SLACK / 2, 100 + SLACK / 2, -0.01, 100.01], np.float32)
    (result,) = evaluate([rsi], pd.DataFrame({**KEYS, "rsi_14": values}))
    assert result.violations == 2


def test_a_missing_column_fails_and_what_cannot_be_judged_raises() -> None:
    rule = Rule("r", "labels", "values", "between", ("x",), "", "rows", {"minimum": 0})
    (result,) = evaluate([rule], pd.DataFrame({"y": [1, 2]}))
    assert (result.passed, result.violations, result.observed) == (False, 2, "no column x")
    (result,) = evaluate([rule], pd.DataFrame({"x": []}))
    assert (result.passed, result.observed) == (True, "nothing to judge")
    with pytest.raises(QdagError, match="'r' of labels cannot be judged"):
        evaluate([rule], pd.DataFrame({"x": ["a", "b"]}))


def test_great_expectations_is_quiet_and_sends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    rule = Rule("r", "labels", "values", "not_null", ("x",), "")
    evaluate([rule], pd.DataFrame({"x": [1, 2]}))
    assert capfd.readouterr() == ("", "")
    context = checks._context()
    assert context is checks._context()
    assert context.config.analytics_enabled is False
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert "posthog" not in sys.modules
    assert not any(context.variables.progress_bars.values())
    assert not context.data_sources.all()


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
    assert checks_of("raw_ohlcv") == checks_of("labels") == ["structure", "completeness", "values"]
    assert checks_of("qlib_bin") == ["structure"]
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
    return frame.to_frame(index=False).assign(
        universe="toy", open=10.0, high=11.0, low=9.0, close=10.0, volume=100.0, amount=1000.0, vwap=10.0, factor=1.0,
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
        window = run_window(context.run.tags)
        sessions = platform.calendar("toy").between(window.start, window.end)
        rows = pa.Table.from_pandas(spoil(bars(sessions)), schema.RAW_OHLCV.arrow(), preserve_index=False)
        platform.store.replace(schema.RAW_OHLCV, "toy", window.start, window.end, rows, {})
        return dg.MaterializeResult(check_results=run_checks("raw_ohlcv", platform, window, context))

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
    assert len(evaluations) == 3
    return {e.check_name: e for e in evaluations}


@pytest.mark.parametrize("end", [START, END], ids=["one session", "range"])
def test_good_bars_pass_and_the_chain_goes_on(platform: stages.Platform, end: date) -> None:
    result, ran = run(platform, lambda frame: frame, end)
    assert result.success
    assert ran == ["downstream"]
    found = outcomes(result)
    assert all(e.passed for e in found.values())
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
    assert metadata["failed_rules"].value == 2
    assert metadata["failing_sessions"].value == 2
    assert metadata["sessions"].value == "2020-01-06, 2020-01-07"
    examples = [r.data["example"] for r in metadata["examples"].records]
    assert "date=2020-01-06, instrument=BBB, high=8.0, low=9.0" in examples
    assert "high not below low: 2 of 42" in str(found["structure"].description)


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
    assert outcomes(absent)["structure"].metadata["sessions"].value == "2020-01-15"


def test_a_window_without_sessions_passes_with_nothing_to_judge(platform: stages.Platform) -> None:
    weekend = checks.Window("toy", date(2020, 1, 4), date(2020, 1, 5))
    results = run_checks("alpha158", platform, weekend, dg.build_asset_context())
    assert [r.passed for r in results] == [True] * 3
    records = results[0].metadata["rules"].records
    assert {r.data["observed"] for r in records} == {"nothing to judge"}
