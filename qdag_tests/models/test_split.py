"""The split: what is known at the training date, the purge gaps, and refusal of short histories."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdag.errors import TrainingError
from qdag.models.split import MIN_TRAIN_SESSIONS, walk_forward
from qdag.settings import TrainingSettings

SESSIONS = np.arange("2000-01-03", "2012-01-01", dtype="M8[D]")
SESSIONS = SESSIONS[np.is_busday(SESSIONS)]


def options(**changes):
    chosen = {"train_sessions": 100, "valid_sessions": 20, "test_sessions": 10, "horizon": 1}
    return TrainingSettings(**(chosen | changes))


def position(day):
    return int(np.searchsorted(SESSIONS, np.datetime64(day)))


def test_hand_computed_positions():
    split = walk_forward(SESSIONS, SESSIONS[199].item(), options(horizon=2, embargo=1))
    # the label of session s (horizon 2) is known at s + 3: test ends at 196; gaps are 3 purged + 1 embargo
    assert (position(split.test.first), position(split.test.last)) == (187, 196)
    assert (position(split.valid.first), position(split.valid.last)) == (163, 182)
    assert (position(split.train.first), position(split.train.last)) == (59, 158)
    assert split.as_of == split.training_date
    assert split.gap == 4
    assert not split.shortened


@given(
    t=st.integers(300, len(SESSIONS) - 1),
    horizon=st.integers(1, 30),
    embargo=st.integers(0, 10),
    valid=st.integers(5, 40),
    test=st.integers(5, 40),
)
def test_every_label_is_known_before_what_follows(t, horizon, embargo, valid, test):
    asked = options(horizon=horizon, embargo=embargo, valid_sessions=valid, test_sessions=test)
    split = walk_forward(SESSIONS, SESSIONS[t].item(), asked)
    assert position(split.test.last) + horizon + 1 == t
    for earlier, later in ((split.train, split.valid), (split.valid, split.test)):
        known = position(earlier.last) + horizon + 1
        assert known + embargo == position(later.first) - 1
    for segment, count in ((split.train, 100), (split.valid, valid), (split.test, test)):
        assert position(segment.last) - position(segment.first) + 1 == segment.sessions == count


@given(t=st.integers(300, len(SESSIONS) - 1), later=st.integers(0, 400))
def test_sessions_after_the_training_date_change_nothing(t, later):
    day = SESSIONS[t].item()
    assert walk_forward(SESSIONS[: t + 1 + later], day, options()) == walk_forward(SESSIONS[: t + 1], day, options())


def test_a_training_date_without_session_uses_the_last_one_before_it():
    saturday = date(2005, 1, 1)
    split = walk_forward(SESSIONS, saturday, options())
    assert (split.training_date, split.as_of) == (saturday, date(2004, 12, 31))
    assert split.segments == walk_forward(SESSIONS, date(2004, 12, 31), options()).segments


def test_short_history_shortens_train_only_and_says_so():
    asked = options(train_sessions=1000)
    split = walk_forward(SESSIONS, SESSIONS[499].item(), asked)
    assert split.shortened
    assert split.train.first == SESSIONS[0].item()
    assert split.train.sessions == 500 - 20 - 10 - 3 * 2
    assert (split.valid.sessions, split.test.sessions) == (20, 10)


def test_too_short_history_names_the_first_possible_date():
    asked = options(train_sessions=1000)
    need = MIN_TRAIN_SESSIONS + 20 + 10 + 3 * 2
    first = SESSIONS[need - 1].item()
    assert walk_forward(SESSIONS, first, asked).train.sessions == MIN_TRAIN_SESSIONS
    with pytest.raises(TrainingError, match=rf"needs {need} sessions .*{need - 1} are stored.*{first}"):
        walk_forward(SESSIONS, SESSIONS[need - 2].item(), asked)


def test_history_that_never_suffices_and_none_at_all():
    with pytest.raises(TrainingError, match="materialize more history"):
        walk_forward(SESSIONS[:100], SESSIONS[99].item(), options())
    with pytest.raises(TrainingError, match="0 are stored"):
        walk_forward(SESSIONS, date(1999, 1, 1), options())
    with pytest.raises(TrainingError, match="0 are stored at all"):
        walk_forward(SESSIONS[:0], date(1999, 1, 1), options())
