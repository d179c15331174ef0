"""The desk over time: models and metrics, versions, corrections, runs; light to open, and documented by what runs."""

import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import qdag
from qdag import schema
from qdag.errors import MissingDataError, QdagError, SettingsError, StoreError, UnknownNameError
from qdag.store.versions import expire
from qdag_tests import stages
from qdag_tests.desk.conftest import END, RUN, START, TOML

ROOT = Path(__file__).resolve().parents[2]
DAY = date(2012, 6, 1)


def corrected(desk: qdag.desk.desk.Desk, factor: float) -> None:
    """The close of one bar as a vendor would correct it."""
    store = desk.platform.store
    rows = store.read(schema.RAW_OHLCV.name, "sample", DAY, DAY)
    close = pc.if_else(pc.equal(rows["instrument"], "IBM"), pc.multiply(rows["close"], factor), rows["close"])
    rows = rows.set_column(rows.column_names.index("close"), "close", close).select(schema.RAW_OHLCV.arrow().names)
    store.replace(schema.RAW_OHLCV, "sample", DAY, DAY, pa.table(rows.columns, schema=schema.RAW_OHLCV.arrow()), {})


def test_metrics_are_tidy_and_ranked(desk):
    tidy = desk.metrics("sample", ["KMID", "custom_factors.gap"], "2012-06", "2012-09", horizon=5, pool="all")
    assert set(tidy["factor"]) == {"alpha158.KMID", "custom_factors.gap"}
    assert not tidy.duplicated(["date", "pool", "horizon", "factor"]).any()
    assert tidy["date"].dtype.kind == "M"
    assert len(desk.metrics("sample", "KMID", "2012-06", "2012-06", as_="polars")) == 21 * 2 * 2
    best = desk.leaderboard("sample", 3, "2012-06", "2012-09", horizon=5)
    means = (
        desk.metrics("sample", start="2012-06", end="2012-09", horizon=5, pool="all")
        .groupby("factor")["rank_ic"]
        .mean()
    )
    assert best["factor"].tolist() == means.abs().sort_values(ascending=False, kind="stable").index[:3].tolist()


def test_a_factor_shows_itself(desk):
    factor = desk.factor("sample", "KMID")
    assert repr(factor) == "Factor(alpha158.KMID, sample: body of the candle over the open)"
    assert factor.summary().index.tolist() == [1, 5]
    assert "($close-$open)/$open" in factor._repr_html_()
    assert factor.plot()._repr_png_().startswith(b"\x89PNG")


def test_a_loaded_model_scores_as_it_did(trained, tmp_path):
    scores = trained.predictions("sample")
    assert scores["model"].unique().tolist() == ["qdag-sample-lightgbm/1"]
    assert trained.predictions("sample", as_="numpy").fields.keys() == {"score"}
    model = trained.load_model("sample")
    again = model.predict(trained.features("sample", model.tables, "2012-12-03"))
    pd.testing.assert_series_equal(again, scores["score"], check_exact=True)
    assert trained.models("sample")["serves"].tolist() == ["yes"]
    assert model.importance()["gain"].is_monotonic_decreasing
    assert repr(model) == "StoredModel(qdag-sample-lightgbm/1, trained on 2012-11-30, 158 features)"
    assert "158 of alpha158" in model._repr_html_()
    model.plot().save(tmp_path / "importance.png")
    assert (tmp_path / "importance.png").stat().st_size > 1000
    with pytest.raises(UnknownNameError, match="unknown version of the model"):
        trained.load_model("sample", 7)
    with pytest.raises(UnknownNameError, match="unknown column of the frame 'KMID'"):
        model.predict(trained.features("sample", "basic_statistics", "2012-12-03"))


def test_a_desk_shows_itself(desk):
    html = desk._repr_html_()
    assert "XNYS" in html
    assert "alpha158" in html
    assert repr(desk).endswith("universes: sample)")
    assert {"features", "bars", "as_of", "leaderboard"} <= set(dir(desk))


