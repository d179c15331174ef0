"""What a training run shows in MLflow: tags, parameters, metrics, curves, tables and figures."""

import json
from typing import TYPE_CHECKING, Any

from qdag.models.plots import figures
from qdag.models.training import TrainedModel
from qdag.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CURVE_BATCH = 1000  # MLflow's limit of metrics per request


def run_tags(settings: Settings, model: TrainedModel, dagster_run_id: str | None) -> dict[str, str]:
    """Tags of a run, among them the note that the UI shows and the way to Dagster's run."""
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


def log_run(settings: Settings, client: "MlflowClient", run_id: str, model: TrainedModel) -> None:
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


def signature(model: TrainedModel) -> Any:
    """Doubles, because MLflow widens float32 frames to them but refuses float64 frames for a float32 signature."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    inputs = Schema([ColSpec("double", name) for name in model.names])
    return ModelSignature(inputs, Schema([TensorSpec(np.dtype("float64"), (-1,))]))


def requirements() -> list[str]:
    """What loading needs, stated, so that MLflow does not find out by importing everything in a new process."""
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in ("mlflow", "lightgbm", "numpy", "pandas", "scikit-learn")]
