from datetime import date

import numpy as np
import pytest

from qdag.errors import SourceError
from qdag.universes import Pool, Span, all_pool, read_pool

SESSIONS = np.arange("2020-01-01", "2020-01-11", dtype="M8[D]")


def test_mask_is_the_slow_definition():
    spans = (
        Span("A", date(2020, 1, 2), date(2020, 1, 3)),
        Span("A", date(2020, 1, 8), date(2021, 1, 1)),
        Span("B", date(2019, 1, 1), date(2020, 1, 1)),
        Span("GONE", date(2019, 1, 1), date(2022, 1, 1)),
    )
    mask = Pool("p", spans).mask(["B", "A", "C"], SESSIONS)
    for i, name in enumerate(["B", "A", "C"]):
        for s, day in enumerate(SESSIONS.tolist()):
            assert mask[i, s] == any(x.instrument == name and x.start <= day <= x.end for x in spans)


def test_all_pool():
    first = {"B": date(2020, 1, 3), "A": date(2020, 1, 1)}
    pool = all_pool(first, {"A": date(2020, 1, 2), "B": date(2020, 1, 10)})
    assert pool.mask(["A", "B"], SESSIONS).sum(axis=1).tolist() == [2, 8]
    assert all_pool(first, date(2020, 1, 10)).mask(["A"], SESSIONS).all()


def test_read_pool(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("instrument,start,end\nNA,2020-01-01,2020-01-05\nTRUE,2020-01-01,\n", "utf-8")
    assert read_pool("p", path).mask(["NA", "TRUE"], SESSIONS).sum(axis=1).tolist() == [5, 10]
    for text, said in (
        ("a,b\n", "lacks the columns"),
        ("instrument,start,end\nA,x,\n", "line 2"),
        ("instrument,start,end\nA,2020-01-02,2020-01-01\n", "swap"),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(SourceError, match=said):
            read_pool("p", path)
    with pytest.raises(SourceError, match="cannot be read"):
        read_pool("p", tmp_path / "none.csv")
