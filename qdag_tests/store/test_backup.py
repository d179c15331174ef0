"""Backups: equal tables at equal versions, only new files copied, damage never copied, nothing overwritten unasked."""

import json
import shutil
import subprocess
import sys
import textwrap
import traceback
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from qdag.errors import MissingDataError, StoreError, UnknownNameError
from qdag.schema import feature_table
from qdag.store.backup import backup, backups, restore_backup
from qdag.store.integrity import verify
from qdag.store.tables import TableStore

DAY = date(2020, 1, 30)
ONE = feature_table("one", [("x", "a feature")], "for tests")
TWO = feature_table("two", [("x", "a feature")], "for tests")


def write(store, spec, start, end, value=1.0, universe="u", **provenance):
    days = [DAY + timedelta(days=d) for d in range(start, end + 1) for _ in "ABC"]
    data = {
        "universe": [universe] * len(days),
        "date": days,
        "instrument": [*"ABC"] * (end - start + 1),
        "x": [value] * len(days),
    }
    last = DAY + timedelta(days=end)
    return store.replace(spec, universe, days[0], last, pa.table(data, schema=spec.arrow()), provenance)


@pytest.fixture
def store(tmp_path):
    store = TableStore(tmp_path / "home" / "tables")
    for value in (1.0, 2.0, 3.0):
        write(store, ONE, 0, 40, value, run=str(value))
    write(store, TWO, 0, 5, 1.0)
    return store


def same(left, right, names=("one", "two")):
    assert left.names() == right.names() == sorted(names)
    for name in names:
        assert left.version(name) == right.version(name)
        assert left.read(name, "u").equals(right.read(name, "u"))
        assert left.history(name) == right.history(name)
        assert left.files(name).equals(right.files(name))


@pytest.mark.parametrize("url", [False, True])
def test_into_an_empty_home_and_on_from_there(store, tmp_path, url):
    target = f"file://{tmp_path}/safe" if url else tmp_path / "safe"
    made = backup(store, target, {"one": [2]})
    assert made.versions == {"one": 3, "two": 1}
    assert made.readable == {"one": (2, 3), "two": (1,)}
    assert made.copied == made.files
    other = TableStore(tmp_path / "other" / "tables")
    assert restore_backup(other, target).versions == made.versions
    same(store, other)
    assert other.read("one", "u", version=2).equals(store.read("one", "u", version=2))
    with pytest.raises(StoreError, match=r"version 1 of table 'one' cannot be read: its file .* was vacuumed or lost"):
        other.read("one", "u", version=1)
    for name in ("one", "two"):
        found = verify(other, name)
        assert found.with_checksum == found.files
        assert not found.damage
    # writing goes on with the next version
    assert write(other, ONE, 0, 1, 9.0) == 4
    assert not list(other.folder("one").parent.glob("_*"))


def test_only_what_is_new_is_copied(store, tmp_path):
    target = tmp_path / "safe"
    first = backup(store, target)
    again = backup(store, target)
    assert (again.copied, again.copied_size) == (0, 0)
    write(store, ONE, 40, 41, 7.0)
    third = backup(store, target)
    # one month's file and the commit that brought it
    assert third.copied == 2
    assert [b.id for b in backups(target)] == [third.id, again.id, first.id]
    assert [b.versions["one"] for b in backups(target)] == [4, 3, 3]
    older = TableStore(tmp_path / "older")
    restore_backup(older, target, first.id)
    assert older.version("one") == 3
    newer = TableStore(tmp_path / "newer")
    restore_backup(newer, target)
    same(store, newer)


def test_two_histories_of_one_table_live_in_one_target(store, tmp_path):
    """Restore an old backup, write on: version 4 is now another one than the backed-up version 4."""
    target = tmp_path / "safe"
    first = backup(store, target)
    write(store, ONE, 0, 0, 4.0)
    second = backup(store, target)
    original = store.read("one", "u")
    restore_backup(store, target, first.id, force=True)
    assert write(store, ONE, 0, 0, 5.0) == 4
    third = backup(store, target)
    for made, value in ((second, 4.0), (third, 5.0)):
        other = TableStore(tmp_path / made.id)
        restore_backup(other, target, made.id)
        assert other.read("one", "u")["x"][0].as_py() == value
    restore_backup(store, target, second.id, force=True)
    assert store.read("one", "u").equals(original)


def test_refuses_to_overwrite(store, tmp_path):
    target = tmp_path / "safe"
    backup(store, target)
    write(store, ONE, 0, 0, 9.0)
    write(store, feature_table("three", [("x", "")], ""), 0, 0)
    before = store.read("one", "u")
    with pytest.raises(StoreError, match=r"'one' is stored already .*--force"):
        restore_backup(store, target)
    # a table that is not there is no reason to touch the one that is
    assert store.read("one", "u").equals(before)
    restore_backup(store, target, tables=["one"], force=True)
    assert store.version("one") == 3
    assert not store.read("one", "u").equals(before)
    assert store.names() == ["one", "three", "two"]
    assert not list(Path(store.root).glob("_*"))


@pytest.mark.parametrize("in_place", [False, True])
def test_a_restore_that_died_between_its_renames_is_ended_by_the_next(store, tmp_path, in_place):
    """Out of the way is the old table, which nothing else would find again; the new one is there, or not yet."""
    target = tmp_path / "safe"
    backup(store, target)
    write(store, ONE, 0, 0, 9.0)
    folder = store.folder("one")
    (folder.rename if not in_place else lambda to: shutil.copytree(folder, to))(folder.with_name("_replaced-one-77"))
    folder.with_name("_restoring-one-77").mkdir()
    with pytest.raises(StoreError, match=r"'one' is stored already"):
        restore_backup(store, target, tables=["one"])
    assert TableStore(store.root).read("one", "u")["x"][0].as_py() == 9.0
    assert not list(folder.parent.glob("_*"))


