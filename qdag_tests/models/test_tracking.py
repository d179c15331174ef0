"""Tracking and predictions, against a real MLflow store in SQLite."""

import dataclasses
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import traceback
from contextlib import closing
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FEATURES, INSTRUMENTS, SESSIONS, make_settings

from qdag.errors import StoreError
from qdag.models import connection, logged, tracking
from qdag.models.frames import feature_frame
from qdag.models.predict import predict
from qdag.models.records import Registered
from qdag.models.relocation import other_homes, sqlite_path
from qdag.models.saved import not_saved, saved_folders
from qdag.models.tracking import newest_before
from qdag.models.training import train
from qdag.schema import PREDICTIONS
from qdag.store.backup import backup, restore_backup
from qdag.store.tables import TableStore
from qdag_tests.servers import unprivileged

EARLY, LATE = date(2011, 3, 31), date(2011, 6, 30)


@pytest.fixture(scope="module")
def models(settings, store):
    return {day: train(settings, store, "toy", day, SESSIONS) for day in (EARLY, LATE)}


@pytest.fixture(scope="module")
def tracked(settings, models, store):
    """LATE first, EARLY second, EARLY otherwise: order of recording is not order of training date."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    here = set(Path.cwd().iterdir())
    shorter = settings.model_copy(update={"training": settings.training.model_copy(update={"num_boost_round": 50})})
    order = (models[LATE], train(shorter, store, "toy", EARLY, SESSIONS), models[EARLY])
    made = [tracking.track(settings, model, "0dagster-run") for model in order]
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


def test_training_on_the_same_again_makes_no_new_version(settings, tracked, models, store, client):
    again = train(settings, store, "toy", EARLY, SESSIONS)
    assert again.inputs == models[EARLY].inputs
    assert tracking.track(settings, again, "another-run") == tracked[2]
    assert len(client.search_model_versions("name = 'qdag-toy-lightgbm'")) == 3
    assert int(client.get_model_version_by_alias("qdag-toy-lightgbm", "champion").version) == 1
    # another row, another parameter, another date: another model
    assert len({model.registered.inputs for model in tracked}) == 3


def test_one_changed_cell_is_another_input(settings, market, models, tmp_path):
    changed = {name: values.copy() for name, values in market.labels.items()}
    day = np.flatnonzero(np.datetime64("2011-01-05") == SESSIONS)[0]
    changed["label_1"][2, day] += 0.001
    store = dataclasses.replace(market, labels=changed).write(tmp_path / "tables")
    assert train(settings, store, "toy", EARLY, SESSIONS).inputs != models[EARLY].inputs


def test_the_record_names_the_bytes_that_are_stored(settings, tracked):
    files = [path.read_bytes() for path in settings.artifacts.rglob("model.lgb")]
    stored = {hashlib.sha256(data).hexdigest() for data in files}
    assert stored == {t.registered.sha256 for t in tracked}
    assert len(files) == 3


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
    monkeypatch.setattr(logged, "figures", lambda model: {"no-such-format.xyz": object()})
    with pytest.raises(TypeError):
        tracking.track(settings, dataclasses.replace(models[EARLY], inputs="never seen"))
    assert tracking.registered_models(settings, "toy") == before
    experiment = client.get_experiment_by_name("qdag").experiment_id
    newest = client.search_runs([experiment], order_by=["attributes.start_time DESC"], max_results=1)[0]
    assert newest.info.status == "FAILED"
    client.delete_run(newest.info.run_id)


@pytest.fixture
def copied(settings, tracked, tmp_path):
    """The same settings on a copy of the home, as of a folder that was copied or moved."""
    shutil.copytree(settings.home, tmp_path / "a copy")
    return make_settings(tmp_path / "a copy")


def test_a_version_that_others_registered_never_serves(copied, tracked, store, tmp_path, caplog):
    """Whoever reaches MLflow can register a model that runs code when it is loaded; nothing of it is loaded."""
    import mlflow
    from mlflow import MlflowClient

    connection.prepare_store(copied)
    code = tmp_path / "hostile.py"
    code.write_text(
        "import mlflow\n"
        "class Hostile(mlflow.pyfunc.PythonModel):\n"
        f"    def load_context(self, context): open({str(tmp_path / 'RAN')!r}, 'w').write('')\n"
        "    def predict(self, context, model_input, params=None): return [1e9] * len(model_input)\n"
        "mlflow.models.set_model(Hostile())\n"
    )
    client = MlflowClient(tracking_uri=copied.tracking_uri)
    mlflow.set_tracking_uri(copied.tracking_uri)
    try:
        experiment = client.get_experiment_by_name("qdag").experiment_id
        with mlflow.start_run(experiment_id=experiment):
            made = mlflow.pyfunc.log_model(name="m", python_model=str(code), pip_requirements=[])
        tags = {"training_date": "2011-07-01", "universe": "toy", "run_id": tracked[0].run_id}
        hostile = mlflow.register_model(made.model_uri, "qdag-toy-lightgbm", tags=tags)
    finally:
        mlflow.set_tracking_uri(None)
    assert int(hostile.version) == 4
    assert [m.version for m in tracking.registered_models(copied, "toy")] == [2, 3, 1]
    assert "versions 4 in MLflow were not registered by this data home" in caplog.text
    got = predict(copied, store, "toy", SESSIONS[-5:])
    assert got.models == {"qdag-toy-lightgbm/1": 5}
    assert got.table["score"].to_numpy().max() < 1e6
    assert not (tmp_path / "RAN").exists()


def test_a_model_that_was_changed_in_mlflow_is_refused(copied, store, tracked, models):
    connection.prepare_store(copied)
    newest = tracking.registered_models(copied, "toy")[-1]
    for path in copied.artifacts.rglob("model.lgb"):
        path.write_text(models[EARLY].booster.model_to_string().replace("split_gain", "split_gain "))
    with pytest.raises(StoreError, match=r"qdag-toy-lightgbm/1 in MLflow is not the one that was trained.*2011-06"):
        tracking.load(copied, newest)
    for path in copied.artifacts.rglob("model.lgb"):
        path.unlink()
    with pytest.raises(StoreError, match=r"model.lgb of model qdag-toy-lightgbm/1 cannot be read"):
        tracking.load(copied, newest)


def test_a_copied_home_reads_and_writes_itself_alone(settings, copied, tracked, models, store, client):
    def files(home):
        return {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}

    before = files(settings.home)
    assert other_homes(copied) == (settings.artifacts.as_uri(),)
    sessions = SESSIONS[-5:]
    want = predict(settings, store, "toy", sessions).table
    assert predict(copied, store, "toy", sessions).table == want
    assert other_homes(copied) == ()
    model = dataclasses.replace(models[LATE], inputs="trained in the copy")
    made = tracking.track(copied, model)
    assert made.registered.version == 4
    assert (copied.artifacts / made.run_id).is_dir()
    with closing(sqlite3.connect(sqlite_path(copied.tracking_uri))) as kept:
        dump = "\n".join(kept.iterdump())
    assert settings.home.as_uri() + "/" not in dump
    assert f'"{settings.tables}/' not in dump
    assert f'"{copied.tables}/alpha158"' in dump
    assert files(settings.home) == before
    assert [m.version for m in tracking.registered_models(settings, "toy")] == [2, 3, 1]


def test_a_moved_home_loads_its_models(copied, store, tmp_path):
    moved = make_settings(tmp_path / "moved")
    copied.home.rename(moved.home)
    tracking.load(moved, tracking.registered_models(moved, "toy")[0])
    assert not copied.home.exists()


def test_a_home_by_another_name_keeps_its_addresses(copied, tmp_path):
    connection.prepare_store(copied)
    (tmp_path / "link").symlink_to(copied.home)
    linked = make_settings(tmp_path / "link")
    assert other_homes(linked) == ()


def test_models_come_back_from_a_backup_that_is_made_while_they_are_used(copied, store, tmp_path):
    """Registry, artifacts and records: in another home the same models serve, and nothing points back."""
    connection.prepare_store(copied)
    with closing(sqlite3.connect(copied.home / "mlflow" / "mlflow.db", isolation_level=None)) as busy:
        busy.execute("BEGIN IMMEDIATE")
        busy.execute("UPDATE registered_models SET description = 'not committed'")
        with saved_folders(copied) as folders:
            made = backup(store, tmp_path / "safe", folders=folders)
        busy.execute("ROLLBACK")
    assert made.folders["models"] == 3
    with saved_folders(copied) as folders:
        assert backup(store, tmp_path / "safe", folders=folders).copied == 0
    home = tmp_path / "restored"
    restored, tables = make_settings(home), TableStore(home / "tables")
    assert restore_backup(tables, tmp_path / "safe", home=home).folders == made.folders
    shutil.rmtree(copied.home)
    models = tracking.registered_models(restored, "toy")
    assert [model.version for model in models] == [2, 3, 1]
    assert tracking.load(restored, models[-1]).features
    assert len(predict(restored, tables, "toy", SESSIONS[-3:]).table) == 3 * len(INSTRUMENTS)
    assert other_homes(restored) == ()
    # what is there is not replaced unless one says so
    (home / "mlflow" / "artifacts" / "mine.txt").write_text("kept")
    with pytest.raises(StoreError, match=r"mlflow' is there already; .*--force"):
        restore_backup(TableStore(tmp_path / "no tables"), tmp_path / "safe", home=home)
    assert (home / "mlflow" / "artifacts" / "mine.txt").exists()
    restore_backup(tables, tmp_path / "safe", home=home, force=True)
    assert not (home / "mlflow" / "artifacts" / "mine.txt").exists()
    assert tracking.registered_models(restored, "toy") == models


def test_a_servers_store_is_in_no_backup_and_said_to_be_left_out(copied):
    address = {"tracking_uri": "http://me:secret@tracking:5000"}
    remote = copied.model_copy(update={"mlflow": copied.mlflow.model_copy(update=address)})
    with saved_folders(remote) as folders:
        assert {name: len(files) for name, files in folders.items()} == {"models": 3}
    assert "http://***@tracking:5000 is not the home's own" in not_saved(remote)
    assert not_saved(copied) == ""


def test_a_damaged_record_is_named(copied):
    (copied.home / "models" / "qdag-toy-lightgbm" / "2.json").write_text("{")
    with pytest.raises(StoreError, match=r"2.json' of a model cannot be read.*restore it"):
        tracking.registered_models(copied, "toy")


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
        connection.open_store(make_settings(tmp_path))


def test_importing_the_modules_imports_nothing_heavy():
    code = (
        "import sys, qdag.models.training, qdag.models.predict, qdag.models.tracking;"
        "heavy = {'qlib', 'lightgbm', 'mlflow', 'matplotlib', 'dagster', 'deltalake'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([os.sys.executable, "-c", code], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_home_that_cannot_be_written_still_tells_its_models(copied, settings, tracked):
    connection.prepare_store(copied)
    folders = [copied.home / "mlflow", *(p for p in (copied.home / "mlflow").rglob("*") if p.is_dir())]
    code = (
        "from conftest import make_settings; from qdag.models import tracking\n"
        f"settings = make_settings({str(copied.home)!r})\n"
        "models = tracking.registered_models(settings, 'toy')\n"
        "print([m.version for m in models], tracking.load(settings, models[0]).booster.num_feature())"
    )
    for folder in folders:
        folder.chmod(0o555)
    try:
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environ,
            capture_output=True,
            text=True,
            preexec_fn=unprivileged,
            check=True,
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.stdout == "[2, 3, 1] 4\n"


def test_a_servers_password_is_in_no_error(tmp_path, monkeypatch):
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made = make_settings(tmp_path)
    # nobody listens on that port
    address = "http://me:hunt%40er2@127.0.0.1:9"
    far = made.model_copy(update={"mlflow": made.mlflow.model_copy(update={"tracking_uri": address})})
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as raised:
        tracking.registered_models(far, "toy")
    assert "hunt" not in "".join(traceback.format_exception(raised.value))
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "hunt@er2"
