"""The rules of factor_metrics, and the frames they are judged on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from qdag.quality.checks import Frames, Scope, derived, keyed, read_frame, session_frame, spans
from qdag.quality.rule import Rule
from qdag.schema import FACTOR_METRICS
from qdag.settings import QualitySettings

TABLE = FACTOR_METRICS.name
COLUMNS = tuple(c.name for c in FACTOR_METRICS.columns)
"""The declared columns."""
KEYS = ("date", "pool", "horizon", "factor")
"""Columns that identify a row of a universe."""
VALUES = ("signal_date", "ic", "rank_ic", "coverage")
"""The columns that rules ask about beside the keys."""


def rules(limits: QualitySettings) -> tuple[Rule, ...]:
    """The rules of factor_metrics under the limits of a universe."""

    def bounded(columns: tuple[str, ...], low: float, high: float, meaning: str) -> Rule:
        name = f"{' and '.join(columns)} in {low:g}..{high:g}"
        parameters = {"minimum": low - 1e-9, "maximum": high + 1e-9}
        return Rule(
            name=name,
            table=TABLE,
            check="structure",
            kind="between",
            columns=columns,
            meaning=meaning,
            parameters=parameters,
            names=KEYS,
        )

    return (
        *keyed(TABLE, KEYS, limits, twice="stored more than once in pool {pool}, horizon {horizon}"),
        bounded(("ic", "rank_ic"), -1, 1, "A correlation cannot leave these bounds: the computation is wrong."),
        bounded(("coverage",), 0, 1, "A share of the pool cannot leave these bounds: the membership is wrong."),
        Rule(
            name="signal before date",
            table=TABLE,
            check="structure",
            kind="ordered",
            columns=("date", "signal_date"),
            meaning="A metric is known horizon + 1 sessions after its signal; otherwise it looked ahead.",
            parameters={"strict": True},
            names=KEYS,
        ),
        Rule(
            name="coverage not low",
            table=TABLE,
            check="completeness",
            kind="between",
            columns=("coverage",),
            meaning="Mean over the window by factor: few pool members have a value, so the metric says little about "
            "the pool.",
            frame="factors",
            parameters={"minimum": 0.5},
            says="on average {coverage:.0%} of the members of {pool} have a value",
        ),
    )


def frames(scope: Scope, columns: Sequence[str] = COLUMNS) -> Frames:
    """Yield the frames of factor_metrics, ``rows`` in parts; none for a window without a session.

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
    dates, coverage = [], []
    for start, end in spans(scope, TABLE, window):
        rows = read_frame(scope, TABLE, start, end, [*KEYS, *VALUES])
        yield "rows", rows
        dates.append(rows["date"].to_numpy().astype("M8[D]"))
        coverage.append(rows.groupby(["pool", "factor"])["coverage"].agg(["sum", "count"]))
    stored = session_frame(window, np.concatenate(dates))
    yield "sessions", stored[stored["rows"] > 0]
    total = pd.concat(coverage).groupby(level=[0, 1]).sum()
    yield "factors", (total["sum"] / total["count"]).rename("coverage").reset_index()
