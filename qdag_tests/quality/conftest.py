"""Fixtures of the tests of quality: an empty store, and a year that the stages have computed."""

from datetime import date
from pathlib import Path

import pytest

from qdag.quality import Scope
from qdag.settings import QualitySettings, Settings, SyntheticSource, UniverseSettings
from qdag.store.tables import TableStore
from qdag_tests import stages
from qdag_tests.quality.toy import END, START


@pytest.fixture
def scope(tmp_path: Path) -> Scope:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=START, end=END)
    settings = Settings(home=tmp_path, universes={"toy": universe})
    return Scope(TableStore(settings.tables), settings, "toy", START, END)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> stages.Platform:
    universe = UniverseSettings(
        source=SyntheticSource(instruments=20), calendar="XNYS", start=date(2019, 1, 2), end=date(2019, 12, 31)
    )
    home = tmp_path_factory.mktemp("computed")
    settings = Settings(home=home, universes={"toy": universe}, quality=QualitySettings(sampled_cells=60))
    platform = stages.Platform.open(settings)
    for stage in (stages.raw_ohlcv, stages.qlib_bin, stages.labels):
        stage(platform, "toy", universe.start, date(2019, 12, 31))
    for table in stages.FEATURE_TABLES[:4]:
        stages.feature_stage(table)(platform, "toy", universe.start, date(2019, 12, 31))
    return platform
