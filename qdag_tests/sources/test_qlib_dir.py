from datetime import date

import numpy as np
import pyarrow.compute as pc
import pytest

from qdag.core.sessions import calendar_for
from qdag.errors import SourceError, UnknownNameError
from qdag.settings import QlibSource, SyntheticSource, UniverseSettings
from qdag.sources import open_source
from qdag.store.qlib.writer import QlibBinWriter

DAYS = ["2024-03-04", "2024-03-05", "2024-03-06", "2024-03-07", "2024-03-08"]
NAN = np.nan


def provider(folder, **instruments):
    """A directory as Qlib's own dump makes one: position of the first session, then values, float32."""
    (folder / "calendars").mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("".join(f"{d}\n" for d in DAYS))
    (folder / "instruments").mkdir()
    lines = "".join(f"{name.upper()}\t{DAYS[0]}\t{DAYS[-1]}\n" for name in instruments)
    (folder / "instruments" / "all.txt").write_text(lines)
    for name, (first, fields) in instruments.items():
        (folder / "features" / name).mkdir(parents=True)
        for field, values in fields.items():
            path = folder / "features" / name / f"{field}.day.bin"
            path.write_bytes(np.array([first, *values], "<f4").tobytes())


def bars(close, volume, factor, **more):
    close, factor = np.array(close), np.array(factor)
    adjusted = {"open": close, "high": close * 1.1, "low": close * 0.9, "close": close}
    fields = {name: values * factor for name, values in adjusted.items()}
    return {**fields, "volume": np.array(volume) / factor, "factor": factor, **more}


def deliver(folder, start=date(2024, 3, 4), end=date(2024, 3, 8), instruments=None):
    settings = UniverseSettings(
        source=QlibSource(path=folder), calendar="XNYS", start=date(2024, 3, 4), instruments=instruments
    )
    return open_source("us", settings).deliver(calendar_for(settings).between(settings.start, end), start, end)


def test_adjusted_numbers_become_raw(tmp_path):
    provider(tmp_path, aapl=(1, bars([100, 102, NAN, 51.5], [1000, 1200, NAN, 3000], [0.5, 0.5, NAN, 1.0])))
    delivery = deliver(tmp_path)
    assert delivery.quarantine.num_rows == 0
    assert delivery.bars["date"].to_pylist() == [date(2024, 3, d) for d in (5, 6, 8)]
    assert np.allclose(delivery.bars["close"].to_numpy(), [100, 102, 51.5], rtol=1e-6)
    assert np.allclose(delivery.bars["high"].to_numpy(), [110, 112.2, 56.65], rtol=1e-6)
    assert np.allclose(delivery.bars["volume"].to_numpy(), [1000, 1200, 3000], rtol=1e-6)
    # relative to the first session
    assert delivery.bars["factor"].to_pylist() == [1, 1, 2]
    assert delivery.checks["without_factor"] == 0


def test_amount_or_vwap_tell_the_traded_value(tmp_path):
    one = bars([10.0, 10.0], [100, 200], [2.0, 2.0], vwap=np.array([20.2, 19.8]))
    two = bars([10.0, 10.0], [100, 200], [2.0, 2.0], amount=np.array([1010.0, 1980.0]))
    none = bars([10.0, 10.0], [100, 200], [2.0, 2.0])
    provider(tmp_path, a=(0, one), b=(0, two), c=(0, none))
    table = deliver(tmp_path).bars
    for name in ("A", "B"):
        mine = table.filter(pc.equal(table["instrument"], name))
        assert np.allclose(mine["amount"].to_numpy(), [1010, 1980], rtol=1e-6)
        assert np.allclose(mine["vwap"].to_numpy(), [10.1, 9.9], rtol=1e-6)
    assert table.filter(pc.equal(table["instrument"], "C"))["amount"].null_count == 2


def test_without_a_factor_file_nothing_is_adjusted_and_it_is_said(tmp_path):
    fields = bars([10.0, 11.0], [100, 200], [1.0, 1.0])
    del fields["factor"]
    provider(tmp_path, a=(0, fields), b=(0, bars([10.0, 11.0], [100, 200], [3.0, 3.0])))
    delivery = deliver(tmp_path)
    assert delivery.checks["without_factor"] == 1
    assert delivery.bars["factor"].to_pylist() == [1] * 4
    assert delivery.bars["close"].to_pylist()[:2] == [10, 10]


