"""Training: what is learnt, what is not seen, the same bits twice, and refusal of what cannot be trained on."""

import math
import pickle
from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from conftest import FEATURES, INSTRUMENTS, SESSIONS, make_settings

from qdag.errors import MissingDataError, SettingsError, TrainingError, UnknownNameError
from qdag.models.frames import feature_frame, feature_names, label_frame, stored_features
from qdag.models.training import train

DATE = date(2011, 6, 30)


@pytest.fixture(scope="module")
def trained(settings, store):
    return train(settings, store, "toy", DATE, SESSIONS)


def text(model):
    """The model's trees; the same text means the same bits."""
    return model.booster.model_to_string()


def changed_after(market, day, **arrays):
    """The market with everything after a day replaced: features, and labels that were not known at its close."""
    rng = np.random.default_rng(99)
    later = np.datetime64(day) < SESSIONS
    asof = int(np.searchsorted(SESSIONS, np.datetime64(day), side="right")) - 1

    def scramble(values, mask):
        return np.where(mask, rng.standard_normal(values.shape), values).astype("f4")

    features = {name: scramble(v, later) for name, v in market.features.items()}
    labels = {
        name: scramble(v, np.arange(len(SESSIONS)) + int(name.split("_")[1]) + 1 > asof)
        for name, v in market.labels.items()
    }
    return replace(market, features=features, labels=labels)


def test_planted_signal_is_learnt(trained, store):
    for segment in ("valid", "test"):
        metrics = trained.metrics[segment]
        assert metrics.ic > 0.3
        assert metrics.rank_ic > 0.3
        assert metrics.icir > 1
        assert metrics.sessions == metrics.of_sessions == 40
    assert trained.importance["feature"][0] == "SIGNAL"
    assert trained.importance["gain"].is_monotonic_decreasing
    assert trained.warnings == ()
    assert trained.names == FEATURES == tuple(trained.booster.feature_name())
    assert trained.versions == {table: store.version(table) for table in ("alpha158", "labels")}


def test_metrics_equal_a_slow_reference(trained, market):
    segment = trained.split.test
    days = np.flatnonzero((np.datetime64(segment.first) <= SESSIONS) & (np.datetime64(segment.last) >= SESSIONS))
    ics, ranks = [], []
    for day in days:
        rows = np.column_stack([market.features[name][:, day] for name in FEATURES])
        score, label = trained.booster.predict(rows), market.labels["label_1"][:, day].astype("f8")
        keep = np.isfinite(label)
        ics.append(np.corrcoef(score[keep], label[keep])[0, 1])
        ranks.append(pd.Series(score[keep]).rank().corr(pd.Series(label[keep]).rank()))
    metrics = trained.metrics["test"]
    assert metrics.ic == pytest.approx(np.mean(ics), rel=1e-9)
    assert metrics.rank_ic == pytest.approx(np.mean(ranks), rel=1e-9)
    assert metrics.icir == pytest.approx(np.mean(ics) / np.std(ics, ddof=1), rel=1e-9)
    assert metrics.rank_icir == pytest.approx(np.mean(ranks) / np.std(ranks, ddof=1), rel=1e-9)
    stored = trained.daily[trained.daily["segment"] == "test"]
    np.testing.assert_allclose(stored["ic"], ics, rtol=1e-9)


def test_same_bits_twice_and_on_any_number_of_threads(settings, store, trained):
    engine = settings.engine.model_copy(update={"threads": 3})
    again = train(settings.model_copy(update={"engine": engine}), store, "toy", DATE, SESSIONS)
    assert text(again).replace("[num_threads: 3]", "") == text(trained).replace(
        f"[num_threads: {settings.engine.threads}]", ""
    )


def test_what_is_not_known_at_the_training_date_changes_no_bit(settings, market, trained, tmp_path):
    changed = changed_after(market, DATE)
    assert not np.array_equal(changed.labels["label_1"], market.labels["label_1"], equal_nan=True)
    other = train(settings, changed.write(tmp_path / "tables"), "toy", DATE, SESSIONS)
    assert text(other) == text(trained)
    assert other.metrics == trained.metrics


def test_the_test_segment_does_not_train(settings, market, trained, tmp_path):
    # the day before the test segment: every label of the train and valid segments is known by then
    known = SESSIONS[np.searchsorted(SESSIONS, np.datetime64(trained.split.test.first)) - 1].item()
    changed = changed_after(market, known)
    other = train(settings, changed.write(tmp_path / "tables"), "toy", DATE, SESSIONS)
    assert text(other) == text(trained)
    assert other.metrics["valid"] == trained.metrics["valid"]
    assert other.metrics["test"] != trained.metrics["test"]


def test_a_future_that_is_not_stored_changes_no_bit(settings, market, trained, tmp_path):
    known = market.write(tmp_path / "tables", sessions=SESSIONS[np.datetime64(DATE) >= SESSIONS])
    assert text(train(settings, known, "toy", DATE, SESSIONS)) == text(trained)


