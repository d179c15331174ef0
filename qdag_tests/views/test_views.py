"""Frames for people: the leaderboard, a day's metrics, what cannot be shown and why."""

from datetime import date

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from qdag import schema
from qdag.assets.platform import Platform
from qdag.cli import app
from qdag.errors import MissingDataError, SessionError, UnknownNameError
from qdag.views import leaderboard, metrics_of_a_day, models
from qdag.views.stale import stale_lines
from qdag.views.stored import look

DAYS = [date(2019, 1, day) for day in (2, 3, 4)]


@pytest.fixture
def platform(small_settings) -> Platform:
    platform = Platform.open(small_settings)
    strong = {"alpha158.KMID": 0.1, "alpha158.ROC5": -0.3, "price_features.momentum_5": 0.2}
    rows = [
        {
            "universe": "toy",
            "date": day,
            "pool": "all",
            "horizon": horizon,
            "factor": factor,
            "signal_date": day,
            "ic": ic / 2,
            "rank_ic": ic / horizon,
            "coverage": 1.0,
            "n": 12,
            "icir_n": 3,
        }
        for day in DAYS
        for horizon in (1, 5)
        for factor, ic in strong.items()
    ]
    table = pa.Table.from_pylist(rows, schema=schema.FACTOR_METRICS.arrow())
    platform.store.replace(schema.FACTOR_METRICS, "toy", DAYS[0], DAYS[-1], lambda: iter(table.to_batches()), {})
    return platform


def test_the_leaderboard_is_by_mean_rank_ic(platform):
    best = leaderboard(platform, "toy", rows=2)
    assert best["factor"].tolist() == ["alpha158.ROC5", "price_features.momentum_5"]
    assert best["mean_rank_ic"].tolist() == pytest.approx([-0.3, 0.2])
    of_table = leaderboard(platform, "toy", horizon=5, table="alpha158")
    assert of_table["factor"].tolist() == ["alpha158.ROC5", "alpha158.KMID"]
    assert of_table["mean_rank_ic"].tolist() == pytest.approx([-0.06, 0.02])


def test_a_day_shows_its_best_factors(platform):
    day, best = metrics_of_a_day(platform, "toy", rows=1)
    assert (day, best["factor"].tolist()) == (DAYS[-1], ["alpha158.ROC5"])


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"horizon": 7}, UnknownNameError, "unknown horizon '7'"),
        ({"pool": "al"}, UnknownNameError, "did you mean 'all'"),
        ({"table": "alpha15"}, UnknownNameError, "did you mean 'alpha158'"),
        ({"start": DAYS[2], "end": DAYS[0]}, SessionError, "is after end"),
    ],
)
def test_what_is_not_there_is_named(platform, asked, error, says):
    with pytest.raises(error, match=says):
        leaderboard(platform, "toy", **asked)


def test_models_say_how_to_get_one(platform):
    with pytest.raises(MissingDataError, match="over a range with a month end"):
        models(platform, "toy")


@pytest.mark.parametrize(
    ("table", "error", "says"),
    [
        ("labelz", UnknownNameError, "did you mean 'labels'"),
        ("labels", MissingDataError, "'labels' holds nothing yet; materialize labels first"),
        ("quarantine", MissingDataError, "materialize raw_ohlcv first"),
        ("trained_model", MissingDataError, "qdag models"),
        ("qlib_bin", MissingDataError, "Qlib directory, not a table"),
    ],
)
def test_a_table_without_rows_says_what_brings_them(small_settings, table, error, says):
    with pytest.raises(error, match=says):
        look(Platform.open(small_settings), table, "toy", None, None, None, None, 5)


def test_days_are_not_reversed_in_silence(platform):
    with pytest.raises(SessionError, match="give the earlier day first"):
        look(platform, "factor_metrics", "toy", DAYS[2], DAYS[0], None, None, 5)


def test_a_universe_without_bars_is_not_called_up_to_date(small_settings, monkeypatch, tmp_path):
    found = stale_lines(Platform.open(small_settings), "toy")
    assert {(count, why) for _, count, _, _, why in found.lines} == {(0, "no bars stored yet")}
    (tmp_path / "qdag.toml").write_text(
        'home = "empty"\n[universes.toy]\ncalendar = "XNYS"\nstart = 2019-01-02\nend = 2019-06-28\n'
        'source = { kind = "synthetic", instruments = 3 }\n'
    )
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["refresh"])
    assert told.exit_code == 0
    assert told.output == "no bars of toy are stored yet; to store them: qdag materialize --universe toy\n"
