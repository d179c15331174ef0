"""Materialize in the UI: the mutation that it sends, Dagster's backfill machinery, and runs of several universes."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster_graphql.schema import create_schema

from qdag.assets.platform import Platform
from qdag.quality import quality_table
from qdag.settings import load_settings

ASSETS = ("raw_ohlcv", "qlib_bin", "price_features", "labels")
UNIVERSES = ("cn", "us")
# Monday the 20th is a holiday in New York; from Friday the 24th on the Chinese New Year closes Shanghai
TOML = """
home = "home"
horizons = [1]
[universes.us]
calendar = "XNYS"
start = 2020-01-02
end = 2020-01-31
source = { kind = "synthetic", seed = 3, instruments = 4 }
[universes.cn]
calendar = "XSHG"
start = 2020-01-02
end = 2020-01-23
source = { kind = "synthetic", seed = 4, instruments = 4 }
"""
LAUNCH = """
mutation LaunchPartitionBackfill($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message stack }
  }
}
"""


class Desk:
    """A data home with its instance and the code location, as the UI's server and the backfill daemon have them."""

    def __init__(self, folder: Path, workspace: WorkspaceProcessContext):
        self.platform = Platform.open(load_settings(folder / "qdag.toml", {}))
        self.instance = workspace.instance
        self.workspace = workspace

    def materialize(self, days: tuple[str, ...], assets: tuple[str, ...] = ASSETS) -> list[dg.DagsterRun]:
        """Choose days and all universes in the dialog and press Launch; returns the runs, after they have ended."""
        parameters = {
            "assetSelection": [{"path": [name]} for name in assets],
            "partitionNames": [f"{day}|{universe}" for day in days for universe in UNIVERSES],
            "fromFailure": False,
            "tags": [],
        }
        context = self.workspace.create_request_context()
        answer = create_schema().execute(LAUNCH, variable_values={"backfillParams": parameters}, context_value=context)
        assert not answer.errors, answer.errors
        launched = answer.data["launchPartitionBackfill"]
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        for _ in range(20):
            backfill = self.instance.get_backfill(launched["backfillId"])
            if backfill and backfill.status is not BulkActionStatus.REQUESTED:
                break
            errors = [e for e in execute_backfill_iteration(self.workspace, logging.getLogger("backfill")) if e]
            assert not errors, errors
        return self.instance.get_runs(dg.RunsFilter(tags={"dagster/backfill": launched["backfillId"]}))

    def rows(self, asset: str, universe: str, day: str) -> int:
        """Rows of a day in the table; of qlib_bin, bars that it took from raw_ohlcv."""
        table, session = asset if asset != "qlib_bin" else "raw_ohlcv", date.fromisoformat(day)
        return self.platform.store.count(table, universe, session, session)

    def check(self, asset: str, name: str) -> dg.AssetCheckEvaluation:
        """The newest result of a check."""
        key = dg.AssetCheckKey(dg.AssetKey(asset), name)
        record = self.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
        assert record.event
        assert record.event.dagster_event
        return record.event.dagster_event.asset_check_evaluation_data

    def shown(self, asset: str) -> dict[str, dict[str, Any]]:
        """What Dagster shows of the newest event of each partition."""
        records = self.instance.fetch_materializations(dg.AssetKey(asset), limit=1000, ascending=True).records
        return {
            str(r.partition_key): {k: v.value for k, v in r.asset_materialization.metadata.items()}
            for r in records
            if r.asset_materialization
        }


Open = Callable[[str], Desk]


@pytest.fixture
def open_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    home = tmp_path / "home" / "dagster"
    home.mkdir(parents=True)
    (tmp_path / "location.py").write_text("from qdag.defs.build import build_defs\n\ndefs = build_defs()\n")
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        f"storage: {{custom: {{module: qdag.defs.storage, class: QdagStorage, config: {{base_dir: '{home}'}}}}}}\n"
        "run_launcher:\n"
        "  module: dagster._core.launcher.sync_in_memory_run_launcher\n"
        "  class: SyncInMemoryRunLauncher\n"
        "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
    )
    monkeypatch.setenv("QDAG_CONFIG", str(tmp_path / "qdag.toml"))
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
    target = LoadableTargetOrigin(python_file=str(tmp_path / "location.py"))
    origin = InProcessCodeLocationOrigin(target, location_name="qdag")
    with ExitStack() as stack:
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))

        def open_with(settings: str) -> Desk:
            """The code location as it is loaded with these settings."""
            (tmp_path / "qdag.toml").write_text(settings)
            target = InProcessWorkspaceLoadTarget([origin])
            return Desk(tmp_path, stack.enter_context(WorkspaceProcessContext(instance, target)))

        yield open_with