def test_trains_as_qlibs_own_model_does(settings, store, trained, monkeypatch):
    from qlib.contrib.model import gbdt

    from qdag.models.datasets import build_dataset
    from qdag.models.zoo import lightgbm_parameters

    class Recorder:
        logged = 0

        def log_metrics(self, step, **metrics):
            self.logged += len(metrics)

    recorder = Recorder()
    monkeypatch.setattr(gbdt, "R", recorder)
    features = stored_features(store, ["alpha158"])
    dataset = build_dataset(store, "toy", features, "label_1", trained.split)
    theirs = gbdt.LGBModel(
        num_boost_round=60, early_stopping_rounds=10, num_threads=1, **lightgbm_parameters(settings.training)
    )
    theirs.fit(dataset, verbose_eval=0)
    assert recorder.logged == sum(len(curve) for curve in trained.curves.values())
    scores = theirs.predict(dataset, "test")
    rows = feature_frame(store, "toy", features, trained.split.test.first, trained.split.test.last)
    np.testing.assert_array_equal(scores.to_numpy(), trained.booster.predict(rows.to_numpy()))
    assert theirs.model.best_iteration == trained.best_iteration


def test_defaults_are_qlibs_published_parameters(tmp_path):
    from qdag.models.zoo import lightgbm_parameters

    got = lightgbm_parameters(make_settings(tmp_path, parameters={}).training)
    published = {
        "loss": "mse",
        "colsample_bytree": 0.8879,
        "learning_rate": 0.2,
        "subsample": 0.8789,
        "lambda_l1": 205.6999,
        "lambda_l2": 580.9768,
        "max_depth": 8,
        "num_leaves": 210,
    }
    assert {key: got[key] for key in published} == published
    assert set(got) - set(published) == {"seed", "deterministic", "force_row_wise"}


def test_an_override_by_any_alias_replaces_the_default(tmp_path):
    from qdag.models.zoo import lightgbm_parameters

    got = lightgbm_parameters(make_settings(tmp_path, parameters={"reg_alpha": 1.5, "feature_fraction": 0.5}).training)
    assert got["reg_alpha"] == 1.5
    assert "lambda_l1" not in got
    assert got["feature_fraction"] == 0.5
    assert "colsample_bytree" not in got


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lambda_11": 1.0}, "'lambda_11', no parameter of LightGBM; did you mean 'lambda_l1'"),
        ({"n_estimators": 5}, "'n_estimators' .*training.num_boost_round"),
        ({"num_threads": 5}, "'num_threads' .*engine.threads"),
        ({"objective": "binary"}, "'objective' .*squared error"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path, parameters, message):
    from qdag.models.zoo import lightgbm_parameters

    with pytest.raises(SettingsError, match=message):
        lightgbm_parameters(make_settings(tmp_path, parameters=parameters).training)


def test_a_constant_model_has_no_ic_and_says_why(tmp_path, store, caplog):
    heavy = make_settings(tmp_path, parameters={"lambda_l1": 1e6})
    model = train(heavy, store, "toy", DATE, SESSIONS)
    for metrics in model.metrics.values():
        assert metrics.ic is metrics.rank_ic is metrics.icir is metrics.rank_icir is None
        assert metrics.sessions == 0
        assert "predicts one constant" in metrics.reason
        assert "lower lambda_l1" in metrics.reason
    assert any("predicts one constant" in warning for warning in model.warnings)
    assert "predicts one constant" in caplog.text


def test_short_history_is_said(tmp_path, store):
    model = train(make_settings(tmp_path, train_sessions=5000), store, "toy", DATE, SESSIONS)
    assert model.split.train.first == SESSIONS[0].item()
    assert any("5000 were asked" in warning for warning in model.warnings)


def test_two_tables_share_a_name(tmp_path, store, market):
    model = train(make_settings(tmp_path, features=["alpha158", "price_features"]), store, "toy", DATE, SESSIONS)
    assert model.names == ("alpha158.SIGNAL", "NOISE1", "NOISE2", "NOISE3", "price_features.SIGNAL", "OTHER")
    assert model.importance["feature"][0] == "alpha158.SIGNAL"


def test_other_horizon_uses_its_label_and_gap(tmp_path, store):
    model = train(make_settings(tmp_path, horizon=5), store, "toy", DATE, SESSIONS)
    assert model.label == "label_5"
    assert model.split.gap == 6
    assert model.metrics["test"].ic > 0.3


