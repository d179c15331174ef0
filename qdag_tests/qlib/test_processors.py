"""Processors of cross-sections: the bits of Qlib's own."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import qdag.qlib
from qdag.qlib import processors

VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e-30, 3e38])


def frame(values: np.ndarray, days: Any, shuffled: bool = False) -> pd.DataFrame:
    index = pd.MultiIndex.from_arrays(
        [pd.Timestamp("2020-01-01") + pd.to_timedelta(np.sort(days), "D"), [f"S{i:03d}" for i in range(len(days))]],
        names=["datetime", "instrument"],
    )
    groups = ["feature"] * (values.shape[1] - 1) + ["label"]
    columns = pd.MultiIndex.from_arrays([groups, [f"C{i}" for i in range(values.shape[1])]])
    made = pd.DataFrame(values, index, columns)
    return made.sample(frac=1, random_state=1) if shuffled else made


def compared(name: str, options: dict[str, Any], table: pd.DataFrame) -> None:
    # the module may have been given ours by now
    theirs = getattr(processors, name).__bases__[0]
    assert theirs.__module__ == "qlib.data.dataset.processor"
    ours = getattr(processors, name)(**options)(table.copy())
    pd.testing.assert_frame_equal(ours, theirs(**options)(table.copy()), check_exact=True)
    pickle.loads(pickle.dumps(getattr(processors, name)(**options)))


CASES = [
    ("CSZScoreNorm", {"fields_group": "label"}),
    ("CSZScoreNorm", {"fields_group": ["feature", "label"]}),
    ("CSZScoreNorm", {"fields_group": "feature", "method": "robust"}),
    ("CSZFillna", {"fields_group": "feature"}),
    ("CSZFillna", {}),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@settings(max_examples=12)
@given(st.data())
def test_the_bits_are_qlibs(case: tuple[str, dict[str, Any]], dtype: str, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 40))
    days = data.draw(arrays(int, rows, elements=st.integers(0, 3)))
    values = data.draw(arrays(np.float32, (rows, 3), elements=VALUES)).astype(dtype)
    compared(*case, frame(values, days, data.draw(st.booleans())))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["CSZScoreNorm", "CSZFillna", "ProcessInf"])
def test_the_bits_are_qlibs_of_a_market(name: str) -> None:
    rng = np.random.default_rng(3)
    values = rng.standard_normal((6000, 3)).astype("f4") * 10
    values[rng.random(values.shape) < 0.05] = np.nan
    values[rng.random(values.shape) < 0.01] = np.inf
    values[:500, 1] = 7.3
    for shuffled in (False, True):
        options = {} if name == "ProcessInf" else {"fields_group": "feature"}
        compared(name, options, frame(values, np.arange(6000) // 700, shuffled))


def test_other_types_are_qlibs() -> None:
    table = frame(np.arange(12.0).reshape(6, 2), [0, 0, 0, 1, 1, 1])
    table[("feature", "C0")] = table[("feature", "C0")].astype("i8")
    compared("CSZScoreNorm", {}, table)


def test_configurations_get_them(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qlib.data.dataset import processor
    from qlib.utils import init_instance_by_config

    for name in ("CSZScoreNorm", "CSZFillna", "ProcessInf"):
        monkeypatch.setattr(processor, name, getattr(processors, name).__bases__[0])
    qdag.qlib.init(market, "us", logging_level=50, processors=False)
    assert processor.CSZScoreNorm is processors.CSZScoreNorm.__bases__[0]
    qdag.qlib.init(market, "us", logging_level=50)
    made = init_instance_by_config({"class": "CSZScoreNorm", "kwargs": {"fields_group": "label"}}, processor)
    assert type(made) is processors.CSZScoreNorm
    assert isinstance(made, processor.Processor)
