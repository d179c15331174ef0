"""``qdag data`` on a small data home: versions, what differs between them, retention, small files."""

from datetime import date
from unittest.mock import patch

import pytest

from qdag import schema
from qdag.assets.platform import Platform
from qdag.errors import StoreError, UnknownNameError
from qdag.operations import upkeep as maintenance
from qdag.settings import RetentionSettings, Settings, load_settings
from qdag_tests import stages
from qdag_tests.cli.homes import END, START, contents, qdag


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
    platform.store.replace(schema.RAW_OHLCV, "toy", END, END, changed, {})
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


def test_names_and_versions_that_do_not_exist(folder, platform):
    for command in (("versions", "label"), ("diff", "label", 0, 1), ("restore", "label", 1), ("vacuum", "label")):
        with pytest.raises(UnknownNameError, match=r"did you mean 'labels'"):
            qdag(folder, *command)
    newest = platform.store.version("labels")
    there = rf"no version 99; the nearest is {newest}, there are 0 \.\. {newest}; `qdag data versions labels` tells"
    for command in (("restore", "labels", 99), ("diff", "labels", 1, 99)):
        with pytest.raises(StoreError, match=there):
            qdag(folder, *command)
    platform.store.folder("labels").joinpath("_delta_log", f"{0:020d}.json").unlink()
    with pytest.raises(StoreError, match=r"version 1 of table 'labels' cannot be opened: commits .* gone"):
        qdag(folder, "restore", "labels", 1)


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


def test_retention_settings_are_the_default(folder, platform):
    settings = platform.settings.model_copy(update={"retention": RetentionSettings(versions=1, days=0)})
    stages.labels(platform, "toy", START, END)
    newest = platform.store.version("labels")
    (done,) = maintenance.vacuum(Platform(settings, platform.store), ["labels"])
    assert done.kept == (newest,)
    (kept,) = maintenance.vacuum(platform, ["labels"], dry_run=True)
    assert kept.files == ()


def test_rows_of_old_versions_are_not_counted(folder, platform):
    rows = platform.store.count("labels", "toy") + platform.store.count("labels", "east")
    read = platform.store.version("labels")
    stages.labels(platform, "toy", START, END)
    with patch.object(maintenance, "protected_versions", lambda settings: {"labels": {read}}):
        (found,) = maintenance.verify_tables(platform, ["labels"])
    assert found.rows == rows
    assert found.files > platform.store.files("labels").num_rows


def test_settings_of_retention():
    assert Settings().retention == RetentionSettings(versions=10, days=30)
    assert load_settings(environ={"QDAG_RETENTION__DAYS": "7"}).retention.days == 7
