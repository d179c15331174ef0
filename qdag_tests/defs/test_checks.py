"""The checks in real Dagster runs."""

import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qdag import schema
from qdag.assets.chain import chain
from qdag.defs.checks import check_specs, checks_of, run_checks
from qdag.defs.partitions import Window, range_tags, run_windows, session_partitions
from qdag.quality import profile_table, quality_table
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag_tests import stages
from qdag_tests.stages import rules_for

SETTINGS = Settings(custom_factors={"x": "$close"})
CHAIN = chain(SETTINGS)


def test_loading_the_checks_imports_no_validator() -> None:
    code = (
        "import sys\n"
        "from qdag.assets.chain import chain\n"
        "from qdag.defs.checks import check_specs\n"
        "from qdag.settings import Settings\n"
        "for asset in chain(Settings()): check_specs(Settings(), asset)\n"
        "print('great_expectations' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_specs_block_on_structure_only() -> None:
    for asset in CHAIN:
        specs = check_specs(SETTINGS, asset)
        assert [s.name for s in specs] == checks_of(SETTINGS, asset)
        assert [s.name for s in specs if s.blocking] == (["structure"] if asset.name != "trained_model" else [])
        assert all(s.asset_key == dg.AssetKey(asset.name) for s in specs)
    names = {asset.name: checks_of(SETTINGS, asset) for asset in CHAIN}
    assert names["raw_ohlcv"] == names["labels"] == ["structure", "completeness", "timeliness", "values"]
    assert names["alpha158"] == ["structure", "completeness", "timeliness", "values", "drift"]
    assert names["qlib_bin"] == ["structure", "completeness"]
    assert names["trained_model"] == []


# -- in real runs -----------------------------------------------------------------------------------------------------

START, END = date(2020, 1, 2), date(2020, 1, 31)


@pytest.fixture
def platform(tmp_path: Path) -> stages.Platform:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=START, end=END)
    return stages.Platform.open(Settings(home=tmp_path, universes={"toy": universe}))


def bars(sessions: np.ndarray) -> pd.DataFrame:
    frame = pd.MultiIndex.from_product([sessions.tolist(), ["AAA", "BBB"]], names=["date", "instrument"])
    frame = frame.to_frame(index=False)
    # a close that moves, within the day's range
    return frame.assign(
        universe="toy", open=10.0, high=11.0, low=9.0, close=10.0 + frame.index % 3 / 10,
        volume=100.0, amount=1000.0, vwap=10.0, factor=1.0,
        split=1.0, dividend=0.0,
    )  # fmt: skip


def run(
    platform: stages.Platform, spoil: Callable[[pd.DataFrame], pd.DataFrame], end: date
) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """Materialize a chain of two, the first of which stores spoiled bars."""
    partitions = session_partitions(platform.settings)
    ran: list[str] = []

    @dg.asset(
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=check_specs(SETTINGS, CHAIN["raw_ohlcv"]),
    )
    def raw_ohlcv(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        [window] = run_windows(context.run.tags, ["toy"])
        sessions = platform.calendar("toy").between(window.start, window.end)
        rows = pa.Table.from_pandas(spoil(bars(sessions)), schema.RAW_OHLCV.arrow(), preserve_index=False)
        platform.store.replace(schema.RAW_OHLCV, "toy", window.start, window.end, rows, {})
        return dg.MaterializeResult(check_results=run_checks(CHAIN["raw_ohlcv"], platform, [window], context).results)

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run(), deps=[raw_ohlcv])
    def downstream() -> dg.MaterializeResult:
        ran.append("downstream")
        return dg.MaterializeResult()

    result = dg.materialize(
        [raw_ohlcv, downstream],
        tags=range_tags("toy", START.isoformat(), end.isoformat()),
        raise_on_error=False,
        instance=dg.DagsterInstance.ephemeral(),
    )
    return result, ran


