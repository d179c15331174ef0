"""Where training runs and registered models live: recorded, registered, found and loaded.

MLflow is for people to look at, and whoever reaches its server may write to it. So every model that is registered here
is also recorded in the data home (:mod:`qdag.models.records`). Only recorded models are found, and only the very bytes
that were recorded are loaded, as LightGBM's own text: nothing that MLflow holds is ever run or unpickled.
"""

import logging
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from qdag.errors import StoreError
from qdag.models.connection import connected, experiment_id, login_refused
from qdag.models.frames import feature_names
from qdag.models.logged import log_run, requirements, run_tags, signature
from qdag.models.records import Registered, record, recorded, records_folder
from qdag.models.relocation import sqlite_path
from qdag.models.training import TrainedModel
from qdag.settings import Settings

if TYPE_CHECKING:
    from lightgbm import Booster
    from mlflow import MlflowClient

CHAMPION = "champion"
MODEL_TYPE = "lightgbm"
MODEL_FILE = "model.lgb"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A loaded model: LightGBM's booster and the columns it was trained on, by feature table."""

    booster: "Booster"
    features: Mapping[str, tuple[str, ...]]

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """One float64 score per row of a frame that has the model's columns."""
        return np.asarray(self.booster.predict(frame[feature_names(self.features)].to_numpy()), np.float64)


@dataclass(frozen=True)
class Tracked:
    """What recording a model gave; ``url`` opens the run in the MLflow UI, ``path`` is its part after the host."""

    run_id: str
    path: str
    url: str
    registered: Registered
    champion: bool


def model_name(universe: str, model_type: str = MODEL_TYPE) -> str:
    """Name of a universe's registered model."""
    return f"qdag-{universe}-{model_type}"


def track(settings: Settings, model: TrainedModel, dagster_run_id: str | None = None) -> Tracked:
    """Record a trained model as one finished run, register it, and move the alias "champion" to the newest.

    A model of the same inputs that is registered for the same date already is not registered again: what it gave then
    is returned. A run that fails while it is being recorded is marked FAILED and registers nothing.
    """
    with connected(settings) as client:
        import mlflow
        from mlflow.entities import RunStatus

        experiment = experiment_id(settings, client)
        for known in _registered(settings, client, model.universe):
            same = (known.training_date, known.inputs, known.experiment_id)
            if same == (model.training_date, model.inputs, experiment):
                return _tracked(settings, known, _crown(settings, client, model.universe))
        run = client.create_run(
            experiment,
            run_name=f"{model.universe} {model.training_date}",
            tags=run_tags(settings, model, dagster_run_id),
        )
        run_id = run.info.run_id
        status = RunStatus.FAILED
        try:
            log_run(settings, client, run_id, model)
            with mlflow.start_run(run_id=run_id):
                info = mlflow.lightgbm.log_model(
                    model.booster,
                    name="model",
                    signature=signature(model),
                    pip_requirements=requirements(),
                    metadata={"features": {table: list(columns) for table, columns in model.features.items()}},
                )
            registered = _register(client, model, run_id, experiment, info.model_uri)
            record(settings, registered)
            champion = _crown(settings, client, model.universe)
            status = RunStatus.FINISHED
        finally:
            client.set_terminated(run_id, RunStatus.to_string(status))
    return _tracked(settings, registered, champion)


def _tracked(settings: Settings, registered: Registered, champion: int) -> Tracked:
    path = f"/#/experiments/{registered.experiment_id}/runs/{registered.run_id}"
    url = settings.mlflow.ui_url.rstrip("/") + path
    return Tracked(registered.run_id, path, url, registered, champion == registered.version)


def registered_models(settings: Settings, universe: str) -> tuple[Registered, ...]:
    """Registered versions of a universe's model, by training date, then version; empty where there are none.

    Versions that were registered by others, or into another data home, are none of them; a warning names them.
    """
    path = sqlite_path(settings.tracking_uri)
    if path is not None and not path.exists():
        return ()
    with connected(settings) as client:
        return _registered(settings, client, universe)


def run_metrics(settings: Settings, models: Iterable[Registered]) -> dict[str, dict[str, float]]:
    """What training logged of models, by run: ``valid.rank_ic``, ``test.ic``, ...; lost runs are left out."""
    found = {}
    with connected(settings) as client:
        from mlflow.exceptions import MlflowException

        for model in models:
            with suppress(MlflowException):
                found[model.run_id] = dict(client.get_run(model.run_id).data.metrics)
    return found


