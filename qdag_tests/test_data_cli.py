"""``qdag data`` on a small data home: every command, and repair that gives back what was there."""

import os
import shutil
from datetime import date
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from qdag import maintenance, stages
from qdag.cli import app
from qdag.errors import StoreError, UnknownNameError
from qdag.models.records import Registered, record
from qdag.quality import profile_table, quality_table
from qdag.refresh import survey
from qdag.schema import DELIVERIES
from qdag.settings import RetentionSettings, Settings, load_settings
from qdag.stages import Platform
from qdag.store.integrity import verify
from qdag.store.tables import TableStore

TOML = """
home = "home"
horizons = [1, 5]
[universes.toy]
calendar = "XNYS"
start = 2018-01-02
end = 2018-06-29
source = { kind = "synthetic", seed = 3, instruments = 6 }
[universes.east]
calendar = "XSHG"
start = 2018-01-02
end = 2018-06-29
source = { kind = "synthetic", seed = 4, instruments = 4 }
"""
START, END = date(2018, 1, 2), date(2018, 6, 29)
TABLES = ("basic_statistics", "labels", "raw_ohlcv")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "qdag.toml").write_text(TOML)
    platform = Platform.open(load_settings(folder / "qdag.toml", {})).for_run("run-of-the-fixture")
    for universe in ("toy", "east"):
        for stage in (
            stages.raw_ohlcv,
            stages.qlib_bin,
            stages.feature_stage("basic_statistics"),
            stages.labels,
        ):
            stage(platform, universe, START, END)
    return folder


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What a command sets for the processes that it starts stays within the test."""
    with patch.dict(os.environ):
        for name in [n for n in os.environ if n.startswith(("QDAG_", "DAGSTER_"))]:
            monkeypatch.delenv(name)
        yield


@pytest.fixture
def folder(original, tmp_path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def platform(folder) -> Platform:
    return Platform.open(load_settings(folder / "qdag.toml"))


def qdag(folder, *arguments, code=0):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["data", *map(str, arguments), "--config", str(folder / "qdag.toml")]
    )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def file_of(platform, table, universe="toy", month="2018-03"):
    files = platform.store.files(table).to_pylist()
    path = next(f["path"] for f in files if (f["universe"], f["month"]) == (universe, month))
    return platform.store.folder(table) / path


def contents(platform, universe="toy"):
    return {table: platform.store.read(table, universe).to_pandas() for table in TABLES}


def test_versions_show_and_diff(folder, platform):
    lines = qdag(folder, "versions", "labels").splitlines()
    written = next(line for line in lines if " toy " in line)
    assert "2018-01-02 .. 2018-06-29" in written
    assert "run-of-t" in written
    assert f"raw_ohlcv {platform.store.version('raw_ohlcv') - 1}" in written
    assert stages.definition(platform.settings, "toy", "labels").version in written
    before = platform.store.version("raw_ohlcv")
    rows = platform.store.read("raw_ohlcv", "toy", END, END)
    changed = rows.set_column(6, "close", [[value + 1 for value in rows["low"].to_pylist()]]).slice(1)
    platform.store.replace(stages.schema.RAW_OHLCV, "toy", END, END, changed, {})
    out = qdag(folder, "diff", "raw_ohlcv", before, before + 1)
    count = rows.num_rows
    assert f"0 rows added, {count - 1} changed, 1 removed (1 universe-months compared" in out
    assert f"close               {count - 1}" in " ".join(out.split("\n"))
    assert "raw_ohlcv" in qdag(folder, "diff", "raw_ohlcv", before, before + 1, "--universe", "east")
    newest = qdag(folder, "show", "raw_ohlcv", "-u", "toy", "--rows", 1, "--columns", "close")
    older = qdag(folder, "show", "raw_ohlcv", "-u", "toy", "--rows", 1, "--columns", "close", "--version", before)
    assert newest != older
    assert f"version {before + 2} has the contents of version {before}" in qdag(folder, "restore", "raw_ohlcv", before)
    assert "of version" in qdag(folder, "versions", "raw_ohlcv", "--limit", 1)
    assert qdag(folder, "show", "raw_ohlcv", "-u", "toy", "--rows", 1, "--columns", "close") == older


def test_names_that_do_not_exist(folder):
    for command in (("versions", "label"), ("diff", "label", 0, 1), ("restore", "label", 1), ("vacuum", "label")):
        with pytest.raises(UnknownNameError, match=r"did you mean 'labels'"):
            qdag(folder, *command)
    with pytest.raises(StoreError, match=r"version 99"):
        qdag(folder, "diff", "labels", 1, 99)


def test_compact_and_vacuum(folder, platform):
    for day in (date(2018, 3, 5), date(2018, 3, 6)):
        stages.feature_stage("basic_statistics")(platform, "toy", day, day)
    before = contents(platform)
    qdag(folder, "compact", "basic_statistics")
    planned = qdag(folder, "vacuum", "--keep-versions", 1, "--keep-days", 0, "--dry-run")
    assert len(platform.store.stored_files("basic_statistics")) > platform.store.files("basic_statistics").num_rows
    done = qdag(folder, "vacuum", "--keep-versions", 1, "--keep-days", 0)
    assert planned.split()[-15:] == done.split()[-15:]
    assert len(platform.store.stored_files("basic_statistics")) == platform.store.files("basic_statistics").num_rows
    for table, frame in contents(platform).items():
        assert frame.equals(before[table])
    assert "files gone" in qdag(folder, "versions", "basic_statistics")


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
    assert f"{read} .. {read + 1}" in qdag(folder, "backup", folder / "safe")
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


def test_retention_settings_are_the_default(folder, platform):
    settings = platform.settings.model_copy(update={"retention": RetentionSettings(versions=1, days=0)})
    stages.labels(platform, "toy", START, END)
    newest = platform.store.version("labels")
    (done,) = maintenance.vacuum(Platform(settings, platform.store), ["labels"])
    assert done.kept == (newest,)
    (kept,) = maintenance.vacuum(platform, ["labels"], dry_run=True)
    assert kept.files == ()


def _damage(platform):
    file_of(platform, "raw_ohlcv").unlink()
    flipped = file_of(platform, "basic_statistics")
    content = bytearray(flipped.read_bytes())
    content[len(content) // 3] ^= 1
    flipped.write_bytes(content)
    file_of(platform, "labels", "east", "2018-05").write_bytes(b"<html>moved</html>")


def test_repair_gives_back_exactly_what_was_lost(folder, platform, monkeypatch):
    before, east = contents(platform), contents(platform, "east")
    assert "damaged" in qdag(folder, "verify")
    _damage(platform)
    out = qdag(folder, "verify", code=1)
    assert out.count("DAMAGED") == 3
    march = len(platform.calendar("toy").between(date(2018, 3, 1), date(2018, 3, 31)))
    for line in (f"raw_ohlcv of toy: {march} sessions", f"basic_statistics of toy: {march} sessions", "labels of east"):
        assert line in out
    out = qdag(folder, "verify", "--repair")
    assert out.count("as before") == 3
    qdag(folder, "verify")
    for universe, frames in (("toy", before), ("east", east)):
        for table, frame in contents(platform, universe).items():
            assert frame.equals(frames[table]), (universe, table)
    newest = platform.store.history("basic_statistics")[0]
    assert (newest["universe"], newest["start"], newest["end"]) == ("toy", date(2018, 3, 1), date(2018, 3, 29))
    assert newest["provenance"]["reason"] == "repair"
    assert "repair" in qdag(folder, "versions", "basic_statistics", "--limit", 1)


def test_a_backup_heals_without_computing(folder, platform):
    before, east = contents(platform), contents(platform, "east")
    qdag(folder, "backup", folder / "safe")
    versions = {table: platform.store.version(table) for table in TABLES}
    _damage(platform)
    assert "3 files came back" in qdag(folder, "verify", "--repair", "--from", folder / "safe")
    assert {table: platform.store.version(table) for table in TABLES} == versions
    assert all(frame.equals(before[table]) for table, frame in contents(platform).items())
    assert all(frame.equals(east[table]) for table, frame in contents(platform, "east").items())


def _stale(platform, universe="toy"):
    found = survey(platform, universe, ("qlib_bin", "basic_statistics", "labels")).stale
    return {name: len(stale.sessions) for name, stale in found.items() if stale}


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


class Died(BaseException):
    pass


@pytest.mark.parametrize("table", ["raw_ohlcv", "basic_statistics"])
def test_a_repair_that_dies_loses_nothing(folder, platform, monkeypatch, table):
    """Before any of its commits: what is not right yet is damage, which the next repair finds, and stays told."""
    before, start = contents(platform), contents_of(folder / "home")
    commit, allowed, done = TableStore._commit, 0, False

    def dying(*arguments):
        nonlocal left
        if not left:
            raise Died
        left -= 1
        return commit(*arguments)

    while not done:
        restore_contents(folder / "home", start)
        platform = Platform.open(platform.settings)
        file = file_of(platform, table)
        _flip(file)
        left = allowed
        with monkeypatch.context() as patch:
            patch.setattr(TableStore, "_commit", dying)
            try:
                maintenance.repair(platform, verify(platform.store, table).damage)
                done = True
            except Died:
                allowed += 1
        damage = verify(platform.store, table).damage
        assert damage or platform.store.read(table, "toy").to_pandas().equals(before[table])
        assert not (done and damage)
        maintenance.repair(platform, damage)
        assert all(frame.equals(before[name]) for name, frame in contents(platform).items())
    assert allowed > 1
    _refresh(platform)
    assert all(frame.equals(before[name]) for name, frame in contents(platform).items())


def contents_of(home):
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def restore_contents(home, contents):
    shutil.rmtree(home)
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _refresh(platform, universe="toy"):
    """Materialize what is stale until nothing is."""
    run = {
        "qlib_bin": stages.qlib_bin,
        "basic_statistics": stages.feature_stage("basic_statistics"),
        "labels": stages.labels,
    }
    for _ in range(5):
        requests = survey(platform, universe, tuple(run)).requests
        for request in requests:
            for asset in request.assets:
                run[asset](platform, universe, request.start, request.end)
        if not requests:
            return
    raise AssertionError(requests)


def test_damaged_bookkeeping_stops_no_repair(folder, platform):
    """Records that are lost make their sessions stale, in a message of their own; everything else is computed again."""
    before = contents(platform)
    assert _stale(platform) == {}
    _flip(file_of(platform, "lineage", month="2018-01"))
    _flip(file_of(platform, "basic_statistics"))
    with pytest.raises(StoreError, match=r"'lineage' cannot be read: .*--repair"):
        _stale(Platform.open(platform.settings))
    out = qdag(folder, "verify", "--repair")
    assert "rows of damaged files are taken out; `qdag refresh` computes the sessions again that have no record" in out
    assert "repaired basic_statistics of toy" in out
    assert "repaired lineage" not in out
    qdag(folder, "verify")
    assert set(_stale(platform)) == {"qlib_bin", "basic_statistics", "labels"}
    _refresh(platform)
    assert all(frame.equals(before[table]) for table, frame in contents(platform).items())


@pytest.mark.parametrize(
    ("spec", "comes_back"),
    [
        (DELIVERIES, "the files are read again when raw_ohlcv is materialized"),
        (quality_table("labels"), "the rules are judged again when labels is materialized"),
        (profile_table("labels"), "they are measured again when labels is materialized"),
    ],
)
def test_what_is_only_written_down_is_taken_out_and_comes_back_by_itself(folder, platform, spec, comes_back):
    values = {"date32": START, "string": "a", "int64": 1, "float32": 1.0, "float64": 1.0}
    row = {column.name: values[column.dtype] for column in spec.columns} | {"universe": "toy"}
    platform.store.replace(spec, "toy", START, START, pa.Table.from_pylist([row], schema=spec.arrow()), {})
    _flip(file_of(platform, spec.name, month="2018-01"))
    _flip(file_of(platform, "labels"))
    out = qdag(folder, "verify", "--repair")
    assert f"{spec.name}: 1 rows of damaged files are taken out; {comes_back}" in out
    assert "repaired labels of toy" in out
    qdag(folder, "verify")


def test_logs_that_a_power_cut_has_torn_are_repaired(folder, platform):
    """What the lost commits had brought is stale, or read again from the source."""
    before = contents(platform)
    day = date(2018, 3, 5)
    for stage in (stages.qlib_bin, stages.feature_stage("basic_statistics"), stages.labels):
        stage(platform, "toy", day, day)
    versions = {table: platform.store.version(table) for table in (*TABLES, "lineage")}
    for table in (*TABLES, "lineage"):
        log = platform.store.folder(table) / "_delta_log"
        (log / f"{versions[table]:020d}.json").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot be opened: .*`qdag data verify"):
        stages.labels(platform, "toy", day, day)
    out = qdag(folder, "verify", code=1)
    assert out.count("is empty") == 4
    out = qdag(folder, "verify", "--repair")
    for table in TABLES:
        newest = f"the newest version is {versions[table] - 1}"
        assert f"{table}: commits from version {versions[table]} on are taken out of its log; {newest}" in out
    assert "raw_ohlcv of toy is read again from its source" in out
    qdag(folder, "verify")
    for universe in ("toy", "east"):
        _refresh(platform, universe)
    assert all(frame.equals(before[table]) for table, frame in contents(platform).items())


def test_a_torn_file_of_checksums_is_made_anew(folder, platform):
    store = platform.store
    path = store.files("labels")["path"][0].as_py()
    store.record("labels", store.version("labels"), {path: store.checksums("labels")[path]})
    (file,) = (store.folder("labels") / "_checksums").iterdir()
    file.write_bytes(b"")
    assert f"DAMAGED labels/_checksums/{file.name}: is torn" in qdag(folder, "verify", code=1)
    for command in ("vacuum", "compact"):
        qdag(folder, command)
    qdag(folder, "backup", folder / "safe")
    qdag(folder, "verify", "--repair")
    qdag(folder, "verify")


def test_rows_of_old_versions_are_not_counted(folder, platform):
    rows = platform.store.count("labels", "toy") + platform.store.count("labels", "east")
    read = platform.store.version("labels")
    stages.labels(platform, "toy", START, END)
    with patch.object(maintenance, "protected_versions", lambda settings: {"labels": {read}}):
        (found,) = maintenance.verify_tables(platform, ["labels"])
    assert found.rows == rows
    assert found.files > platform.store.files("labels").num_rows


def test_what_cannot_be_repaired_stops_nothing_else(folder, platform):
    """A table of a universe that is no longer in the settings stays damaged, and is told."""
    _damage(platform)
    toml = (folder / "qdag.toml").read_text()
    (folder / "qdag.toml").write_text(toml[: toml.index("[universes.east]")])
    out = qdag(folder, "verify", "--repair", code=1)
    assert out.count("as before") == 2
    assert "not repaired: labels/universe=east/" in out
    assert "universe 'east' is not in the settings" in out


def test_a_repair_that_fails_leaves_the_table_as_it_was(folder, platform):
    """The source is gone: the damaged file is back in its place, and the rest can still be read."""
    file = file_of(platform, "raw_ohlcv")
    file.write_bytes(b"damaged")
    source = f'source = {{ kind = "files", path = "{folder}/gone" }}'
    toml = (folder / "qdag.toml").read_text()
    other = toml.replace('source = { kind = "synthetic", seed = 3, instruments = 6 }', source)
    (folder / "other.toml").write_text(other)
    broken = Platform.open(load_settings(folder / "other.toml"))
    damage = verify(platform.store, "raw_ohlcv").damage
    with pytest.raises(Exception, match=r"gone"):
        maintenance.repair(broken, damage)
    assert file.read_bytes() == b"damaged"
    assert [d.file for d in verify(platform.store, "raw_ohlcv").damage] == [d.file for d in damage]
    assert platform.store.read("raw_ohlcv", "toy", date(2018, 4, 1)).num_rows > 0
    maintenance.repair(platform, damage)
    assert not verify(platform.store, "raw_ohlcv").damage


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


def test_settings_of_retention():
    assert Settings().retention == RetentionSettings(versions=10, days=30)
    assert load_settings(environ={"QDAG_RETENTION__DAYS": "7"}).retention.days == 7
