"""The data home: its folders, and the environment that makes Dagster keep everything inside it."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from qdag.errors import QdagError
from qdag.settings import CONFIG_VARIABLE, Settings

DAGSTER_YAML = Path(__file__).resolve().parents[1] / "dagster.yaml"
"""The instance configuration; the repository's root links to it."""


def prepare(settings: Settings, config: str | None = None) -> Path:
    """Create the data home and point this process's Dagster at it; returns Dagster's home.

    The instance configuration in the home is qdag's own and is refreshed when it differs.
    """
    folder = settings.dagster_home
    try:
        folder.mkdir(parents=True, exist_ok=True)
        source, target = DAGSTER_YAML, folder / "dagster.yaml"
        if not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)
    except OSError as error:
        raise QdagError(f"data home {str(settings.home)!r} cannot be used: {error}; set QDAG_HOME elsewhere") from error
    os.environ["DAGSTER_HOME"] = str(folder)
    # children (run workers, the UI) must see the same home wherever they are started
    os.environ["QDAG_HOME"] = str(settings.home)
    file = Path(config or os.environ.get(CONFIG_VARIABLE) or "qdag.toml")
    if file.exists():
        os.environ[CONFIG_VARIABLE] = str(file.absolute())
    os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
    # a waiting OpenMP thread that spins takes the processor from the one it waits for, when others use it too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Qlib imports MLflow, whose level is what it was at the first import
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    return folder


# what a file system says that refuses to be written, or is full
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}
# libraries that do not hand on its number say it in words: delta-rs with the number, SQLite without
_SAID = re.compile(r"\(os error (\d+)\)|(readonly database|unable to open database file)")


def refused(error: BaseException) -> str:
    """In a sentence, that the data home could not be written, where an error comes from that; else empty."""
    home = os.environ.get("QDAG_HOME")
    for one in _causes(error) if home else ():
        text, number = str(one), one.errno if isinstance(one, OSError) else None
        if number is None and (found := _SAID.search(text)):
            number = int(found[1]) if found[1] else errno.EACCES
            # SQLite does not name the file, but opens none elsewhere
            text = text if found[1] else str(home)
        if number in _REFUSED and str(home) in text:
            where = f" ({one.filename})" if isinstance(one, OSError) and one.filename else ""
            return (
                f"data home {home!r} cannot be written: {os.strerror(number)}{where}; "
                "mount it writable, own it, or make room; or set QDAG_HOME elsewhere"
            )
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
