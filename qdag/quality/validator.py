"""Rules judged by Great Expectations: the one adapter to it, free of the orchestrator.

Great Expectations alone says whether a rule holds and how often it is broken. Importing it takes about five seconds, so
it is imported when the first frame is judged. Which lines broke a rule is found by
:func:`qdag.quality.rule.violations`: Great Expectations' own list of them costs another pass over the frame, 0.1 to
0.3 s for a rule and 100,000 lines.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from qdag.errors import QdagError
from qdag.quality.offenders import offenders
from qdag.quality.result import RuleResult, describe, nothing_to_judge
from qdag.quality.rule import Rule


@dataclass(frozen=True)
class Judged:
    """How every rule of a table came out over a window, and what the table's columns looked like in it.

    Parameters
    ----------
    results : one per rule, in their order
    profile : the frame of this name; empty where the table has none
    """

    results: list[RuleResult]
    profile: pd.DataFrame


def judge(rules: Sequence[Rule], frames: Iterable[tuple[str, pd.DataFrame]]) -> Judged:
    """Judge rules on the frames that they speak of, frame by frame; one frame may come in several parts.

    Rules of a frame that does not come (a window without sessions) pass with nothing to judge.

    Raises
    ------
    QdagError
        Great Expectations could not judge a rule: that is an error, not a failed check.
    """
    results = {rule: nothing_to_judge(rule) for rule in rules}
    profile = pd.DataFrame()
    for name, frame in frames:
        if name == "profile":
            profile = frame
        for result in evaluate([r for r in rules if r.frame == name], frame):
            results[result.rule] = results[result.rule] + result
    return Judged(list(results.values()), profile)


def evaluate(rules: Sequence[Rule], frame: pd.DataFrame) -> list[RuleResult]:
    """Judge rules on the frame that they speak of, in one validation.

    Parameters
    ----------
    rules : rules of one frame
    frame : shape (lines, columns); NaN is null. An empty frame passes everything.

    Returns
    -------
    One result per rule, in their order. A rule whose column the frame lacks fails.

    Raises
    ------
    QdagError
        Great Expectations could not judge a rule: that is an error, not a failed check.
    """
    results: dict[Rule, RuleResult] = {}
    judged: list[Rule] = []
    for rule in rules:
        if absent := [c for c in rule.columns if c not in frame]:
            results[rule] = RuleResult(rule, len(frame), max(1, len(frame)), f"no column {', '.join(absent)}")
        elif frame.empty:
            results[rule] = nothing_to_judge(rule)
        else:
            judged.append(rule)
    if judged:
        # float32 would take the largest float64 for infinity and let infinity pass
        narrow = frame.select_dtypes(np.float32).columns
        frame = frame.astype(dict.fromkeys(narrow, np.float64))
        for rule, count in zip(judged, _counts(judged, frame), strict=True):
            worst, by_date = offenders(rule, frame) if count else ((), {})
            results[rule] = RuleResult(rule, len(frame), count, describe(rule, frame, count), worst, by_date)
    return [results[rule] for rule in rules]


def _counts(rules: Sequence[Rule], frame: pd.DataFrame) -> list[int]:
    """How often each rule is broken: the sum over its columns where it speaks of each."""
    # counts only: asking for the index of every unexpected row takes seconds on a frame that fails widely
    found = _validate(rules, frame, {"result_format": "BASIC", "partial_unexpected_count": 0})
    counts = [0] * len(rules)
    for result in found:
        at = result.expectation_config.meta["rule"]
        raised = result.exception_info.get("exception_message")
        details = result.result
        if raised or ("unexpected_count" not in details and "observed_value" not in details):
            rule = rules[at]
            raise QdagError(
                f"rule {rule.name!r} of {rule.table} cannot be judged on {list(frame)}: {raised or details}"
            )
        broken = details["unexpected_count"] if "unexpected_count" in details else details["observed_value"]
        counts[at] += 0 if result.success else max(1, int(broken))
    return counts


def _validate(rules: Sequence[Rule], frame: pd.DataFrame, result_format: dict[str, Any]) -> list[Any]:
    """Great Expectations' results, each with the position of its rule."""
    import great_expectations as gx

    expectations = []
    for at, rule in enumerate(rules):
        for expectation in _expectations(rule):
            expectation.meta = {"rule": at}
            expectations.append(expectation)
    batch = _definition().get_batch(batch_parameters={"dataframe": frame})
    suite = gx.ExpectationSuite(name="rules", expectations=expectations)
    return list(batch.validate(suite, result_format=result_format).results)


@cache
def _context() -> Any:
    """One ephemeral context per process, silent: no progress bars, no analytics."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    context: Any = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    return context


@cache
def _definition() -> Any:
    """Where frames are handed in; making one takes as long as judging a small frame, so there is one."""
    source = _context().data_sources.add_pandas("frames")
    return source.add_dataframe_asset("frame").add_batch_definition_whole_dataframe("frame")


def _expectations(rule: Rule) -> list[Any]:
    """The rule in Great Expectations' terms, one expectation per column where the rule speaks of each."""
    import great_expectations.expectations as gxe

    if rule.kind == "unique" and len(rule.columns) == 1:
        return [gxe.ExpectColumnValuesToBeUnique(column=rule.columns[0])]
    if rule.kind == "unique":
        return [gxe.ExpectCompoundColumnsToBeUnique(column_list=list(rule.columns))]
    if rule.kind == "empty":
        return [gxe.ExpectTableRowCountToEqual(value=0)]
    if rule.kind == "ordered":
        first, second = rule.columns
        return [
            gxe.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A=first,
                column_B=second,
                or_equal=not rule.strict,
                ignore_row_if="either_value_is_missing",
            )
        ]
    if rule.kind == "not_null":
        return [gxe.ExpectColumnValuesToNotBeNull(column=c) for c in rule.columns]
    if rule.kind == "equals":
        return [gxe.ExpectColumnValuesToBeInSet(column=c, value_set=[rule.parameters["value"]]) for c in rule.columns]
    low, high = rule.bounds
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column=c, min_value=low, max_value=high, strict_min=rule.strict, strict_max=rule.strict
        )
        for c in rule.columns
    ]
