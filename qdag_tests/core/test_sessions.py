from datetime import UTC, date, datetime

import numpy as np
import pytest

from qdag.core.sessions import SessionCalendar, calendar_for
from qdag.errors import SessionError, UnknownNameError
from qdag.settings import Settings

XNYS = SessionCalendar("XNYS", date(2013, 1, 1), date(2013, 12, 31))


def test_sessions_of_2013():
    assert len(XNYS.all) == 252
    assert XNYS.all[0] == np.datetime64("2013-01-02")
    assert not XNYS.contains(date(2013, 1, 1))
    assert XNYS.position(date(2013, 1, 3)) == 1
    assert XNYS.between(date(2013, 1, 5), date(2013, 1, 6)).size == 0
    assert [str(d) for d in XNYS.between(date(2013, 1, 4), date(2013, 1, 7))] == ["2013-01-04", "2013-01-07"]


def test_shift_refuses_to_leave_the_calendar():
    assert XNYS.shift(date(2013, 1, 2), 2) == date(2013, 1, 4)
    assert XNYS.shift(date(2013, 1, 4), -2) == date(2013, 1, 2)
    with pytest.raises(SessionError, match="outside calendar XNYS"):
        XNYS.shift(date(2013, 1, 2), -1)
    with pytest.raises(SessionError, match="2013-01-01 is no session"):
        XNYS.shift(date(2013, 1, 1), 1)
    with pytest.raises(SessionError, match="give the earlier day first"):
        XNYS.between(date(2013, 2, 1), date(2013, 1, 1))


def test_closes_know_half_days():
    assert XNYS.closed_before(datetime(2013, 12, 24, 18, 0, tzinfo=UTC)) == date(2013, 12, 24)
    assert XNYS.closed_before(datetime(2013, 12, 23, 20, 59, tzinfo=UTC)) == date(2013, 12, 20)
    assert XNYS.closed_before(datetime(2020, 1, 1, tzinfo=UTC)) == date(2013, 12, 31)
    with pytest.raises(SessionError, match="no session"):
        XNYS.closed_before(datetime(2013, 1, 1, tzinfo=UTC))
    with pytest.raises(SessionError, match="time zone"):
        XNYS.closed_before(datetime(2013, 6, 1))


def test_future_follows_the_end():
    assert [str(d) for d in XNYS.future(2)] == ["2014-01-02", "2014-01-03"]
    assert str(XNYS.future(1, date(2013, 7, 3))[0]) == "2013-07-05"


def test_open_calendars_reach_past_today():
    for name in ("XNYS", "XSHG"):
        calendar = SessionCalendar(name, date(2015, 1, 5))
        assert calendar.all[-1] > np.datetime64(date.today())
        assert len(calendar.future(5)) == 5


def test_what_is_not_known_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'XN"):
        _ = SessionCalendar("XNYZ", date(2013, 1, 1)).all
    with pytest.raises(SessionError, match="known from 1990"):
        _ = SessionCalendar("XSHG", date(1980, 1, 1)).all
    with pytest.raises(SessionError, match="known up to"):
        _ = SessionCalendar("XSHG", date(2015, 1, 1), date(2090, 1, 1)).all
    with pytest.raises(SessionError, match="no session"):
        _ = SessionCalendar("XNYS", date(2013, 1, 5), date(2013, 1, 6)).all


@pytest.mark.parametrize("code", ["ASEX", "XTAE"])
def test_a_calendar_that_the_pinned_package_cannot_build_is_told_as_such(code: str):
    with pytest.raises(SessionError, match="cannot be built by exchange_calendars"):
        _ = SessionCalendar(code, date(2015, 1, 1), date(2015, 12, 31)).all


def test_a_universe_has_one_calendar():
    sample = Settings().universes["sample"]
    assert calendar_for(sample) is calendar_for(sample)
    assert len(calendar_for(sample).all) == 3270


def test_month_ends_know_the_session_after_the_calendar():
    def ends(last):
        return SessionCalendar("XNYS", date(2020, 10, 5), last).month_ends().tolist()

    assert ends(date(2020, 12, 31)) == [date(2020, 10, 30), date(2020, 11, 30), date(2020, 12, 31)]
    assert ends(date(2020, 12, 30)) == [date(2020, 10, 30), date(2020, 11, 30)]
    assert date(2020, 11, 30) in SessionCalendar("XNYS", date(2020, 10, 5)).month_ends().tolist()
