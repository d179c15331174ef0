"""Damage: every kind is found, and named with its file, universe, month and days."""

import json
import random
import shutil
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qdag.errors import StoreError
from qdag.schema import feature_table
from qdag.store.integrity import verify
from qdag.store.tables import TableStore
from qdag.store.tables.checksums import CHECKSUMS
from qdag.store.tables.upkeep import DAMAGED

SPEC = feature_table("demo", [("x", "a feature")], "for tests")
DAY = date(2020, 1, 30)


def day(n):
    return DAY + timedelta(days=n)


def write(store, start, end, value=1.0, universe="u", instruments="ABCDE"):
    cells = [(day(d), n, value + d) for d in range(start, end + 1) for n in instruments]
    data = {"universe": [universe] * len(cells), **{c: [x[i] for x in cells] for i, c in enumerate(SPEC.keys[1:])}}
    data["x"] = [c[2] for c in cells]
    return store.replace(SPEC, universe, day(start), day(end), pa.table(data, schema=SPEC.arrow()), {})


@pytest.fixture
def store(tmp_path):
    store = TableStore(tmp_path / "tables")
    write(store, 0, 40)
    write(store, 0, 3, universe="w")
    return store


def path_of(store, universe="u", month="2020-02"):
    files = store.files("demo").to_pylist()
    return store.folder("demo") / next(f["path"] for f in files if (f["universe"], f["month"]) == (universe, month))


def forget(store):
    """As if the table had been written by other hands, which tell no checksums."""
    for file in (store.folder("demo") / "_delta_log").glob("*.json"):
        file.write_text(file.read_text().replace('"sha256"', '"other"'))
    for file in (store.folder("demo") / CHECKSUMS).glob("*.json"):
        file.unlink()


def test_a_sound_table(store):
    found = verify(store, "demo")
    assert (found.files, found.rows, found.with_checksum, found.recorded) == (5, 41 * 5 + 4 * 5, 5, 0)
    assert found.size == sum(store.stored_files("demo").values())
    assert not found.damage
    store.compact("demo")
    for change in (lambda: store.version("demo"), lambda: store.restore("demo", 1, {})):
        version = change()
        found = verify(store, "demo")
        assert (found.version, found.with_checksum, found.damage) == (version, found.files, [])
    forget(store)
    first, second = verify(store, "demo"), verify(store, "demo")
    assert (first.with_checksum, first.recorded) == (0, first.files)
    assert (second.with_checksum, second.recorded) == (first.files, 0)


def missing(file):
    file.unlink()


def truncated(file):
    with file.open("r+b") as f:
        f.truncate(file.stat().st_size // 2)


def grown(file):
    with file.open("ab") as f:
        f.write(b"more")


def footer(file):
    content = bytearray(file.read_bytes())
    content[-20] ^= 0xFF
    file.write_bytes(content)


def other_rows(file):
    """A well-formed file of the same name and size class, without its last row."""
    table = pq.ParquetFile(file).read()
    size = file.stat().st_size
    pq.write_table(table.slice(0, table.num_rows - 1), file, compression="none")
    with file.open("r+b") as f:
        f.seek(0, 2)
        assert f.tell() != size


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (missing, "missing"),
        (truncated, "bytes instead of"),
        (grown, "bytes instead of"),
        (footer, "SHA-256"),
        (other_rows, "bytes instead of"),
    ],
)
def test_damage_is_found_and_named(store, damage, problem):
    file = path_of(store)
    damage(file)
    found = verify(store, "demo")
    (one,) = found.damage
    assert problem in one.problem
    assert (one.table, one.universe, one.month, one.newest) == ("demo", "u", "2020-02", True)
    assert (one.first, one.last, one.rows) == (date(2020, 2, 1), date(2020, 2, 29), 29 * 5)
    assert file == store.folder("demo") / one.file
    assert found.rows == 45 * 5 - one.rows


