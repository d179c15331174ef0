"""Provider directories for the room of Qlib, and Qlib on each of two dataset providers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from qdag.engine import Panel
from qdag.settings import load_settings
from qdag_tests.reference import nasty_panel, write_provider


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A provider of every irregularity whose digits Qlib keeps, with a pool whose members come and go."""
    folder = tmp_path_factory.mktemp("qlib") / "market"
    panel = nasty_panel(sessions=130, seed=8)
    kept = [i for i, name in enumerate(panel.instruments) if name not in ("T0009", "T0010")]
    fields = {name: values[kept] for name, values in panel.fields.items()}
    write_provider(Panel([panel.instruments[i] for i in kept], panel.sessions, fields), folder)
    spans = [("T0000", "2015-01-01", "2015-02-10"), ("T0000", "2015-03-02", "2015-12-31"),
             ("T0002", "2015-01-01", "2015-04-01"), ("T0006", "2014-01-01", "2015-03-10")]  # fmt: skip
    lines = ["\t".join(span) for span in spans]
    (folder / "instruments" / "index.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A provider in Qlib's dump layout as others write it.

    Fields of its own names, ``factor`` of nobody, files of other lengths for one instrument, a field that some lack,
    values after the calendar's end, and an instrument without a folder.
    """
    folder = tmp_path_factory.mktemp("qlib") / "ragged"
    days = pd.bdate_range("2020-01-01", periods=90)
    (folder / "calendars").mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("\n".join(d.strftime("%Y-%m-%d") for d in days[:80]) + "\n")
    rng = np.random.default_rng(1)
    spans = {"AAA": (0, 90), "BBB": (10, 70), "CCC": (5, 80), "COM1": (0, 80)}
    for name, (begin, end) in spans.items():
        stem = f"_qlib_{name}" if name == "COM1" else name
        (at := folder / "features" / stem.lower()).mkdir(parents=True)
        for field in ("adjclose", "adjopen", "turnover"):
            first = begin + 7 if (name, field) == ("CCC", "turnover") else begin
            if (name, field) != ("BBB", "turnover"):
                series = 10 + np.cumsum(rng.normal(0, 0.1, end - first))
                np.r_[first, series].astype("<f4").tofile(at / f"{field}.day.bin")
    (folder / "instruments").mkdir()
    lines = [f"{name}\t2020-01-01\t2020-12-31" for name in (*spans, "GONE")]
    (folder / "instruments" / "all.txt").write_text("\n".join(lines) + "\n")
    return folder


Start = Callable[..., Any]


@pytest.fixture
def qlib_on() -> Start:
    """Start Qlib on a directory, with the engine or without, and get its ``D``; a start forgets the one before."""
    import qlib
    from qlib.data import D

    import qdag.qlib

    def start(folder: Path, engine: bool, **options: Any) -> Any:
        kept = {"kernels": 1, "expression_cache": None, "dataset_cache": None, "logging_level": 50} | options
        if engine:
            qdag.qlib.init(folder, "us", processors=False, **kept)
        else:
            qlib.init(provider_uri=str(folder), region="us", **kept)
        return D

    return start


TOML = """
home = "home"
horizons = [1, 5]
[universes.toy]
calendar = "XNYS"
start = 2018-01-02
end = 2018-12-31
source = { kind = "synthetic", seed = 3, instruments = 6 }
[universes.toy.pools]
liquid = { kind = "top", size = 3 }
[custom_factors]
gap = "$open/Ref($close, 1)-1"
"""


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings file of a home with the directory of bins, two tables of features, and labels."""
    from qdag_tests import stages

    path = tmp_path_factory.mktemp("toy") / "qdag.toml"
    path.write_text(TOML)
    settings = load_settings(path, {})
    universe = settings.universe("toy")
    for name in ("raw_ohlcv", "qlib_bin", "labels", "alpha158", "technical_indicators", "custom_factors"):
        stages.compute(name, stages.Platform.open(settings), "toy", universe.start, universe.end)
    return path
