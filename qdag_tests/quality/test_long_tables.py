"""The frames of factor_metrics and predictions."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from qdag import schema
from qdag.quality import Scope
from qdag_tests.quality.toy import bars, named, put


def test_metric_and_prediction_frames(scope: Scope) -> None:
    sessions = scope.sessions()[:2]
    scores = bars(sessions)[["date", "instrument"]].assign(score=[1.0, 2.0, 3.0, 4.0, 4.0, 4.0], model="m/1")
    put(scope, schema.PREDICTIONS, scores.assign(trained_on=date(2019, 12, 31)))
    found = named("predictions", scope)
    assert found["scores"]["distinct"].tolist() == [3, 1]
    assert found["sessions"]["rows"].tolist()[:3] == [3, 3, 0]
    metrics = pd.DataFrame(
        {"date": np.repeat(sessions.astype("M8[s]"), 2), "pool": "all", "horizon": 1, "factor": ["a.x", "a.y"] * 2}
    ).assign(
        signal_date=date(2019, 12, 30), ic=0.1, rank_ic=0.1, coverage=[1.0, 0.5, 0.5, 0.1], n=3, icir=0.0, rank_icir=0.0
    )
    put(scope, schema.FACTOR_METRICS, metrics.assign(icir_n=1, long_short=0.0))
    found = named("factor_metrics", scope)
    assert found["factors"].set_index("factor")["coverage"].to_dict() == pytest.approx({"a.x": 0.75, "a.y": 0.3})
    assert found["sessions"]["date"].tolist() == list(pd.to_datetime(sessions))