def versions_read(settings: Settings) -> dict[str, set[int]]:
    """Versions by table that training runs of registered models read: of all universes, also of removed ones."""
    path = sqlite_path(settings.tracking_uri)
    found: dict[str, set[int]] = {}
    if path is not None and not path.exists():
        return found
    folder = records_folder(settings)
    with connected(settings) as client:
        for name in sorted(one.name for one in folder.iterdir()) if folder.exists() else ():
            for model in _versions(settings, client, name):
                for table, version in model.versions.items():
                    found.setdefault(table, set()).add(version)
    return found


def newest_before(models: tuple[Registered, ...], before: date) -> Registered | None:
    """The last of ``registered_models`` trained strictly before a day: what could have scored it."""
    return max(
        (m for m in models if m.training_date < before), key=lambda m: (m.training_date, m.version), default=None
    )


def load(settings: Settings, registered: Registered) -> Model:
    """Load a version from MLflow's artifacts.

    Raises
    ------
    StoreError
        The file is not there, or is not the one that was recorded.
    """
    from lightgbm import Booster

    with connected(settings), tempfile.TemporaryDirectory() as folder:
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            path = mlflow.artifacts.download_artifacts(f"{registered.uri}/{MODEL_FILE}", dst_path=folder)
            data = Path(path).read_bytes()
        except (MlflowException, OSError) as error:
            if login_refused(error):
                raise
            raise StoreError(
                f"file {MODEL_FILE} of model {registered.label} cannot be read from MLflow: {error}; "
                f"train {registered.training_date:%Y-%m} of universe {registered.universe!r} again"
            ) from error
    if (found := sha256(data).hexdigest()) != registered.sha256:
        raise StoreError(
            f"model {registered.label} in MLflow is not the one that was trained: SHA-256 {found[:12]}... instead of "
            f"{registered.sha256[:12]}...; it was changed there. Delete that version in MLflow and train "
            f"{registered.training_date:%Y-%m} of universe {registered.universe!r} again"
        )
    return Model(Booster(model_str=data.decode()), registered.features)


def _register(client: "MlflowClient", model: TrainedModel, run_id: str, experiment: str, uri: str) -> Registered:
    from mlflow import register_model

    name = model_name(model.universe, model.model_type)
    tags = {"universe": model.universe, "training_date": model.training_date.isoformat(), "run_id": run_id}
    with redirect_stderr(StringIO()):  # it prints that a version was made, also where nobody asked
        made = register_model(uri, name, tags=tags)
    return Registered(
        name=name,
        version=int(made.version),
        universe=model.universe,
        training_date=model.training_date,
        run_id=run_id,
        experiment_id=experiment,
        sha256=_digest(model.booster),
        features=model.features,
        versions=model.versions,
        inputs=model.inputs,
    )


def _digest(booster: "Booster") -> str:
    """SHA-256 of the file that MLflow stores; from the booster itself, for what comes back may be another's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL_FILE
        booster.save_model(path)
        return sha256(path.read_bytes()).hexdigest()


def _registered(settings: Settings, client: "MlflowClient", universe: str) -> tuple[Registered, ...]:
    return tuple(sorted(_versions(settings, client, model_name(universe)), key=lambda m: (m.training_date, m.version)))


def _versions(settings: Settings, client: "MlflowClient", name: str) -> list[Registered]:
    """What is both in MLflow's registry and recorded here: all but the names of versions is taken from the records."""
    found: list[Registered] = []
    others: list[int] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
        for version in page:
            known = recorded(settings, name, int(version.version))
            if known is None or known.run_id != version.run_id:
                others.append(int(version.version))
            elif version.status == "READY":
                found.append(known)
        token = page.token
        if not token:
            break
    if others:
        log.warning(
            "%s: versions %s in MLflow were not registered by this data home and do not serve; train their months "
            "again, or delete them in MLflow",
            name,
            ", ".join(map(str, sorted(others))),
        )
    return found


def _crown(settings: Settings, client: "MlflowClient", universe: str) -> int:
    """Point the alias at the newest version by training date, and return that version."""
    newest = _registered(settings, client, universe)[-1]
    client.set_registered_model_alias(newest.name, CHAMPION, str(newest.version))
    return newest.version
