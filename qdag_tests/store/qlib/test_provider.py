"""The provider directory: bytes, increments, crashes, and what Qlib itself reads from it."""

import itertools
import os
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.core.pools import Pool, Span
from qdag.engine.panel import Panel
from qdag.errors import MissingDataError, StoreError, UnknownNameError
from qdag.schema import ENGINE_FIELDS
from qdag.store.qlib import files as contents
from qdag.store.qlib import made
from qdag.store.qlib import writer as writing
from qdag.store.qlib.layout import MISSING_WORDS, instrument_of, qlib_symbol
from qdag.store.qlib.reader import read_calendar, read_pool, read_provider_panel
from qdag.store.qlib.verify import verify_provider
from qdag.store.qlib.writer import QlibBinWriter

SESSIONS = np.array(["2020-01-30", "2020-01-31", "2020-02-03", "2020-02-04", "2020-02-05", "2020-02-06"], "M8[D]")
NAN = np.nan


def panel(close, instruments=None, sessions=SESSIONS):
    """Every field of a cell is close plus the field's number, so each cell identifies itself."""
    close = np.array(close, np.float32)
    names = instruments or [f"S{i}" for i in range(len(close))]
    return Panel(names, sessions[: close.shape[1]], {f: close + np.float32(k) for k, f in enumerate(ENGINE_FIELDS)})


def differences(provider, whole, calendar=SESSIONS, **more):
    """What verify says, without the reminder that no later session is known."""
    return verify_provider(provider, whole, calendar, **more).lines()


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


@settings(max_examples=20, deadline=None)
@given(cells, st.sets(st.integers(1, 5)))
def test_session_by_session_equals_at_once(tmp_path_factory, close, cuts):
    whole = panel(close)
    once, steps = tmp_path_factory.mktemp("once"), tmp_path_factory.mktemp("steps")
    QlibBinWriter(once).write(whole, SESSIONS)
    piecewise(steps, whole, [0, *sorted(cuts), 6])
    assert files(once) == files(steps)
    assert differences(steps, whole) == []
    together = tmp_path_factory.mktemp("together")
    parts = [whole.window(a, b) for a, b in itertools.pairwise([0, *sorted(cuts), 6])]
    QlibBinWriter(together).write(iter(parts), SESSIONS)
    assert files(once) == files(together)


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
        patch.setattr(made, "write_all", crashing(made.write_all))
        patch.setattr(contents, "write_all", crashing(contents.write_all))
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


def test_what_others_put_there_stops_no_write_and_goes(tmp_path):
    whole = panel([[1, 2, 3, 4, 5, 6]] * 2)
    writer = QlibBinWriter(tmp_path)
    writer.write(whole.window(0, 3), SESSIONS)
    (tmp_path / "features" / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "features" / "link").symlink_to(tmp_path / "instruments")
    (tmp_path / "instruments" / "old").mkdir()
    assert "features/.DS_Store: belongs to no listed instrument" in differences(tmp_path, whole.window(0, 3))
    report = writer.write(whole.window(3, 6), SESSIONS)
    assert report.removed == 0
    assert differences(tmp_path, whole, pools=[]) == []
    assert (tmp_path / "instruments" / "all.txt").exists()


