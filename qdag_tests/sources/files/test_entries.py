"""What lies in a folder besides honest files: links, unreadable things, and names that are no text."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qdag.errors import SourceError
from qdag.sources import open_source
from qdag.sources.files.entries import entries, printable
from qdag_tests.sources.files.delivered import TEXT, accounts, deliver, refused, universe

SECRET = "password=hunter2\n"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="qdag-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def permissions_count() -> Iterator[None]:
    """To the superuser nothing is forbidden: be nobody for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_links_are_not_followed(tmp_path):
    """Neither out of the folder nor within it; what they lead to is in no table."""
    folder, elsewhere = tmp_path / "in", tmp_path / "out"
    for made in (folder, elsewhere):
        made.mkdir()
    (folder / "A.csv").write_text(TEXT)
    (elsewhere / "secret").write_text(SECRET)
    (elsewhere / "B.csv").write_text(TEXT)
    (folder / "LEAK.csv").symlink_to(elsewhere / "secret")
    (folder / "B.csv").symlink_to(elsewhere / "B.csv")
    (folder / "C.csv").symlink_to("A.csv")
    (folder / "GONE.parquet").symlink_to(elsewhere / "nothing")
    (folder / "more").symlink_to(elsewhere)
    (folder / "note").symlink_to(elsewhere / "secret")
    spec = universe(folder)
    delivery = deliver(spec)
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["A"]
    expected = {name: ("symbolic_link", name.split(".")[0]) for name in ("B.csv", "C.csv", "GONE.parquet", "LEAK.csv")}
    assert refused(delivery) == expected | {"more/": ("symbolic_link", "more")}
    assert "hunter2" not in str(delivery.quarantine.to_pylist())
    # a link to the folder itself is the user's own
    (tmp_path / "current").symlink_to(folder)
    assert deliver(universe(tmp_path / "current")).bars["instrument"].to_pylist() == ["A"]


def test_a_link_that_takes_a_file_s_place_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "A.csv").write_text(TEXT)
    (entry,) = entries(tmp_path)
    (tmp_path / "A.csv").unlink()
    (tmp_path / "A.csv").symlink_to(tmp_path / "secret")
    data, why, _ = entry.read()
    assert (data, bool(why)) == (b"", True)
    (tmp_path / "A.csv").unlink()
    os.mkfifo(tmp_path / "A.csv")
    assert entry.read() == (b"", "no regular file", 0)


def test_what_is_no_file_is_told(tmp_path):
    os.mkfifo(tmp_path / "P.csv")
    (tmp_path / "D.csv").mkdir()
    (tmp_path / "D.csv" / "A.csv").write_text(TEXT)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "H.csv").write_text(TEXT)
    (tmp_path / "README.txt").write_text("no part of the source")
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.getcwd()
        os.chdir(tmp_path)
        try:
            listening.bind("S.csv")
        finally:
            os.chdir(before)
        delivery = deliver(universe(tmp_path))
    assert delivery.bars["instrument"].to_pylist() == ["A"]
    assert refused(delivery) == {"P.csv": ("not_a_file", "P"), "S.csv": ("not_a_file", "S")}


def test_what_cannot_be_read_is_refused_and_the_rest_goes_on(shared):
    """A folder that cannot be listed, one whose files cannot be opened, and the first file of a folder."""
    for name in ("0.csv", "list/B.csv", "open/C.csv", "D.csv"):
        path = shared / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(TEXT)
    (shared / "0.csv").chmod(0)
    (shared / "list").chmod(0)
    (shared / "open").chmod(0o444)
    try:
        with permissions_count():
            spec = universe(shared)
            source = open_source("u", spec)
            delivery = deliver(spec)
            hashes = source.hashes()
            stamps = {name: entry.stamp()[0] for name, entry in source.files().items()}
    finally:
        (shared / "list").chmod(0o755)
        (shared / "open").chmod(0o755)
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["D"]
    assert refused(delivery) == {
        "0.csv": ("unreadable", "0"),
        "list/": ("unreadable_folder", "list"),
        "open/C.csv": ("unreadable", "C"),
    }
    # what was read is known again as the same
    assert {version.source: version.sha256 for version in delivery.versions} == hashes
    assert {version.source: version.bytes for version in delivery.versions} == stamps
    assert stamps == {"0.csv": len(TEXT), "D.csv": len(TEXT), "list/": 0, "open/C.csv": 0}
    shared.chmod(0)
    try:
        with permissions_count(), pytest.raises(SourceError, match="cannot be listed"):
            deliver(spec)
    finally:
        shared.chmod(0o755)


def test_names_that_are_no_text(tmp_path):
    (tmp_path / "A.csv").write_text(TEXT)
    with open(os.fsencode(tmp_path) + b"/\xff\xfe.csv", "w") as file:
        file.write(TEXT)
    (tmp_path / "B\nC.csv").write_text(TEXT)
    spec = universe(tmp_path)
    delivery = deliver(spec)
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["A"]
    assert refused(delivery) == {"\\xff\\xfe.csv": ("bad_file_name", "__"), "B\\nC.csv": ("bad_instrument", "B_C")}
    assert all(name.encode() and name.isprintable() for name in open_source("u", spec).hashes())
    assert len({printable(text) for text in ("\udcff", "\\xff", "\xff")}) == 3
