"""A small data home with tables of two universes, built once; each test has a copy of its own."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from qdag.assets.platform import Platform
from qdag.settings import load_settings
from qdag_tests import stages
from qdag_tests.cli.homes import END, START, TOML


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "qdag.toml").write_text(TOML)
    platform = Platform.open(load_settings(folder / "qdag.toml", {})).for_run("run-of-the-fixture")
    for universe in ("toy", "east"):
        for stage in (
            stages.raw_ohlcv,
            stages.qlib_bin,
            stages.feature_stage("basic_statistics"),
            stages.labels,
        ):
            stage(platform, universe, START, END)
    return folder


@pytest.fixture(autouse=True)
def _environment(monkeypatch) -> Iterator[None]:
    """What a command sets for the processes that it starts stays within the test."""
    with patch.dict(os.environ):
        for name in [n for n in os.environ if n.startswith(("QDAG_", "DAGSTER_"))]:
            monkeypatch.delenv(name)
        yield


@pytest.fixture
def folder(original, tmp_path) -> Path:
    shutil.copytree(original, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def platform(folder) -> Platform:
    return Platform.open(load_settings(folder / "qdag.toml"))