def test_all_universes_are_materialized_from_the_dialog(open_desk: Open) -> None:
    """As many days as universes: Dagster makes a run per day, which covers both universes."""
    desk, days = open_desk(TOML), ("2020-01-16", "2020-01-17")
    runs = desk.materialize(days)
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert len(runs) == 2
    for asset in ASSETS:
        shown = desk.shown(asset)
        for universe in UNIVERSES:
            for day in days:
                assert shown[f"{day}|{universe}"]["dagster/row_count"] == desk.rows(asset, universe, day)
        # a check of such a run has one result, which tells the universes apart
        check = desk.check(asset, "structure")
        assert check.passed
        lines = str(check.description).splitlines()
        assert {line.split(" ")[0] for line in lines} == set(UNIVERSES)
        assert {line.split(":")[0][3:] for line in lines} < {f"{day} .. {day}" for day in days}
        assert check.metadata["universe"].value == "cn, us"
        rules = [str(record.data["universe"]) for record in check.metadata["rules"].records]
        assert rules == sorted(rules)
        assert set(rules) == set(UNIVERSES)


def test_every_session_has_its_own_numbers_and_the_last_those_of_all(open_desk: Open) -> None:
    desk = open_desk(TOML)
    days = [str(day) for day in np.arange("2020-01-13", "2020-02-01", dtype="M8[D]") if np.is_busday(day)]
    runs = desk.materialize(tuple(days))
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    assert len(runs) == 2
    ends = {"cn": "2020-01-23", "us": "2020-01-31"}
    for asset in ASSETS:
        shown = desk.shown(asset)
        for universe in UNIVERSES:
            mine = {key.split("|")[0]: told for key, told in shown.items() if key.endswith(universe)}
            # stored in the order of time: the latest materialization is the newest day
            assert list(mine) == days
            counts = {day: told["dagster/row_count"] for day, told in mine.items()}
            assert counts == {day: desk.rows(asset, universe, day) for day in days}
            total = sum(count for day, count in counts.items() if day <= ends[universe])
            whole = mine.pop(days[-1])
            assert (whole["universe"], whole["window"]) == (universe, f"{days[0]} .. {days[-1]}")
            # labels are written further back than the window
            assert whole["rows"] == total if asset != "labels" else whole["rows"] >= total
            for day, told in mine.items():
                assert {"dagster/row_count", "nan_share", "note"} >= told.keys(), (asset, day)
    shown = desk.shown("raw_ohlcv")
    assert shown["2020-01-20|us"] == {"dagster/row_count": 0, "note": "no session of XNYS"}
    assert shown["2020-01-24|cn"] == {"dagster/row_count": 0, "note": "outside universe cn"}
    day = date(2020, 1, 17)
    frame = desk.platform.store.read("price_features", "us").to_pandas().drop(columns=["universe", "instrument"])
    # columns that need more sessions than the window has count in no share
    told = frame.set_index("date").dropna(axis="columns", how="all")
    missing = told.loc[day].isna().to_numpy().mean()
    assert desk.shown("price_features")[f"{day}|us"]["nan_share"] == pytest.approx(missing, abs=1e-6)


def test_what_fails_for_one_universe_takes_nothing_from_another(open_desk: Open) -> None:
    broken = TOML.replace('{ kind = "synthetic", seed = 4, instruments = 4 }', '{ kind = "files", path = "nowhere" }')
    desk = open_desk(broken)
    [run] = desk.materialize(("2020-01-16",), ("raw_ohlcv",))
    assert run.status is dg.DagsterRunStatus.FAILURE
    [failure] = desk.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert failure.dagster_event
    cause = failure.dagster_event.step_failure_data.error.cause
    assert "nowhere" in cause.message
    assert "universe: cn" in cause.message
    assert desk.rows("raw_ohlcv", "us", "2020-01-16")
    assert desk.platform.store.count(quality_table("raw_ohlcv").name, "us") > 0