def test_missing_tables_sessions_and_labels(tmp_path, settings, store, market):
    # settings refuse it when they are read; this is what stands behind them
    typed = settings.model_copy(update={"training": settings.training.model_copy(update={"features": ("alpha185",)})})
    with pytest.raises(UnknownNameError, match="'alpha185'; did you mean 'alpha158'"):
        train(typed, store, "toy", DATE, SESSIONS)
    with pytest.raises(MissingDataError, match="'basic_statistics' holds nothing yet"):
        train(make_settings(tmp_path, features=["basic_statistics"]), store, "toy", DATE, SESSIONS)
    hole = np.delete(SESSIONS, [350, 351])
    with pytest.raises(MissingDataError, match=rf"lacks 2 of 40 valid sessions .*{SESSIONS[350]} to {SESSIONS[351]}"):
        train(settings, market.write(tmp_path / "hole", sessions=hole), "toy", SESSIONS[420].item(), SESSIONS)
    labels = {name: values.copy() for name, values in market.labels.items()}
    labels["label_1"][:, 290:310] = np.nan
    unlabelled = replace(market, labels=labels).write(tmp_path / "unlabelled")
    with pytest.raises(TrainingError, match=rf"20 of \d+ train sessions .* no label_1, the first {SESSIONS[290]}"):
        train(settings, unlabelled, "toy", SESSIONS[400].item(), SESSIONS)
    with pytest.raises(TrainingError, match="needs 236 sessions"):
        train(settings, store, "toy", date(2010, 3, 1), SESSIONS)


def test_few_unlabelled_sessions_and_single_labels_are_left_out_and_counted(tmp_path, settings, market):
    labels = {name: values.copy() for name, values in market.labels.items()}
    labels["label_1"][:, 300] = np.nan
    labels["label_1"][1:, 301] = np.nan
    model = train(settings, replace(market, labels=labels).write(tmp_path / "t"), "toy", SESSIONS[400].item(), SESSIONS)
    lost = model.rows["train"]
    n = len(INSTRUMENTS)
    assert model.split.train.first <= SESSIONS[300].item() <= model.split.train.last
    assert (lost.without_label, lost.single_label) == (n + n - 1, 1)
    assert lost.used == 150 * n - 2 * n == lost.stored - 2 * n
    assert any("1 of 150 train sessions have no label_1" in warning for warning in model.warnings)


def test_one_instrument_cannot_be_ranked(tmp_path, settings, market):
    single = {name: np.where(np.arange(len(INSTRUMENTS))[:, None] > 0, np.nan, v) for name, v in market.labels.items()}
    with pytest.raises(TrainingError, match="at least two"):
        train(settings, replace(market, labels=single).write(tmp_path / "t"), "toy", DATE, SESSIONS)


def test_frames_hold_what_is_stored(store, market):
    features = stored_features(store, ["alpha158", "price_features"])
    start, end = SESSIONS[100].item(), SESSIONS[102].item()
    frame = feature_frame(store, "toy", features, start, end, ["I04", "I02"])
    assert list(frame.columns) == feature_names(features)
    assert frame.index.names == ["datetime", "instrument"]
    assert frame.dtypes.unique() == [np.dtype("f4")]
    assert [(d.date(), i) for d, i in frame.index] == [
        (SESSIONS[s].item(), i) for s in (100, 101, 102) for i in ("I02", "I04")
    ]
    np.testing.assert_array_equal(frame["NOISE1"], market.features["NOISE1"][[2, 4], 100:103].T.ravel())
    np.testing.assert_array_equal(frame["price_features.SIGNAL"], market.extra["SIGNAL"][[2, 4], 100:103].T.ravel())
    label = label_frame(store, "toy", "label_1", start, end, ["I04"])
    assert label["label_1"].isna().all()
    assert len(label) == 3


def test_the_loader_feeds_qlib_and_survives_pickling(store, trained):
    from qdag.models.datasets import TableLoader, build_dataset

    loader = TableLoader(store, "toy", {"alpha158": FEATURES}, "label_1")
    frame = pickle.loads(pickle.dumps(loader)).load("all", "2010-02-01", "2010-02-26")
    assert list(frame.columns) == [*(("feature", name) for name in FEATURES), ("label", "label_1")]
    assert len(frame) == 20 * len(INSTRUMENTS)
    assert list(loader.load(["I01"], "2010-02-01", "2010-02-01").index) == [(pd.Timestamp("2010-02-01"), "I01")]
    with pytest.raises(UnknownNameError, match="csi300"):
        loader.load("csi300")
    dataset = build_dataset(store, "toy", {"alpha158": FEATURES}, "label_1", trained.split)
    learnt = dataset.prepare("train", col_set="label", data_key="learn").iloc[:, 0]
    by_day = learnt.groupby(level="datetime")
    assert by_day.mean().abs().max() < 1e-5
    assert by_day.std().sub(1).abs().max() < 1e-5
    assert math.isclose(len(learnt), trained.rows["train"].used)


def test_a_stated_version_is_what_is_read(tmp_path, market):
    store = market.write(tmp_path / "t")
    version = {"alpha158": store.version("alpha158")}
    replace(market, features={name: values + 1 for name, values in market.features.items()}).write(tmp_path / "t")
    features, day = {"alpha158": ("SIGNAL",)}, SESSIONS[5].item()
    old = feature_frame(store, "toy", features, day, day, versions=version)["SIGNAL"]
    np.testing.assert_array_equal(old, market.features["SIGNAL"][:, 5])
    new = feature_frame(store, "toy", features, day, day)["SIGNAL"]
    np.testing.assert_array_equal(new, market.features["SIGNAL"][:, 5] + 1)
