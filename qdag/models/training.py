"""Train one model as of a training date and judge it. Where it is recorded is the tracker's matter."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from qdag.core.sessions import calendar_for
from qdag.errors import MissingDataError, TrainingError
from qdag.models.frames import LABELS, feature_names, stored_features
from qdag.models.split import Split, walk_forward
from qdag.settings import Settings

if TYPE_CHECKING:
    from lightgbm import Booster
    from qlib.data.dataset import DatasetH

    from qdag.store.tables import TableStore

log = logging.getLogger(__name__)

MAX_UNLABELLED_SHARE = 0.05
"""Share of a segment's sessions that may have no known label at all before training is refused."""


@dataclass(frozen=True)
class SegmentMetrics:
    """How well predictions rank the raw forward return, session by session, across instruments.

    ``ic`` and ``rank_ic`` are means over ``sessions`` of ``of_sessions``: those where predictions and labels both
    vary. ``icir`` and ``rank_icir`` divide by the sample standard deviation; not annualised. All are None where
    undefined, and ``reason`` then says why.
    """

    ic: float | None
    rank_ic: float | None
    icir: float | None
    rank_icir: float | None
    sessions: int
    of_sessions: int
    reason: str = ""


@dataclass(frozen=True)
class SegmentRows:
    """Rows of a segment: stored, used, and what was lost by cause."""

    stored: int
    used: int
    without_label: int
    single_label: int


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that is known about how it came about.

    Attributes
    ----------
    booster : the LightGBM booster; it predicts with its best iteration
    features : columns by feature table; ``names`` are the model's input columns in order
    versions : Delta version of every table that was read
    curves : metric per boosting round, keyed "l2.train", "l2.valid"
    metrics : by segment name ("valid", "test")
    daily : DataFrame (date, segment, ic, rank_ic), NaN where undefined
    importance : DataFrame (feature, gain, split), by decreasing gain
    rows : by segment name, learning segments "train" and "valid"
    instruments : number of instruments in the train segment
    warnings : what a person should know, in plain words
    inputs : digest of the rows of all segments, the parameters and the library: equal ones give an equal model
    """

    universe: str
    training_date: date
    model_type: str
    split: Split
    booster: "Booster"
    parameters: Mapping[str, float | int | str]
    features: Mapping[str, tuple[str, ...]]
    names: tuple[str, ...]
    label: str
    versions: Mapping[str, int]
    curves: Mapping[str, list[float]]
    best_iteration: int
    metrics: Mapping[str, SegmentMetrics]
    daily: pd.DataFrame
    importance: pd.DataFrame
    rows: Mapping[str, SegmentRows]
    instruments: int
    warnings: tuple[str, ...]
    inputs: str
    seconds: float


def train(
    settings: Settings,
    store: "TableStore",
    universe: str,
    training_date: date,
    sessions: np.ndarray | None = None,
) -> TrainedModel:
    """Train Qlib's LightGBM on what was known at the close of ``training_date``.

    Parameters
    ----------
    sessions : datetime64[D] array of the universe's trading sessions; its exchange calendar where left out

    Raises
    ------
    TrainingError
        Too little history, fewer than two instruments, or too many sessions without a label.
    MissingDataError
        A needed table or session is not stored.
    """
    began = time.perf_counter()
    options = settings.training
    label = f"label_{options.horizon}"
    features = stored_features(store, options.features)
    if not store.exists(LABELS) or label not in store.columns(LABELS):
        raise MissingDataError(f"table {LABELS!r} holds no {label!r}; materialize labels with this horizon first")
    # first, so that a write in between cannot make a model read newer rows than it says
    versions = {t: version for t in (*features, LABELS) if (version := store.version(t)) is not None}
    split = stored_split(settings, store, universe, training_date, sessions)

    # Qlib and LightGBM take seconds to import
    from qdag.models.datasets import build_dataset
    from qdag.models.zoo import lightgbm_model, lightgbm_parameters

    parameters = lightgbm_parameters(options)
    model = lightgbm_model(options, settings.engine.threads)
    dataset = build_dataset(store, universe, features, label, split, versions)
    warnings = []
    if split.shortened:
        warnings.append(
            f"history holds {split.train.sessions} sessions to train on; {split.asked_train_sessions} were asked"
        )
    rows, instruments = _account(dataset, split, universe, warnings)
    inputs = _inputs(dataset, split, {**parameters, **options.model_dump(mode="json"), "label": label})
    evals: dict[str, dict[str, list[float]]] = {}
    model.fit(dataset, evals_result=evals)
    curves = {
        f"{metric}.{segment}": list(values) for segment, byname in evals.items() for metric, values in byname.items()
    }
    booster = model.model
    metrics, daily = {}, []
    for segment in ("valid", "test"):
        metrics[segment], frame = _judge(dataset, model, segment)
        daily.append(frame.assign(segment=segment))
        if metrics[segment].reason:
            warnings.append(f"{segment}: {metrics[segment].reason}")
    for warning in warnings:
        log.warning("%s %s: %s", universe, training_date, warning)
    return TrainedModel(
        universe=universe,
        training_date=training_date,
        model_type="lightgbm",
        split=split,
        booster=booster,
        parameters=parameters,
        features=features,
        names=tuple(feature_names(features)),
        label=label,
        versions=versions,
        curves=curves,
        best_iteration=booster.best_iteration,
        metrics=metrics,
        daily=pd.concat(daily, ignore_index=True)[["date", "segment", "ic", "rank_ic"]],
        importance=importance_of(booster, feature_names(features)),
        rows=rows,
        instruments=instruments,
        warnings=tuple(warnings),
        inputs=inputs,
        seconds=time.perf_counter() - began,
    )


def importance_of(booster: "Booster", names: Sequence[str]) -> pd.DataFrame:
    """Gain and number of splits of every feature of a model (feature, gain, split), by decreasing gain."""
    found = {"feature": list(names), "gain": booster.feature_importance("gain")}
    frame = pd.DataFrame({**found, "split": booster.feature_importance("split")})
    return frame.sort_values(["gain", "feature"], ascending=[False, True], ignore_index=True)


def stored_split(
    settings: Settings,
    store: "TableStore",
    universe: str,
    training_date: date,
    sessions: np.ndarray | None = None,
) -> Split:
    """The segments of a training date on what is stored; parameters and errors are those of :func:`train`."""
    spec = settings.universe(universe)
    sessions = calendar_for(spec).all if sessions is None else np.asarray(sessions).astype("datetime64[D]")
    stored = {table: store.sessions(table, universe) for table in (*settings.training.features, LABELS)}
    split = walk_forward(_available(sessions, stored, universe), training_date, settings.training)
    _require_sessions(sessions, stored, split, universe)
    return split


def _available(sessions: np.ndarray, stored: Mapping[str, np.ndarray], universe: str) -> np.ndarray:
    """Calendar sessions from the first one that every table holds; before it the universe has no data."""
    if empty := [table for table, dates in stored.items() if not len(dates)]:
        raise MissingDataError(
            f"tables {empty} hold no session of universe {universe!r}; materialize them for its training window first"
        )
    first = max(dates[0] for dates in stored.values())
    return sessions[sessions >= first]


def _require_sessions(sessions: np.ndarray, stored: Mapping[str, np.ndarray], split: Split, universe: str) -> None:
    """Every session of the segments must be stored in every table: a hole would train on less than is said."""
    for name, segment in split.segments.items():
        wanted = sessions[(sessions >= np.datetime64(segment.first)) & (sessions <= np.datetime64(segment.last))]
        for table, dates in stored.items():
            missing = np.setdiff1d(wanted, dates)
            if len(missing):
                raise MissingDataError(
                    f"table {table!r} lacks {len(missing)} of {len(wanted)} {name} sessions of universe {universe!r} "
                    f"({missing[0]} to {missing[-1]}); materialize {table} for that range first"
                )


def _inputs(dataset: "DatasetH", split: Split, chosen: Mapping[str, Any]) -> str:
    import lightgbm

    told = {"lightgbm": lightgbm.__version__, **chosen}
    for name, segment in split.segments.items():
        told[name] = (str(segment.first), str(segment.last))
    found = sha256(json.dumps(told, sort_keys=True).encode())
    for name in split.segments:
        rows = dataset.prepare(name, col_set=["feature", "label"], data_key="raw")
        found.update("\n".join(map(str, [*rows.columns, *rows.index])).encode())
        found.update(np.ascontiguousarray(rows.to_numpy(np.float32)).data)
    return found.hexdigest()


def _account(
    dataset: "DatasetH", split: Split, universe: str, warnings: list[str]
) -> tuple[dict[str, SegmentRows], int]:
    """Count rows by cause of loss, and refuse what cannot be learnt from."""
    rows = {}
    for name in ("train", "valid"):
        label = dataset.prepare(name, col_set="label", data_key="raw").iloc[:, 0]
        known = label.groupby(level="datetime").count()
        unlabelled = int((known == 0).sum())
        if unlabelled > MAX_UNLABELLED_SHARE * len(known):
            raise TrainingError(
                f"{unlabelled} of {len(known)} {name} sessions of universe {universe!r} have no {label.name}, "
                f"the first {known.index[known == 0][0].date()}; labels known by {split.as_of} may not be materialized "
                f"yet: materialize labels for {split.train.first} to {split.test.last}"
            )
        used = len(dataset.prepare(name, col_set="label", data_key="learn"))
        without = int(label.isna().sum())
        if not used:
            raise TrainingError(
                f"no {name} session of universe {universe!r} has two instruments with different labels; a model ranks "
                f"instruments against each other, so give the universe at least two"
            )
        rows[name] = SegmentRows(len(label), used, without, len(label) - without - used)
        if unlabelled:
            warnings.append(f"{unlabelled} of {len(known)} {name} sessions have no {label.name} and were left out")
    instruments = dataset.prepare("train", col_set="label", data_key="learn").index.get_level_values("instrument")
    return rows, instruments.nunique()


def _judge(dataset: "DatasetH", model: Any, segment: str) -> tuple[SegmentMetrics, pd.DataFrame]:
    """IC and rank IC of the raw label per session (Qlib's ``calc_ic``), and their summary."""
    from qlib.contrib.eva.alpha import calc_ic

    label = dataset.prepare(segment, col_set="label", data_key="raw").iloc[:, 0]
    scores = model.predict(dataset, segment)
    pairs = pd.DataFrame({"score": scores, "label": label}).dropna()
    distinct = pairs.groupby(level="datetime").nunique()
    # where either side is constant the correlation is rounding noise around zero, not zero
    defined = distinct.index[(distinct > 1).all(axis=1)]
    pairs = pairs[pairs.index.get_level_values("datetime").isin(defined)]
    daily = pd.DataFrame(index=pd.DatetimeIndex(label.index.unique("datetime"), name="date"), columns=["ic", "rank_ic"])
    daily = daily.astype("float64")
    if len(pairs):
        daily["ic"], daily["rank_ic"] = calc_ic(pairs["score"], pairs["label"])
    daily = daily.reset_index()
    ic_mean, icir = _summary(daily["ic"].to_numpy())
    rank_mean, rank_icir = _summary(daily["rank_ic"].to_numpy())
    reason = ""
    if ic_mean is None:
        if scores.min() == scores.max():
            reason = (
                f"the model predicts one constant ({scores.iloc[0]:.6g}), so IC is undefined; its regularization is "
                f"too strong for so few rows: lower lambda_l1 and lambda_l2 in training.parameters"
            )
        else:
            reason = "no session has two instruments with different scores and different labels, so IC is undefined"
    return SegmentMetrics(ic_mean, rank_mean, icir, rank_icir, len(defined), len(daily), reason), daily


def _summary(values: np.ndarray) -> tuple[float | None, float | None]:
    """Mean, and mean over sample standard deviation, of the values that are defined."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return mean, mean / spread if spread > 0 else None
