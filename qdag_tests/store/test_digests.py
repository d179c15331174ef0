"""Digests against a slow reference in plain Python, and differences against sets of rows."""

import math
import struct
import subprocess
import sys
from collections import Counter
from datetime import date, timedelta
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdag.errors import StoreError
from qdag.schema import RAW_OHLCV
from qdag.store.digests import Differences, differences, digests_by_session, row_digests, session_digests
from qdag.store.tables import TableStore

ALL = (1 << 64) - 1
SCHEMA = pa.schema(
    [("date", pa.date32()), ("instrument", pa.string()), ("x", pa.float64()), ("y", pa.float32()), ("n", pa.int32())]
)


def mix(v: int) -> int:
    v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9 & ALL
    v = (v ^ (v >> 27)) * 0x94D049BB133111EB & ALL
    return v ^ (v >> 31)


def blake(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def slow_row(row: dict) -> int:
    total = 0
    for name, value in row.items():
        if value is None:
            continue
        if isinstance(value, str):
            bits = blake(value)
        elif isinstance(value, date):
            bits = (value - date(1970, 1, 1)).days & ALL
        elif isinstance(value, int):
            bits = value & ALL
        else:
            value = math.nan if math.isnan(value) else value + 0.0
            bits = struct.unpack("<Q", struct.pack("<d", value))[0]
        total += mix(bits ^ blake(name))
    return mix(total & ALL)


floats = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.nan, math.inf])
rows = st.lists(
    st.fixed_dictionaries(
        {
            "date": st.dates(date(1960, 1, 1), date(2040, 1, 1)) | st.just(date(2020, 1, 2)),
            "instrument": st.text(max_size=4) | st.none(),
            "x": floats | st.none(),
            "y": floats | st.none(),
            "n": st.integers(-(2**31), 2**31 - 1) | st.none(),
        }
    ),
    max_size=20,
)


@given(rows, st.randoms())
def test_digests_are_the_documented_ones(found, random):
    table = pa.Table.from_pylist(found, schema=SCHEMA)
    assert row_digests(table).tolist() == [slow_row(row) for row in found]
    sessions, values = digests_by_session(table)
    slow = {day: sum(slow_row(r) for r in found if r["date"] == day) & ALL for day in {r["date"] for r in found}}
    assert dict(zip(sessions.tolist(), values.tolist(), strict=True)) == {day: mix(v) for day, v in slow.items()}
    assert sessions.tolist() == sorted(slow)
    # the order of rows and columns, chunks, dictionaries and an empty column change nothing
    shuffled = [*found]
    random.shuffle(shuffled)
    other = pa.Table.from_pylist(shuffled, schema=SCHEMA).select(["n", "y", "x", "instrument", "date"])
    other = other.append_column("later", pa.nulls(len(found), pa.float64()))
    other = pa.concat_tables([other.slice(0, 3), other.slice(3)])
    other = other.set_column(3, "instrument", other["instrument"].dictionary_encode())
    again = digests_by_session(other)
    assert again[0].tolist() == sessions.tolist()
    assert again[1].tolist() == values.tolist()


