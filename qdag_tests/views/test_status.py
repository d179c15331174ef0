"""What `qdag status` says: of each universe its own sessions and its own checks."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from qdag.assets.platform import Platform
from qdag.quality import Offence, RuleResult, quality_table
from qdag.quality.outcome import outcome
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag.views import asset_status
from qdag_tests.stages import raw_ohlcv, rules_for

START, END = date(2020, 1, 2), date(2020, 1, 31)


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    market = UniverseSettings(source=SyntheticSource(instruments=2), calendar="XNYS", start=START, end=END)
    return Platform.open(Settings(home=tmp_path, universes={"us": market, "other": market}))


def judged(platform: Platform, universe: str, sessions: np.ndarray, bad: dict[str, int]) -> None:
    """Store how the rules of raw_ohlcv came out; ``bad``: of a check, how many sessions fail."""
    results = []
    for rule in rules_for("raw_ohlcv"):
        days = sessions[: bad.get(rule.check, 0)].tolist()
        offence = Offence("", "AAA", "1", "2", "wrong")
        results.append(RuleResult(rule, 10, len(days), "seen", (), dict.fromkeys(days, (1, (offence,)))))
    rows = outcome(results, universe, sessions)
    platform.store.replace(quality_table("raw_ohlcv"), universe, sessions[0].item(), sessions[-1].item(), rows, {})


def said(platform: Platform, universe: str) -> str:
    return next(row.checks for row in asset_status(platform.settings, universe) if row.asset == "raw_ohlcv")


def test_the_checks_are_those_of_the_universe(platform: Platform) -> None:
    raw_ohlcv(platform, "us", START, END)
    sessions = platform.calendar("us").all
    assert said(platform, "us") == said(platform, "other") == ""
    judged(platform, "us", sessions, {})
    judged(platform, "other", sessions, {"structure": 3, "values": 1})
    assert said(platform, "us") == "structure: passed, completeness: passed, timeliness: passed, values: passed"
    others = (
        "structure: 3 of 21 sessions failed, completeness: passed, timeliness: passed, values: 1 of 21 sessions failed"
    )
    assert said(platform, "other") == others


def test_a_later_run_over_a_few_good_sessions_hides_no_others(platform: Platform) -> None:
    sessions = platform.calendar("us").all
    judged(platform, "us", sessions, {"structure": 3})
    judged(platform, "us", sessions[-2:], {})
    assert said(platform, "us").startswith("structure: 3 of 21 sessions failed, ")
    judged(platform, "us", sessions[:2], {})
    assert said(platform, "us").startswith("structure: 1 of 21 sessions failed, ")
