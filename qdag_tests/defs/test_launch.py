"""What `qdag materialize` runs, in this process: what it leaves out, and what it refuses."""

import os
from datetime import date

import pytest

from qdag.defs.launch import launch
from qdag.errors import SessionError
from qdag.server.home import prepare
from qdag.settings import Settings, SyntheticSource, UniverseSettings

START, MONTH_END, END = date(2018, 1, 2), date(2018, 1, 31), date(2018, 2, 9)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    universe = UniverseSettings(
        source=SyntheticSource(seed=4, instruments=3), calendar="XNYS", start=START, end=date(2018, 6, 29)
    )
    made = Settings(
        home=tmp_path_factory.mktemp("launch"),
        universes={"toy": universe},
        horizons=(1,),
        features=("basic_statistics",),
        training={"horizon": 1, "features": ("basic_statistics",)},
    )
    for name in [name for name in os.environ if name.startswith(("QDAG_", "DAGSTER_"))]:
        del os.environ[name]
    prepare(made)
    return made


@pytest.fixture(scope="module")
def short(settings):
    """The whole chain over a month with an end, too short to train on."""
    return launch(settings, "toy", START, END)


def test_the_whole_chain_leaves_out_models_of_a_short_history(settings, short):
    assert short.success, short.errors
    assert set(short.assets) == {"raw_ohlcv", "qlib_bin", "basic_statistics", "labels", "factor_metrics"}
    untrained, unscored = short.notes
    assert untrained.startswith(f"no model is trained at {MONTH_END}: training on {MONTH_END} needs 756 sessions")
    assert "materialize more history, or lower training.train_sessions" in untrained
    assert unscored.startswith(f"nothing is scored: no model of universe 'toy' was trained before {END}")
    assert not settings.artifacts.exists()


def test_a_model_that_is_asked_for_by_name_fails(settings, short):
    asked = launch(settings, "toy", START, END, ["trained_model"])
    assert not asked.success
    assert f"trained_model: training on {MONTH_END} needs 756 sessions" in asked.errors[0]
    with pytest.raises(SessionError, match="has none; ask with"):
        launch(settings, "toy", START, date(2018, 1, 30), ["trained_model"])