def test_after_a_correction_the_old_values_are_still_there(folder, tmp_path):
    """Stale is what the correction reaches, and as_of reads what was; the notebook of an own factor refreshes."""
    shutil.copytree(folder, tmp_path / "home")
    desk = qdag.open(tmp_path / "home" / "qdag.toml")
    names = ["KMID", "gap", "Mean($close, 5)", "CSRank($close/Ref($close, 1))"]
    before = desk.features("sample", names)
    moment = datetime.now(UTC)
    corrected(desk, 1.05)
    stale = desk.stale("sample")
    assert stale.loc["qlib_bin", "sessions"] > 0
    platform = desk.platform.for_run("second-run")
    for name in ("qlib_bin", "alpha158", "custom_factors"):
        first, last = desk.stale("sample").loc[name, ["first", "last"]]
        stages.compute(name, platform, "sample", first.date(), last.date())
    assert desk.stale("sample").loc[["qlib_bin", "alpha158", "custom_factors"], "sessions"].sum() == 0
    after = desk.features("sample", names)
    changed = (after != before) & ~(after.isna() & before.isna())
    assert changed["KMID"].sum() == 1
    assert changed["gap"].sum() == 1
    assert changed["Mean($close, 5)"].sum() == 5
    for then in (desk.as_of(moment), desk.as_of(moment.isoformat()), desk.as_of(RUN), desk.as_of(RUN[:8])):
        pd.testing.assert_frame_equal(then.features("sample", names), before, check_exact=True)
        assert then.bars("sample", "close", DAY, DAY, adjusted=False).equals(
            desk.bars("sample", "close", DAY, DAY, adjusted=False, version={"raw_ohlcv": 1})
        )
    assert "as of run" in repr(desk.as_of(RUN))
    of_run = desk.as_of("second-run")
    pd.testing.assert_frame_equal(of_run.features("sample", names), after, check_exact=True)
    for what in (lambda: then.refresh("sample"), lambda: then.materialize("sample"), lambda: then.stale("sample")):
        with pytest.raises(QdagError, match="is for reading"):
            what()
    with pytest.raises(StoreError, match="are for reading"):
        stages.compute("labels", then.platform, "sample", START, END)
    with pytest.raises(MissingDataError, match="nothing was stored at"):
        desk.as_of(moment - timedelta(days=400))
    expire(desk.platform.store, "alpha158", newest=1, days=0)
    with pytest.raises(
        StoreError, match=r"version 1 of table 'alpha158' was vacuumed; the nearest that can be read is"
    ):
        then.features("sample", "KMID")
    with pytest.raises(StoreError, match="was vacuumed"):
        desk.features("sample", "KMID", version=1)


def test_a_version_is_read_as_it_was(desk):
    store = desk.platform.store
    newest = {table: store.version(table) for table in ("alpha158", "raw_ohlcv")}
    pinned = desk.features("sample", ["KMID", "$close"], "2012-12", version=newest)
    np.testing.assert_array_equal(pinned, desk.features("sample", ["KMID", "$close"], "2012-12"))
    shown = desk.versions("alpha158")
    assert shown["run"].iloc[0] == RUN
    assert shown["time"].is_monotonic_decreasing
    assert set(desk.versions()["table"]) >= {"alpha158", "raw_ohlcv", "labels"}


def test_a_run_that_fails_raises(folder, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'alpha158'"):
        qdag.open(folder).materialize("sample", "alpha159")
    (tmp_path / "qdag.toml").write_text(TOML)
    with pytest.raises(QdagError, match=r"run [\w-]+ failed: alpha158: .*materialize raw_ohlcv and qlib_bin"):
        qdag.open(tmp_path).materialize("sample", "alpha158", "2012-12-31", "2012-12-31")
    (tmp_path / "qdag.toml").write_text("hoem = 'x'")
    with pytest.raises(SettingsError, match="home"):
        qdag.open(tmp_path)


def test_opening_is_light(folder):
    heavy = {"dagster", "qlib", "mlflow", "matplotlib", "polars", "pandas", "pyarrow", "numba"}
    stored = heavy - {"pandas", "pyarrow"}
    code = (
        f"import sys, qdag; desk = qdag.open(); print(sorted(set(sys.modules) & {heavy}));"
        f"desk.features('sample', 'alpha158'); print(sorted(set(sys.modules) & {stored}))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "[]"]


def test_the_package_is_typed():
    assert (Path(qdag.__file__).parent / "py.typed").exists()


def test_the_page_is_what_runs(trained, folder, monkeypatch):
    monkeypatch.chdir(folder)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.M | re.S)
    assert len(blocks) > 5
    space: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), space)
    assert list(space["mine"].columns) == ["reversal", "rank", "kmid"]
    assert space["again"].equals(space["scores"]["score"])
