"""Pools of indexes, files and traded value; the indexes against their own package."""

from datetime import date, timedelta

import index_constitution
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdag.core.pools import Span
from qdag.errors import SettingsError, UnknownNameError
from qdag.settings import INDEXES, UniverseSettings, load_settings
from qdag.sources.membership import pools_of

ALWAYS = (date(1990, 1, 1), date(2026, 12, 31))

SESSIONS = np.arange("1990-01-01", "2027-01-01", dtype="M8[D]")


def universe(region="us", **pools):
    return UniverseSettings.model_validate(
        {
            "source": {"kind": "sample"},
            "calendar": "XNYS" if region == "us" else "XSHG",
            "start": date(1991, 1, 1),
            "region": region,
            "pools": pools,
        }
    )


def never():
    raise AssertionError("traded value is only for pools of kind top")


def one(settings, stored):
    (found,) = pools_of(settings, stored, SESSIONS, never)
    return found


@pytest.mark.parametrize("index", INDEXES)
def test_an_index_is_what_its_package_says_on_any_day(index):
    region, size = INDEXES[index]
    history = index_constitution.history(index)
    names = sorted(set(history["symbol"]))
    found = one(universe(region, p={"kind": "index", "index": index}), dict.fromkeys(names, ALWAYS))
    assert (found.kind, found.size, found.unmatched, found.outside) == ("index", size, (), ())
    random = np.random.default_rng(1)
    changes = pd.concat([history["opt-in"], history["opt-out"]]).dropna()
    picked = [d.date() + timedelta(days=n) for d in changes.iloc[random.integers(0, len(changes), 12)] for n in (-1, 0)]
    for day in [d for d in picked if ALWAYS[0] <= d <= ALWAYS[1]]:
        assert found.pool.members(day) == tuple(sorted(set(index_constitution.constituents_at(index, day)["symbol"])))
    late = found.pool.counts(SESSIONS[-1:])[0]
    assert 0.95 * size <= late <= 1.05 * size


def test_overlapping_and_empty_spans_of_an_index_are_counted():
    names = set(index_constitution.history("sp500")["symbol"])
    found = one(universe(p={"kind": "index", "index": "sp500"}), dict.fromkeys(names, ALWAYS))
    history = index_constitution.history("sp500")
    assert found.empty == tuple(sorted(history[history["opt-in"] >= history["opt-out"]]["symbol"]))
    assert found.empty
    assert found.overlapping > 0
    days = np.concatenate([np.arange(s.start, s.end + timedelta(days=1), dtype="M8[D]") for s in found.pool.spans
                           if s.instrument == "T"])  # fmt: skip
    assert len(days) == len(np.unique(days))


def test_a_changed_ticker_is_found_under_the_one_it_had():
    settings = universe(p={"kind": "index", "index": "sp500"})
    joined = date(2013, 12, 23)
    old = (date(2012, 5, 18), date(2021, 4, 21))
    assert one(settings, {"FB": old}).pool.spans == (Span("FB", joined, old[1]),)
    # a later stock under the freed ticker is another company
    assert one(settings, {"FB": (old[0], date(2026, 1, 5))}).pool.spans == (Span("FB", joined, date(2022, 6, 8)),)
    assert one(settings, {"META": ALWAYS}).pool.spans == (Span("META", joined, ALWAYS[1]),)
    # both: the days before the new one's history are the old one's, and no day counts twice
    both = one(settings, {"FB": ALWAYS, "META": (date(2022, 6, 9), ALWAYS[1])})
    assert both.pool.spans == (Span("FB", joined, date(2022, 6, 8)), Span("META", date(2022, 6, 9), ALWAYS[1]))
    assert one(settings, {"FB": ALWAYS, "META": ALWAYS}).pool.spans == (Span("META", joined, ALWAYS[1]),)
    # a chain of changes: WLP, then ANTM, then ELV
    assert one(settings, {"WLP": (date(2000, 1, 3), date(2014, 12, 2))}).pool.spans[0].end == date(2014, 12, 2)


