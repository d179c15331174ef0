"""What a backup holds of models: their records, and MLflow's store where it is the home's own."""

import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from qdag.errors import redact
from qdag.models.records import records_folder
from qdag.models.relocation import sqlite_path
from qdag.settings import Settings


@contextmanager
def saved_folders(settings: Settings) -> Iterator[Mapping[str, Mapping[str, Path]]]:
    """Folders of the home by name, with their files: path below the folder, and where its content lies for the block.

    Training may go on. Every model that is recorded here is registered in the copy of MLflow's database, and the
    artifacts of every run that had ended by then are whole.
    """
    # in the reverse of the order in which training writes: artifacts, database, record
    records = _files(records_folder(settings))
    path, embedded = sqlite_path(settings.tracking_uri), settings.mlflow.tracking_uri is None
    if path is None or not embedded or not path.exists():
        yield {records_folder(settings).name: records}
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / path.name
        with (
            closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)) as used,
            closing(sqlite3.connect(copy)) as made,
        ):
            used.backup(made)
        artifacts = settings.artifacts
        mlflow = {f"{artifacts.name}/{below}": file for below, file in _files(artifacts).items()}
        yield {records_folder(settings).name: records, path.parent.name: {path.name: copy, **mlflow}}


def not_saved(settings: Settings) -> str:
    """In a sentence, what of MLflow is in no backup; empty where all is."""
    if settings.mlflow.tracking_uri is None:
        return ""
    return (
        f"MLflow's store {redact(settings.tracking_uri)} is not the home's own and not part of the backup: back it up "
        f"there; qdag's records of its models are included"
    )


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their path below it, hidden ones and links left out; none where there is no folder."""
    return {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_symlink() and not file.name.startswith(".")
    }