def test_what_stops_a_publication_and_what_leaves_an_instrument_out(tmp_path):
    writer = QlibBinWriter(tmp_path)
    with pytest.raises(StoreError, match=r"2 of 4.*ab: shares the folder 'ab' with 'AB'; na_: shares .* with 'NA'"):
        writer.write(panel([[1.0] * 6] * 4, ["NA", "na_", "AB", "ab"]), SESSIONS)
    assert not (tmp_path / "calendars").exists()
    bad = ["X/Y", "T\t1", "..", " A", "\u2028", "L" * 300]
    report = writer.write(panel([[1.0] * 6] * 7, ["OK", *bad]), SESSIONS)
    assert set(report.left_out) == set(bad)
    assert (report.instruments, report.rows) == (1, 6)
    assert sorted(p.name for p in (tmp_path / "features").iterdir()) == ["ok"]
    told = verify_provider(tmp_path, panel([[1.0] * 6] * 7, ["OK", *bad]), SESSIONS)
    assert {(d.instrument, d.kind) for d in told.differences} == {(name, "missing") for name in bad}

    whole = panel([[1.0] * 6] * 2, ["A", "B"])
    provider = tmp_path / "two"
    writer = QlibBinWriter(provider)
    writer.write(whole.window(0, 3), SESSIONS)
    before = files(provider)
    (provider / "features" / "b" / "low.day.bin").unlink()
    (provider / "features" / "b" / "low.day.bin").mkdir()
    with pytest.raises(StoreError, match=r"1 of 2 instruments.*B: .*low.day.bin"):
        writer.write(whole.window(3, 6), SESSIONS)
    after = files(provider)
    assert not any(".writing" in name for name in after)
    assert all(after[n] == before[n] for n in before if n.startswith(("calendars", "instruments")))
    assert "2020-02-04" in differences(provider, whole)[0]
    assert "B low: torn, 3 sessions, first 2020-01-30: stored nan, expected 3.0" in differences(
        provider, whole.window(0, 3)
    )
    os.rmdir(provider / "features" / "b" / "low.day.bin")
    writer.write(whole, SESSIONS)
    assert differences(provider, whole) == []


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
    with pytest.raises(StoreError, match=r"a panel ends at 2020-01-31 and the next begins at 2020-02-04"):
        writer.write([whole.window(0, 2), whole.window(3, 4)], SESSIONS)
    with pytest.raises(StoreError, match=r"no panel"):
        writer.write([], SESSIONS)
    writer.write(panel([[7, 8]], sessions=SESSIONS[4:]), SESSIONS[4:])
    assert read_provider_panel(tmp_path).shape == (1, 2)
    (tmp_path / "instruments" / "all.txt").unlink()
    with pytest.raises(StoreError, match=r"no instruments/all.txt.*write the whole calendar"):
        writer.write(panel([[7]], sessions=SESSIONS[5:]), SESSIONS[4:])


def test_an_earlier_correction_keeps_the_calendar(tmp_path):
    whole = panel([[1, 2, 3, 4, 5, 6]])
    writer = QlibBinWriter(tmp_path)
    writer.write(whole, SESSIONS)
    writer.write(panel([[9, 9]]).window(1, 2), SESSIONS[:3])
    assert read_provider_panel(tmp_path)["open"].tolist() == [[1, 9, 3, 4, 5, 6]]


def test_reader(tmp_path):
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


@given(st.text("NA_naUL", max_size=6) | st.sampled_from(["NA", "NULL", "nan", "None", "TRUE", "NA_", "NA__"]))
def test_symbols_are_reversible(name):
    """No two instruments have one symbol, and none is a word that Qlib's reader takes for a missing value."""
    assert instrument_of(qlib_symbol(name)) == name
    assert qlib_symbol(name) not in MISSING_WORDS


def day(position):
    return SESSIONS[position].item()


