"""``qdag data backup`` and ``restore-backup``: what is kept, what comes back, and damage that a backup heals."""

import shutil
from datetime import date
from pathlib import Path

import pytest

from qdag.assets.platform import Platform
from qdag.errors import StoreError
from qdag.models.records import Registered, record
from qdag.operations import upkeep as maintenance
from qdag.settings import load_settings
from qdag_tests import stages
from qdag_tests.cli.homes import END, START, TABLES, contents, qdag, spoil


def test_what_a_registered_model_read_is_kept(folder, platform):
    """The version stays when retention would delete it, is verified, and is in the backup."""
    from mlflow import MlflowClient

    read = platform.store.version("labels")
    before = platform.store.read("labels", "toy", version=read).to_pandas()
    stages.labels(platform, "toy", START, END)
    assert maintenance.protected_versions(platform.settings) == {}
    uri = platform.settings.tracking_uri
    Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    run = client.create_run(client.create_experiment("test"))
    name = "qdag-gone-lightgbm"  # a universe that the settings no longer have
    client.create_registered_model(name)
    client.create_model_version(name, (folder / "model").as_uri(), run.info.run_id)
    # what others registered protects nothing: it never serves
    assert maintenance.protected_versions(platform.settings) == {}
    known = Registered(name, 1, "gone", date(2018, 6, 29), run.info.run_id, versions={"labels": read})
    record(platform.settings, known)
    assert maintenance.protected_versions(platform.settings) == {"labels": {read}}
    (done,) = maintenance.vacuum(platform, ["labels"], versions=1, days=0)
    assert done.kept == (read, read + 1)
    assert platform.store.read("labels", "toy", version=read).to_pandas().equals(before)
    assert "read by a model" in qdag(folder, "versions", "labels")
    told = qdag(folder, "backup", folder / "safe")
    assert f"{read} .. {read + 1}" in told
    assert "models and experiments: models 1 files, mlflow 1 files" in told
    # its damage is found, cannot be computed again, and comes back from the backup byte by byte
    paths = [set(platform.store.files("labels", v)["path"].to_pylist()) for v in (read, None)]
    path = min(paths[0] - paths[1])
    file = platform.store.folder("labels") / path
    file.write_bytes(file.read_bytes()[:-1])
    assert f"(needed by version {read} only)" in qdag(folder, "verify", "labels", code=1)
    assert "only a backup has it" in qdag(folder, "verify", "labels", "--repair", code=1)
    assert "1 files came back" in qdag(folder, "verify", "labels", "--repair", "--from", folder / "safe")
    assert platform.store.read("labels", "toy", version=read).to_pandas().equals(before)
    client.delete_model_version(name, "1")
    assert maintenance.protected_versions(platform.settings) == {}


def test_a_backup_heals_without_computing(folder, platform):
    before, east = contents(platform), contents(platform, "east")
    qdag(folder, "backup", folder / "safe")
    versions = {table: platform.store.version(table) for table in TABLES}
    spoil(platform)
    assert "3 files came back" in qdag(folder, "verify", "--repair", "--from", folder / "safe")
    assert {table: platform.store.version(table) for table in TABLES} == versions
    assert all(frame.equals(before[table]) for table, frame in contents(platform).items())
    assert all(frame.equals(east[table]) for table, frame in contents(platform, "east").items())


def test_backup_and_restore_into_an_empty_home(folder, platform, tmp_path):
    assert "copied" in qdag(folder, "backup", folder / "safe")
    assert "0 new" in qdag(folder, "backup", folder / "safe")
    assert len(qdag(folder, "backup", folder / "safe", "--list").splitlines()) == 3
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(folder / "qdag.toml", other)
    out = qdag(other, "restore-backup", folder / "safe")
    assert "qdag materialize qlib_bin" in out
    restored = Platform.open(load_settings(other / "qdag.toml"))
    before = contents(platform)
    for table, frame in contents(restored).items():
        assert frame.equals(before[table])
        assert restored.store.version(table) == platform.store.version(table)
    with pytest.raises(StoreError, match=r"--force"):
        qdag(other, "restore-backup", folder / "safe")
    qdag(other, "restore-backup", folder / "safe", "--force", "--table", "labels")
    # the chain goes on from there
    stages.qlib_bin(restored, "toy", START, END)
    stages.labels(restored, "toy", START, END)
    assert contents(restored)["labels"].equals(before["labels"])
