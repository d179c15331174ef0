"""The rules judged by Great Expectations: every rule on a good and a broken frame, and in plain pandas beside it."""

import os
import sys
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.errors import QdagError
from qdag.quality import Rule, validator
from qdag.quality.result import OFFENDERS
from qdag.quality.rule import KINDS, LARGEST, violations
from qdag.quality.validator import evaluate
from qdag_tests import stages
from qdag_tests.stages import rules_for

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
    tables = {*GOOD, *(t for t in stages.FEATURE_TABLES)}
    assert {r.table for r in EVERY_RULE} == set(GOOD)
    for table in tables:
        like = "technical_indicators" if table in stages.FEATURE_TABLES else table
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
    rule = Rule(name="r", table="alpha158", check="values", kind="between", columns=("x",), meaning="")
    (result,) = evaluate([rule], pd.DataFrame({"x": np.array([np.inf, 3e38, np.nan], np.float32)}))
    assert result.violations == 1


def test_a_missing_column_fails_and_what_cannot_be_judged_raises() -> None:
    rule = Rule(
        name="r",
        table="labels",
        check="values",
        kind="between",
        columns=("x",),
        meaning="",
        frame="rows",
        parameters={"minimum": 0},
    )
    (result,) = evaluate([rule], pd.DataFrame({"y": [1, 2]}))
    assert (result.passed, result.violations, result.observed) == (False, 2, "no column x")
    (result,) = evaluate([rule], pd.DataFrame({"x": []}))
    assert (result.passed, result.observed) == (True, "nothing to judge")
    with pytest.raises(QdagError, match="'r' of labels cannot be judged"):
        evaluate([rule], pd.DataFrame({"x": ["a", "b"]}))


def test_great_expectations_is_quiet_and_sends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    # as in a new process, whatever has run in this one
    for made in (validator._context, validator._definition):
        made.cache_clear()
    rule = Rule(name="r", table="labels", check="values", kind="not_null", columns=("x",), meaning="")
    evaluate([rule], pd.DataFrame({"x": [1, 2]}))
    assert capfd.readouterr() == ("", "")
    context = validator._context()
    assert context is validator._context()
    assert context.config.analytics_enabled is False
    assert os.environ["GX_ANALYTICS_ENABLED"] == "false"
    assert "posthog" not in sys.modules
    assert not any(context.variables.progress_bars.values())
    # one data source for all frames; it keeps none but the last
    assert [s.name for s in context.data_sources.all().values()] == ["frames"]


NUMBERS = st.sampled_from([np.nan, np.inf, -np.inf, LARGEST, -LARGEST, 0.0, -0.0, 1.0, 0.5, 2.0, -1.0, 1e-300])
DATES = st.sampled_from([pd.NaT, *DAYS])
TEXTS = st.sampled_from([None, "", "a", "b"])


@st.composite
def any_frame(draw: st.DrawFn) -> pd.DataFrame:
    """Lines of every type that a frame has: numbers, dates, texts and booleans, with what is odd of each."""
    n = draw(st.integers(1, 8))

    def column(values: st.SearchStrategy[object]) -> list[object]:
        return draw(st.lists(values, min_size=n, max_size=n))

    frame = pd.DataFrame({name: np.array(column(NUMBERS), np.float64) for name in ("x", "y")})
    for name in ("day", "due"):
        frame[name] = pd.Series(column(DATES), dtype="M8[s]")
    for name in ("instrument", "pool"):
        frame[name] = pd.Series(column(TEXTS), dtype=object)
    frame["holds"] = column(st.booleans())
    return frame.assign(count=column(st.integers(-2, 2)), group=pd.Categorical(frame["instrument"]))


def one_of_every_kind() -> list[Rule]:
    def rule(kind: str, *columns: str, **parameters: object) -> Rule:
        name = " ".join([kind, *columns, *map(str, parameters.values())])
        return Rule(
            name=name, table="labels", check="values", kind=kind, columns=columns, meaning="", parameters=parameters
        )

    return [
        rule("unique", "day", "instrument"),
        rule("unique", "day", "pool", "count", "instrument"),
        rule("not_null", "day", "instrument"),
        rule("not_null", "x", "group"),
        rule("between", "x", "y"),
        rule("between", "x", "y", minimum=0),
        rule("between", "x", maximum=1, strict=True),
        rule("between", "x", minimum=0, maximum=1, strict=True),
        rule("between", "count", minimum=0, maximum=1),
        rule("ordered", "x", "y"),
        rule("ordered", "x", "y", strict=True),
        rule("ordered", "day", "due"),
        rule("ordered", "day", "due", strict=True),
        rule("equals", "holds", value=True),
        rule("equals", "holds", "count", value=1),
        rule("empty"),
    ]


@given(any_frame())
@settings(max_examples=25)
def test_the_lines_found_are_those_that_great_expectations_finds(frame: pd.DataFrame) -> None:
    rules = one_of_every_kind()
    assert {rule.kind for rule in rules} == set(KINDS)
    results = evaluate(rules, frame)
    found: dict[int, set[int]] = {at: set() for at in range(len(rules))}
    for result in validator._validate(rules, frame, {"result_format": "COMPLETE"}):
        at = result.expectation_config.meta["rule"]
        listed = result.result.get("unexpected_index_list")
        found[at] |= set(range(len(frame)) if listed is None and not result.success else listed or ())
    for at, rule in enumerate(rules):
        wrong = violations(rule, frame)
        assert set(wrong[wrong].index) == found[at], rule.name
        each = [(c,) for c in rule.columns] if rule.kind in ("between", "not_null", "equals") else [rule.columns]
        assert results[at].violations == sum(violations(replace(rule, columns=c), frame).sum() for c in each), rule.name
        assert len(results[at].offenders) == min(len(found[at]), OFFENDERS)