def test_pools(tmp_path):
    whole = panel([[1, 2, 3, 4, 5, 6]] * 3, ["NA", "TRUE", "B"])
    spans = (
        Span("NA", date(2000, 1, 1), day(1)),
        Span("NA", day(3), date.max),
        Span("TRUE", day(0), day(2)),
        Span("TRUE", day(1), day(4)),
        Span("ZZ", day(0), day(5)),
        Span("B", date(2000, 1, 1), date(2019, 12, 31)),
    )
    writer = QlibBinWriter(tmp_path)
    instruments = tmp_path / "instruments"
    report = writer.write(whole.window(0, 3), SESSIONS, pools=[Pool("index", spans), Pool("gone", spans[:1])])
    # a span that begins after the last published session is not there yet
    want = "NA_\t2020-01-30\t2020-01-31\nTRUE\t2020-01-30\t2020-02-03\n"
    assert (instruments / "index.txt").read_text() == want
    assert (report.pools, report.without_bins) == ({"index": 2, "gone": 1}, {"index": ["ZZ"]})
    seen = {}

    def pools(days, sessions):
        seen.update(days)
        assert sessions.tolist() == SESSIONS.tolist()
        return [Pool("index", spans), Pool("empty", ())]

    writer.write(whole.window(3, 6), SESSIONS, pools=pools)
    assert seen == {name: (day(0), day(5)) for name in ("NA", "TRUE", "B")}
    want = "NA_\t2020-01-30\t2020-01-31\nNA_\t2020-02-04\t2020-02-06\nTRUE\t2020-01-30\t2020-02-05\n"
    assert (instruments / "index.txt").read_text() == want
    assert sorted(p.name for p in instruments.iterdir()) == ["all.txt", "empty.txt", "index.txt"]
    assert differences(tmp_path, whole, pools=[Pool("index", spans), Pool("empty", ())]) == []
    assert differences(tmp_path, whole, pools=[Pool("index", spans[2:]), Pool("new", ())]) == [
        "instruments/index.txt: line 1 has 'NA_\\t2020-01-30\\t2020-01-31' where "
        "'TRUE\\t2020-01-30\\t2020-02-05' is due",
        "instruments/new.txt: is missing",
        "instruments/empty.txt: is no pool of the settings",
    ]
    for name in ("all", "../up", "A", ""):
        with pytest.raises(StoreError, match="pool name"):
            QlibBinWriter(tmp_path / "bad").write(whole, SESSIONS, pools=[Pool(name, ())])
    assert not (tmp_path / "bad" / "calendars").exists()


def _values(path, change):
    values = np.fromfile(path, "<f4")
    change(values)
    values.tofile(path)


def _set(at, value):
    def change(values):
        values[at] = value

    return change


