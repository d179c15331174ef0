"""The ranking of factors: means and ratios against pandas, order, refusals."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from qdag.errors import MissingDataError, PanelError, UnknownNameError
from qdag.factors import factor_metrics, top_factors
from qdag.schema import FACTOR_METRICS

CALENDAR = np.arange("2020-01-01", "2020-04-10", dtype="M8[D]")


@pytest.fixture(scope="module")
def metrics() -> pa.Table:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((60, len(CALENDAR))).astype(np.float32)
    noise = {k: rng.standard_normal(y.shape).astype(np.float32) for k in ("a", "b", "c")}
    features = {
        "t.weak": 0.1 * y + noise["a"],
        "t.inverse": -0.8 * y + noise["b"],
        "t.strong": 0.4 * y + noise["c"],
        "t.same": y,
        "t.none": np.full_like(y, np.nan),
    }
    return factor_metrics(
        features,
        {1: y, 5: y},
        CALENDAR,
        np.ones(y.shape, bool),
        pool_name="p",
        universe="u",
        dates=(date(2020, 1, 1), date(2020, 4, 9)),
        threads=1,
    )


def test_ranked_by_absolute_rank_ic(metrics: pa.Table) -> None:
    frame = top_factors(metrics, 5, None)
    assert list(frame["factor"]) == ["t.same", "t.inverse", "t.strong", "t.weak", "t.none"]
    assert list(top_factors(metrics, 5, 2)["factor"]) == ["t.same", "t.inverse"]
    rows = metrics.to_pandas().query("horizon == 5")
    for row in frame.iloc[1:4].itertuples():
        own = rows[rows["factor"] == row.factor]
        assert row.mean_ic == pytest.approx(own["ic"].mean(), rel=1e-12)
        assert row.mean_rank_ic == pytest.approx(own["rank_ic"].mean(), rel=1e-12)
        assert row.icir == pytest.approx(own["ic"].mean() / own["ic"].std(), rel=1e-9)
        assert row.rank_icir == pytest.approx(own["rank_ic"].mean() / own["rank_ic"].std(), rel=1e-9)
        assert row.long_short == pytest.approx(own["long_short"].mean(), rel=1e-12)
        # forward returns of five sessions overlap: a fifth of the dates counts
        standard_error = own["rank_ic"].std() / np.sqrt(own["rank_ic"].count() / 5)
        assert row.t == pytest.approx(own["rank_ic"].mean() / standard_error, rel=1e-9)
        assert (row.coverage, row.dates) == (1.0, own["ic"].count())
    same, none = frame.iloc[0], frame.iloc[4]
    assert same["mean_rank_ic"] == 1.0
    assert np.isnan(same["rank_icir"])  # the same on every date
    assert np.isnan(none["mean_rank_ic"])
    assert (none["coverage"], none["dates"]) == (0.0, 0)


def test_few_dates_have_no_ratio(metrics: pa.Table) -> None:
    days = metrics["date"].to_numpy()
    short = metrics.filter(pa.array(days >= CALENDAR[-19]))
    assert top_factors(short, 1)["icir"].isna().all()
    assert top_factors(short, 1, minimum=5)["icir"].notna().sum() >= 3


def test_refusals(metrics: pa.Table) -> None:
    with pytest.raises(UnknownNameError, match="'2'"):
        top_factors(metrics, 2)
    with pytest.raises(MissingDataError, match="empty"):
        top_factors(FACTOR_METRICS.arrow().empty_table(), 1)
    other = metrics.set_column(2, metrics.schema.field("pool"), pa.array(["q"] * len(metrics)))
    both = pa.concat_tables([metrics, other])
    with pytest.raises(PanelError, match=r"several pools \['p', 'q'\]"):
        top_factors(both, 1)
    assert top_factors(both, 1, pool="q").equals(top_factors(metrics, 1))
    with pytest.raises(UnknownNameError, match="'r'"):
        top_factors(both, 1, pool="r")
    foreign = metrics.set_column(0, metrics.schema.field("universe"), pa.array(["v"] * len(metrics)))
    with pytest.raises(PanelError, match="several universes"):
        top_factors(pa.concat_tables([metrics, foreign]), 1)
