"""Point-in-time scores: every session is scored by the newest model trained before it, from stored features."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from qdag.models import tracking
from qdag.models.frames import feature_frame
from qdag.schema import PREDICTIONS
from qdag.settings import Settings

if TYPE_CHECKING:
    from qdag.store.tables import TableStore

BLOCK_SESSIONS = 250
"""Sessions whose features are held in memory at once."""


@dataclass(frozen=True)
class Predictions:
    """Scores, and the sessions that got none.

    Attributes
    ----------
    table : rows of ``qdag.schema.PREDICTIONS``, sorted by date, instrument
    models : sessions scored, by "name/version"
    without_model : sessions before which no model was trained, datetime64[D]
    without_features : sessions with a model but no stored feature row, datetime64[D]
    """

    table: pa.Table
    models: Mapping[str, int]
    without_model: np.ndarray
    without_features: np.ndarray


def predict(settings: Settings, store: "TableStore", universe: str, sessions: np.ndarray) -> Predictions:
    """Score stored features of the given sessions.

    A model trained on t scores sessions after t only: on t itself it was not there before the close. Every stored
    row of a session is scored; an instrument that is suspended on it has none.

    Parameters
    ----------
    sessions : datetime64[D] array, increasing
    """
    sessions = np.asarray(sessions).astype("datetime64[D]")
    known = tracking.registered_models(settings, universe)
    by_model: dict[tracking.Registered, list[np.datetime64]] = {}
    without_model = []
    for session in sessions:
        model = tracking.newest_before(known, session.item())
        if model is None:
            without_model.append(session)
        else:
            by_model.setdefault(model, []).append(session)
    tables: list[pa.Table] = []
    counts: dict[str, int] = {}
    without_features: list[np.datetime64] = []
    for registered, days in by_model.items():
        loaded = tracking.load(settings, registered)
        scored = 0
        for first in range(0, len(days), BLOCK_SESSIONS):
            block = np.array(days[first : first + BLOCK_SESSIONS])
            frame = feature_frame(store, universe, loaded.features, block[0].item(), block[-1].item())
            dates = frame.index.get_level_values("datetime").to_numpy().astype("datetime64[D]")
            wanted = np.isin(dates, block)
            frame, dates = frame[wanted], dates[wanted]
            without_features.extend(np.setdiff1d(block, dates))
            scored += len(np.unique(dates))
            if len(frame):
                scores = loaded.predict(frame)
                instruments = frame.index.get_level_values("instrument")
                tables.append(_rows(universe, dates, list(instruments), scores, registered))
        counts[registered.label] = scored
    schema = PREDICTIONS.arrow()
    table = pa.concat_tables(tables).sort_by([("date", "ascending"), ("instrument", "ascending")]) if tables else None
    return Predictions(
        table=schema.empty_table() if table is None else table,
        models=counts,
        without_model=np.array(without_model, "datetime64[D]"),
        without_features=np.sort(np.array(without_features, "datetime64[D]")),
    )


def _rows(
    universe: str, dates: np.ndarray, instruments: list[str], scores: np.ndarray, model: tracking.Registered
) -> pa.Table:
    count = len(scores)
    trained_on: list[date] = [model.training_date] * count
    columns = {
        "universe": pa.array([universe] * count, pa.string()),
        "date": pa.array(dates),
        "instrument": pa.array(instruments, pa.string()),
        "score": pa.array(scores),
        "model": pa.array([model.label] * count, pa.string()),
        "trained_on": pa.array(trained_on, pa.date32()),
    }
    return pa.table(columns).cast(PREDICTIONS.arrow())
