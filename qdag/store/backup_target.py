"""Where backups lie: a folder or object store with files under their own checksums, and manifests.

A target holds ``objects/<xx>/<sha256>`` (every file once), ``manifests/<id>.json``, and ``partial/`` while files are on
their way. What a manifest says, and which files a backup needs, belongs to :mod:`qdag.store.backup`.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from qdag.errors import StoreError
from qdag.store.files import make_folder, sync

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

FORMAT = 1
"""Of manifests; another one is refused."""


class BackupTarget:
    """A folder or object store that holds backups, or will.

    Parameters
    ----------
    target : folder or URL (``s3://bucket/prefix``; credentials as Arrow finds them, for S3 the usual AWS variables)

    Raises
    ------
    StoreError
        A URL that cannot be opened.
    """

    def __init__(self, target: str | Path):
        self._filesystem, self.root = _open(str(target))

    @property
    def folder(self) -> Path | None:
        """The target as a local folder; None where it is an object store."""
        from pyarrow.fs import LocalFileSystem

        return Path(self.root) if isinstance(self._filesystem, LocalFileSystem) else None

    def objects(self) -> dict[str, int]:
        """Bytes of every file that is there, by SHA-256."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(f"{self.root}/objects", recursive=True, allow_not_found=True)
        return {i.base_name: i.size for i in self._filesystem.get_file_info(selector) if i.type == FileType.File}

    def put(self, source: IO[bytes], sha256: str, what: str) -> None:
        """Copy a file under its SHA-256, which is compared; ``what`` names it in the StoreError of another one."""
        with self._appearing(self._object(sha256)) as sink:
            _copy(source, sink, sha256, what)

    def take(self, sha256: str, sink: IO[bytes], what: str) -> None:
        """Copy a file out of the target; StoreError where it is not what its name says, ``what`` it was for."""
        with self._filesystem.open_input_stream(self._object(sha256)) as source:
            _copy(source, sink, sha256, f"object {sha256} of the backup ({what})")

    def ids(self) -> list[str]:
        """Ids of the backups, newest first."""
        from pyarrow.fs import FileSelector

        found = self._filesystem.get_file_info(FileSelector(f"{self.root}/manifests", allow_not_found=True))
        return sorted((i.base_name.removesuffix(".json") for i in found if i.extension == "json"), reverse=True)

    def manifest(self, backup_id: str) -> dict[str, Any]:
        """A backup's manifest. StoreError: it is damaged or of another format."""
        with self._filesystem.open_input_stream(f"{self.root}/manifests/{backup_id}.json") as source:
            try:
                manifest: dict[str, Any] = json.loads(source.read())
            except ValueError as error:
                raise StoreError(
                    f"manifest of backup {backup_id!r} is damaged ({error}); take another backup"
                ) from error
        if manifest.get("format") != FORMAT:
            raise StoreError(
                f"backup {backup_id!r} has format {manifest.get('format')!r}, this qdag reads {FORMAT}; upgrade qdag"
            )
        return manifest

    def publish(self, manifest: dict[str, Any]) -> None:
        """Write a backup's manifest under its ``id``, with the format: from now on there is this backup."""
        text = json.dumps({"format": FORMAT, **manifest}, sort_keys=True).encode()
        with self._appearing(f"{self.root}/manifests/{manifest['id']}.json") as sink:
            sink.write(text)

    def _object(self, sha256: str) -> str:
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise StoreError(f"backup names {sha256!r} where a SHA-256 must stand: its manifest is damaged")
        return f"{self.root}/objects/{sha256[:2]}/{sha256}"

    @contextmanager
    def _appearing(self, path: str) -> Iterator[IO[bytes]]:
        """A file to write that gets its name when it is whole; without a trace after an exception.

        In a folder it is on disk then: a power cut leaves no manifest without its files.
        """
        part = f"{self.root}/partial/{path.rpartition('/')[2]}-{uuid.uuid4().hex}"
        for place in (part, path):
            self._make_folder(place.rpartition("/")[0])
        try:
            with self._filesystem.open_output_stream(part) as sink:
                yield sink
            if self.folder:
                sync(part)
            self._filesystem.move(part, path)
        except BaseException:
            if self._filesystem.get_file_info(part).is_file:
                self._filesystem.delete_file(part)
            raise
        if self.folder:
            sync(path.rpartition("/")[0])

    def _make_folder(self, path: str) -> None:
        if self.folder:
            make_folder(Path(path))
        else:
            self._filesystem.create_dir(path)


def _open(target: str) -> "tuple[FileSystem, str]":
    import pyarrow as pa
    from pyarrow.fs import FileSystem, LocalFileSystem

    if "://" not in target:
        return LocalFileSystem(), str(Path(target).expanduser().absolute())
    try:
        filesystem, root = FileSystem.from_uri(target)
    except (pa.ArrowException, OSError) as error:
        raise StoreError(
            f"backup target {target!r} cannot be opened: {error}; give a folder or a URL such as s3://..."
        ) from None  # Arrow's own words may hold the credentials, and Dagster prints causes
    return filesystem, root.rstrip("/")


def _copy(source: IO[bytes], sink: IO[bytes], sha256: str, what: str) -> None:
    found = hashlib.sha256()
    while part := source.read(1 << 20):
        found.update(part)
        sink.write(part)
    if found.hexdigest() != sha256:
        raise StoreError(
            f"{what} is damaged: SHA-256 {found.hexdigest()[:12]}... instead of {sha256[:12]}...; run "
            f"`qdag data verify --repair` where it was written, or take another backup"
        )
