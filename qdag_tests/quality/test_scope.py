"""Which sessions are judged, and when a table is behind."""

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pytest

from qdag import schema
from qdag.errors import MissingDataError, SessionError
from qdag.quality import Scope
from qdag.quality.offenders import offenders
from qdag.quality.rule import violations
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag.store.tables import TableStore
from qdag_tests.quality.toy import END, FEATURES, START, TABLES, bars, failing_sessions, named, put
from qdag_tests.stages import frames, rules_for


def test_empty_and_reversed_windows(scope: Scope) -> None:
    weekend = Scope(scope.store, scope.settings, "toy", date(2020, 2, 1), date(2020, 2, 2))
    for table in TABLES:
        assert list(frames(table, weekend)) == []
    before = Scope(scope.store, scope.settings, "toy", date(2010, 1, 4), date(2010, 1, 8))
    assert len(before.sessions()) == 0
    with pytest.raises(SessionError, match="2020-03-31"):
        Scope(scope.store, scope.settings, "toy", END, START).sessions()
    with pytest.raises(MissingDataError):
        list(frames("raw_ohlcv", scope))
    with pytest.raises(MissingDataError, match="materialize qlib_bin"):
        list(frames("qlib_bin", scope))


def test_a_table_behind_its_source(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions[:-3])
    put(scope, schema.RAW_OHLCV, frame)
    put(scope, FEATURES, frame[frame["date"] < sessions[-5]][["date", "instrument"]].assign(KMID=1.0, MA5=1.0))
    assert named("raw_ohlcv", scope)["timeliness"]["behind"].tolist() == [3]
    assert named("alpha158", scope)["timeliness"]["behind"].tolist() == [2]
    early = Scope(scope.store, scope.settings, "toy", START, sessions[5].item())
    assert "timeliness" not in named("raw_ohlcv", early)
    # half an hour before the close of the session after the last stored one
    now = datetime(2020, 3, 27, 19, 30, tzinfo=UTC)
    on_time = Scope(scope.store, scope.settings, "toy", START, END, now)
    assert named("raw_ohlcv", on_time)["timeliness"]["behind"].tolist() == [0]


def test_sessions_after_the_newest_delivered_one_are_late_and_not_broken(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions[:-3])
    put(scope, schema.RAW_OHLCV, frame[frame["date"] != sessions[10]])
    assert failing_sessions(scope, "every session has bars") == [sessions[10].item()]
    assert failing_sessions(scope, "sessions complete") == [sessions[10].item()]
    late = replace(scope, start=sessions[-2].item())
    found = named("raw_ohlcv", late)
    assert found["sessions"].empty
    (line,) = found["timeliness"].to_dict("records")
    rule = next(r for r in rules_for("raw_ohlcv") if r.name == "up to date")
    (said,), _ = offenders(rule, pd.DataFrame([line]))
    assert f"set the universe's end = {sessions[-4]}" in said.sentence
    # the newest day was delivered, and every row of it refused: that is no delay
    names = [f"X{i}" for i in range(6)]
    rows = pd.DataFrame({"date": sessions[-2].item(), "instrument": names, "source": names, "line": 7, "row": ""})
    put(scope, schema.QUARANTINE, rows.assign(reason="null_price"))
    assert failing_sessions(scope, "few rows refused") == [sessions[-2].item()]
    assert sessions[-2].item() in failing_sessions(scope, "every session has bars")


def test_a_session_that_has_not_closed_is_not_judged(tmp_path: Path) -> None:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=START)
    settings = Settings(home=tmp_path, universes={"toy": universe})
    # half an hour before the close of Friday
    now = datetime(2020, 3, 27, 19, 30, tzinfo=UTC)
    scope = Scope(TableStore(settings.tables), settings, "toy", START, END, now)
    sessions = scope.sessions()
    assert sessions[-1].item() == date(2020, 3, 26)
    put(scope, schema.RAW_OHLCV, bars(sessions))
    found = named("raw_ohlcv", scope)
    for rule in rules_for("raw_ohlcv"):
        assert not violations(rule, found[rule.frame]).any(), rule.name
    assert named("raw_ohlcv", replace(scope, start=date(2020, 3, 27))) == {}
    at_close = replace(scope, start=date(2020, 3, 27), now=datetime(2020, 3, 27, 20, 0, tzinfo=UTC))
    assert at_close.sessions().tolist() == [date(2020, 3, 27)]
    assert at_close.sessions(before=2).tolist() == [date(2020, 3, 25), date(2020, 3, 26), date(2020, 3, 27)]
