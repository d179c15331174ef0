"""A small stored universe with a planted signal, shared by the tests of the models."""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from qdag.schema import feature_table, labels_table
from qdag.settings import Settings
from qdag.store.tables import TableStore

SESSIONS = np.arange("2010-01-01", "2012-01-01", dtype="M8[D]")
SESSIONS = SESSIONS[np.is_busday(SESSIONS)]
INSTRUMENTS = [f"I{i:02d}" for i in range(20)]
FEATURES = ("SIGNAL", "NOISE1", "NOISE2", "NOISE3")
EXTRA = ("SIGNAL", "OTHER")
HORIZONS = (1, 5)


@dataclass(frozen=True)
class Market:
    """Arrays (instruments, sessions) behind the stored tables; write a changed copy to see what changes."""

    features: dict[str, np.ndarray]
    extra: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def write(self, root, universe="toy", sessions=SESSIONS):
        store = TableStore(root)
        keep = np.isin(SESSIONS, sessions)
        described = lambda names: [(name, f"meaning of {name}") for name in names]  # noqa: E731
        for spec, columns in (
            (feature_table("alpha158", described(FEATURES), "toy"), self.features),
            (feature_table("price_features", described(EXTRA), "toy"), self.extra),
            (labels_table(HORIZONS), self.labels),
        ):
            rows = {
                "universe": pa.array([universe] * (keep.sum() * len(INSTRUMENTS))),
                "date": pa.array(np.repeat(SESSIONS[keep], len(INSTRUMENTS))),
                "instrument": pa.array(INSTRUMENTS * int(keep.sum())),
            }
            for name, values in columns.items():
                rows[name] = pa.array(values[:, keep].T.ravel(), pa.float32(), from_pandas=True)
            table = pa.table(rows).cast(spec.arrow())
            store.replace(spec, universe, SESSIONS[0].item(), SESSIONS[-1].item(), table, {"run": "test"})
        return store


@pytest.fixture(scope="session")
def market():
    rng = np.random.default_rng(5)
    shape = (len(INSTRUMENTS), len(SESSIONS))
    features = {name: rng.standard_normal(shape).astype("f4") for name in FEATURES}
    features["NOISE1"][:, ::7] = np.nan
    features["NOISE2"][3, 10] = np.inf
    extra = {name: rng.standard_normal(shape).astype("f4") for name in EXTRA}
    labels = {}
    for h in HORIZONS:
        values = 0.01 * features["SIGNAL"] + 0.02 * rng.standard_normal(shape).astype("f4")
        values[:, len(SESSIONS) - h - 1 :] = np.nan
        values[4, 100:103] = np.nan
        labels[f"label_{h}"] = values
    return Market(features, extra, labels)


@pytest.fixture(scope="session")
def store(market, tmp_path_factory):
    return market.write(tmp_path_factory.mktemp("models") / "tables")


@pytest.fixture(scope="session")
def settings(tmp_path_factory):
    """Settings of the toy universe with one data home, so that MLflow's schema is created once."""
    return make_settings(tmp_path_factory.mktemp("home"))


def make_settings(home, **training):
    chosen = {
        "train_sessions": 150,
        "valid_sessions": 40,
        "test_sessions": 40,
        "num_boost_round": 60,
        "early_stopping_rounds": 10,
        "parameters": {"lambda_l1": 0.1, "lambda_l2": 1.0, "learning_rate": 0.1, "num_leaves": 15},
    }
    universe = {
        "source": {"kind": "synthetic"},
        "calendar": "XNYS",
        "start": date(2010, 1, 1),
        "end": date(2011, 12, 30),
    }
    return Settings(
        home=home, universes={"toy": universe}, horizons=HORIZONS, training=chosen | training, engine={"threads": 1}
    )