def _swap(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


DAMAGES = {
    "a value": (
        lambda p: _values(p / "features/b/close.day.bin", _set(2, 9)),
        ["B close: differs, 1 sessions, first 2020-02-04: stored 9.0, expected 11.0"],
    ),
    "a value where none is": (
        lambda p: _values(p / "features/b/close.day.bin", _set(3, 9)),
        ["B close: differs, 1 sessions, first 2020-02-05: stored 9.0, expected nan"],
    ),
    "a file": (
        lambda p: (p / "features/na_/low.day.bin").unlink(),
        ["NA low: missing, 3 sessions, first 2020-01-30: stored nan, expected 3.0"],
    ),
    "half a number": (
        lambda p: os.truncate(p / "features/na_/low.day.bin", 18),
        ["NA low: torn, 1 sessions, first 2020-02-04: stored nan, expected 6.0"],
    ),
    "no number": (
        lambda p: os.truncate(p / "features/na_/low.day.bin", 3),
        ["NA low: torn, 3 sessions, first 2020-01-30: stored nan, expected 3.0"],
    ),
    "one too many": (
        lambda p: _values(p / "features/na_/low.day.bin", lambda v: v.resize(len(v) + 1, refcheck=False)),
        ["NA low: torn, 1 sessions, first 2020-02-05: stored 0.0, expected nan"],
    ),
    "a shift": (
        lambda p: _values(p / "features/b/open.day.bin", _set(0, 1)),
        ["B open: torn, 5 sessions, first 2020-01-31: stored 4.0, expected nan"],
    ),
    "an instrument": (
        lambda p: [_swap(p / "instruments/all.txt", "B\t2020-02-03\t2020-02-06\n", "")],
        ["features/b: belongs to no listed instrument"]
        + [f"B {f}: missing, 3 sessions, first 2020-02-03: stored nan, expected {4.0 + k}"
           for k, f in enumerate(ENGINE_FIELDS)],
    ),
    "a span": (
        lambda p: _swap(p / "instruments/all.txt", "B\t2020-02-03", "B\t2020-02-04"),
        ["instruments/all.txt: lists B 2020-02-04..2020-02-06, the table has it 2020-02-03..2020-02-06"]
        + [f"B {f}: torn, 0 sessions" for f in ENGINE_FIELDS],
    ),
    "another instrument": (
        lambda p: (p / "features" / "ghost").mkdir(),
        ["features/ghost: belongs to no listed instrument"],
    ),
    "another field": (
        lambda p: (p / "features/b/alpha.day.bin").write_bytes(b"0123"),
        ["features/b: holds files that are no field: alpha.day.bin"],
    ),
    "a repeated line": (
        lambda p: _swap(p / "instruments/all.txt", "B\t", "B\t2020-02-03\t2020-02-06\nB\t"),
        ["instruments/all.txt: line 2 has 'B\\t2020-02-03\\t2020-02-06' where 'NA_\\t2020-01-30\\t2020-02-04' is due"],
    ),
    "a session": (
        lambda p: _swap(p / "calendars/day.txt", "2020-02-03\n", ""),
        ["calendars/day.txt: has 2020-02-04 where 2020-02-03 is due, so later values are shifted",
         "calendars/day.txt: cannot be compared with the table: the panel's sessions are not consecutive: not in the "
         "calendar 2020-02-03, not in the panel none; give every session of the range"],
    ),
    "the future": (
        lambda p: _swap(p / "calendars/day_future.txt", "2020-02-07\n", ""),
        ["calendars/day_future.txt: ends at the last published session"],
    ),
    "another future": (
        lambda p: _swap(p / "calendars/day_future.txt", "2020-02-07", "2020-02-08"),
        ["calendars/day_future.txt: does not hold the published sessions and the exchange's next ones"],
    ),
    "no future": (
        lambda p: (p / "calendars/day_future.txt").unlink(),
        ["calendars/day_future.txt: is missing; a backtest that ends on the last session needs the next one"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_finds(tmp_path, damage):
    nan = [NAN] * 6
    whole = panel([[1, NAN, 3, 4, NAN, NAN], [NAN, NAN, 4, 8, NAN, 6], nan], ["NA", "B", "NONE"])
    future = np.array(["2020-02-07"], "M8[D]")
    QlibBinWriter(tmp_path).write(whole, SESSIONS, future)
    assert differences(tmp_path, whole, future=future) == []
    make, expected = DAMAGES[damage]
    make(tmp_path)
    assert differences(tmp_path, whole, future=future) == expected


def test_verify_of_a_part_and_of_an_extra_instrument(tmp_path):
    with pytest.raises(MissingDataError, match="no Qlib provider"):
        differences(tmp_path, panel([[1]]))
    whole = panel([[1, NAN, 3, 4, NAN, NAN], [NAN, NAN, 4, 8, NAN, 6]], ["NA", "B"])
    QlibBinWriter(tmp_path).write(whole, SESSIONS)
    for low in range(6):
        for high in range(low + 1, 7):
            assert differences(tmp_path, whole.window(low, high)) == []
    _values(tmp_path / "features/b/close.day.bin", _set(2, 9))
    for low in range(6):
        for high in range(low + 1, 7):
            assert bool(differences(tmp_path, whole.window(low, high))) == (low <= 3 < high)
    only = verify_provider(tmp_path, whole.rows(slice(0, 1)), SESSIONS)
    assert {(d.instrument, d.kind) for d in only.differences} == {("B", "extra")}
    assert len(only.differences) == len(ENGINE_FIELDS)
    assert not only.ok
    short = verify_provider(tmp_path, whole, SESSIONS[:4])
    assert short.problems[0] == ("calendars/day.txt", "has 2020-02-05, which the exchange's calendar does not reach")


@pytest.mark.parametrize("survived", range(0, 24))
def test_a_rebuild_survives_any_crash(tmp_path, monkeypatch, survived):
    """Stop a rebuild after any file system call: readers see the old directory, none, or the new one, never a mix."""
    old = panel([[1, 2, 3, 4], [NAN, 3, 3, NAN]])
    new = panel([[5, 6, 7, 8, 9, 9], [4, 4, NAN, NAN, NAN, 1]])
    provider = tmp_path / "p"
    writer = QlibBinWriter(provider)
    writer.write(old, SESSIONS[:4])

    class Crash(BaseException):
        pass

    calls = iter(range(survived))

    def crashing(function):
        def call(*args, **kwargs):
            if next(calls, None) is None:
                raise Crash
            return function(*args, **kwargs)

        return call

    crashed = False
    with monkeypatch.context() as patch:
        patch.setattr(made, "create", crashing(made.create))
        patch.setattr(writing, "flush", crashing(writing.flush))
        patch.setattr(Path, "replace", crashing(Path.replace))
        patch.setattr(Path, "unlink", crashing(Path.unlink))
        try:
            writer.write(new, SESSIONS)
        except Crash:
            crashed = True
    if crashed:
        try:
            seen = read_provider_panel(provider)
        except MissingDataError:
            pass
        else:
            want = old if seen.shape[1] == 4 else new
            for name in ENGINE_FIELDS:
                np.testing.assert_array_equal(seen[name], want[name])
    # the next increment may be the first write after the crash
    begin = len(read_calendar(provider, missing_ok=True))
    if begin < 6:
        writer.write(new.window(min(begin, 3), 6), SESSIONS)
    writer.write(new, SESSIONS)
    QlibBinWriter(tmp_path / "once").write(new, SESSIONS)
    assert files(provider) == files(tmp_path / "once")


def test_lost_values_are_not_written_on(tmp_path):
    """A damaged file is refused where the write does not replace what is lost; a new field is no damage."""
    whole = panel([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]], ["A", "B"])
    writer = QlibBinWriter(tmp_path / "p")
    writer.write(whole.window(0, 4), SESSIONS)
    path = tmp_path / "p" / "features" / "b" / "low.day.bin"
    os.truncate(path, 16)
    with pytest.raises(StoreError, match=r"low.day.bin has lost values of 2020-02-04..2020-02-04; materialize"):
        writer.write(whole.window(4, 5), SESSIONS)
    path.unlink()
    with pytest.raises(StoreError, match=r"low.day.bin has lost values of 2020-01-30..2020-02-04"):
        writer.write(whole.window(3, 6), SESSIONS)
    # the range covers the loss
    writer.write(whole.window(0, 5), SESSIONS)
    assert differences(tmp_path / "p", whole.window(0, 5)) == []
    for name in "ab":
        (tmp_path / "p" / "features" / name / "low.day.bin").unlink()
    writer.write(whole.window(5, 6), SESSIONS)
    low = read_provider_panel(tmp_path / "p")["low"]
    np.testing.assert_array_equal(low, np.where(np.arange(6) == 5, whole["low"], np.nan))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("A\t2020-01-30", r"top.txt, line 2: 'A\\t2020-01-30' is no instrument with a first and a last day"),
        ("A\t2020-01-30\t2020-13-01", r"top.txt, line 2: .* is no instrument with"),
        ("A\t2020-02-03\t2020-01-30", r"top.txt: 'A' is listed from 2020-02-03 to 2020-01-30"),
    ],
)
def test_a_damaged_pool_file_is_told_by_its_line(tmp_path, line, told):
    QlibBinWriter(tmp_path).write(panel([[1.0] * 6], ["A"]), SESSIONS)
    file = tmp_path / "instruments" / "top.txt"
    file.write_text("NA_\t2020-01-30\t2020-02-06\n")
    assert read_pool(tmp_path, "top") == Pool("top", (Span("NA", SESSIONS[0].item(), SESSIONS[5].item()),))
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(StoreError, match=f"{told}.*materialize qlib_bin again"):
        read_pool(tmp_path, "top")
