"""Distributions by session, and drift."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from qdag.quality.profiles import QUANTILES, drift, profile
from qdag.settings import QualitySettings


def test_profiles_count_and_have_the_quantiles() -> None:
    days = np.repeat(np.array(["2020-01-02", "2020-01-03"], "M8[D]"), 21)
    matrix = np.stack([np.tile(np.arange(21.0), 2), np.full(42, np.nan)], axis=1)
    matrix[0, 0], matrix[21, 0] = np.nan, np.inf
    found = profile(days, ["x", "y"], matrix)
    assert found[["rows", "nulls", "infinite"]].to_numpy().tolist() == [
        [21, 1, 0],
        [21, 21, 0],
        [21, 0, 1],
        [21, 21, 0],
    ]
    first = found.iloc[0][list(QUANTILES)].astype(float)
    np.testing.assert_allclose(first, np.quantile(np.arange(1.0, 21), np.linspace(0, 1, 21), method="nearest"))
    assert found.iloc[1][list(QUANTILES)].isna().all()


def profiles(days: np.ndarray, shift: float, rng: np.random.Generator) -> pd.DataFrame:
    parts = [profile(np.full(500, day), ["x"], shift + rng.normal(size=(500, 1))) for day in days]
    return pd.concat(parts, ignore_index=True)


def test_drift_is_none_for_the_same_and_large_for_another_distribution() -> None:
    rng = np.random.default_rng(1)
    days = np.arange("2020-01-01", "2020-05-01", dtype="M8[D]")
    history = profiles(days[:100], 0, rng)
    limits = QualitySettings(drift=0.5, drift_shift=0.5)

    def measured(history: pd.DataFrame, current: pd.DataFrame) -> pd.DataFrame:
        return drift(history, current, limits)

    same, moved = (measured(history, profiles(days[100:120], shift, rng)) for shift in (0.0, 1.0))
    assert same[["column", "date"]].to_numpy().tolist() == [["x", pd.Timestamp(days[119])]]
    assert same["psi"].item() < 0.02
    # both normal with unit variance: the index is about the square of the shift
    assert moved["psi"].item() == pytest.approx(1.0, abs=0.2)
    assert moved["shift"].item() == pytest.approx(1 / 1.349, abs=0.05)
    assert moved["instruments"].item() == 500
    assert same["drift"].item() < 0.1
    # beyond both limits: (1.0 - 9 / 500) / 0.5 and 0.74 / (0.5 + 4 / sqrt(500))
    assert moved["drift"].item() == pytest.approx(0.741 / (0.5 + 4 / 500**0.5), rel=0.05)
    # 60 sessions before are needed
    assert measured(history.iloc[:30], profiles(days[30:50], 0, rng)).empty
    assert measured(pd.DataFrame(), pd.DataFrame(columns=["date", "column", *QUANTILES])).empty


def test_drift_needs_index_and_shift_beyond_what_so_few_instruments_do_by_chance() -> None:
    rng = np.random.default_rng(2)
    days = np.arange("2020-01-01", "2020-06-01", dtype="M8[D]")

    def drifted(instruments: int, scale: float, shift: float) -> bool:
        def of(days: np.ndarray, values: Callable[[], np.ndarray]) -> pd.DataFrame:
            return pd.concat([profile(np.full(instruments, d), ["x"], values()) for d in days])

        shape = (instruments, 1)
        history = of(days[:120], lambda: rng.normal(size=shape))
        current = of(days[120:140], lambda: shift + scale * rng.normal(size=shape))
        found = drift(history, current, QualitySettings(drift=2.0))
        assert found["psi"].item() > 2
        return bool(found["drift"].item() > 1)

    # everything in one bin: an index of about 6, and a median that stays
    assert not drifted(300, 0.001, 0.0)
    assert drifted(300, 1.0, 3.0)
    # a shift of 2.2 interquartile ranges is more than 300 instruments do by chance, and not more than five
    assert drifted(300, 0.5, 3.0)
    assert not drifted(5, 0.5, 3.0)
    assert drifted(5, 0.5, 9.0)
