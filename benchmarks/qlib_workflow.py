"""Qlib's published workflows with and without the one changed line: predictions and seconds side by side.

``python -m benchmarks.qlib_workflow [--instruments I] [--sessions S] [--market FOLDER] [--only NAMES]``: LightGBM and
Linear on Alpha158, LightGBM on Alpha360, with the settings that Qlib publishes for them, each run as ``qrun`` runs a
task: train, score, evaluate, everything recorded by MLflow. A made-up market, or ``cn_daily`` of a folder of vendor
files, stands for the published one; its sessions are split as the published ones are.

Qlib's running sums give other roundings when it is asked from an earlier session on. So Qlib is also compared with
itself, its handler beginning twenty sessions earlier: what differs then is nobody's error. Fails where a prediction
differs by more than 1e-6, and by more than those do.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.alpha158 import synthetic_panel
from benchmarks.parity import market_panel
from qdag_tests.reference import write_provider

TOLERANCE = 1e-6
EARLIER = 20
"""Sessions before the first one of the training segment."""
ENGINE = {"class": "EngineDatasetProvider", "module_path": "qdag.qlib"}
LABEL = ["Ref($close, -2) / Ref($close, -1) - 1"]
RANKS = [{"class": "DropnaLabel"}, {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}}]
GROUP = {"fields_group": "feature"}
TREES = {
    "loss": "mse", "colsample_bytree": 0.8879, "subsample": 0.8789, "lambda_l1": 205.6999, "lambda_l2": 580.9768,
    "max_depth": 8, "num_leaves": 210, "num_threads": 2,
}  # fmt: skip
"""As published, but for the number of threads: 20 there."""


@dataclass(frozen=True)
class Workflow:
    """What differs between the published files."""

    handler: str
    options: dict[str, Any]
    model: dict[str, Any]


WORKFLOWS = {
    "LightGBM on Alpha158": Workflow(
        "Alpha158", {}, {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt",
                         "kwargs": TREES | {"learning_rate": 0.2}},
    ),
    "Linear on Alpha158": Workflow(
        "Alpha158",
        {
            "infer_processors": [
                {"class": "RobustZScoreNorm", "kwargs": GROUP | {"clip_outlier": True}},
                {"class": "Fillna", "kwargs": GROUP},
            ],
            "learn_processors": RANKS,
            "label": LABEL,
        },
        {"class": "LinearModel", "module_path": "qlib.contrib.model.linear", "kwargs": {"estimator": "ols"}},
    ),
    "LightGBM on Alpha360": Workflow(
        "Alpha360",
        {"infer_processors": [], "learn_processors": RANKS, "label": LABEL},
        {"class": "LGBModel", "module_path": "qlib.contrib.model.gbdt", "kwargs": TREES | {"learning_rate": 0.0421}},
    ),
}  # fmt: skip


def task(workflow: Workflow, days: list[str], start: str) -> dict[str, Any]:
    """The task of a configuration file. Of the published 12.6 years 7 are learned from, 2 validate.

    ``start``: the handler's first session, not after that of the training segment.
    """
    at = [0, round(len(days) * 7 / 12.6), round(len(days) * 9 / 12.6)]
    ends = [at[1] - 1, at[2] - 1, len(days) - 1]
    segments = {name: [days[a], days[b]] for name, a, b in zip(("train", "valid", "test"), at, ends, strict=True)}
    handler = {
        "class": workflow.handler,
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {
            "instruments": "all", "start_time": start, "end_time": days[-1],
            "fit_start_time": segments["train"][0], "fit_end_time": segments["train"][1], **workflow.options,
        },
    }  # fmt: skip
    records = [
        {"class": "SignalRecord", "module_path": "qlib.workflow.record_temp",
         "kwargs": {"model": "<MODEL>", "dataset": "<DATASET>"}},
        {"class": "SigAnaRecord", "module_path": "qlib.workflow.record_temp",
         "kwargs": {"ana_long_short": False, "ann_scaler": 252}},
    ]  # fmt: skip
    dataset = {
        "class": "DatasetH",
        "module_path": "qlib.data.dataset",
        "kwargs": {"handler": handler, "segments": segments},
    }
    return {"model": workflow.model, "dataset": dataset, "record": records}


def run(name: str, provider: str, days: list[str], start: str, engine: bool, folder: str) -> tuple[float, pd.DataFrame]:
    """Seconds and predictions of a workflow."""
    import qlib
    from qlib.model.trainer import task_train

    began = time.perf_counter()
    manager = {
        "class": "MLflowExpManager",
        "module_path": "qlib.workflow.expm",
        "kwargs": {"uri": f"sqlite:///{folder}/mlflow.db", "default_exp_name": "workflow"},
    }
    line = {"dataset_provider": ENGINE} if engine else {}
    qlib.init(provider_uri=provider, region="cn", kernels=2, logging_level=40, exp_manager=manager, **line)
    recorder = task_train(task(WORKFLOWS[name], days, start), experiment_name="workflow")
    predicted = recorder.load_object("pred.pkl")
    return time.perf_counter() - began, predicted


def difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> float:
    """The largest of any prediction; NaN where the rows are not the same."""
    if not ours.index.equals(theirs.index):
        return float("nan")
    return float(np.abs(ours.to_numpy() - theirs.to_numpy()).max())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instruments", type=int, default=60)
    parser.add_argument("--sessions", type=int, default=900)
    parser.add_argument(
        "--market", type=Path, help="a folder of vendor files with cn_daily, instead of a made-up market"
    )
    parser.add_argument("--only", nargs="*", default=list(WORKFLOWS), choices=list(WORKFLOWS))
    options = parser.parse_args()
    if options.market:
        panel = market_panel("cn_daily", options.market, options.sessions).rows(slice(0, options.instruments))
    else:
        panel = synthetic_panel(options.instruments, options.sessions)
    days = [str(day) for day in panel.sessions]
    wrong = 0
    print(f"{panel.shape[0]} instruments x {panel.shape[1]} sessions, with imports and MLflow\n")
    print("| workflow | Qlib s | one line changed s | ratio | predictions | distinct | apart | Qlib from itself |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory(prefix="qdag-workflow-") as folder:
        write_provider(panel, Path(folder) / "provider")
        for name in options.only:
            found = []
            for engine, start in ((False, days[EARLIER]), (True, days[EARLIER]), (False, days[0])):
                with ProcessPoolExecutor(1, mp_context=context) as executor:
                    given = (name, f"{folder}/provider", days[EARLIER:], start, engine, folder)
                    found.append(executor.submit(run, *given).result())
            (theirs, rows), (ours, our_rows), (_, again) = found
            apart, itself = difference(our_rows, rows), difference(again, rows)
            wrong += not apart <= max(TOLERANCE, itself)
            distinct = len(np.unique(rows.to_numpy()))
            print(
                f"| {name} | {theirs:.1f} | {ours:.1f} | {theirs / ours:.1f} | {len(rows):,} | {distinct:,} | "
                f"{apart:.1e} | {itself:.1e} |",
                flush=True,
            )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
