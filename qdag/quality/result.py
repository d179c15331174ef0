"""How a rule came out: counts, what was seen, the worst lines as sentences. Nothing is judged here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd

from qdag.quality.rule import Rule

OFFENDERS = 10
"""So many of the worst lines of a rule are kept for a window."""
OFFENDERS_OF_DATE = 5
"""So many of the worst lines of a rule are kept for each date."""


@dataclass(frozen=True)
class Offence:
    """One line that breaks a rule.

    Parameters
    ----------
    date : of the line as YYYY-MM-DD; empty where it is about no session
    instrument : what the line is about: an instrument, column, file and so on; empty where it is about none
    value : what was seen
    limit : what is asked
    sentence : the line in words
    """

    date: str
    instrument: str
    value: str
    limit: str
    sentence: str


@dataclass(frozen=True)
class RuleResult:
    """How a rule came out over a window.

    Parameters
    ----------
    rule : what was asked
    judged : lines of the frame
    violations : how often the rule is broken: by line, or by value where it speaks of several columns
    observed : what was seen, in a few words
    offenders : the worst lines, worst first
    by_date : how many lines of each date, and the worst of that date
    """

    rule: Rule
    judged: int
    violations: int
    observed: str
    offenders: tuple[Offence, ...] = ()
    by_date: Mapping[date, tuple[int, tuple[Offence, ...]]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the rule holds, or only gives notice."""
        return self.rule.notice or not self.violations

    @property
    def dates(self) -> frozenset[date]:
        """The dates of the lines that break the rule."""
        return frozenset(self.by_date)

    def told(self, universe: str, last: date) -> str:
        """What a person reads first of a broken rule: the worst line, how many are like it, and what shows them.

        ``last`` is the last session that was judged: lines about no session are kept with it.
        """
        worst = self.offenders[0] if self.offenders else Offence("", "", "", "", self.observed)
        about = " on ".join(word for word in (worst.instrument, worst.date) if word)
        more = f"; {self.violations - 1:,} more of {self.judged:,}" if self.violations > 1 else ""
        see = self.rule.see.format(universe=universe, day=worst.date or last)
        return f"{about}{': ' if about else ''}{worst.sentence}{more} ({self.rule.name}). See `{see}`."

    def __add__(self, other: "RuleResult") -> "RuleResult":
        """The result over two parts of one frame; parts do not share a date."""
        worst = other if other.violations > self.violations or not self.judged else self
        return RuleResult(
            self.rule,
            self.judged + other.judged,
            self.violations + other.violations,
            worst.observed,
            (self.offenders + other.offenders)[:OFFENDERS],
            {**self.by_date, **other.by_date},
        )


def nothing_to_judge(rule: Rule) -> RuleResult:
    """The result over a frame without lines: it passes."""
    return RuleResult(rule, 0, 0, "nothing to judge")


def describe(rule: Rule, frame: pd.DataFrame, count: int) -> str:
    """What was seen of a frame that breaks a rule ``count`` times, in a few words."""
    if rule.kind == "between":
        values = frame[list(rule.columns)].to_numpy(np.float64, na_value=np.nan)
        if np.isnan(values).all():
            return "all null"
        seen = f"{np.nanmin(values):.6g} .. {np.nanmax(values):.6g}"
        seen = seen if np.nanmin(values) < np.nanmax(values) else f"{np.nanmin(values):.6g}"
        return f"{seen}; {count:,} outside" if count else seen
    if rule.kind == "empty":
        return f"{count:,} listed" if rule.notice else f"{count:,} found"
    return f"{count:,} of {len(frame):,} break it" if count else f"all {len(frame):,} hold"
