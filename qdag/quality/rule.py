"""A rule as data: what must hold of the lines of one frame, what is said where it does not, and which lines break it.

A :class:`Rule` speaks of one named *frame* of a table: the stored rows themselves (``rows``), or a small summary with
one line per session, instrument, column, bin file and so on. Which rules a table has, and how its frames are read, is
said by the module of the table; Great Expectations judges (:mod:`qdag.quality.validator`). No I/O belongs here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from qdag.errors import unknown

Check = Literal["structure", "completeness", "timeliness", "values", "drift"]
CHECKS: dict[str, str] = {
    "structure": "Keys, types and logic that everything downstream relies on; a failure stops what follows.",
    "completeness": "Whether what should be there is there; a failure warns.",
    "timeliness": "Whether the table is up to date with what it is made from; a failure warns.",
    "values": "Whether the numbers are plausible; a failure warns.",
    "drift": "Whether features are distributed as in the year before; a failure warns.",
}
"""The checks that rules are grouped in, and what each asks."""
BLOCKING: Check = "structure"
"""The check that stops what follows."""
KINDS = ("unique", "not_null", "between", "ordered", "equals", "empty")
"""What a rule can ask of its columns: see :class:`Rule`."""
LARGEST = float(np.finfo(np.float64).max)
"""The largest finite number: the bound of what has no other, so that infinity is beyond it."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that must hold.

    Parameters
    ----------
    name : unique within its table
    table : asset whose check judges it
    check : ``structure`` blocks the downstream, the others warn
    kind : ``unique`` (the columns together), ``not_null``, ``between`` (each column within ``minimum`` and/or
        ``maximum``; null passes, infinity does not), ``ordered`` (first column >= second; null passes), ``equals``
        (each column equals ``value``), ``empty`` (the frame has no row)
    columns : columns of the frame
    meaning : why it matters and what to do, for the person who reads the failure
    frame : which frame of the table
    parameters : of the kind; ``strict`` makes the bounds of ``between`` and the order of ``ordered`` exclusive
    says : sentence about a line that breaks the rule, with the frame's columns in braces; a plain one by default
    notice : the lines are listed for people and never fail the check
    asks : what is asked, where the bounds do not say it to people
    see : command that shows the lines, with ``universe`` and ``day`` in braces
    names : columns of ``rows`` that tell its lines apart beside date and instrument, for the plain sentence
    """

    name: str
    table: str
    check: Check
    kind: str
    columns: tuple[str, ...] = ()
    meaning: str
    frame: str = "rows"
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    says: str = ""
    notice: bool = False
    asks: str = ""
    see: str = "qdag report -u {universe} --date {day}"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind of quality rule", self.kind, KINDS)
        if self.check not in CHECKS:
            raise unknown("check", self.check, CHECKS)

    @property
    def severity(self) -> Literal["error", "warn", "notice"]:
        """What a broken rule does: stop what follows, warn, or only tell."""
        return "notice" if self.notice else "error" if self.check == BLOCKING else "warn"

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a rule of kind ``between``."""
        return self.parameters.get("minimum", -LARGEST), self.parameters.get("maximum", LARGEST)

    @property
    def strict(self) -> bool:
        """Whether a bound, or an equal pair, breaks the rule."""
        return bool(self.parameters.get("strict", False))

    @property
    def limit(self) -> str:
        """What is asked, in a few characters."""
        if self.asks:
            return self.asks
        if self.kind == "between":
            sign, (low, high) = "<" if self.strict else "<=", self.bounds
            lowest = f"{low:g} {sign} " if low > -LARGEST else ""
            highest = f" {sign} {high:g}" if high < LARGEST else ""
            return f"{lowest}value{highest}" if lowest or highest else "finite"
        if self.kind == "ordered":
            return f"{self.columns[0]} {'>' if self.strict else '>='} {self.columns[1]}"
        value = self.parameters.get("value")
        equal = "true" if value is True else f"= {value}"
        empty = "listed" if self.notice else "none"
        return {"unique": "no duplicate", "not_null": "no null", "empty": empty, "equals": equal}[self.kind]


def violations(rule: Rule, frame: pd.DataFrame) -> pd.Series:
    """Which lines of a frame break a rule: bool, aligned with the frame.

    This finds the lines of a rule that Great Expectations has found broken, at least eight times as fast as its own
    list of them; that both are the same lines is held by a test over every kind of rule.
    """
    columns = list(rule.columns)
    if rule.kind == "unique":
        return frame.duplicated(columns, keep=False) & frame[columns].notna().any(axis=1)
    if rule.kind == "empty":
        return pd.Series(True, index=frame.index)
    if rule.kind == "ordered":
        first, second = (frame[c] for c in columns)
        wrong = first <= second if rule.strict else first < second
        return wrong & first.notna() & second.notna()
    wrong = pd.Series(False, index=frame.index)
    for name in columns:
        values = frame[name]
        if rule.kind == "not_null":
            wrong |= values.isna()
        elif rule.kind == "equals":
            wrong |= values.ne(rule.parameters["value"]) & values.notna()
        else:
            # float64, or a float32 column would take the largest float64 for infinity and let infinity pass
            values = values.astype(np.float64)
            low, high = rule.bounds
            wrong |= (values.le(low) | values.ge(high)) if rule.strict else (values.lt(low) | values.gt(high))
    return wrong
