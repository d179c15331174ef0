"""What the data home knows of the models that were registered from it: ``<home>/models/NAME/VERSION.json``.

MLflow's registry is open to whoever reaches its server. These files are not, so they decide which versions are qdag's
own and which bytes they must have. Nothing here knows MLflow.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

from qdag.errors import StoreError
from qdag.settings import Settings
from qdag.store.files import write_text


@dataclass(frozen=True)
class Registered:
    """One version of a registered model, as recorded; the newest by (training_date, version) is the champion.

    Attributes
    ----------
    sha256 : of the model's file
    features : columns by feature table, in the order of the model's inputs
    versions : Delta version of every table that was read
    inputs : digest of the rows, the parameters and the library that it was trained with
    """

    name: str
    version: int
    universe: str
    training_date: date
    run_id: str
    experiment_id: str = ""
    sha256: str = ""
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    versions: Mapping[str, int] = field(default_factory=dict, hash=False)
    inputs: str = ""

    @property
    def uri(self) -> str:
        """For ``mlflow.pyfunc.load_model``."""
        return f"models:/{self.name}/{self.version}"

    @property
    def label(self) -> str:
        """How predictions name their model."""
        return f"{self.name}/{self.version}"


def records_folder(settings: Settings) -> Path:
    """Where they are: a folder for each name, in it a file for each version."""
    return settings.home / "models"


def record(settings: Settings, model: Registered) -> None:
    """Write down a model that was registered just now."""
    text = json.dumps(asdict(model) | {"training_date": model.training_date.isoformat()}, indent=1)
    write_text(records_folder(settings) / model.name / f"{model.version}.json", text)


def recorded(settings: Settings, name: str, version: int) -> Registered | None:
    """What is recorded of a version; None of one that was not registered from here.

    Raises
    ------
    StoreError
        The record is damaged.
    """
    path = records_folder(settings) / name / f"{version}.json"
    try:
        told = json.loads(path.read_text("utf-8"))
        told["training_date"] = date.fromisoformat(told["training_date"])
        told["features"] = {table: tuple(columns) for table, columns in told["features"].items()}
        return Registered(**told)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"record {str(path)!r} of a model cannot be read: {error}; restore it from a backup, or remove it: that "
            f"version then no longer serves"
        ) from error