def test_what_is_not_there(store, tmp_path):
    with pytest.raises(MissingDataError, match=r"holds no backup"):
        restore_backup(store, tmp_path / "nothing")
    with pytest.raises(MissingDataError, match=r"no table is stored"):
        backup(TableStore(tmp_path / "empty"), tmp_path / "safe")
    backup(store, tmp_path / "safe")
    with pytest.raises(UnknownNameError, match=r"unknown backup '2020'"):
        restore_backup(store, tmp_path / "safe", "2020")
    with pytest.raises(UnknownNameError, match=r"did you mean 'two'"):
        restore_backup(store, tmp_path / "safe", tables=["tow"])
    with pytest.raises(StoreError, match=r"'zz://x' cannot be opened"):
        backup(store, "zz://x")
    with pytest.raises(StoreError, match=r"inside the tables' own folder"):
        backup(store, Path(store.root) / "safe")


def _flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def test_damage_is_not_copied(store, tmp_path):
    path = store.files("one")["path"][0].as_py()
    file = store.folder("one") / path
    sound = file.read_bytes()
    _flip(file)
    with pytest.raises(StoreError, match=r"is damaged: SHA-256"):
        backup(store, tmp_path / "safe")
    assert backups(tmp_path / "safe") == []
    assert not list((tmp_path / "safe" / "partial").iterdir())
    file.unlink()
    with pytest.raises(StoreError, match=r"missing or damaged; run `qdag data verify one --repair`"):
        backup(store, tmp_path / "safe")
    file.write_bytes(sound)
    made = backup(store, tmp_path / "safe")
    # a damaged object: the table that needs it does not appear, and what was there stays
    _flip(next(f for f in (tmp_path / "safe" / "objects").rglob("*") if f.is_file() and f.read_bytes() == sound))
    other = TableStore(tmp_path / "other")
    write(other, ONE, 0, 0, 8.0)
    before = other.read("one", "u")
    with pytest.raises(StoreError, match=r"object .* of the backup .* is damaged"):
        restore_backup(other, tmp_path / "safe", made.id, force=True)
    assert other.read("one", "u").equals(before)
    assert [p.name for p in Path(other.root).iterdir()] == ["one"]


@pytest.mark.parametrize("path", ["../../outside", "/tmp/outside"])
def test_a_manifest_cannot_point_outside(store, tmp_path, path):
    made = backup(store, tmp_path / "safe")
    file = tmp_path / "safe" / "manifests" / f"{made.id}.json"
    manifest = json.loads(file.read_text())
    manifest["tables"]["one"]["files"][0]["path"] = path
    file.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"outside the table"):
        restore_backup(TableStore(tmp_path / "a" / "b" / "other"), tmp_path / "safe")
    assert not (tmp_path / "a" / "outside").exists()
    manifest["tables"] = {"../x": manifest["tables"]["two"]}
    file.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"must match"):
        restore_backup(TableStore(tmp_path / "c" / "other"), tmp_path / "safe")
    manifest |= {"tables": {}, "folders": {"../x": [{"path": "x"}]}}
    file.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"folder name '../x' must match"):
        restore_backup(TableStore(tmp_path / "c" / "other"), tmp_path / "safe", home=tmp_path / "c")
    file.write_text("{")
    with pytest.raises(StoreError, match=r"manifest .* is damaged"):
        backups(tmp_path / "safe")


def test_a_backup_while_others_write_is_a_moment_of_the_log(store, tmp_path):
    """Two tables are written in turn, two always after one: no moment has two ahead of one."""
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_backup import ONE, TWO, TableStore, write
        store = TableStore(sys.argv[1])
        for value in range(100, 2000):
            for spec in (ONE, TWO):
                write(store, spec, 0, 5, float(value))
            print(value, flush=True)
    """)
    writer = subprocess.Popen([sys.executable, "-c", script, store.root], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline()
        made = [backup(store, tmp_path / "safe") for _ in range(4)]
    finally:
        writer.kill()
        writer.communicate()
    assert made[-1].versions["one"] > made[0].versions["one"]
    for one in made:
        other = TableStore(tmp_path / one.id)
        restore_backup(other, tmp_path / "safe", one.id)
        first, second = other.read("one", "u"), other.read("two", "u")
        values = first["x"][0].as_py(), second["x"][0].as_py()
        assert values[0] - values[1] in (0.0, 1.0), (values, one.versions)
        assert len(second["x"].unique()) == 1
        assert first.equals(store.read("one", "u", version=one.versions["one"]))
        assert not verify(other, "one").damage


def test_credentials_of_a_target_are_in_no_error(store):
    # put together here: a traceback shows the lines of this file
    secret = "hunter" + "2"
    with pytest.raises(StoreError, match=r"s3://\*\*\*@bucket/x\?bad=1.*cannot be opened") as raised:
        backup(store, f"s3://AKIA1:{secret}@bucket/x?bad=1")
    # as Dagster shows an error, with what it comes from
    assert secret not in "".join(traceback.format_exception(raised.value))


def test_a_clock_that_was_set_back_leaves_nothing_out(store, tmp_path):
    """The newest commit says that it was made in two hours."""
    newest = {name: store.version(name) for name in store.names()}
    for name, version in newest.items():
        file = Path(store.uri(name)) / "_delta_log" / f"{version:020d}.json"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            if "commitInfo" in line:
                line["commitInfo"]["timestamp"] += 2 * 3600 * 1000
        file.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    done = backup(TableStore(store.root), tmp_path / "backup")
    assert done.versions == newest
