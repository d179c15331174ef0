"""Where training runs and registered models live: the only module that knows MLflow."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qdag.errors import MissingDataError, StoreError
from qdag.models.plots import figures
from qdag.models.training import TrainedModel
from qdag.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.pyfunc import PyFuncModel

CHAMPION = "champion"
MODEL_TYPE = "lightgbm"

_CURVE_BATCH = 1000  # MLflow's limit of metrics per request
_opened: set[str] = set()
_lock = threading.RLock()


@dataclass(frozen=True)
class Registered:
    """One version of a registered model; the newest by (training_date, version) is the champion."""

    name: str
    version: int
    universe: str
    training_date: date
    run_id: str

    @property
    def uri(self) -> str:
        """For ``mlflow.pyfunc.load_model``."""
        return f"models:/{self.name}/{self.version}"

    @property
    def label(self) -> str:
        """How predictions name their model."""
        return f"{self.name}/{self.version}"


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

    Training the same universe and date again makes a new run and a new version; lookups then find that one.
    A run that fails while it is being recorded is marked FAILED and registers nothing.
    """
    with _connection(settings) as client:
        import mlflow
        from mlflow.entities import RunStatus

        experiment = _experiment(settings, client)
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
            registered = _register(client, model, run_id, info.model_uri)
            champion = _crown(client, model.universe)
            status = RunStatus.FINISHED
        finally:
            client.set_terminated(run_id, RunStatus.to_string(status))
    path = f"/#/experiments/{experiment}/runs/{run_id}"
    return Tracked(run_id, path, settings.mlflow.ui_url.rstrip("/") + path, registered, champion == registered.version)


def registered_models(settings: Settings, universe: str) -> tuple[Registered, ...]:
    """Registered versions of a universe's model, by training date, then version; empty where there are none."""
    path = _sqlite_path(settings.tracking_uri)
    if path is not None and not path.exists():
        return ()
    with _connection(settings) as client:
        return _registered(client, universe)


def versions_read(settings: Settings) -> dict[str, set[int]]:
    """Versions by table that training runs of registered models read: of all universes, also of removed ones."""
    path = _sqlite_path(settings.tracking_uri)
    found: dict[str, set[int]] = {}
    if path is not None and not path.exists():
        return found
    with _connection(settings) as client:
        token = None
        while True:
            page = client.search_model_versions("name LIKE 'qdag-%'", max_results=200, page_token=token)
            for model in page:
                if "training_date" not in model.tags:
                    continue
                for key, value in _run_params(client, model.tags.get("run_id") or model.run_id or "", model).items():
                    if key.startswith("table.") and key.endswith(".version"):
                        found.setdefault(key.split(".")[1], set()).add(int(value))
            token = page.token
            if not token:
                return found


def _run_params(client: "MlflowClient", run_id: str, model: Any) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return dict(client.get_run(run_id).data.params)
    except MlflowException as error:
        raise StoreError(
            f"run {run_id!r} of model {model.name}/{model.version} cannot be read, so the table versions it needs are "
            f"unknown ({error}); restore the run in MLflow or delete that model version"
        ) from error


def newest_before(models: tuple[Registered, ...], before: date) -> Registered | None:
    """The last of ``registered_models`` trained strictly before a day: what could have scored it."""
    return max(
        (m for m in models if m.training_date < before), key=lambda m: (m.training_date, m.version), default=None
    )


def load(settings: Settings, registered: Registered) -> "PyFuncModel":
    """Load a version; its ``predict`` takes a frame with the feature columns and gives one float64 score per row."""
    with _connection(settings):
        import mlflow

        return mlflow.pyfunc.load_model(registered.uri)


def model_features(model: "PyFuncModel") -> dict[str, tuple[str, ...]]:
    """Columns by feature table that a loaded model was trained on."""
    metadata = model.metadata.metadata or {}
    if "features" not in metadata:
        raise MissingDataError(
            f"model of run {model.metadata.run_id} does not say which feature tables it needs; it was not recorded by "
            f"qdag: remove that version or train again"
        )
    return {table: tuple(columns) for table, columns in metadata["features"].items()}


@contextmanager
def _connection(settings: Settings) -> Iterator["MlflowClient"]:
    """A client, with MLflow's process-wide address pointing at the settings' store only inside the block."""
    # read by MLflow on import: no usage reports, no complaint about a missing git
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    uri = settings.tracking_uri
    with _lock:
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.set_tracking_uri(uri)
        try:
            yield _open(uri)
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


def _open(uri: str) -> "MlflowClient":
    """A client. An SQLite store is created or migrated by one process at a time: two at once would fail half-way."""
    from mlflow import MlflowClient

    path = _sqlite_path(uri)
    if path is None or (uri in _opened and path.exists()):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    _opened.add(uri)
    return client


def _sqlite_path(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix).split("?")[0]) if uri.startswith(prefix) else None


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


def _register(client: "MlflowClient", model: TrainedModel, run_id: str, model_uri: str) -> Registered:
    from mlflow import register_model

    name = model_name(model.universe, model.model_type)
    tags: Mapping[str, str] = {
        "universe": model.universe,
        "training_date": model.training_date.isoformat(),
        "run_id": run_id,
    }
    made = register_model(model_uri, name, tags=dict(tags))
    return Registered(name, int(made.version), model.universe, model.training_date, run_id)


def _registered(client: "MlflowClient", universe: str) -> tuple[Registered, ...]:
    name = model_name(universe)
    found: list[Registered] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=200, page_token=token)
        # versions that someone registered by hand carry no training date and never serve
        found += [
            Registered(
                name,
                int(v.version),
                universe,
                date.fromisoformat(v.tags["training_date"]),
                v.tags.get("run_id") or v.run_id or "",
            )
            for v in page
            if v.status == "READY" and "training_date" in v.tags
        ]
        token = page.token
        if not token:
            return tuple(sorted(found, key=lambda m: (m.training_date, m.version)))


def _crown(client: "MlflowClient", universe: str) -> int:
    """Point the alias at the newest version by training date, and return that version."""
    newest = _registered(client, universe)[-1]
    client.set_registered_model_alias(newest.name, CHAMPION, str(newest.version))
    return newest.version