def flips(file, seed, count, first=0, last=None):
    """Single flipped bits at random places; the file is whole again after each."""
    content = file.read_bytes()
    draw = random.Random(seed)
    for position in sorted(draw.sample(range(first, last or len(content)), count)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        yield position
        file.write_bytes(content)


def test_every_flipped_bit_is_found_by_the_checksum(store):
    file = path_of(store)
    for position in flips(file, 1, 40):
        assert [d.problem[:7] for d in verify(store, "demo").damage] == ["SHA-256"], position
    assert not verify(store, "demo").damage


def test_a_flipped_bit_of_a_value_is_never_another_value(store):
    """Also where no checksum of the file is known: pages have their own, and every reader compares them."""
    file = path_of(store)
    column = pq.ParquetFile(file).metadata.row_group(0).column(2)
    assert column.path_in_schema == "x"
    end = column.data_page_offset + column.total_compressed_size
    forget(store)
    for _ in flips(file, 1, 40, end - 4 * 29 * 5, end):
        assert len(verify(store, "demo").damage) == 1
        with pytest.raises(StoreError, match=r"'demo' cannot be read: .*CRC checksum .*qdag data verify"):
            store.read("demo", "u")
        forget(store)
    assert not verify(store, "demo").damage


def test_rows_and_days_are_compared_with_the_log_where_no_checksum_is_known(store):
    """A file of the right size whose content belongs elsewhere."""
    file = path_of(store, "w", "2020-02")
    same = next(
        f
        for f in store.files("demo").to_pylist()
        if (f["universe"], f["month"]) == ("w", "2020-01") and f["rows"] == 10
    )
    forget(store)
    content = (store.folder("demo") / same["path"]).read_bytes()
    assert len(content) == file.stat().st_size
    file.write_bytes(content)
    (one,) = verify(store, "demo").damage
    assert one.problem == "days 2020-01-30 to 2020-01-31 instead of 2020-02-01 to 2020-02-02"


def test_old_versions_are_checked_when_asked_for(store):
    file = path_of(store)
    old = store.version("demo")
    write(store, 2, 30, value=5.0)
    missing(file)
    assert not verify(store, "demo").damage
    (one,) = verify(store, "demo", [old, 77]).damage
    assert (one.version, one.newest, one.problem) == (old, False, "missing")


def test_a_damaged_log(store):
    log = store.folder("demo") / "_delta_log" / f"{1:020d}.json"
    log.write_text(log.read_text()[:100])
    (one,) = verify(store, "demo").damage
    assert (one.file, one.kind, one.lost, one.newest) == (f"_delta_log/{log.name}", "log", True, False)
    assert "is torn: " in one.problem


def test_set_aside(store):
    version = store.version("demo")
    file = path_of(store)
    relative = str(file.relative_to(store.folder("demo")))
    truncated(file)
    assert store.set_aside("demo", [relative], {"why": "damaged"}) == version + 1
    assert store.history("demo")[0]["provenance"] == {"why": "damaged"}
    assert {d.month for d in store.read("demo", "u")["date"].unique().to_pylist()} == {1, 3}
    assert (store.folder("demo") / DAMAGED / relative).exists()
    assert not verify(store, "demo").damage
    # neither vacuum nor readers touch what was set aside
    store.vacuum("demo")
    assert (store.folder("demo") / DAMAGED / relative).exists()
    # what is not in the table any more needs no commit
    assert store.set_aside("demo", [relative], {}) == version + 1
    with pytest.raises(StoreError, match=r"is not below"):
        store.set_aside("demo", ["../other/file.parquet"], {})


def test_files_can_be_left_out_and_a_write_to_their_days_takes_them_out(store):
    """How damage is repaired: what is read of its table meanwhile is what is left, and the commit that brings the rows
    again is the one that takes the damaged file out."""
    file = path_of(store)
    relative = str(file.relative_to(store.folder("demo")))
    truncated(file)
    view = store.without({"demo": [relative]})
    assert {d.month for d in view.read("demo", "u")["date"].to_pylist()} == {1, 3}
    assert {d.month for d in view.sessions("demo", "u").tolist()} == {1, 3}
    assert view.count("demo", "u") == 41 * 5 - 29 * 5
    assert relative not in view.files("demo")["path"].to_pylist()
    with pytest.raises(StoreError, match="--repair"):
        store.read("demo", "u")
    # a write that does not reach the file leaves it; one to some of its days takes all of it out
    write(view, 0, 1, value=3.0)
    assert relative in store.files("demo")["path"].to_pylist()
    write(view, 5, 6, value=2.0)
    assert not verify(store, "demo").damage
    days = store.read("demo", "u")["date"].unique().to_pylist()
    assert [d for d in days if d.month == 2] == [day(5), day(6)]


def test_rows_that_are_there_twice_are_found(store):
    """As two compactions at once leave them where both commits are let pass."""
    write(store, 41, 41)
    store.compact("demo")
    version = store.version("demo")
    log = store.folder("demo") / "_delta_log"
    added = [line for line in (log / f"{version:020d}.json").read_text().split("\n") if line.startswith('{"add"')]
    (path,) = (json.loads(line)["add"]["path"] for line in added)
    other = path.replace("part-", "part-f")
    shutil.copy(store.folder("demo") / path, store.folder("demo") / other)
    (log / f"{version + 1:020d}.json").write_text("\n".join(added).replace(path, other))
    found = verify(store, "demo")
    assert {d.file for d in found.damage} == {path, other}
    assert all(d.problem.startswith("55 rows have a key that another row has, first date=") for d in found.damage)
    assert {(d.universe, d.month, d.newest, d.kind) for d in found.damage} == {("u", "2020-03", True, "data")}


def test_a_table_below_a_url_has_checksums_too(tmp_path):
    store = TableStore(f"file://{tmp_path}/tables")
    (tmp_path / "tables").mkdir()
    write(store, 0, 3)
    found = verify(store, "demo")
    assert (found.rows, found.with_checksum, found.damage) == (20, 2, [])
    file = next((tmp_path / "tables" / "demo").rglob("part-*.parquet"))
    truncated(file)
    assert len(verify(store, "demo").damage) == 1