def outcomes(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    evaluations = result.get_asset_check_evaluations()
    assert len(evaluations) == 4
    return {e.check_name: e for e in evaluations}


@pytest.mark.parametrize("end", [START, END], ids=["one session", "range"])
def test_good_bars_pass_and_the_chain_goes_on(platform: stages.Platform, end: date) -> None:
    result, ran = run(platform, lambda frame: frame, end)
    assert result.success
    assert ran == ["downstream"]
    found = outcomes(result)
    # a run of one session early in January is judged to be behind
    assert {name for name, e in found.items() if not e.passed} <= {"timeliness"}
    assert found["timeliness"].passed == (end == END)
    rules = found["structure"].metadata["rules"].records
    assert {r.data["rule"] for r in rules} == {r.name for r in rules_for("raw_ohlcv") if r.check == "structure"}
    assert {r.data["passed"] for r in rules} == {"yes"}
    assert found["structure"].metadata["failed_rules"].value == 0


def test_a_structural_failure_stops_what_follows(platform: stages.Platform) -> None:
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[[5, 6], "high"] = 8.0
        return frame

    result, ran = run(platform, spoil, END)
    assert not result.success
    assert ran == []
    found = outcomes(result)
    assert not found["structure"].passed
    assert found["structure"].blocking
    assert found["structure"].severity == dg.AssetCheckSeverity.ERROR
    assert found["completeness"].passed
    metadata = found["structure"].metadata
    assert metadata["failed_rules"].value == 3
    assert metadata["failing_sessions"].value == 2
    failing = [r.data for r in metadata["sessions"].records]
    assert [f["session"] for f in failing] == ["2020-01-06", "2020-01-07"]
    assert [f["violations"] for f in failing] == [3, 3]
    assert "high not below low" in failing[0]["rules"]
    worst = [r.data for r in metadata["offenders"].records if r.data["rule"] == "high not below low"]
    assert [(w["date"], w["instrument"]) for w in worst] == [("2020-01-06", "BBB"), ("2020-01-07", "AAA")]
    assert worst[0] == {"universe": "toy", "rule": "high not below low", "date": "2020-01-06", "instrument": "BBB",
                        "value": "9", "limit": "high 8", "sentence": "high = 8, low = 9"}  # fmt: skip
    page = Path(metadata["quality_report"].path)
    assert page == platform.settings.reports / "toy" / "2020-01-31.html"
    assert "structural rule" in page.with_name("2020-01-06.html").read_text()
    kept = platform.store.read(quality_table("raw_ohlcv").name, "toy").to_pandas()
    broken_days = kept.loc[(kept["rule"] == "high not below low") & (kept["violations"] > 0), "date"]
    assert broken_days.tolist() == [date(2020, 1, 6), date(2020, 1, 7)]
    assert len(platform.store.sessions(profile_table("raw_ohlcv").name, "toy")) == 21
    said = str(found["structure"].description)
    assert said.startswith("toy 2020-01-02 .. 2020-01-31: ")
    assert "BBB on 2020-01-06: high = 8, low = 9; 1 more of 42 (high not below low). See `qdag report -u toy" in said
    assert found["completeness"].description == "toy 2020-01-02 .. 2020-01-31: 6 rules hold"
    assert (metadata["universe"].value, metadata["window"].value) == ("toy", "2020-01-02 .. 2020-01-31")


def test_an_incomplete_delivery_warns_and_a_missing_session_blocks(platform: stages.Platform) -> None:
    sparse, ran = run(platform, lambda f: f[(f["instrument"] == "AAA") | (f.index % 6 == 1)], END)
    assert sparse.success
    assert ran == ["downstream"]
    found = outcomes(sparse)
    assert found["structure"].passed
    assert not found["completeness"].passed
    assert found["completeness"].severity == dg.AssetCheckSeverity.WARN
    absent, ran = run(platform, lambda f: f[f["date"] != date(2020, 1, 15)], END)
    assert not absent.success
    assert ran == []
    failing = outcomes(absent)["structure"].metadata["sessions"].records
    assert [r.data["session"] for r in failing] == ["2020-01-15"]


def test_a_window_without_sessions_passes_with_nothing_to_judge(platform: stages.Platform) -> None:
    weekend = Window("toy", date(2020, 1, 4), date(2020, 1, 5))
    results = run_checks(CHAIN["alpha158"], platform, [weekend], dg.build_asset_context()).results
    assert [r.passed for r in results] == [True] * 5
    assert not platform.settings.reports.exists()
    records = results[0].metadata["rules"].records
    assert {r.data["observed"] for r in records} == {"nothing to judge"}
