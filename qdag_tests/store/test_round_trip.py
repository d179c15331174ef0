"""Table -> provider directory -> values: nothing is lost, and every way of building it gives the same bytes."""

import itertools
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qdag.core.pools import Pool, Span
from qdag.schema import ENGINE_FIELDS, RAW_OHLCV
from qdag.settings import FilePool, Settings, SyntheticSource, UniverseSettings
from qdag.store.bars import read_panel, read_panels
from qdag.store.qlib.layout import qlib_symbol
from qdag.store.qlib.reader import read_provider_panel
from qdag.store.qlib.verify import verify_provider
from qdag.store.qlib.writer import QlibBinWriter
from qdag.store.tables import TableStore
from qdag_tests import stages

SESSIONS = np.array(["2020-01-30", "2020-01-31", "2020-02-03", "2020-02-04", "2020-02-05", "2020-02-06"], "M8[D]")
AFTER = np.array(["2020-02-07"], "M8[D]")
PRICES = ("open", "high", "low", "close", "vwap")
SYMBOLS = ["NA", "TRUE", "SZ000001", "BRK.B", "CON", "sh600000", "nan", "1E5"]


def bar(day, name, close, volume=100.0, factor=1.0, **others):
    row = {"open": close, "high": close * 1.1, "low": close * 0.9, "close": close, "volume": volume, "amount": None}
    row |= {"vwap": close, "factor": factor, "split": 1.0, "dividend": 0.0}
    return {"universe": "u", "date": day, "instrument": name, **row, **others}


def put(store, days, rows):
    table = pa.Table.from_pylist(rows, schema=RAW_OHLCV.arrow())
    store.replace(RAW_OHLCV, "u", days[0].item(), days[-1].item(), table, {})


