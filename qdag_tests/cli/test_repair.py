"""``qdag data verify``: damage is found, and repair gives back what was there, whatever it is interrupted by."""

import shutil
from datetime import date

import pyarrow as pa
import pytest

from qdag.assets.platform import Platform
from qdag.errors import StoreError
from qdag.operations import repair as repairs
from qdag.operations.survey import survey
from qdag.quality import profile_table, quality_table
from qdag.schema import DELIVERIES
from qdag.settings import load_settings
from qdag.store.integrity import verify
from qdag.store.tables import commit as commits
from qdag_tests import stages
from qdag_tests.cli.homes import START, TABLES, contents, file_of, flip, qdag, spoil


def stale(platform, universe="toy"):
    found = survey(platform, universe, ("qlib_bin", "basic_statistics", "labels")).stale
    return {name: len(stale.sessions) for name, stale in found.items() if stale}


def refresh(platform, universe="toy"):
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


def contents_of(home):
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def restore_contents(home, contents):
    shutil.rmtree(home)
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_repair_gives_back_exactly_what_was_lost(folder, platform, monkeypatch):
    before, east = contents(platform), contents(platform, "east")
    assert "damaged" in qdag(folder, "verify")
    spoil(platform)
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


class Died(BaseException):
    pass


@pytest.mark.parametrize("table", ["raw_ohlcv", "basic_statistics"])
def test_a_repair_that_dies_loses_nothing(folder, platform, monkeypatch, table):
    """Before any of its commits: what is not right yet is damage, which the next repair finds, and stays told."""
    before, start = contents(platform), contents_of(folder / "home")
    commit, allowed, done = commits._publish, 0, False

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
        flip(file)
        left = allowed
        with monkeypatch.context() as patch:
            patch.setattr(commits, "_publish", dying)
            try:
                repairs.repair(platform, verify(platform.store, table).damage)
                done = True
            except Died:
                allowed += 1
        damage = verify(platform.store, table).damage
        assert damage or platform.store.read(table, "toy").to_pandas().equals(before[table])
        assert not (done and damage)
        repairs.repair(platform, damage)
        assert all(frame.equals(before[name]) for name, frame in contents(platform).items())
    assert allowed > 1
    refresh(platform)
    assert all(frame.equals(before[name]) for name, frame in contents(platform).items())


def test_damaged_bookkeeping_stops_no_repair(folder, platform):
    """Records that are lost make their sessions stale, in a message of their own; everything else is computed again."""
    before = contents(platform)
    assert stale(platform) == {}
    flip(file_of(platform, "lineage", month="2018-01"))
    flip(file_of(platform, "basic_statistics"))
    with pytest.raises(StoreError, match=r"'lineage' cannot be read: .*--repair"):
        stale(Platform.open(platform.settings))
    out = qdag(folder, "verify", "--repair")
    assert "rows of damaged files are taken out; `qdag refresh` computes the sessions again that have no record" in out
    assert "repaired basic_statistics of toy" in out
    assert "repaired lineage" not in out
    qdag(folder, "verify")
    assert set(stale(platform)) == {"qlib_bin", "basic_statistics", "labels"}
    refresh(platform)
    assert all(frame.equals(before[table]) for table, frame in contents(platform).items())


@pytest.mark.parametrize("content", [None, b"<html>moved</html>"], ids=["lost", "foreign"])
def test_what_looks_for_stale_sessions_names_a_damaged_file_and_its_remedy(platform, content):
    # rows that have no record are read to be recorded
    shutil.rmtree(platform.store.folder("lineage"))
    file = file_of(platform, "raw_ohlcv")
    file.unlink()
    if content:
        file.write_bytes(content)
    told = rf"'raw_ohlcv' cannot be read: its file '.*{file.name}' is .*`qdag data verify raw_ohlcv`.*--repair"
    with pytest.raises(StoreError, match=told):
        stale(Platform.open(platform.settings))


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
    flip(file_of(platform, spec.name, month="2018-01"))
    flip(file_of(platform, "labels"))
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
        refresh(platform, universe)
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


def test_what_cannot_be_repaired_stops_nothing_else(folder, platform):
    """A table of a universe that is no longer in the settings stays damaged, and is told."""
    spoil(platform)
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
        repairs.repair(broken, damage)
    assert file.read_bytes() == b"damaged"
    assert [d.file for d in verify(platform.store, "raw_ohlcv").damage] == [d.file for d in damage]
    assert platform.store.read("raw_ohlcv", "toy", date(2018, 4, 1)).num_rows > 0
    repairs.repair(platform, damage)
    assert not verify(platform.store, "raw_ohlcv").damage
