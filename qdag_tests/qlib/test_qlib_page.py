"""What docs/qlib.md shows, run on a small market."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PAGE = (Path(__file__).parents[2] / "docs" / "qlib.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_python_of_the_page(market: Path) -> None:
    first, second = blocks("python")
    folder = '"~/.qlib/qlib_data/cn_data"'
    assert folder in first
    names: dict[str, Any] = {}
    exec(first.replace(folder, repr(str(market))).replace('"cn"', '"cn", processors=False'), names)
    small = second.replace('"csi300"', '"index"').replace("2015-01-05", "2015-02-02").replace("2020-12", "2015-05")
    exec(small.replace("05-31", "05-29"), names)
    assert names["frame"].shape[1] == 3
    assert names["handler"].fetch().shape[1] == 159


def test_the_configurations_of_the_page(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qlib
    from qlib.data.data import DatasetD
    from qlib.utils import init_instance_by_config

    from qdag.qlib import Alpha158Stored, CSZScoreNorm, EngineDatasetProvider
    from qdag.settings import load_settings

    monkeypatch.setenv("QDAG_CONFIG", str(toy))
    line, handler = map(yaml.safe_load, blocks("yaml"))
    start = line["qlib_init"] | {"provider_uri": str(load_settings(toy).provider("toy"))}
    qlib.init(**start, logging_level=50)
    assert isinstance(DatasetD._provider, EngineDatasetProvider)
    chosen = handler["handler"]
    chosen["kwargs"] |= {"start_time": "2018-03-01", "end_time": "2018-12-31"}
    made = init_instance_by_config(chosen)
    assert type(made) is Alpha158Stored
    assert len(made.fetch())
    (text,) = re.findall(r"`(\{class: CSZScoreNorm.*?\})`", PAGE)
    assert type(init_instance_by_config(yaml.safe_load(text))) is CSZScoreNorm
    options: list[str] = re.findall(r"`(features: \[.*?\])`", PAGE)
    assert len(
        init_instance_by_config(
            chosen | {"class": "StoredHandler", "kwargs": chosen["kwargs"] | yaml.safe_load(options[0])}
        ).fetch()
    )