def test_digests_are_the_same_in_another_process():
    code = (
        "import pyarrow as pa, numpy as np; from qdag.store.digests import row_digests;"
        "print(row_digests(pa.table({'a': ['x', None], 'b': [1.5, float('nan')]})).tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str([slow_row({"a": "x", "b": 1.5}), slow_row({"b": math.nan})])


def test_what_is_equal_and_what_is_not():
    def one(value, kind=None):
        return row_digests(pa.table({"x": pa.array([value], kind or pa.float64())}))[0]

    assert one(math.nan) == one(struct.unpack("<d", b"\x01\0\0\0\0\0\xf8\xff")[0])
    assert one(0.0) == one(-0.0)
    assert len({one(None), one(math.nan), one(0.0), one(1.0), one(np.nextafter(1.0, 2))}) == 5
    moved = pa.table({"x": [1.0, 2.0], "y": [2.0, 1.0]})
    assert len(set(row_digests(moved).tolist())) == 2
    # the universe is no part of a row; two equal rows are not none
    table = pa.table({"universe": ["a", "b"], "date": [date(2020, 1, 2)] * 2, "x": [1.0, 1.0]})
    assert len(set(row_digests(table).tolist())) == 1
    assert digests_by_session(table)[1][0] != digests_by_session(table.slice(0, 1))[1][0]
    with pytest.raises(StoreError, match="list"):
        row_digests(pa.table({"x": [[1]]}))


KEYS = ("universe", "date", "instrument")
cells = st.dictionaries(
    st.tuples(st.integers(0, 6), st.sampled_from("ABC")), st.sampled_from([1.0, 2.0, math.nan, None]), max_size=15
)


def table_of(values: dict) -> pa.Table:
    day = date(2020, 1, 2)
    found = [{"date": day + timedelta(days=d), "instrument": i, "x": x} for (d, i), x in values.items()]
    schema = pa.schema([("date", pa.date32()), ("instrument", pa.string()), ("x", pa.float64())])
    return pa.Table.from_pylist(found, schema=schema)


def slow_differences(old: dict, new: dict) -> Differences:
    def same(a, b):
        return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))

    changed = {k for k in old.keys() & new.keys() if not same(old[k], new[k])}
    fresh, gone = new.keys() - old.keys(), old.keys() - new.keys()
    days = {k[0] for k in changed | fresh | gone}
    new_days = days - {k[0] for k in old}
    day = date(2020, 1, 2)
    return Differences(
        len(new_days),
        len(days - new_days),
        len({k[0] for k in old.keys() | new.keys()} - days),
        len(fresh),
        len(changed),
        len(gone),
        day + timedelta(days=min(days)) if days else None,
        day + timedelta(days=max(days)) if days else None,
    )


@given(cells, cells, st.integers(0, 7))
def test_differences_are_those_of_the_rows(old, new, cut):
    expected = slow_differences(old, new)
    assert differences(table_of(old), table_of(new), KEYS) == expected
    assert bool(expected) == (expected.first is not None)

    def part(values, late):
        return table_of({k: v for k, v in values.items() if (k[0] >= cut) == late})

    parts = [differences(part(old, late), part(new, late), KEYS) for late in (False, True)]
    assert parts[0] + parts[1] == expected
    assert not differences(table_of(old), table_of(old), KEYS)


def test_session_digests_of_a_store(tmp_path):
    store = TableStore(tmp_path)
    days = [date(2019, 12, 30), date(2020, 1, 2), date(2020, 7, 1), date(2021, 3, 5)]
    names = [c.name for c in RAW_OHLCV.columns]
    found = [
        dict.fromkeys(names, 1.0 + i) | {"universe": "u", "date": day, "instrument": f"I{i}", "amount": None}
        for i, day in enumerate(days + days[:2])
    ]
    assert [len(x) for x in session_digests(store, "u", days[0], days[-1])] == [0, 0]
    whole = pa.Table.from_pylist(found, schema=RAW_OHLCV.arrow())
    store.replace(RAW_OHLCV, "u", days[0], days[-1], whole, {})
    sessions, values = session_digests(store, "u", days[0], days[-1])
    expected = digests_by_session(whole)
    assert (sessions.tolist(), values.tolist()) == (days, expected[1].tolist())
    part = session_digests(store, "u", date(2020, 1, 1), date(2020, 12, 31))
    assert (part[0].tolist(), part[1].tolist()) == (days[1:3], values[1:3].tolist())
    counts = Counter(r["date"] for r in found)
    assert counts[days[0]] == 2
    store.compact("raw_ohlcv")
    assert session_digests(store, "u", days[0], days[-1])[1].tolist() == values.tolist()
