"""The rules of predictions, and the frames they are judged on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from qdag.quality.checks import INSTRUMENT_KEYS, Frames, Scope, derived, keyed, read_frame, session_frame, spans
from qdag.quality.rule import LARGEST, Rule
from qdag.schema import PREDICTIONS
from qdag.settings import QualitySettings

TABLE = PREDICTIONS.name
COLUMNS = tuple(c.name for c in PREDICTIONS.columns)
"""The declared columns."""
VALUES = ("score", "trained_on")
"""The columns that rules ask about beside the keys."""


def rules(limits: QualitySettings) -> tuple[Rule, ...]:
    """The rules of predictions under the limits of a universe."""
    return (
        *keyed(TABLE, INSTRUMENT_KEYS, limits),
        Rule(
            name="scores present",
            table=TABLE,
            check="structure",
            kind="not_null",
            columns=("score",),
            meaning="A score is what a row is for.",
        ),
        Rule(
            name="scores finite",
            table=TABLE,
            check="structure",
            kind="between",
            columns=("score",),
            meaning="An infinite score breaks every ranking.",
            parameters={"minimum": -LARGEST, "maximum": LARGEST},
        ),
        Rule(
            name="trained before the session",
            table=TABLE,
            check="structure",
            kind="ordered",
            columns=("date", "trained_on"),
            meaning="A model may not score the session it was trained on or an earlier one.",
            parameters={"strict": True},
        ),
        Rule(
            name="scores differ",
            table=TABLE,
            check="values",
            kind="between",
            columns=("distinct",),
            meaning="One score for all instruments of a session ranks nothing: the model learned a constant.",
            frame="scores",
            parameters={"minimum": 2},
            says="one score for all {rows} instruments",
        ),
    )


def frames(scope: Scope, columns: Sequence[str] = COLUMNS) -> Frames:
    """Yield the frames of predictions, ``rows`` in parts; none for a window without a session.

    Parameters
    ----------
    columns : the declared ones, keys included

    Raises
    ------
    MissingDataError
        The table does not exist.
    """
    window = scope.sessions()
    if not len(window):
        return
    yield from derived(scope, TABLE, columns)
    dates, scores = [], []
    for start, end in spans(scope, TABLE, window):
        rows = read_frame(scope, TABLE, start, end, [*INSTRUMENT_KEYS, *VALUES])
        yield "rows", rows
        dates.append(rows["date"].to_numpy().astype("M8[D]"))
        scores.append(rows.groupby("date", as_index=False).agg(rows=("score", "size"), distinct=("score", "nunique")))
    yield "sessions", session_frame(window, np.concatenate(dates))
    by_session = pd.concat(scores, ignore_index=True)
    yield "scores", by_session[by_session["rows"] > 1]
