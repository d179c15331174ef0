"""Joining a new answer to what is known equals the whole, or is refused."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qdag.sources.web.cache import joined
from qdag.sources.web.client import history_table
from qdag.sources.web.fetched import OVERLAP

DAYS = np.arange("2024-01-02", "2024-03-30", dtype="M8[D]")


@given(
    size=st.integers(1, 12),
    known=st.integers(1, 12),
    overlap=st.integers(1, OVERLAP),
    changed=st.integers(0, 11),
    by=st.sampled_from([0, 1e-7, 1e-3, np.nan]),
    name=st.sampled_from(["open", "close", "split", "volume"]),
)
def test_joining_equals_the_whole_or_is_refused(size, known, overlap, changed, by, name):
    known, changed = min(known, size), min(changed, size - 1)
    rng = np.random.default_rng(size)
    numbers = {n: rng.uniform(1, 9, size) for n in ("open", "high", "low", "close", "volume", "split", "level")}
    whole = history_table(DAYS[:size], numbers)
    first = max(0, known - overlap)
    # the level is told on another scale, a number may have been corrected
    later = {n: v.copy() for n, v in numbers.items()}
    later["level"] *= 3.0
    later[name][changed] *= 1 + by
    part = history_table(DAYS[:size], later).slice(first)
    result = joined(whole.slice(0, known), part, ("level",))
    if first <= changed < known and name != "volume" and by not in (0, 1e-7):
        assert result is None
        return
    assert result is not None
    assert result["date"].equals(whole["date"])
    assert np.allclose(result["level"].to_numpy(), numbers["level"], rtol=1e-12)
    expected = numbers[name].copy()
    # the last bits stay as they are known
    if changed >= known or (changed >= first and by != 1e-7):
        expected[changed] = later[name][changed]
    assert np.array_equal(result[name].to_numpy(), expected, equal_nan=True)


def test_joining_refuses_lost_and_added_rows():
    numbers = {n: np.arange(1.0, 9) for n in ("open", "high", "low", "close", "volume")}
    whole = history_table(DAYS[:8], numbers)
    known = whole.slice(0, 6)
    assert joined(known, whole.slice(3), ()) is not None
    assert joined(known, whole.slice(6), ()) is None
    assert joined(known, whole.take([3, 5, 6, 7]), ()) is None
    assert joined(whole.take([0, 1, 2, 3, 5]), whole.slice(2), ()) is None
    assert joined(known, whole.slice(8), ()) is None