def test_what_does_not_match_is_listed(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(
        "instrument,start,end\nGONE,2010-01-04,\nOLD,1970-01-01,1980-01-01\nBRK B,2010-01-04,\n"
        "A,2010-01-04,2011-01-03\nA,2010-06-01,2012-01-03\nA,2012-01-04,2012-02-01\nLATE,2010-01-04,2011-01-03\n"
    )
    stored = {"A": ALWAYS, "BRK.B": ALWAYS, "BRK-B": ALWAYS, "LATE": (date(2015, 1, 5), ALWAYS[1])}
    found = one(universe(p={"kind": "file", "path": path}), stored)
    assert found.pool.spans == (Span("A", date(2010, 1, 4), date(2012, 2, 1)),)
    assert found.unmatched == ("BRK B (may be BRK-B or BRK.B)", "GONE")
    assert (found.outside, found.overlapping, found.size) == (("LATE",), 1, None)
    assert found.lost == ("BRK B (may be BRK-B or BRK.B)", "GONE", "LATE (nothing stored while a member)")
    given = {"kind": "file", "path": path, "symbols": {"BRK B": "BRK.B", "GONE": "A"}}
    found = one(universe(p=given), stored)
    assert found.unmatched == ()
    assert found.pool.members(date(2020, 1, 2)) == ("A", "BRK.B")
    given["symbols"]["GONE"] = "LAT"
    with pytest.raises(UnknownNameError, match=r"'LAT'.*did you mean 'LATE'"):
        one(universe(p=given), stored)


@given(st.sets(st.sampled_from(["A", "B", "C", "D"])), st.integers(0, 1000))
def test_adding_sessions_only_extends(stored, seed):
    """Pools of a shorter history are the longer one's, cut off."""
    random = np.random.default_rng(seed)
    sessions = np.arange("2019-01-01", "2019-07-01", dtype="M8[D]")
    settings = universe(p={"kind": "top", "size": 2, "window": 10})
    value = random.random((4, len(sessions)))
    held = {}
    for name in sorted(stored):
        first, last = sorted(random.integers(0, len(sessions), 2))
        held[name] = sessions[first].item(), sessions[last].item()
    cut = int(random.integers(1, len(sessions)))
    short = {n: (a, min(b, sessions[cut - 1].item())) for n, (a, b) in held.items() if a <= sessions[cut - 1].item()}
    (whole,) = pools_of(settings, held, sessions, lambda: ("ABCD", value))
    (part,) = pools_of(settings, short, sessions[:cut], lambda: ("ABCD", value[:, :cut]))
    np.testing.assert_array_equal(part.pool.mask("ABCD", sessions[:cut]), whole.pool.mask("ABCD", sessions)[:, :cut])


FILE = """
[universes.cn]
calendar = "XSHG"
start = 2015-01-05
region = "cn"
source = {{ kind = "sample" }}
industries = "lists/stocks.csv"
[universes.cn.pools]
{pools}
"""


def load(folder, pools):
    (folder / "qdag.toml").write_text(FILE.format(pools=pools))
    return load_settings(folder / "qdag.toml", {}).universe("cn")


def test_paths_are_relative_to_the_settings_file(tmp_path):
    found = load(tmp_path, 'mine = { kind = "file", path = "lists/mine.csv" }\ncsi300 = {kind="index", index="csi300"}')
    assert found.pools["mine"].path == tmp_path / "lists" / "mine.csv"
    assert found.industries == tmp_path / "lists" / "stocks.csv"
    assert found.pools["csi300"].size == 300


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ('all = { kind = "top", size = 3 }', "always exists"),
        ('"../x" = { kind = "top", size = 3 }', r"name '\.\./x' must match"),
        ('a = { kind = "index", index = "csi3000" }', "csi300"),
        ('a = { kind = "index", index = "sp500" }', "of region 'us', not 'cn'"),
        ('a = { kind = "top", size = 0 }', "greater than or equal to 1"),
        ('a = { kind = "top", size = 3, windw = 5 }', "did you mean 'window'"),
        ('file = { kind = "top", size = 3, windw = 5 }', "did you mean 'window'"),
        ('a = { kind = "list" }', "pools.a"),
    ],
)
def test_wrong_pools_are_refused(tmp_path, pools, said):
    with pytest.raises(SettingsError, match=said):
        load(tmp_path, pools)
