"""What is put down comes back, wherever it was held."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qdag.sources.spill import SpillingTables


@hypothesis_settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=8), st.integers(0, 4000))
def test_tables_give_back_what_was_added(added, limit):
    tables = SpillingTables(limit)
    expected: dict[int, list[int]] = {}
    for at, (place, size) in enumerate(added):
        tables.add(place, pa.table({"x": np.arange(size) + 100 * at}))
        expected.setdefault(place, []).extend(range(100 * at, 100 * at + size))
    assert tables.places == sorted(expected)
    for place, values in expected.items():
        assert tables.read(place)["x"].to_pylist() == tables.read(place)["x"].to_pylist() == values
