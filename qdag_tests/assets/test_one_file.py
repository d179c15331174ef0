"""A new asset and a new feature set are one file each: everything else follows."""

import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from typer.testing import CliRunner

import qdag.assets
import qdag.features.sets
from qdag.assets import chain as chain_of_assets
from qdag.assets.chain import chain, compute
from qdag.assets.platform import Platform
from qdag.cli import app
from qdag.defs.build import build_defs
from qdag.features import catalogue
from qdag.lineage import withdraw
from qdag.operations.repair import repair
from qdag.operations.survey import survey
from qdag.settings import load_settings
from qdag.store.integrity import verify
from qdag.views import asset_status
from qdag.views.assets import assets_markdown

SET = """
from qdag.features.feature import Feature, FeatureSet

SET = FeatureSet(
    "toy_set",
    "Two features of a toy.",
    (
        Feature("GAP", "gap", "$open/Ref($close, 1)-1", "open over the close before", "positive is a gap up"),
        Feature("SPAN", "range", "Max($high, 5)-Min($low, 5)", "range of five sessions", "wide", "currency"),
    ),
    bounds={"GAP": (-1.0, 10.0), "SPAN": (0.0, 1e9)},
)
"""
ASSET = """
import pyarrow as pa
import pyarrow.compute as pc

from qdag.assets.asset import Asset
from qdag.assets.write import write_sessions
from qdag.core.windows import ends
from qdag.lineage import Definition, Reads
from qdag.quality.checks import derived, keyed, read_frame, session_frame
from qdag.schema import DATE, RAW_OHLCV, UNIVERSE, Column, TableSpec

TABLE = TableSpec(
    "turnover",
    ("universe", "date"),
    (UNIVERSE, DATE, Column("value", "float64", "traded value of the universe", "currency")),
    "Traded value of a universe on each session.",
)


class Turnover(Asset):
    name = "turnover"
    group = "market"
    kinds = frozenset({"python"})

    def table(self, settings):
        return TABLE

    def upstream(self, settings, universe=None):
        return (RAW_OHLCV.name,)

    def reads(self, settings, universe, defined=None):
        return (Reads(RAW_OHLCV.name),)

    def definition(self, settings, universe):
        return Definition({"version": str(self.version)})

    def rules(self, settings, limits):
        return keyed(self.name, ("date",), limits)

    def frames(self, scope):
        window = scope.sessions()
        if len(window):
            yield from derived(scope, self.name, [column.name for column in TABLE.columns])
            rows = read_frame(scope, self.name, window[0], window[-1], ["date", "value"])
            yield "rows", rows
            yield "sessions", session_frame(window, rows["date"].to_numpy().astype("M8[D]"))

    def compute(self, platform, universe, start, end):
        sessions = platform.window(universe, start, end)

        def batches():
            bars = platform.store.read(RAW_OHLCV.name, universe, *ends(sessions), columns=["date", "close", "volume"])
            traded = pc.multiply(bars["close"], bars["volume"])
            found = pa.table({"date": bars["date"], "value": traded}).group_by("date").aggregate([("value", "sum")])
            found = found.sort_by("date")
            columns = [pa.array([universe] * found.num_rows), found["date"], found["value_sum"]]
            yield from pa.table(columns, schema=TABLE.arrow()).to_batches()

        return write_sessions(platform, self, universe, sessions, batches, inputs=(RAW_OHLCV.name,))


ASSET = Turnover()
"""
TOML = """
home = "home"
horizons = [1, 5]
features = ["toy_set"]
[training]
features = ["toy_set"]
[universes.toy]
calendar = "XNYS"
start = 2018-01-02
end = 2018-03-29
source = { kind = "synthetic", seed = 3, instruments = 5 }
"""
START, END = date(2018, 1, 2), date(2018, 3, 29)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Settings of a home, while two more files lie among the assets and the feature sets."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "qdag.toml").write_text(TOML)
    files = {qdag.assets: ("turnover", ASSET), qdag.features.sets: ("toy_set", SET)}
    with pytest.MonkeyPatch.context() as patch:
        for package, (name, text) in files.items():
            place = folder / package.__name__
            place.mkdir()
            (place / f"{name}.py").write_text(text)
            patch.setattr(package, "__path__", [*package.__path__, str(place)])
        _look_again()
        yield folder
    for package, (name, _) in files.items():
        sys.modules.pop(f"{package.__name__}.{name}", None)
    _look_again()


