"""Where training runs and registered models live: the only module that knows MLflow.

MLflow is for people to look at, and whoever reaches its server may write to it. So every model that is registered here
is also recorded in the data home (:mod:`qdag.models.records`). Only recorded models are found, and only the very bytes
that were recorded are loaded, as LightGBM's own text: nothing that MLflow holds is ever run or unpickled.
"""

import json
import logging
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np
import pandas as pd

from qdag.errors import StoreError
from qdag.models.frames import feature_names
from qdag.models.plots import figures
from qdag.models.records import Registered, record, recorded, records_folder
from qdag.models.relocation import other_homes, relocate, sqlite_path
from qdag.models.training import TrainedModel
from qdag.settings import Settings
from qdag.store.files import locked

if TYPE_CHECKING:
    from lightgbm import Booster
    from mlflow import MlflowClient

CHAMPION = "champion"
MODEL_TYPE = "lightgbm"
MODEL_FILE = "model.lgb"

log = logging.getLogger(__name__)
_CURVE_BATCH = 1000  # MLflow's limit of metrics per request
_opened: set[str] = set()
_lock = threading.RLock()


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
    with _connection(settings) as client:
        import mlflow
        from mlflow.entities import RunStatus

        experiment = _experiment(settings, client)
        for known in _registered(settings, client, model.universe):
            same = (known.training_date, known.inputs, known.experiment_id)
            if same == (model.training_date, model.inputs, experiment):
                return _tracked(settings, known, _crown(settings, client, model.universe))
        run = client.create_run(
            experiment, run_name=f"{model.universe} {model.training_date}", tags=_tags(settings, model, dagster_run_id)
        )
        run_id = run.info.run_id
        status = RunStatus.FAILED
        try:
            _log(settings, client, run_id, model)
            with mlflow.start_run(run_id=run_id):
                info = mlflow.lightgbm.log_model(
                    model.booster,
                    name="model",
                    signature=_signature(model),
                    pip_requirements=_requirements(),
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
    with _connection(settings) as client:
        return _registered(settings, client, universe)


def run_metrics(settings: Settings, models: Iterable[Registered]) -> dict[str, dict[str, float]]:
    """What training logged of models, by run: ``valid.rank_ic``, ``test.ic``, ...; lost runs are left out."""
    found = {}
    with _connection(settings) as client:
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
    with _connection(settings) as client:
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

    with _connection(settings), tempfile.TemporaryDirectory() as folder:
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            path = mlflow.artifacts.download_artifacts(f"{registered.uri}/{MODEL_FILE}", dst_path=folder)
            data = Path(path).read_bytes()
        except (MlflowException, OSError) as error:
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


def prepare_store(settings: Settings) -> str:
    """Create or migrate MLflow's store and the experiment in it; returns the experiment's id."""
    with _connection(settings) as client:
        return _experiment(settings, client)


@contextmanager
def _connection(settings: Settings) -> Iterator["MlflowClient"]:
    """A client, with MLflow's process-wide address pointing at the settings' store only inside the block."""
    # read by MLflow on import: no usage reports, no complaint about a missing git, no progress of its own
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    with _lock:
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.set_tracking_uri(_address(settings))
        try:
            yield _open(settings)
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


def _address(settings: Settings) -> str:
    """The store's address for MLflow; a server's user and password apart, for MLflow's errors repeat the address."""
    parts = urlsplit(settings.tracking_uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return settings.tracking_uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _open(settings: Settings) -> "MlflowClient":
    """A client. An SQLite store is created or migrated by one process at a time: two at once would fail half-way."""
    from mlflow import MlflowClient

    uri = _address(settings)
    path = sqlite_path(uri)
    if path is None or (uri in _opened and path.exists()):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    if path.exists() and not os.access(path.parent, os.W_OK):
        # models can be read from a home that cannot be written
        if others := other_homes(settings):
            raise StoreError(
                f"MLflow's store {uri} was moved or copied from {', '.join(others)} and cannot be written, so its "
                f"addresses stay behind; make {str(path.parent)!r} writable once"
            )
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    with locked(path.with_suffix(".lock")):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        if settings.mlflow.tracking_uri is None:
            relocate(settings)
    _opened.add(uri)
    return client


def _experiment(settings: Settings, client: "MlflowClient") -> str:
    """Id of the experiment; created with its artifacts under the data home where the store is the embedded one."""
    from mlflow.exceptions import MlflowException

    name = settings.mlflow.experiment
    # without a location of its own an SQLite store writes artifacts below the current directory
    location = settings.artifacts.as_uri() if settings.mlflow.tracking_uri is None else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            # without the kind, MLflow's UI opens the experiment as one of language models
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        raise StoreError(
            f"MLflow experiment {name!r} is deleted; restore it in MLflow or set another mlflow.experiment"
        )
    return str(found.experiment_id)


def _tags(settings: Settings, model: TrainedModel, dagster_run_id: str | None) -> dict[str, str]:
    lines = [f"Model of universe **{model.universe}** as of **{model.training_date}** (known at {model.split.as_of})."]
    lines += [f"{name}: {s.first} to {s.last}, {s.sessions} sessions" for name, s in model.split.segments.items()]
    lines += [f"Warning: {text}" for text in model.warnings]
    tags = {
        "universe": model.universe,
        "training_date": model.training_date.isoformat(),
        "model_type": model.model_type,
        "mlflow.source.name": "qdag",
        "mlflow.user": "qdag",
    }
    if dagster_run_id:
        tags["dagster_run_id"] = dagster_run_id
        url = f"{settings.dagster.ui_url.rstrip('/')}/runs/{dagster_run_id}"
        tags["dagster_run_url"] = url
        lines.append(f"Dagster run: [{dagster_run_id}]({url})")
    return tags | {"mlflow.note.content": "\n\n".join(lines)}


def _log(settings: Settings, client: "MlflowClient", run_id: str, model: TrainedModel) -> None:
    """Parameters, metrics, curves, tables, figures and the versions of what was read."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    params: dict[str, Any] = {
        **model.parameters,
        "num_boost_round": settings.training.num_boost_round,
        "early_stopping_rounds": settings.training.early_stopping_rounds,
        "horizon": model.split.horizon,
        "gap_sessions": model.split.gap,
        "features": ",".join(model.features),
        "feature_count": len(model.names),
        **{f"table.{table}.version": version for table, version in model.versions.items()},
    }
    for name, segment in model.split.segments.items():
        params |= {f"{name}.first": segment.first, f"{name}.last": segment.last, f"{name}.sessions": segment.sessions}
    metrics: dict[str, float | None] = {
        "best_iteration": model.best_iteration,
        "seconds": model.seconds,
        "instruments": model.instruments,
    }
    for name, judged in model.metrics.items():
        metrics |= {f"{name}.{key}": getattr(judged, key) for key in ("ic", "rank_ic", "icir", "rank_icir", "sessions")}
    for name, rows in model.rows.items():
        metrics |= {f"{name}.rows": rows.used, f"{name}.rows_without_label": rows.without_label}
    now = client.get_run(run_id).info.start_time
    points = [Metric(key, value, now, 0) for key, value in metrics.items() if value is not None]
    for curve, values in model.curves.items():
        points += [Metric(curve, value, now, step) for step, value in enumerate(values, 1)]
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
    for first in range(0, len(points), _CURVE_BATCH):
        client.log_batch(run_id, metrics=points[first : first + _CURVE_BATCH])
    inputs = [
        DatasetInput(
            Dataset(
                name=table,
                digest=f"v{version}",
                source_type="delta_table",
                source=json.dumps({"path": f"{settings.tables}/{table}", "delta_table_version": version}),
            ),
            [InputTag("mlflow.data.context", "training")],
        )
        for table, version in model.versions.items()
    ]
    client.log_inputs(run_id, inputs)
    client.log_text(run_id, model.importance.to_csv(index=False), "feature_importance.csv")
    client.log_text(run_id, model.daily.to_csv(index=False), "daily_ic.csv")
    for file, figure in figures(model).items():
        client.log_figure(run_id, figure, file)


def _signature(model: TrainedModel) -> Any:
    """Doubles, because MLflow widens float32 frames to them but refuses float64 frames for a float32 signature."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs = Schema([ColSpec("double", name) for name in model.names])
    return ModelSignature(inputs, Schema([TensorSpec(np.dtype("float64"), (-1,))]))


def _requirements() -> list[str]:
    """What loading needs, stated, so that MLflow does not find out by importing everything in a new process."""
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in ("mlflow", "lightgbm", "numpy", "pandas", "scikit-learn")]


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
