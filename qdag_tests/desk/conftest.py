"""A data home of the embedded sample with everything that the desk reads, built once; models only where asked for."""

import os
from datetime import date
from pathlib import Path

import pytest

import qdag
from qdag.assets.platform import Platform
from qdag.desk.desk import Desk
from qdag.settings import load_settings
from qdag_tests import stages

START, END = date(2012, 4, 2), date(2012, 12, 31)
TOML = """
home = "home"
features = ["alpha158", "basic_statistics"]
horizons = [1, 5]
[universes.sample]
calendar = "XNYS"
start = 2012-04-02
end = 2012-12-31
source = { kind = "sample" }
pools.busy = { kind = "top", size = 3, window = 21 }
[custom_factors]
gap = "$open/Ref($close, 1) - 1"
[training]
train_sessions = 60
valid_sessions = 20
test_sessions = 20
horizon = 1
num_boost_round = 20
features = ["alpha158"]
parameters = { min_data_in_leaf = 5, num_leaves = 7, learning_rate = 0.1, lambda_l1 = 0.0, lambda_l2 = 0.0 }
"""
RUN = "run-of-the-fixture"


@pytest.fixture(autouse=True)
def _without_variables(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("QDAG_", "DAGSTER_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "qdag.toml").write_text(TOML)
    platform = Platform.open(load_settings(folder / "qdag.toml", {})).for_run(RUN)
    for stage in (
        "raw_ohlcv",
        "qlib_bin",
        "alpha158",
        "basic_statistics",
        "custom_factors",
        "labels",
        "factor_metrics",
    ):
        stages.compute(stage, platform, "sample", START, END)
    return folder


@pytest.fixture(scope="session")
def desk(folder) -> Desk:
    return qdag.open(folder)


@pytest.fixture(scope="session")
def trained(folder, desk) -> Desk:
    """The same desk, when a model was trained and has scored a month."""
    month_end = date(2012, 11, 30)
    stages.trained_model(desk.platform, "sample", month_end, month_end)
    stages.predictions(desk.platform, "sample", date(2012, 12, 3), END)
    return desk