def _look_again() -> None:
    catalogue.feature_sets.cache_clear()
    chain_of_assets._modules.cache_clear()


@pytest.fixture(scope="module")
def platform(folder: Path) -> Platform:
    """The home, filled by one run of the command."""
    done = _qdag(folder, "materialize", "--months", "0")
    assert done.exit_code == 0, done.output
    return Platform.open(load_settings(folder / "qdag.toml", {}))


def _qdag(folder: Path, *arguments: str):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--config", str(folder / "qdag.toml")])


def test_they_are_in_the_chain_and_in_the_lists(folder: Path, platform: Platform) -> None:
    names = chain(platform.settings).names
    assert names[:2] == ("raw_ohlcv", "qlib_bin")
    assert {"turnover", "toy_set"} < set(names)
    assert names.index("toy_set") < names.index("factor_metrics")
    assert "| `turnover` | market | sessions | raw_ohlcv |" in assets_markdown(platform.settings)
    assert "turnover" in _qdag(folder, "assets").output
    assert "GAP" in _qdag(folder, "features", "toy_set").output


def test_dagster_has_their_partitions_checks_and_versions(platform: Platform) -> None:
    defs = build_defs(platform.settings, platform)
    graph = defs.resolve_asset_graph()
    for name in ("turnover", "toy_set"):
        node = graph.get(dg.AssetKey(name))
        assert "2018-01-02|toy" in node.partitions_def.get_partition_keys()
        assert node.code_version == chain(platform.settings)[name].code_version(platform.settings)
        assert {key.name for key in node.check_keys} >= {"structure", "timeliness"}


def test_they_are_stored_checked_and_told(platform: Platform) -> None:
    status = {line.asset: line for line in asset_status(platform.settings, "toy")}
    for name in ("turnover", "toy_set"):
        assert status[name].sessions == 61
        assert status[name].missing == 0
        assert "structure: passed" in status[name].checks
    rows = platform.store.read("turnover", "toy").to_pandas()
    bars = platform.store.read("raw_ohlcv", "toy").to_pandas()
    expected = (bars["close"] * bars["volume"]).groupby(bars["date"]).sum()
    np.testing.assert_allclose(rows["value"], expected.to_numpy())
    factors = set(platform.store.read("factor_metrics", "toy", columns=["factor"])["factor"].to_pylist())
    assert factors == {"toy_set.GAP"}


def test_lineage_refresh_and_repair_know_them(platform: Platform) -> None:
    assert not any(survey(platform, "toy").stale.values())
    day = date(2018, 2, 15)
    withdraw(platform.store, "toy", "turnover", day, day, {})
    stale = survey(platform, "toy")
    assert [name for name, found in stale.stale.items() if found] == ["turnover"]
    assert [(r.assets, r.start, r.end) for r in stale.requests] == [(("turnover",), day, day)]
    compute("turnover", platform, "toy", day, day)
    assert not any(survey(platform, "toy").stale.values())
    before = platform.store.read("turnover", "toy")
    file = platform.store.folder("turnover") / platform.store.files("turnover").to_pylist()[0]["path"]
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    done = repair(platform, verify(platform.store, "turnover").damage)
    assert [one.table for one in done.computed] == ["turnover"]
    assert platform.store.read("turnover", "toy").equals(before)
    assert not verify(platform.store, "turnover").damage
    assert not any(survey(platform, "toy").stale.values())
