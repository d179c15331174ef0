"""Shared fixtures: settings on a temporary home, and profiles for the property tests."""

import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from qdag.settings import Settings, SyntheticSource, UniverseSettings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

for _profile, _examples in (("dev", 50), ("ci", 50), ("thorough", 500)):
    hypothesis_settings.register_profile(
        _profile,
        max_examples=_examples,
        deadline=None,
        derandomize=_profile == "ci",
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

REAL_MARKET = Path(__file__).resolve().parents[2] / "shared" / "market"


@pytest.fixture(scope="module", autouse=True)
def _environment_of_a_module() -> Iterator[None]:
    """What commands set for the processes that they start stays within the file."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def real_market() -> Path:
    """Folder of real vendor files, beside the repository where it is present."""
    if not REAL_MARKET.exists():
        pytest.skip(f"no real market files at {REAL_MARKET}")
    return REAL_MARKET


@pytest.fixture
def small_settings(tmp_path: Path) -> Settings:
    """Twelve synthetic instruments over two years."""
    universe = UniverseSettings(
        source=SyntheticSource(seed=11, instruments=12), calendar="XNYS", start=date(2018, 1, 2), end=date(2019, 12, 31)
    )
    return Settings(home=tmp_path / "home", universes={"toy": universe})
