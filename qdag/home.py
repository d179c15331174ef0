"""The data home: its folders, and the environment that makes Dagster keep everything inside it."""

import os
import shutil
from pathlib import Path

from qdag.errors import QdagError
from qdag.settings import CONFIG_VARIABLE, Settings


def dagster_yaml() -> Path:
    """The instance configuration: beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).resolve().parent
    for candidate in (package.parent / "dagster.yaml", package / "dagster.yaml"):
        if candidate.exists():
            return candidate
    raise QdagError(f"dagster.yaml is neither in {package.parent} nor in {package}; reinstall qdag")


def prepare(settings: Settings, config: str | None = None) -> Path:
    """Create the data home and point this process's Dagster at it; returns Dagster's home.

    The instance configuration in the home is qdag's own and is refreshed when it differs.
    """
    folder = settings.dagster_home
    try:
        folder.mkdir(parents=True, exist_ok=True)
        source, target = dagster_yaml(), folder / "dagster.yaml"
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
    return folder
