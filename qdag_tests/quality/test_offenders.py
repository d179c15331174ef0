"""The worst lines of a broken rule, and results over parts."""

from datetime import date

import pandas as pd

from qdag.quality import Offence, Rule, RuleResult
from qdag.quality.offenders import offenders
from qdag.quality.result import OFFENDERS, OFFENDERS_OF_DATE
from qdag_tests.quality.toy import START


def test_offenders_are_worst_first_with_their_dates() -> None:
    rule = Rule(
        name="r",
        table="labels",
        check="values",
        kind="between",
        columns=("x",),
        meaning="",
        frame="rows",
        parameters={"minimum": 0, "maximum": 10},
    )
    dates = pd.date_range("2020-01-01", periods=8)
    frame = pd.DataFrame({"date": dates, "instrument": list("abcdefgh"), "x": [1, 11, -5, 10, 30, 12, 13, 14], "y": 0})
    lines, days = offenders(rule, frame)
    assert [line.instrument for line in lines] == ["e", "c", "h", "g", "f", "b"]
    assert (lines[0].date, lines[0].value, lines[0].limit) == ("2020-01-05", "30", "0 <= value <= 10")
    assert lines[0].sentence == "x = 30"
    assert len(days) == 6
    assert days[date(2020, 1, 2)] == (1, (lines[5],))


def test_offenders_of_a_date_are_its_worst_and_all_are_counted() -> None:
    rule = Rule(
        name="r",
        table="labels",
        check="values",
        kind="ordered",
        columns=("limit", "move"),
        meaning="",
        frame="rows",
        parameters={},
        says="moved {move:.0%}",
    )
    frame = pd.DataFrame(
        {"date": pd.Timestamp("2020-01-01"), "instrument": [f"i{n:02}" for n in range(20)], "limit": 0.1, "move": 0.2}
    )
    frame.loc[7, "move"] = 0.9
    lines, days = offenders(rule, frame)
    assert (lines[0].instrument, lines[0].value, lines[0].limit, lines[0].sentence) == (
        "i07", "0.9", "limit 0.1", "moved 90%",
    )  # fmt: skip
    count, worst = days[date(2020, 1, 1)]
    assert (count, len(worst), worst[0]) == (20, OFFENDERS_OF_DATE, lines[0])


def test_results_of_parts_add_up() -> None:
    rule = Rule(name="r", table="labels", check="values", kind="between", columns=("x",), meaning="")
    none = RuleResult(rule, 0, 0, "nothing to judge")
    good = RuleResult(rule, 10, 0, "1 .. 2")
    worst = Offence("2020-01-02", "a", "inf", "finite", "x = inf")
    bad = RuleResult(rule, 5, 2, "1 .. inf; 2 outside", (worst,) * 6, {START: (2, (worst,))})
    assert none.passed
    assert (none + good).observed == "1 .. 2"
    total = none + bad + good + bad
    assert (total.judged, total.violations, total.passed) == (20, 4, False)
    assert total.observed == bad.observed
    assert len(total.offenders) == OFFENDERS
    assert total.dates == {START}
    assert RuleResult(
        Rule(name="r", table="labels", check="values", kind="empty", columns=(), meaning="", notice=True),
        3,
        3,
        "3 listed",
    ).passed
