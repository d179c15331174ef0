"""The walk-forward split: which sessions train, validate and test a model as of its training date. No data here."""

from dataclasses import dataclass
from datetime import date

import numpy as np

from qdag.errors import TrainingError
from qdag.settings import TrainingSettings

MIN_TRAIN_SESSIONS = 250
"""A train segment may be shorter than asked where history is short, but never below this (or below what was asked)."""


@dataclass(frozen=True)
class Segment:
    """Consecutive sessions from ``first`` to ``last``, inclusive."""

    first: date
    last: date
    sessions: int


@dataclass(frozen=True)
class Split:
    """Segments of one training date.

    ``as_of`` is the last session on or before the training date: every label used was known at its close.
    ``gap`` sessions lie between two segments and belong to none.
    """

    training_date: date
    as_of: date
    horizon: int
    gap: int
    train: Segment
    valid: Segment
    test: Segment
    asked_train_sessions: int

    @property
    def shortened(self) -> bool:
        """True where history was too short for the asked train segment."""
        return self.train.sessions < self.asked_train_sessions

    @property
    def segments(self) -> dict[str, Segment]:
        """The three segments by name, in the order of time."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def walk_forward(sessions: np.ndarray, training_date: date, settings: TrainingSettings) -> Split:
    """Count train, valid and test back from the training date.

    The label of session s with horizon h is known at the close of session s + h + 1. So the last usable session is
    h + 1 before the training date, and h + 1 sessions (plus ``embargo``) are purged between two segments: the label
    of the last row of a segment is known before the next segment begins.

    Parameters
    ----------
    sessions : datetime64[D] array, increasing: sessions that have stored features and labels, with no session left
        out between the first and the training date; later ones are ignored
    training_date : a day; no session is needed on it

    Returns
    -------
    Split
        Its train segment holds ``train_sessions``, or all there is where that is at least
        ``min(train_sessions, 250)``; ``shortened`` then says so. Valid and test are never shortened.

    Raises
    ------
    TrainingError
        History is too short; the message has the counts and the first training date that works.
    """
    sessions = np.asarray(sessions).astype("datetime64[D]")
    least = min(settings.train_sessions, MIN_TRAIN_SESSIONS)
    purged = settings.horizon + 1
    gap = purged + settings.embargo
    after_train = gap + settings.valid_sessions + gap + settings.test_sessions + purged
    as_of = int(np.searchsorted(sessions, np.datetime64(training_date), side="right")) - 1
    available = as_of + 1 - after_train
    if available < least:
        need = least + after_train
        began = f"since {sessions[0]}" if len(sessions) else "at all"
        possible = (
            f"the first possible training date is {sessions[need - 1]}"
            if need <= len(sessions)
            else "materialize more history"
        )
        raise TrainingError(
            f"training on {training_date} needs {need} sessions ({least} to train, {settings.valid_sessions} to "
            f"validate, {settings.test_sessions} to test, {2 * gap + purged} purged), but {max(as_of + 1, 0)} are "
            f"stored {began}; {possible}, or lower training.train_sessions, valid_sessions or test_sessions"
        )
    length = min(available, settings.train_sessions)

    def segment(last: int, count: int) -> Segment:
        return Segment(sessions[last - count + 1].item(), sessions[last].item(), count)

    test_last = as_of - purged
    valid_last = test_last - settings.test_sessions - gap
    train_last = valid_last - settings.valid_sessions - gap
    return Split(
        training_date=training_date,
        as_of=sessions[as_of].item(),
        horizon=settings.horizon,
        gap=gap,
        train=segment(train_last, length),
        valid=segment(valid_last, settings.valid_sessions),
        test=segment(test_last, settings.test_sessions),
        asked_train_sessions=settings.train_sessions,
    )
