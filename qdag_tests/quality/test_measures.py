"""What the rows before say of a row of raw_ohlcv."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from qdag import schema
from qdag.quality import Scope
from qdag.quality.market_frames import price_limits
from qdag.quality.offenders import offenders
from qdag.settings import QualitySettings, Settings, SyntheticSource, UniverseSettings
from qdag.store.tables import TableStore
from qdag_tests import stages
from qdag_tests.quality.toy import END, START, bars, failing, move, named, put
from qdag_tests.stages import rules_for


def test_a_jump_is_told_from_an_event(scope: Scope) -> None:
    frame = bars(scope.sessions())
    # AAA: a split that nobody told; BBB: the same split, adjusted; CCC: adjusted although the price did not move
    frame = move(scope, frame, "AAA", 10, 0.5)
    frame = move(scope, frame, "BBB", 10, 0.5, factor=2.0)
    frame = move(scope, frame, "CCC", 10, 1.0, factor=2.0)
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "no jump without an event") == [(10, "AAA")]
    assert failing(scope, "events leave no jump") == [(10, "CCC")]
    # split and dividend say that there was no event
    assert failing(scope, "factor follows the events") == [(10, "BBB"), (10, "CCC")]


def test_the_factor_of_a_split_and_a_dividend(scope: Scope) -> None:
    frame = bars(scope.sessions())
    frame = move(scope, frame, "AAA", 10, 0.5, factor=2.0)
    at = (frame["instrument"] == "AAA") & (frame["date"] == scope.sessions()[10])
    frame.loc[at, "split"] = 2.0
    before = frame.loc[(frame["instrument"] == "BBB") & (frame["date"] == scope.sessions()[9]), "close"].item()
    frame = move(scope, frame, "BBB", 10, 1.0, factor=1 / (1 - 0.5 / before))
    frame.loc[(frame["instrument"] == "BBB") & (frame["date"] == scope.sessions()[10]), "dividend"] = 0.5
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "factor follows the events") == []


def test_price_limits_by_board_and_date() -> None:
    chinext = "SZ300001"
    settings = Settings(
        universes={
            "cn": UniverseSettings(source=SyntheticSource(), calendar="XSHG", start=START, region="cn"),
            "us": UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=START, quality={"jump": 0.3}),
        },
        quality=QualitySettings(stale_sessions=9),
    )
    limits = settings.quality_for("cn")
    names = np.array(["SH600000", chinext, "SH688001", "BJ430001"], object)
    days = np.array(["2020-08-21", "2020-08-24"], "M8[D]")
    codes, when = np.repeat(np.arange(4), 2), np.tile(days, 4)
    band = price_limits(limits, names, codes, when).reshape(4, 2)
    early = price_limits(limits, names, np.zeros(2, int), np.array(["1996-12-13", "1996-12-16"], "M8[D]"))
    assert np.isnan(early[0])
    assert early[1] == 0.1
    assert band.tolist() == [[0.1, 0.1], [0.1, 0.2], [0.2, 0.2], [0.3, 0.3]]
    assert (limits.stale_sessions, settings.quality_for("us").stale_sessions) == (9, 9)
    assert (limits.jump, settings.quality_for("us").jump) == (0.4, 0.3)
    assert settings.quality_for("us").price_limits == ()


def test_a_high_or_low_far_out_of_everything_near_it_is_a_spike(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions, ("BLK", "SPL", "WIDE", "LOW", "NEW"))
    day = np.searchsorted(sessions, frame["date"].to_numpy().astype("M8[D]"))

    def at(name: str, where: int) -> pd.Series:
        return (frame["instrument"] == name) & (day == where)

    # a digit too many: 999 where the bar closes at 728.5
    frame.loc[at("BLK", 19), ["open", "high", "low", "close"]] = [730.0, 735.0, 720.0, 731.0]
    frame.loc[at("BLK", 20), ["open", "high", "low", "close"]] = [732.0, 999.0, 722.3, 728.5]
    # a split that the factor tells: the range before it is on the other scale
    frame = move(scope, frame, "SPL", 20, 0.25, factor=4.0)
    # the range of the session before was as wide
    frame.loc[at("WIDE", 20), "high"] = 15.5
    frame.loc[at("WIDE", 21), "high"] = 15.8
    frame.loc[at("LOW", 30), "low"] = 5.0
    frame.loc[at("NEW", 0), "high"] = 20.0
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "no spike in a bar") == [(0, "NEW"), (20, "BLK"), (30, "LOW")]
    lines, _ = offenders(
        next(r for r in rules_for("raw_ohlcv") if r.name == "no spike in a bar"), named("raw_ohlcv", scope)["rows"]
    )
    said = {line.instrument: line.sentence for line in lines}
    assert said["BLK"].startswith("999 lies 35.9% beyond 735, ")
    assert said["LOW"].startswith("5 lies 6")


def test_a_spike_beyond_the_exchanges_limit(tmp_path: Path) -> None:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XSHG", start=START, end=END, region="cn")
    settings = Settings(home=tmp_path, universes={"toy": universe})
    scope = Scope(TableStore(settings.tables), settings, "toy", START, END)
    frame = bars(scope.sessions(), ("SH600001", "SH600002")).assign(split=None, dividend=None)
    days = frame["date"].to_numpy().astype("M8[D]")
    for name, times in (("SH600001", 1.08), ("SH600002", 1.13)):
        one = (frame["instrument"] == name) & (days == scope.sessions()[30])
        frame.loc[one, "high"] = frame.loc[one, "high"] * times
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "no spike in a bar") == [(30, "SH600002")]


def test_a_price_limit_is_rounded_to_ticks_and_spares_listings(tmp_path: Path) -> None:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XSHG", start=START, end=END, region="cn")
    settings = Settings(home=tmp_path, universes={"toy": universe})
    scope = Scope(TableStore(settings.tables), settings, "toy", START, END)
    names = ("SH600001", "SH600002", "SH600003")
    frame = bars(scope.sessions(), names).assign(split=None, dividend=None)
    prices = ["open", "high", "low", "close", "vwap"]
    frame[prices] = 1.04
    days = frame["date"].to_numpy().astype("M8[D]")
    # 1.04 x 1.1 = 1.144 is rounded to 1.14; 1.15 is one tick beyond, 1.17 is more
    for name, price in ((names[0], 1.15), (names[1], 1.17), (names[2], 1.40)):
        frame.loc[(frame["instrument"] == name) & (days >= scope.sessions()[32]), prices] = price
    # listed on session 30: its limit begins with the sixth row
    frame = frame[(frame["instrument"] != names[2]) | (days >= scope.sessions()[30])]
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "no jump without an event") == [(32, names[1])]
    listed = named("raw_ohlcv", scope)["listings"]
    assert listed[["instrument", "absent"]].to_numpy().tolist() == [[names[2], 30]]


def test_stale_prices_lost_and_strange_volumes(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions)
    day = np.searchsorted(sessions, frame["date"].to_numpy().astype("M8[D]"))
    stale = (frame["instrument"] == "AAA") & (day >= 20) & (day < 27)
    frame.loc[stale, ["open", "high", "low", "close", "vwap"]] = [10.0, 10.1, 9.9, 10.0, 10.0]
    frame.loc[(frame["instrument"] == "BBB") & (day == 30), "volume"] = 0.0
    frame.loc[(frame["instrument"] == "CCC") & (day == 30), "volume"] = 60_000.0
    frame.loc[(frame["instrument"] == "CCC") & (day == 31), "vwap"] = 100.0
    put(scope, schema.RAW_OHLCV, frame)
    assert failing(scope, "price moves") == [(25, "AAA"), (26, "AAA")]
    assert failing(scope, "bars traded") == [(30, "BBB")]
    assert failing(scope, "volume plausible") == [(30, "CCC")]
    assert failing(scope, "vwap inside the range") == [(31, "CCC")]


def test_what_is_said_of_a_row_does_not_depend_on_the_window(tmp_path: Path) -> None:
    universe = UniverseSettings(source=SyntheticSource(instruments=60), calendar="XNYS", start=START, end=END)
    platform = stages.Platform.open(Settings(home=tmp_path, universes={"toy": universe}))
    stages.raw_ohlcv(platform, "toy", START, END)
    whole = named("raw_ohlcv", Scope(platform.store, platform.settings, "toy", START, END))["rows"]
    for day in (date(2020, 3, 2), END):
        part = named("raw_ohlcv", Scope(platform.store, platform.settings, "toy", day, END))["rows"]
        same = whole[whole["date"] >= pd.Timestamp(day)].reset_index(drop=True)
        columns = ["instrument", "adjusted_return", "jump_limit", "event_limit", "factor_error", "volume_ratio"]
        pd.testing.assert_frame_equal(
            part[columns].astype({"instrument": str}), same[columns].astype({"instrument": str}), rtol=1e-9
        )
