"""What is kept of a judgement."""

from datetime import date

import numpy as np

from qdag.quality import Offence, Rule, RuleResult
from qdag.quality.outcome import outcome


def test_outcomes_by_session() -> None:
    sessions = np.array(["2020-01-02", "2020-01-03", "2020-01-06"], "M8[D]")
    one = Offence("2020-01-03", "AAA", "9", "value <= 1", "x = 9")
    general = Offence("", "x", "0.9", "value <= 0.5", "null_share = 0.9")
    rule = Rule(
        name="r",
        table="labels",
        check="values",
        kind="between",
        columns=("x",),
        meaning="because",
        frame="rows",
        parameters={"maximum": 1},
    )
    column = Rule(
        name="c",
        table="labels",
        check="completeness",
        kind="between",
        columns=("x",),
        meaning="because",
        frame="columns",
        parameters={"maximum": 0.5},
    )
    results = [
        RuleResult(rule, 9, 2, "0 .. 9; 2 outside", (one,), {date(2020, 1, 3): (2, (one,))}),
        RuleResult(column, 4, 1, "0 .. 0.9; 1 outside", (general,)),
    ]
    kept = outcome(results, "toy", sessions).to_pandas().set_index(["rule", "date"])
    assert kept.loc["r", "violations"].tolist() == [0, 2, 0]
    assert kept.loc["c", "violations"].tolist() == [0, 0, 1]
    assert '"AAA"' in kept.loc[("r", date(2020, 1, 3)), "offenders"]
    assert kept.loc[("r", date(2020, 1, 6)), "offenders"] == "[]"
    assert "null_share" in kept.loc[("c", date(2020, 1, 6)), "offenders"]
    assert set(kept["judged_from"]) == {date(2020, 1, 2)}
