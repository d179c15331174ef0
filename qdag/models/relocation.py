"""MLflow's embedded store in a data home that was moved or copied: it keeps absolute addresses, which must follow."""

import json
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from qdag.errors import StoreError
from qdag.settings import Settings

log = logging.getLogger(__name__)
# MLflow keeps absolute addresses of artifacts, by table and column
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite store; None of any other."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix).split("?")[0]) if uri.startswith(prefix) else None


def other_homes(settings: Settings) -> tuple[str, ...]:
    """Artifact folders of other data homes that the embedded store points into: this one was moved, or is a copy."""
    path = sqlite_path(settings.tracking_uri)
    if settings.mlflow.tracking_uri is not None or path is None or not path.exists():
        return ()
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as store:
        return _others(settings, store)


def relocate(settings: Settings) -> None:
    """Have the embedded store point into this data home, so that nothing is read from or written to another one."""
    path = sqlite_path(settings.tracking_uri)
    assert path is not None
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as store:
        if not _others(settings, store):
            return
        store.execute("BEGIN IMMEDIATE")
        for old in _others(settings, store):
            new = settings.artifacts.as_uri()
            for table, column in _ADDRESSES:
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? "
                    f"OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, old + "/"),
                )
            # the tables that were read are named by their folder
            tables = json.dumps(str(_local(old).parents[1] / settings.tables.name))[:-1] + "/"
            own = json.dumps(str(settings.tables))[:-1] + "/"
            store.execute("UPDATE datasets SET dataset_source = replace(dataset_source, ?, ?)", (tables, own))
            log.warning("the experiments of %s were moved or copied here: their addresses now point to %s", old, new)
        store.execute("COMMIT")


def _others(settings: Settings, store: sqlite3.Connection) -> tuple[str, ...]:
    own, ending = settings.artifacts, "/".join(settings.artifacts.parts[-2:])
    try:
        found = [row[0] for row in store.execute("SELECT DISTINCT artifact_location FROM experiments")]
    except sqlite3.DatabaseError as error:
        raise StoreError(f"MLflow's store {settings.tracking_uri} cannot be read: {error}") from error
    return tuple(
        address
        for address in sorted(location for location in found if location)
        # by another name, the same folder needs no other address
        if address.startswith("file://") and address.endswith("/" + ending) and address != own.as_uri()
        and not (_local(address).exists() and own.exists() and _local(address).samefile(own))
    )  # fmt: skip


def _local(address: str) -> Path:
    return Path(unquote(urlsplit(address).path))
