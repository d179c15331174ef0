"""Tracking and predictions, against a real MLflow store in SQLite."""

import os
import subprocess
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FEATURES, INSTRUMENTS, SESSIONS, make_settings

from qdag.errors import StoreError
from qdag.models import tracking
from qdag.models.frames import feature_frame
from qdag.models.predict import predict
from qdag.models.tracking import Registered, newest_before
from qdag.models.training import train
from qdag.schema import PREDICTIONS

EARLY, LATE = date(2011, 3, 31), date(2011, 6, 30)


@pytest.fixture(scope="module")
def models(settings, store):
    return {day: train(settings, store, "toy", day, SESSIONS) for day in (EARLY, LATE)}


@pytest.fixture(scope="module")
def tracked(settings, models):
    """LATE first, EARLY second, EARLY again: order of recording is not order of training date."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    here = set(Path.cwd().iterdir())
    made = [tracking.track(settings, models[day], "0dagster-run") for day in (LATE, EARLY, EARLY)]
    assert set(Path.cwd().iterdir()) == here, "nothing may be left in the current directory"
    return made


@pytest.fixture
def client(settings, tracked):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.tracking_uri)


def test_nothing_registered_yet_creates_nothing(tmp_path):
    empty = make_settings(tmp_path / "none")
    assert tracking.registered_models(empty, "toy") == ()
    assert not (tmp_path / "none").exists()


def test_run_holds_parameters_metrics_curves_tables_and_links(client, tracked, models, settings):
    run = client.get_run(tracked[0].run_id)
    model = models[LATE]
    assert run.info.status == "FINISHED"
    assert tracked[0].url == f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    params = run.data.params
    assert params["lambda_l2"] == "1.0"
    assert params["num_boost_round"] == "60"
    assert params["train.first"] == str(model.split.train.first)
    assert params["table.alpha158.version"] == str(model.versions["alpha158"])
    assert run.data.metrics["test.ic"] == pytest.approx(model.metrics["test"].ic)
    assert run.data.metrics["valid.rank_icir"] == pytest.approx(model.metrics["valid"].rank_icir)
    curve = client.get_metric_history(run.info.run_id, "l2.valid")
    assert [m.step for m in curve] == list(range(1, len(model.curves["l2.valid"]) + 1))
    assert [m.value for m in curve] == model.curves["l2.valid"]
    assert run.data.tags["dagster_run_id"] == "0dagster-run"
    assert "[0dagster-run](http://127.0.0.1:3000/runs/0dagster-run)" in run.data.tags["mlflow.note.content"]
    assert {(d.dataset.name, d.dataset.digest) for d in run.inputs.dataset_inputs} == {
        (table, f"v{version}") for table, version in model.versions.items()
    }
    files = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert files >= {
        "feature_importance.csv", "feature_importance.png", "daily_ic.csv", "daily_ic.png", "learning_curves.png"
    }  # fmt: skip
    assert run.info.artifact_uri.startswith(settings.artifacts.as_uri())
    table = pd.read_csv(settings.artifacts / run.info.run_id / "artifacts" / "feature_importance.csv")
    assert list(table.columns) == ["feature", "gain", "split"]
    assert set(table["feature"]) == set(FEATURES)


def test_no_stray_runs_and_no_process_wide_leftovers(client, tracked):
    import mlflow

    experiments = client.search_experiments()
    runs = [run for e in experiments for run in client.search_runs([e.experiment_id])]
    assert {run.info.run_id for run in runs} == {t.run_id for t in tracked}
    assert mlflow.active_run() is None
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_versions_tags_and_champion(client, tracked, settings):
    assert [t.registered.version for t in tracked] == [1, 2, 3]
    assert [t.champion for t in tracked] == [True, False, False]
    version = client.get_model_version_by_alias("qdag-toy-lightgbm", "champion")
    assert int(version.version) == 1
    assert version.tags["universe"] == "toy"
    assert version.tags["training_date"] == "2011-06-30"
    assert [(m.training_date, m.version) for m in tracking.registered_models(settings, "toy")] == [
        (EARLY, 2),
        (EARLY, 3),
        (LATE, 1),
    ]


@pytest.mark.parametrize(
    ("before", "version"),
    [(EARLY, None), (date(2011, 4, 1), 3), (LATE, 3), (date(2011, 7, 1), 1), (date(2030, 1, 1), 1)],
)
def test_a_day_is_served_by_the_newest_model_trained_strictly_before(settings, tracked, before, version):
    found = newest_before(tracking.registered_models(settings, "toy"), before)
    assert (found.version if found else None) == version


def test_newest_before_ignores_the_order_given():
    models = [Registered("m", v, "u", date(2020, 1, d), "") for v, d in ((3, 1), (1, 9), (2, 5), (4, 5))]
    for shuffled in (models, models[::-1]):
        assert newest_before(tuple(shuffled), date(2020, 1, 9)).version == 4


def test_a_user_loads_the_champion_with_plain_mlflow(settings, tracked, models, store, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/qdag-toy-lightgbm@champion")
    frame = feature_frame(store, "toy", models[LATE].features, LATE, LATE)
    want = models[LATE].booster.predict(frame.to_numpy())
    np.testing.assert_array_equal(model.predict(frame), want)
    # float64, other column order and columns too many are all fine; a missing one is refused
    shuffled = frame.astype("f8")[list(FEATURES[::-1])].assign(TOO_MANY=1.0)
    np.testing.assert_array_equal(model.predict(shuffled), want)
    with pytest.raises(mlflow.MlflowException, match="NOISE3"):
        model.predict(frame.drop(columns="NOISE3"))


def test_predictions_are_point_in_time(settings, tracked, models, store):
    sessions = SESSIONS[np.datetime64("2011-03-29") <= SESSIONS]
    got = predict(settings, store, "toy", sessions)
    assert got.table.schema == PREDICTIONS.arrow()
    assert list(got.without_model.astype(str)) == ["2011-03-29", "2011-03-30", "2011-03-31"]
    assert len(got.without_features) == 0
    rows = got.table.to_pandas()
    assert (rows["trained_on"] < rows["date"]).all()
    assert rows["universe"].eq("toy").all()
    assert len(rows) == (len(sessions) - 3) * len(INSTRUMENTS)
    assert list(zip(rows["date"], rows["instrument"], strict=True)) == sorted(
        zip(rows["date"], rows["instrument"], strict=True)
    )
    by_model = rows.groupby("model")["date"].agg(["min", "max", "nunique"])
    assert by_model.loc["qdag-toy-lightgbm/3", "min"] == date(2011, 4, 1)
    assert by_model.loc["qdag-toy-lightgbm/3", "max"] == LATE
    assert by_model.loc["qdag-toy-lightgbm/1", "min"] == date(2011, 7, 1)
    assert got.models == by_model["nunique"].to_dict()
    day = date(2011, 5, 4)
    frame = feature_frame(store, "toy", models[EARLY].features, day, day)
    np.testing.assert_array_equal(
        rows.loc[rows["date"] == day, "score"], models[EARLY].booster.predict(frame.to_numpy())
    )


def test_scores_of_a_session_do_not_depend_on_the_range(settings, tracked, store):
    sessions = SESSIONS[-60:]
    whole = predict(settings, store, "toy", sessions).table
    parts = [predict(settings, store, "toy", part).table for part in (sessions[:1], sessions[1:7], sessions[7:])]
    assert [row for part in parts for row in part.to_pylist()] == whole.to_pylist()


def test_sessions_without_features_are_reported(settings, tracked, store):
    sessions = np.array(["2011-12-29", "2011-12-30", "2012-01-03"], "M8[D]")
    got = predict(settings, store, "toy", sessions)
    assert list(got.without_features.astype(str)) == ["2012-01-03"]
    assert got.table.num_rows == 2 * len(INSTRUMENTS)
    none = predict(settings, store, "toy", sessions[:0])
    assert none.table.schema == PREDICTIONS.arrow()
    assert none.table.num_rows == 0


def test_a_failure_while_recording_is_marked_and_registers_nothing(settings, client, models, monkeypatch):
    before = tracking.registered_models(settings, "toy")
    monkeypatch.setattr(tracking, "figures", lambda model: {"no-such-format.xyz": object()})
    with pytest.raises(TypeError):
        tracking.track(settings, models[EARLY])
    assert tracking.registered_models(settings, "toy") == before
    experiment = client.get_experiment_by_name("qdag").experiment_id
    newest = client.search_runs([experiment], order_by=["attributes.start_time DESC"], max_results=1)[0]
    assert newest.info.status == "FAILED"
    client.delete_run(newest.info.run_id)


def test_a_deleted_experiment_is_named(settings, tracked, models, client):
    gone = settings.model_copy(update={"mlflow": settings.mlflow.model_copy(update={"experiment": "gone"})})
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(StoreError, match="'gone' is deleted; restore it"):
        tracking.track(gone, models[EARLY])


def test_a_store_is_created_by_one_process_at_a_time(tmp_path, monkeypatch, tracked):
    """Creating the client already migrates the database, so that must happen under the lock."""
    import fcntl

    import mlflow

    class Reached(Exception):
        pass

    def create(**_):
        with (tmp_path / "mlflow" / "mlflow.lock").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise Reached

    monkeypatch.setattr(mlflow, "MlflowClient", create)
    with pytest.raises(Reached):
        tracking._open(make_settings(tmp_path).tracking_uri)


def test_importing_the_modules_imports_nothing_heavy():
    code = (
        "import sys, qdag.models.training, qdag.models.predict, qdag.models.tracking;"
        "heavy = {'qlib', 'lightgbm', 'mlflow', 'matplotlib', 'dagster', 'deltalake'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([os.sys.executable, "-c", code], check=True)
