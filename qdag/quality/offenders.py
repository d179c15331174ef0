"""The lines that break a rule, as sentences for people: the worst of all, and by date how many and the worst."""

from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from qdag.quality.result import OFFENDERS, OFFENDERS_OF_DATE, Offence
from qdag.quality.rule import Rule, violations

SUBJECTS = ("instrument", "column", "field", "factor", "label", "source")
"""Columns that say what a line is about, beside its session; the first that a frame has counts."""


def offenders(
    rule: Rule, frame: pd.DataFrame
) -> tuple[tuple[Offence, ...], dict[date, tuple[int, tuple[Offence, ...]]]]:
    """The worst lines that break a rule, worst first where there is a worse; and by date how many and the worst."""
    wrong = frame[violations(rule, frame)]
    wrong = wrong.iloc[np.argsort(-_beyond(rule, wrong), kind="stable")]
    worst = tuple(_offence(rule, line) for line in wrong.head(OFFENDERS).to_dict("records"))
    if "date" not in wrong:
        return worst, {}
    dated = wrong[wrong["date"].notna()]
    days = dated["date"].to_numpy().astype("M8[D]")
    counts = dict(zip(*(a.tolist() for a in np.unique(days, return_counts=True)), strict=True))
    lines: dict[date, list[Offence]] = {day: [] for day in counts}
    shown = dated[dated.groupby(days, sort=False).cumcount().to_numpy() < OFFENDERS_OF_DATE]
    for line in shown.to_dict("records"):
        lines[line["date"].date()].append(_offence(rule, line))
    return worst, {day: (counts[day], tuple(lines[day])) for day in counts}


def _beyond(rule: Rule, wrong: pd.DataFrame) -> np.ndarray:
    """How far each line is beyond what is asked; 0 where there is no more or less."""
    if {"value", "low", "high"} <= set(wrong):
        value, low, high = (wrong[c].to_numpy(np.float64, na_value=np.nan) for c in ("value", "low", "high"))
        return np.nan_to_num(np.maximum(low - value, value - high), nan=0.0)
    if rule.kind not in ("between", "ordered"):
        return np.zeros(len(wrong))
    if rule.kind == "ordered":
        first, second = (wrong[c] for c in rule.columns)
        if first.dtype.kind == "M":
            return (second - first).dt.days.to_numpy(np.float64)
        return (second - first).to_numpy(np.float64, na_value=np.nan)
    lowest, highest = rule.bounds
    values = wrong[list(rule.columns)].to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        beyond = np.maximum(lowest - values, values - highest)
    return np.nan_to_num(beyond, nan=0.0).max(axis=1, initial=0.0)


def _shown(value: object) -> str:
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d}"
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _offence(rule: Rule, line: dict[Any, Any]) -> Offence:
    """A line as it is told: which session and subject, what was seen and asked, and a sentence."""
    value, limit = "", rule.limit
    if rule.kind == "between":
        low, high = rule.bounds
        # Python's floats: the largest float64 less a number is still one
        beyond = {c: max(low - float(line[c]), float(line[c]) - high) for c in rule.columns if line[c] == line[c]}
        value = _shown(line[max(beyond, key=lambda c: beyond[c])])
    elif rule.kind == "ordered":
        value, limit = _shown(line[rule.columns[1]]), f"{rule.columns[0]} {_shown(line[rule.columns[0]])}"
    elif "value" in line:
        value = _shown(line["value"])
        limit = f"{_shown(line['low'])} .. {_shown(line['high'])}" if rule.frame == "bounds" else limit
    elif rule.kind in ("equals", "not_null"):
        value = ", ".join(_shown(line[c]) for c in rule.columns)
    rest = [c for c in line if c not in ("date", "instrument")]
    if rule.frame == "rows":
        rest = [c for c in rest if c in rule.columns or c in rule.names]
    sentence = rule.says.format_map(line) if rule.says else ", ".join(f"{c} = {_shown(line[c])}" for c in rest)
    day = line.get("date")
    instrument = next((line[c] for c in SUBJECTS if c in line), "")
    return Offence(
        "" if day is None or pd.isna(day) else _shown(day),
        "" if instrument is None or instrument != instrument else str(instrument),
        value,
        limit,
        sentence,
    )
