"""The data home: its folders, and the environment that makes Dagster keep everything inside it."""

import os
import shutil
from pathlib import Path

from qdag.errors import QdagError
from qdag.settings import CONFIG_VARIABLE, Settings

DAGSTER_YAML = Path(__file__).resolve().parent / "dagster.yaml"
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
    return folder
