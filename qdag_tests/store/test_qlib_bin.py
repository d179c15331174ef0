"""The provider directory: bytes, increments, crashes, and what Qlib itself reads from it."""

import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.engine.panel import Panel
from qdag.errors import MissingDataError, StoreError, UnknownNameError
from qdag.schema import RAW_OHLCV
from qdag.store import qlib_bin
from qdag.store.panels import ENGINE_FIELDS, read_panel
from qdag.store.qlib_bin import QlibBinWriter, qlib_symbol, read_provider_panel
from qdag.store.tables import TableStore

SESSIONS = np.array(["2020-01-30", "2020-01-31", "2020-02-03", "2020-02-04", "2020-02-05", "2020-02-06"], "M8[D]")
NAN = np.nan


def panel(close, instruments=None, sessions=SESSIONS):
    """Every field of a cell is close plus the field's number, so each cell identifies itself."""
    close = np.array(close, np.float32)
    names = instruments or [f"S{i}" for i in range(len(close))]
    return Panel(names, sessions[: close.shape[1]], {f: close + np.float32(k) for k, f in enumerate(ENGINE_FIELDS)})


def files(provider):
    return {
        str(p.relative_to(provider)): p.read_bytes()
        for p in sorted(Path(provider).rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def piecewise(provider, whole, cuts):
    writer = QlibBinWriter(provider)
    for low, high in itertools.pairwise(cuts):
        writer.write(whole.window(low, high), whole.sessions)


def test_bytes_by_hand(tmp_path):
    report = QlibBinWriter(tmp_path).write(
        panel([[NAN, 1, NAN, 2, NAN, NAN]]), SESSIONS, np.array(["2020-02-07"], "M8")
    )
    got = files(tmp_path)
    assert got["features/s0/open.day.bin"] == np.array([1, 1, NAN, 2], "<f4").tobytes()
    assert got["features/s0/high.day.bin"] == np.array([1, 2, NAN, 3], "<f4").tobytes()
    assert got["instruments/all.txt"] == b"S0\t2020-01-31\t2020-02-04\n"
    assert got["calendars/day.txt"].decode().split() == SESSIONS.astype(str).tolist()
    assert got["calendars/day_future.txt"].decode().split() == [*SESSIONS.astype(str).tolist(), "2020-02-07"]
    assert len(got) == 3 + len(ENGINE_FIELDS)
    assert (report.instruments, report.rewritten, report.sessions) == (1, 1, 6)


cells = st.lists(
    st.lists(st.just(NAN) | st.floats(-1e6, 1e6, width=32), min_size=6, max_size=6), min_size=1, max_size=3
)


@settings(max_examples=40, deadline=None)
@given(cells, st.sets(st.integers(1, 5)))
def test_session_by_session_equals_at_once(tmp_path_factory, close, cuts):
    whole = panel(close)
    once, steps = tmp_path_factory.mktemp("once"), tmp_path_factory.mktemp("steps")
    QlibBinWriter(once).write(whole, SESSIONS)
    piecewise(steps, whole, [0, *sorted(cuts), 6])
    assert files(once) == files(steps)
    assert QlibBinWriter(steps).verify(whole) == []


@settings(max_examples=40, deadline=None)
@given(cells, st.data())
def test_a_correction_equals_a_rebuild(tmp_path_factory, close, data):
    """A range is replaced by position, instruments without rows in it included."""
    before = panel(close)
    low, high = sorted(data.draw(st.sets(st.integers(0, 6), min_size=2, max_size=2)))
    after = np.array(close, np.float32)
    after[:, low:high] = data.draw(
        st.lists(st.just(NAN) | st.floats(0, 9, width=32), min_size=high - low, max_size=high - low)
    )
    after = panel(after.tolist())
    part = after.window(low, high)
    keep = [i for i in range(len(close)) if not np.isnan(part["open"][i]).all() or data.draw(st.booleans())]
    part = Panel([part.instruments[i] for i in keep], part.sessions, {f: v[keep] for f, v in part.fields.items()})
    corrected, rebuilt = tmp_path_factory.mktemp("corrected"), tmp_path_factory.mktemp("rebuilt")
    QlibBinWriter(corrected).write(before, SESSIONS)
    QlibBinWriter(corrected).write(part, SESSIONS)
    QlibBinWriter(rebuilt).write(after, SESSIONS)
    assert files(corrected) == files(rebuilt)


@pytest.mark.parametrize("survived", range(0, 30, 2))
def test_a_rerun_repairs_any_crash(tmp_path, monkeypatch, survived):
    """Stop after any number of system calls that change something: readers see old sessions whole, a re-run all."""
    whole = panel([[1, 2, 3, 4, 5, 6], [NAN, NAN, NAN, NAN, 7, 8], [1, 2, NAN, NAN, NAN, NAN]])
    writer = QlibBinWriter(tmp_path / "p")
    writer.write(whole.window(0, 4), SESSIONS)

    class Crash(BaseException):
        pass

    calls = iter(range(survived))

    def crashing(function):
        def call(*args, **kwargs):
            if next(calls, None) is None:
                raise Crash
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(qlib_bin, "_write_all", crashing(qlib_bin._write_all))
        patch.setattr(Path, "replace", crashing(Path.replace))
        try:
            writer.write(whole.window(4, 6), SESSIONS)
        except Crash:
            old = read_provider_panel(tmp_path / "p", ENGINE_FIELDS, ["S0", "S2"])
            for name in ENGINE_FIELDS:
                np.testing.assert_array_equal(old[name], whole[name][[0, 2], :4])
    writer.write(whole.window(4, 6), SESSIONS)
    QlibBinWriter(tmp_path / "once").write(whole, SESSIONS)
    assert files(tmp_path / "p") == files(tmp_path / "once")


def test_leftovers_of_a_crash_do_not_become_visible(tmp_path):
    """An append that was never published and whose row is then withdrawn must vanish."""
    whole = panel([[1, 2, 3, 4], [1, 2, 3, NAN], [1, 2, NAN, NAN]])
    writer = QlibBinWriter(tmp_path / "p")
    writer.write(whole.window(0, 3), SESSIONS)
    for name in ("s1", "s2"):
        with (tmp_path / "p" / "features" / name / "open.day.bin").open("ab") as file:
            file.write(np.array([99], "<f4").tobytes() + b"\1")
    (tmp_path / "p" / "features" / "ghost").mkdir()
    last = whole.window(3, 4)
    writer.write(Panel(["S0"], last.sessions, {f: v[:1] for f, v in last.fields.items()}), SESSIONS)
    QlibBinWriter(tmp_path / "once").write(whole, SESSIONS[:4])
    got, want = files(tmp_path / "p"), files(tmp_path / "once")
    assert {k: v for k, v in got.items() if "future" not in k} == {k: v for k, v in want.items() if "future" not in k}


def test_failures_are_collected_before_the_calendar_advances(tmp_path):
    writer = QlibBinWriter(tmp_path)
    names = ["OK", "AB", "ab", "X/Y", "T\t1"]
    with pytest.raises(StoreError, match=r"(?s)3 of 5 instruments.*T.*X/Y.*ab: shares the folder 'ab' with 'AB'"):
        writer.write(panel([[1.0] * 6] * 5, names), SESSIONS)
    assert not (tmp_path / "calendars").exists()
    whole = panel([[1.0] * 6] * 2, ["A", "B"])
    writer.write(whole.window(0, 3), SESSIONS)
    before = files(tmp_path)
    (tmp_path / "features" / "b" / "low.day.bin").unlink()
    (tmp_path / "features" / "b" / "low.day.bin").mkdir()
    with pytest.raises(StoreError, match=r"1 of 2 instruments.*B: .*low.day.bin"):
        writer.write(whole.window(3, 6), SESSIONS)
    after = files(tmp_path)
    assert not any(".writing" in name for name in after)
    assert all(after[n] == before[n] for n in before if n.startswith(("calendars", "instruments")))
    assert writer.verify(whole.window(0, 6))[0].startswith("calendar: 3 sessions are not published")
    os.rmdir(tmp_path / "features" / "b" / "low.day.bin")
    writer.write(whole, SESSIONS)
    assert writer.verify(whole) == []


def test_refuses_gaps_shifts_and_wrong_fields(tmp_path):
    writer = QlibBinWriter(tmp_path)
    whole = panel([[1, 2, 3, 4, 5, 6]])
    with pytest.raises(StoreError, match=r"starts at 2020-02-03, but 2020-01-30 is the next"):
        writer.write(whole.window(2, 4), SESSIONS)
    writer.write(whole.window(0, 2), SESSIONS)
    with pytest.raises(StoreError, match=r"starts at 2020-02-04, but 2020-02-03 is the next"):
        writer.write(whole.window(3, 4), SESSIONS)
    with pytest.raises(StoreError, match=r"has 2020-01-30 where 2020-01-31 is given"):
        writer.write(whole.window(2, 3), SESSIONS[1:])
    with pytest.raises(StoreError, match=r"not consecutive.*not in the panel 2020-01-31"):
        writer.write(panel([[1, 2]], sessions=SESSIONS[[0, 2]]), SESSIONS)
    with pytest.raises(StoreError, match=r"lacks fields \['change', 'factor', 'amount'\]"):
        writer.write(Panel(["A"], SESSIONS, {f: whole[f] for f in ENGINE_FIELDS[:6]}), SESSIONS)
    with pytest.raises(StoreError, match=r"future session 2020-02-06 is not after"):
        writer.write(whole, SESSIONS, SESSIONS[-1:])
    writer.write(panel([[7, 8]], sessions=SESSIONS[4:]), SESSIONS[4:])
    assert read_provider_panel(tmp_path).shape == (1, 2)


def test_an_earlier_correction_keeps_the_calendar(tmp_path):
    whole = panel([[1, 2, 3, 4, 5, 6]])
    writer = QlibBinWriter(tmp_path)
    writer.write(whole, SESSIONS)
    writer.write(panel([[9, 9]]).window(1, 2), SESSIONS[:3])
    assert read_provider_panel(tmp_path)["open"].tolist() == [[1, 9, 3, 4, 5, 6]]


def test_reader_and_verify(tmp_path):
    with pytest.raises(MissingDataError, match=r"no Qlib provider"):
        read_provider_panel(tmp_path)
    whole = panel([[1, NAN, 3, NAN, NAN, NAN], [NAN, NAN, NAN, 4, 5, 6]], ["NA", "CON"])
    report = QlibBinWriter(tmp_path).write(whole, SESSIONS)
    assert report.aliases == {"NA": "NA_"}
    assert qlib_symbol("TRUE") == "TRUE"
    assert sorted(p.name for p in (tmp_path / "features").iterdir()) == ["_qlib_con", "na_"]
    for low in range(6):
        for high in range(low, 6):
            got = read_provider_panel(tmp_path, ["open", "low"], ["NA", "CON"], SESSIONS[low].item(), SESSIONS[high])
            want = whole.window(low, high + 1)
            np.testing.assert_array_equal(got["low"], want["low"])
            np.testing.assert_array_equal(got.exists(), want.exists())
    with pytest.raises(UnknownNameError, match=r"unknown instrument 'ZZ'"):
        read_provider_panel(tmp_path, instruments=["ZZ"])
    with pytest.raises(UnknownNameError, match=r"'closs'.*did you mean 'close'"):
        read_provider_panel(tmp_path, ["closs"])
    other = {f: v.copy() for f, v in whole.fields.items()}
    other["volume"][1, 4] = 8
    differences = QlibBinWriter(tmp_path).verify(Panel(["NA", "CON"], SESSIONS, other))
    assert differences == ["CON volume: 1 of 6 sessions differ, first 2020-02-05: stored 9.0, expected 8.0"]
    only = QlibBinWriter(tmp_path).verify(panel([[NAN, NAN, NAN, 5, 6, 7]], ["CON"]))
    assert [d for d in only if d.startswith("NA open")] == [
        "NA open: 2 of 6 sessions differ, first 2020-01-30: stored 1.0, expected nan"
    ]


def raw(cells):
    rows = [
        {"universe": "u", "date": SESSIONS[s].item(), "instrument": n, "open": c,
         "high": c * 1.1, "low": c * 0.9, "close": c, "volume": v,
             "amount": None, "vwap": c, "factor": f, "split": 1.0, "dividend": 0.0}
        for s, n, c, v, f in cells
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=RAW_OHLCV.arrow())


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_table_to_bins_to_panel(tmp_path_factory, data):
    """The bins hold raw x factor and raw / factor of every stored row, to the float32."""
    folder = tmp_path_factory.mktemp("round")
    keys = sorted(data.draw(st.sets(st.tuples(st.integers(0, 5), st.sampled_from(["NA", "TRUE", "A"])), min_size=1)))
    price, factor = st.floats(0.01, 1e5), st.floats(0.01, 100)
    rows = [(s, n, data.draw(price), data.draw(st.floats(0, 1e12)), data.draw(factor)) for s, n in keys]
    store = TableStore(folder / "tables")
    store.replace(RAW_OHLCV, "u", SESSIONS[0].item(), SESSIONS[-1].item(), raw(rows), {})
    writer = QlibBinWriter(folder / "qlib")
    panel = read_panel(store, "u", SESSIONS)
    writer.write(panel, SESSIONS)
    assert writer.verify(panel) == []
    back = read_provider_panel(folder / "qlib")
    place = {n: i for i, n in enumerate(back.instruments)}
    assert np.count_nonzero(~np.isnan(back["close"])) == len(rows)
    for s, n, c, v, f in rows:
        assert back["close"][place[n], s] == np.float32(c * f)
        assert back["volume"][place[n], s] == np.float32(v / f)
        assert back["factor"][place[n], s] == np.float32(f)
    assert np.isnan(back["amount"]).all()


def test_qlib_reads_the_table(tmp_path):
    import qlib
    from qlib.data import D

    cells = [
        (s, n, 10.0 + s + k, 100.0 * (s + 1), 1.0 + k / 2)
        for k, n in enumerate(["NA", "TRUE", "CON", "sh600000"])
        for s in range(6)
        if not (n == "TRUE" and s == 3) and not (n == "CON" and s < 2)
    ]
    store = TableStore(tmp_path / "tables")
    store.replace(RAW_OHLCV, "u", SESSIONS[0].item(), SESSIONS[-1].item(), raw(cells), {})
    writer = QlibBinWriter(tmp_path / "qlib")
    for low, high in ((0, 4), (4, 5), (5, 6)):
        writer.write(read_panel(store, "u", SESSIONS[low:high]), SESSIONS, np.array(["2020-02-07"], "M8[D]"))
    qlib.init(provider_uri=str(tmp_path / "qlib"), region="us", kernels=1, logging_level=50)
    frame = D.features(D.instruments("all"), ["$close", "$volume", "$factor", "Ref($close, 1)"], freq="day")
    whole = read_panel(store, "u", SESSIONS)
    seen = 0
    for i, name in enumerate(whole.instruments):
        rows = frame.loc[qlib_symbol(name)]
        listed = whole.exists()[i]
        assert rows.index.values.astype("M8[D]").tolist() == SESSIONS[listed].tolist()
        for column, field in (("$close", "close"), ("$volume", "volume"), ("$factor", "factor")):
            np.testing.assert_array_equal(rows[column].to_numpy(), whole[field][i, listed])
        seen += len(rows)
    assert seen == len(frame) == 22
    assert D.calendar(future=True)[-1] == np.datetime64("2020-02-07")
