"""What `qdag materialize` runs, in this process: what it leaves out, and what it refuses."""

import os
from datetime import date

import dagster as dg
import pytest
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

from qdag.defs.build import SESSION_JOB, build_defs
from qdag.defs.launch import launch
from qdag.defs.partitions import range_tags
from qdag.defs.tags import COMMAND, ORIGIN_TAG, REASON_TAG, REPOSITORY, UNIVERSE_TAG
from qdag.errors import SessionError
from qdag.server.home import prepare
from qdag.settings import CODE_LOCATION, Settings, SyntheticSource, UniverseSettings

START, MONTH_END, END = date(2018, 1, 2), date(2018, 1, 31), date(2018, 2, 9)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    universe = UniverseSettings(
        source=SyntheticSource(seed=4, instruments=3), calendar="XNYS", start=START, end=date(2018, 6, 29)
    )
    made = Settings(
        home=tmp_path_factory.mktemp("launch"),
        universes={"toy": universe},
        horizons=(1,),
        features=("basic_statistics",),
        training={"horizon": 1, "features": ("basic_statistics",)},
    )
    for name in [name for name in os.environ if name.startswith(("QDAG_", "DAGSTER_"))]:
        del os.environ[name]
    prepare(made)
    return made


@pytest.fixture(scope="module")
def short(settings):
    """The whole chain over a month with an end, too short to train on."""
    return launch(settings, "toy", START, END, reason="a test")


def test_the_whole_chain_leaves_out_models_of_a_short_history(settings, short):
    assert short.success, short.errors
    assert set(short.assets) == {"raw_ohlcv", "qlib_bin", "basic_statistics", "labels", "factor_metrics"}
    untrained, unscored = short.notes
    assert untrained.startswith(f"no model is trained at {MONTH_END}: training on {MONTH_END} needs 756 sessions")
    assert "materialize more history, or lower training.train_sessions" in untrained
    assert unscored.startswith(f"nothing is scored: no model of universe 'toy' was trained before {END}")
    assert not settings.artifacts.exists()


def test_a_model_that_is_asked_for_by_name_fails(settings, short):
    asked = launch(settings, "toy", START, END, ["trained_model"])
    assert not asked.success
    assert f"trained_model: training on {MONTH_END} needs 756 sessions" in asked.errors[0]
    with pytest.raises(SessionError, match="has none; ask with"):
        launch(settings, "toy", START, date(2018, 1, 30), ["trained_model"])


def test_a_run_says_where_it_came_from(settings, short):
    runs = dg.DagsterInstance.get().get_runs(dg.RunsFilter(tags={ORIGIN_TAG: COMMAND, REASON_TAG: "a test"}))
    assert [run.run_id for run in runs] == short.runs
    assert {UNIVERSE_TAG: "toy", **range_tags("toy", str(START), str(END))}.items() <= runs[0].tags.items()
    # by these the page of a job finds its runs
    assert f"{build_defs(settings).get_repository_def().name}@{CODE_LOCATION}" == REPOSITORY
    labelled = dg.RunsFilter(job_name=SESSION_JOB, tags={REPOSITORY_LABEL_TAG: REPOSITORY})
    assert dg.DagsterInstance.get().get_run_records(labelled, limit=1)[0].dagster_run.run_id in short.runs