def test_bad_rows_and_files_are_quarantined(tmp_path):
    good = bars([10.0, 11.0], [100, 200], [1.0, 1.0])
    holed = bars([10.0, 11.0, 12.0, 13.0], [100, 200, 300, 400], [1.0, 1.0, 1.0, 1.0])
    holed["factor"] = np.array([1.0, NAN, 1.0, 1.0])
    holed["open"][2] = NAN
    holed["close"][3] = np.inf
    provider(tmp_path, good=(0, good), holed=(0, holed), torn=(0, good), lacking=(0, good))
    (tmp_path / "features/torn/close.day.bin").write_bytes(b"\x00\x00\xff")
    (tmp_path / "features/lacking/volume.day.bin").unlink()
    delivery = deliver(tmp_path)
    found = {(r["instrument"], r["line"], r["reason"]) for r in delivery.quarantine.to_pylist()}
    assert found == {
        ("HOLED", 2, "bad_event"),
        ("HOLED", 3, "null_price"),
        ("HOLED", 4, "bad_number"),
        ("TORN", 0, "unreadable"),
        ("LACKING", 0, "unreadable"),
    }
    assert delivery.bars["instrument"].to_pylist() == ["GOOD", "HOLED", "GOOD"]
    row = next(r["row"] for r in delivery.quarantine.to_pylist() if r["line"] == 4)
    assert row.startswith("date=2024-03-07,open=13,")
    assert "close=inf" in row


def test_a_part_equals_the_slice(tmp_path):
    provider(tmp_path, a=(0, bars([10.0, 11, 12, 13, 14], [1, 2, 3, 4, 5], [2.0, 2, 4, 4, 8])))
    whole = deliver(tmp_path).bars
    assert deliver(tmp_path, date(2024, 3, 6), date(2024, 3, 7)).bars.equals(whole.slice(2, 2))


def test_what_is_no_provider(tmp_path):
    with pytest.raises(SourceError, match=r"no calendars/day\.txt"):
        deliver(tmp_path / "nothing")
    provider(tmp_path / "a", a=(0, bars([10.0], [1], [1.0])))
    with pytest.raises(UnknownNameError, match="did you mean 'A'"):
        deliver(tmp_path / "a", instruments=("AA",))
    (tmp_path / "a/calendars/day.txt").write_text("2024-03-05\n2024-03-04\n")
    with pytest.raises(SourceError, match="not increasing"):
        deliver(tmp_path / "a")
    (tmp_path / "a/calendars/day.txt").write_text("yesterday\n")
    with pytest.raises(SourceError, match="cannot be read"):
        deliver(tmp_path / "a")
    (tmp_path / "a/instruments/all.txt").write_text("")
    (tmp_path / "a/calendars/day.txt").write_text("2024-03-04\n")
    with pytest.raises(SourceError, match="lists no instrument"):
        deliver(tmp_path / "a")


def test_a_name_that_is_a_path_is_not_followed(tmp_path):
    provider(tmp_path / "p", a=(0, bars([10.0], [1], [1.0])))
    with (tmp_path / "p/instruments/all.txt").open("a") as file:
        file.write(f"../../secret\t{DAYS[0]}\t{DAYS[-1]}\n")
    delivery = deliver(tmp_path / "p")
    assert delivery.quarantine["reason"].to_pylist() == ["bad_instrument"]
    assert delivery.bars.num_rows == 1


def test_what_the_writer_wrote_comes_back(tmp_path):
    """Round trip: raw bars -> provider directory -> raw bars, to 32-bit accuracy."""
    from qdag.store.bars import read_panel
    from qdag.store.tables import TableStore

    settings = UniverseSettings(
        source=SyntheticSource(instruments=40, seed=5), calendar="XNYS", start=date(2015, 1, 2), end=date(2017, 12, 29)
    )
    calendar = calendar_for(settings).all
    raw = open_source("us", settings).deliver(calendar, settings.start, settings.end).bars
    from qdag.schema import RAW_OHLCV

    store = TableStore(tmp_path / "tables")
    store.replace(RAW_OHLCV, "us", settings.start, settings.end, raw, {})
    QlibBinWriter(tmp_path / "qlib").write(read_panel(store, "us", calendar), calendar)
    back = UniverseSettings(**{**settings.model_dump(), "source": {"kind": "qlib", "path": tmp_path / "qlib"}})
    delivery = open_source("us", back).deliver(calendar, settings.start, settings.end)
    assert delivery.quarantine.num_rows == 0
    assert delivery.bars["date"].equals(raw["date"])
    assert delivery.bars["instrument"].to_pylist() == raw["instrument"].to_pylist()
    assert (raw["factor"].to_numpy() > 1).any()
    for name in ("open", "high", "low", "close", "volume", "factor"):
        assert np.allclose(delivery.bars[name].to_numpy(), raw[name].to_numpy(), rtol=5e-7, atol=0), name
