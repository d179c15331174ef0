"""Quality: rules as data, the frames they are judged on, Great Expectations that judges, and what is kept and shown.

What a table's rules and frames are is said by the module of its kind (:mod:`~qdag.quality.market`,
:mod:`~qdag.quality.provider`, :mod:`~qdag.quality.features`, :mod:`~qdag.quality.metrics`,
:mod:`~qdag.quality.predictions`); :func:`judge` brings both together. Nothing here needs the orchestrator.
"""

from qdag.quality.checks import Scope
from qdag.quality.outcome import profile_table, quality_table
from qdag.quality.result import Offence, RuleResult
from qdag.quality.rule import CHECKS, Rule
from qdag.quality.validator import Judged, judge

__all__ = ["CHECKS", "Judged", "Offence", "Rule", "RuleResult", "Scope", "judge", "profile_table", "quality_table"]
