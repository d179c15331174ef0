"""Power cuts: what a call has returned from is on disk, and what it had begun is there whole or not at all.

A disk that forgets is simulated: of a folder is left what was flushed, name by name and byte by byte.
"""

import json
import os
import shutil
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from qdag.errors import StoreError
from qdag.schema import feature_table
from qdag.store.files import write_text
from qdag.store.integrity import verify
from qdag.store.tables import TableStore, log
from qdag.store.tables.checksums import CHECKSUMS
from qdag.store.tables.upkeep import DAMAGED

SPEC = feature_table("demo", [("x", "a feature")], "for tests")
WIDER = feature_table("demo", [("x", "a feature"), ("y", "another")], "for tests")
DAY = date(2020, 1, 30)


class Cut(BaseException):
    """The power is gone: nothing handles it."""


class Disk:
    """What was flushed below a folder: the names in each folder, and the bytes of each file.

    ``last``: the power is gone at the so many-th flush, before it is done.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root, self.last, self.count = root, None, 0
        self.names: dict[int, dict[str, int]] = {}
        self.bytes: dict[int, bytes] = {}
        self._fsync = os.fsync
        root.mkdir(parents=True)
        self._flushed(root)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        self.count += 1
        if self.last is not None and self.count > self.last:
            raise Cut
        inode = os.fstat(descriptor).st_ino
        for path in (self.root, *self.root.rglob("*")):
            if path.stat().st_ino == inode:
                return self._flushed(path)

    def _flushed(self, path: Path) -> None:
        if path.is_dir():
            self.names[path.stat().st_ino] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
        else:
            self.bytes[path.stat().st_ino] = path.read_bytes()

    def after(self, target: Path, kept: float) -> TableStore:
        """The tables as they are when the power is back; of bytes that were not flushed ``kept`` of the first."""
        now = {path.stat().st_ino: path for path in self.root.rglob("*") if path.is_file()}

        def put(inode: int, to: Path) -> None:
            to.mkdir(parents=True)
            for name, held in self.names.get(inode, {}).items():
                if held in self.bytes:
                    (to / name).write_bytes(self.bytes[held])
                elif held in now:
                    content = now[held].read_bytes()
                    (to / name).write_bytes(content[: int(len(content) * kept)])
                elif held in self.names:
                    put(held, to / name)

        put(self.root.stat().st_ino, target)
        return TableStore(target)


def rows(days, value=1.0, spec=SPEC):
    cells = [(DAY + timedelta(days=d), n) for d in days for n in "AB"]
    data = {"universe": ["u"] * len(cells), "date": [d for d, _ in cells], "instrument": [n for _, n in cells]}
    data |= {name: [value] * len(cells) for name in spec.values}
    return pa.table(data, schema=spec.arrow())


def write(store, first, last, value=1.0, spec=SPEC):
    start, end = DAY + timedelta(days=first), DAY + timedelta(days=last)
    return store.replace(spec, "u", start, end, rows(range(first, last + 1), value, spec), {})


def stored(store):
    if not store.exists("demo"):
        return None
    table = store.read("demo", "u")
    return store.version("demo"), table.to_pydict()


def restore(store):
    store.restore("demo", 2, {})


def set_aside(store):
    store.set_aside("demo", [store.files("demo")["path"][0].as_py()], {})


CHANGES = {
    "days of two months": lambda store: write(store, 1, 6, 2.0),
    "part of a file": lambda store: write(store, 0, 0, 3.0),
    "a column": lambda store: write(store, 4, 4, 4.0, WIDER),
    "a fourth small file": lambda store: write(store, 5, 5, 5.0),
    "compaction": lambda store: store.compact("demo"),
    "restore": restore,
    "set aside": set_aside,
}


@pytest.fixture
def disk(tmp_path, monkeypatch):
    return Disk(tmp_path / "tables", monkeypatch)


def begun(disk):
    store = TableStore(disk.root)
    for first in (0, 2, 3, 4):
        write(store, first, first + (first == 0))
    return store


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_call_returned_from_is_there_after_a_power_cut(disk, tmp_path, change):
    store = begun(disk)
    CHANGES[change](store)
    found = disk.after(tmp_path / "after", 0)
    assert stored(found) == stored(store)
    assert not verify(found, "demo").damage
    assert write(found, 2, 2, 9.0) == store.version("demo") + 1


@pytest.mark.parametrize("change", ["first write", *CHANGES])
def test_a_power_cut_at_any_moment_leaves_a_whole_table(tmp_path, monkeypatch, change):
    """Before, or after, or between two commits of the call, but never anything else."""
    last, done = -1, False
    while not done:
        last += 1
        with monkeypatch.context() as patch:
            disk = Disk(tmp_path / str(last) / "tables", patch)
            store = TableStore(disk.root) if change == "first write" else begun(disk)
            seen = [stored(store)]
            disk.last = disk.count + last
            with suppress(Cut):
                (CHANGES.get(change) or (lambda store: write(store, 0, 3)))(store)
                done = True
            disk.last = None
            if store.exists("demo"):
                for version in range(store.version("demo") + 1):
                    try:
                        seen.append((version, store.read("demo", "u", version=version).to_pydict()))
                    except StoreError as error:
                        # what was set aside is not there for old versions
                        if change != "set aside" or f"version {version} of" not in str(error):
                            raise
            for kept in (0, 0.5):
                found = disk.after(tmp_path / str(last) / str(kept), kept)
                assert stored(found) in seen
                assert not found.exists("demo") or not verify(found, "demo").damage
                # and it can be written on
                write(found, 2, 2, 9.0)
                day = DAY + timedelta(days=2)
                assert found.read("demo", "u", day, day)["x"].to_pylist() == [9, 9]
    assert last >= 2


def test_a_file_is_replaced_on_disk_or_not_at_all(tmp_path, monkeypatch):
    last, done = -1, False
    while not done:
        last += 1
        with monkeypatch.context() as patch:
            disk = Disk(tmp_path / str(last) / "files", patch)
            write_text(disk.root / "a" / "b.txt", "before")
            disk.last = disk.count + last
            with suppress(Cut):
                write_text(disk.root / "a" / "b.txt", "after!")
                done = True
            for kept in (0, 0.5):
                disk.after(tmp_path / str(last) / str(kept), kept)
                text = (tmp_path / str(last) / str(kept) / "a" / "b.txt").read_text()
                assert text == "after!" if done else text in ("before", "after!")
    assert last >= 2


# -- what was written before, or by others ----------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    store = TableStore(tmp_path / "tables")
    for first in range(0, 45, 2):
        write(store, first, first + 1, float(first))
    return store


def logged(store, version):
    return store.folder("demo") / log.LOG / log.commit_name(version)


def emptied(file):
    file.write_bytes(b"")


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_last_line(file):
    file.write_bytes(file.read_bytes().rpartition(b"\n")[0])


def zeroed(file):
    file.write_bytes(bytes(file.stat().st_size))


@pytest.mark.parametrize("damage", [emptied, cut, zeroed])
def test_hints_and_checkpoints_that_are_torn_are_done_without(store, damage):
    before = stored(store)
    checkpoint = store.folder("demo") / log.LOG / log.checkpoint_name(19)
    assert checkpoint.exists()
    for files in ([log.HINT], [checkpoint.name], [log.HINT, checkpoint.name]):
        copy = TableStore(f"{store.root}-{'-'.join(files)}")
        shutil.copytree(store.root, copy.root)
        for name in files:
            damage(copy.folder("demo") / log.LOG / name)
        assert stored(copy) == before
        assert not verify(copy, "demo").damage
        write(copy, 0, 0, 7.0)


def test_a_hint_without_its_checkpoint(store):
    before = stored(store)
    (store.folder("demo") / log.LOG / log.checkpoint_name(19)).unlink()
    assert stored(TableStore(store.root)) == before


@pytest.mark.parametrize("damage", [emptied, cut, zeroed, without_last_line])
def test_the_broken_end_of_a_log_is_refused_told_and_dropped(store, damage):
    """An empty commit is none to Delta: the table would read as if it had not been made, and be written on."""
    newest = store.version("demo")
    before = store.read("demo", "u", version=newest - 3)
    for version in (newest - 2, newest):
        damage(logged(store, version))
    found = TableStore(store.root)
    if damage is not without_last_line:
        for use in (lambda: found.read("demo", "u"), lambda: write(found, 0, 0)):
            with pytest.raises(StoreError, match=r"'demo' .*cannot be opened: .*`qdag data verify demo`.*--repair"):
                use()
    (one,) = verify(found, "demo").damage
    assert (one.file, one.version, one.newest) == (f"_delta_log/{log.commit_name(newest - 2)}", newest - 2, False)
    assert "and what 2 later ones did" in one.problem
    assert found.drop_lost_commits("demo") == newest - 3
    assert found.read("demo", "u").equals(before)
    assert not verify(found, "demo").damage
    assert write(found, 0, 0, 7.0) == newest - 2
    # what was dropped is kept aside
    kept = sorted(p.name[:20] for p in (found.folder("demo") / DAMAGED / log.LOG).iterdir())
    assert kept == [f"{v:020d}" for v in (newest - 2, newest - 1, newest)]


def test_a_log_that_is_lost_from_its_first_commit_is_no_table(store):
    for version in range(store.version("demo") + 1):
        emptied(logged(store, version))
    emptied(store.folder("demo") / log.LOG / log.checkpoint_name(19))
    found = TableStore(store.root)
    with pytest.raises(StoreError, match=r"--repair"):
        found.version("demo")
    assert len(verify(found, "demo").damage) == 1
    assert found.drop_lost_commits("demo") is None
    assert not found.exists("demo")
    assert write(found, 0, 0, 7.0) == 1


def test_a_torn_commit_before_a_checkpoint_costs_the_versions_between(store):
    before = stored(store)
    old = {v: store.read("demo", "u", version=v) for v in (4, 19)}
    emptied(logged(store, 5))
    found = TableStore(store.root)
    assert stored(found) == before
    assert all(found.read("demo", "u", version=v).equals(rows) for v, rows in old.items())
    with pytest.raises(StoreError, match=r"commit 5 of its log is an empty file"):
        found.read("demo", "u", version=9)
    assert [v for v, _ in found.needed("demo", range(22))] == [*range(5), 19, 20, 21]
    assert next(c for c in found.history("demo") if c["version"] == 5)["operation"] == "unknown"
    assert found.drop_lost_commits("demo") == found.version("demo")
    (one,) = verify(found, "demo").damage
    assert (one.version, one.newest, one.problem) == (5, False, "is empty: versions 5 to 18 cannot be read")


def test_torn_checksums_are_told_and_made_anew(store):
    version = store.version("demo")
    path = store.files("demo")["path"][0].as_py()
    store.record("demo", version, {path: store.checksums("demo")[path]})
    torn = store.folder("demo") / CHECKSUMS / f"{version:020d}.json"
    emptied(torn)
    (one,) = verify(store, "demo").damage
    assert (one.file, one.newest) == (f"_checksums/{torn.name}", False)
    assert "is torn" in one.problem
    assert store.vacuum("demo")
    assert store.checksums("demo").keys() >= set(store.files("demo")["path"].to_pylist())
    store.record("demo", version, {path: "0" * 64})
    assert json.loads(torn.read_text()) == {path: "0" * 64}


def test_a_commit_of_another_hand_is_read_as_ever(store):
    """Whoever knows Delta may write: only qdag's own commits say how many actions they have."""
    from deltalake import DeltaTable

    DeltaTable(store.uri("demo")).delete("instrument = 'A'")
    assert set(store.read("demo", "u")["instrument"].to_pylist()) == {"B"}
    assert store.history("demo")[0]["operation"] == "DELETE"
    write(store, 0, 0, 3.0)
    assert DeltaTable(store.uri("demo")).history(1)[0]["operation"] == "WRITE"