def files(provider):
    return {
        str(p.relative_to(provider)): p.read_bytes()
        for p in sorted(Path(provider).rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


price = st.sampled_from([1e-30, 1e-3, 1.0, 1.0, 12.34, 1e9, 1e30, 1e300]) | st.floats(0.01, 1e5)
factor = st.sampled_from([1.0, 1e-6, 1e6, 0.1]) | st.floats(0.01, 100)
volume = st.sampled_from([0.0, 1.0, 1e15, 1e300]) | st.floats(0, 1e12)
gap = st.none() | price


@st.composite
def markets(draw):
    """Rows of awkward instruments: any sessions of any symbols, and any values in them."""
    keys = draw(st.sets(st.tuples(st.integers(0, 5), st.sampled_from(SYMBOLS)), min_size=1, max_size=20))
    still = draw(st.sampled_from([None, 3.25]))
    return [
        bar(
            SESSIONS[s].item(),
            name,
            still or draw(price),
            draw(volume),
            draw(factor),
            **{field: draw(gap) for field in ("open", "high", "low", "amount", "vwap")},
        )
        for s, name in sorted(keys)
    ]


def expected(rows):
    """Every value that must be read back, by loops: {(field, instrument, session): float32}."""
    values = {}
    last = {}
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        for row in rows:
            at = row["instrument"], row["date"]
            factor = np.float64(row["factor"])
            for field in PRICES:
                if row[field] is not None:
                    values[field, *at] = np.float32(np.float64(row[field]) * factor)
            values["volume", *at] = np.float32(np.float64(row["volume"]) / factor)
            values["factor", *at] = np.float32(factor)
            if row["amount"] is not None:
                values["amount", *at] = np.float32(row["amount"])
            close = np.float64(row["close"]) * factor
            if row["instrument"] in last:
                values["change", *at] = np.float32(close / last[row["instrument"]] - 1)
            last[row["instrument"]] = close
    return {key: value for key, value in values.items() if not np.isnan(value)}


def found(panel):
    cells = {}
    for field, values in panel.fields.items():
        for i, s in np.argwhere(~np.isnan(values)).tolist():
            cells[field, panel.instruments[i], panel.sessions[s].item()] = values[i, s]
    return cells


@settings(max_examples=12, deadline=None)
@given(markets(), st.integers(1, 6), st.sets(st.integers(1, 5), max_size=2))
def test_every_value_comes_back(tmp_path_factory, rows, chunk, cuts):
    folder = tmp_path_factory.mktemp("round")
    store = TableStore(folder / "tables")
    put(store, SESSIONS, rows)
    want = expected(rows)
    assert found(read_panel(store, "u", SESSIONS)) == want
    once, steps = folder / "once", folder / "steps"
    report = QlibBinWriter(once).write(read_panels(store, "u", SESSIONS, chunk), SESSIONS, AFTER)
    assert found(read_provider_panel(once)) == want
    assert verify_provider(once, read_panels(store, "u", SESSIONS, 7 - chunk), SESSIONS, AFTER, ()).lines() == []
    assert report.instruments == len({row["instrument"] for row in rows})
    for low, high in itertools.pairwise([0, *sorted(cuts), 6]):
        QlibBinWriter(steps).write(read_panel(store, "u", SESSIONS[low:high]), SESSIONS, AFTER)
    assert files(once) == files(steps)


def test_qlib_reads_the_table(tmp_path):
    import qlib
    from qlib.data import D

    suspended, late, one = ("TRUE", 3), ("CON", range(2)), ("nan", [0, 1, 2, 3, 5])
    rows = [
        bar(SESSIONS[s].item(), name, 10.0 + s + k, 100.0 * (s + 1), 1.0 + k / 2, open=None if k == 2 else 9.5)
        for s in range(6)
        for k, name in enumerate(SYMBOLS)
        if (name, s) != suspended and not (name == late[0] and s in late[1]) and not (name == one[0] and s in one[1])
    ]
    store = TableStore(tmp_path / "tables")
    put(store, SESSIONS, rows)
    days = SESSIONS.tolist()
    pool = Pool(
        "index",
        tuple(
            Span(*span)
            for span in [
                ("NA", days[0], days[1]),
                ("NA", days[3], days[4]),
                ("TRUE", days[2], date.max),
                ("BRK.B", days[5], days[5]),
            ]
        ),
    )
    for low, high in ((0, 4), (4, 5), (5, 6)):
        panel = read_panel(store, "u", SESSIONS[low:high])
        QlibBinWriter(tmp_path / "qlib").write(panel, SESSIONS, AFTER, [pool])
    qlib.init(provider_uri=str(tmp_path / "qlib"), region="us", kernels=1, logging_level=50)
    whole = read_panel(store, "u", SESSIONS)
    columns = [f"${name}" for name in ENGINE_FIELDS]
    frame = D.features(D.instruments("all"), [*columns, "Ref($close, 1)"], freq="day")
    seen = 0
    for i, name in enumerate(whole.instruments):
        part = frame.loc[qlib_symbol(name)]
        listed = whole.exists()[i]
        assert part.index.values.astype("M8[D]").tolist() == SESSIONS[listed].tolist()
        for column, field in zip(columns, ENGINE_FIELDS, strict=True):
            np.testing.assert_array_equal(part[column].to_numpy(), whole[field][i, listed], err_msg=f"{name} {field}")
        seen += len(part)
    assert seen == len(frame)
    # a suspended session is there, as NaN
    assert len(rows) == seen - 1
    members = D.features(D.instruments("index"), ["$close"], freq="day").dropna()
    got = {(n, d.date()) for n, d in members.index}
    mask = pool.mask(whole.instruments, SESSIONS) & ~np.isnan(whole["close"])
    assert got == {(qlib_symbol(whole.instruments[i]), days[s]) for i, s in np.argwhere(mask).tolist()}
    assert D.calendar(future=True)[-1] == np.datetime64("2020-02-07")


DAYS = 6


def platform(home, pool):
    universe = UniverseSettings(
        source=SyntheticSource(instruments=1),
        calendar="XNYS",
        start=date(2020, 1, 30),
        end=date(2020, 2, 6),
        pools={"index": FilePool(path=pool)},
    )
    return stages.Platform.open(Settings(home=home, universes={"u": universe}))


@st.composite
def deliveries(draw):
    """Bars day by day, with suspensions, late listings, a split, and corrections of earlier days between them."""
    names = ["A", "NA", "TRUE"]
    listed = {name: draw(st.integers(0, DAYS - 1)) for name in names}
    split = draw(st.integers(1, DAYS - 1))
    table = {(0, "Z"): (7.0, 1.0)}
    steps = []
    for day in range(DAYS):
        for name in names:
            if day >= listed[name] and draw(st.integers(0, 3)):
                table[day, name] = draw(st.floats(5, 50)), 2.0 if day >= split else 1.0
        steps.append((day, {n: v for (d, n), v in table.items() if d == day}))
        if draw(st.integers(0, 2)) == 0:
            past, name = draw(st.integers(0, day)), draw(st.sampled_from(names))
            if draw(st.booleans()):
                table[past, name] = draw(st.floats(5, 50)), 1.5
            else:
                table.pop((past, name), None)
            steps.append((past, {n: v for (d, n), v in table.items() if d == past}))
    return steps


# A is suspended over a split and trades again after NA is listed; then day 1 is corrected, whose close A's return of
# day 4 looks back to; NA's only row goes and comes again; TRUE appears before what was its listing
BY_HAND = [
    (0, {"Z": (7.0, 1.0), "A": (10.0, 1.0)}),
    (1, {"A": (11.0, 1.0)}),
    (2, {"Z": (7.0, 1.0)}),
    (3, {"NA": (5.0, 1.0), "TRUE": (8.0, 1.0)}),
    (4, {"A": (6.0, 2.0), "TRUE": (9.0, 1.0)}),
    (1, {"A": (12.0, 1.0)}),
    (3, {"TRUE": (8.0, 1.0)}),
    (5, {"Z": (7.5, 1.0)}),
    (3, {"NA": (5.5, 1.0), "TRUE": (8.0, 1.0)}),
    (2, {"Z": (7.0, 1.0), "TRUE": (7.0, 1.0)}),
]


@settings(max_examples=2, deadline=None)
@given(deliveries())
@example(BY_HAND)
def test_any_order_of_deliveries_gives_the_bytes_of_one_build(tmp_path_factory, steps):
    home = tmp_path_factory.mktemp("home")
    (home / "pool.csv").write_text("instrument,start,end\nA,2020-01-30,2020-02-03\nA,2020-02-05,\nNA,2020-02-04,\n")
    daily, once = platform(home / "daily", home / "pool.csv"), platform(home / "once", home / "pool.csv")
    days = daily.calendar("u").all
    assert len(days) == DAYS
    final = {}
    for position, bars in steps:
        final[position] = [bar(days[position].item(), n, c, 100.0, f) for n, (c, f) in sorted(bars.items())]
        put(daily.store, days[[position]], final[position])
        stages.qlib_bin(daily, "u", days[position].item(), days[position].item())
    put(once.store, days, [row for position in sorted(final) for row in final[position]])
    stages.qlib_bin(once, "u", days[0].item(), days[-1].item())
    assert files(daily.settings.provider("u")) == files(once.settings.provider("u"))
    assert stages.verify_bins(daily, "u").lines() == []
