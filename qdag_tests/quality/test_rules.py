"""Rules as data, and which lines break them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qdag.assets.labels import PLAUSIBLE
from qdag.errors import UnknownNameError
from qdag.features.catalogue import feature_sets
from qdag.features.feature import bounds_of
from qdag.features.sets import PERCENT
from qdag.quality import Rule
from qdag.quality.rule import CHECKS, KINDS, violations
from qdag.settings import QualitySettings
from qdag_tests.quality.toy import TABLES
from qdag_tests.stages import rules_for


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
        Rule(name="x", table="labels", check="values", kind="betwen", columns=("a",), meaning="")
    with pytest.raises(UnknownNameError, match="structure"):
        Rule(name="x", table="labels", check="structur", kind="between", columns=("a",), meaning="")  # type: ignore[arg-type]


def test_bounds_name_real_features() -> None:
    for one in feature_sets().values():
        found = one.bounds_of(one.columns)
        assert {n if n in one.bounds else n.rstrip("0123456789") for n in found} == set(one.bounds), one.name
    indicators = feature_sets()["technical_indicators"]
    declared = {f.name: f.meaning for f in indicators.features}
    in_words = {name for name, meaning in declared.items() if "0..100" in meaning and "leave" not in meaning}
    assert in_words == {n for n, b in indicators.bounds.items() if b == PERCENT}
    alpha = feature_sets()["alpha158"]
    assert len(alpha.bounds_of(alpha.columns)) > 120
    assert bounds_of(PLAUSIBLE, ["label_20"]) == {"label_20": (-0.9, 3.0)}


def masks() -> Iterator[tuple[str, Rule, dict[str, list[object]], list[bool]]]:
    inf, nan = np.inf, np.nan

    def rule(kind: str, columns: tuple[str, ...], **parameters: object) -> Rule:
        return Rule(
            name="r",
            table="labels",
            check="values",
            kind=kind,
            columns=columns,
            meaning="",
            frame="rows",
            parameters=parameters,
        )

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
    rule = Rule(name="r", table="labels", check="values", kind="between", columns=("a",), meaning="")
    assert violations(rule, pd.DataFrame({"a": np.array([np.inf, 3e38], np.float32)})).tolist() == [True, False]


def test_importing_the_rules_imports_no_orchestrator_and_no_validator() -> None:
    heavy = {"dagster", "great_expectations", "jinja2", "mlflow", "qlib"}
    code = f"import sys, qdag.assets.chain, qdag.quality.page; print(sorted(set(sys.modules) & {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_page_of_the_rules_names_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text("utf-8")
    for table in TABLES:
        for rule in rules_for(table):
            assert rule.name in page, f"{table}: {rule.name}"
    for name in QualitySettings.model_fields:
        assert f"`{name}`" in page
    for one in feature_sets().values():
        assert f"`{one.name}`" in page or not one.bounds
