"""The frames of raw_ohlcv on a real store: completeness, refused rows, and the vendors' own files."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from qdag import schema
from qdag.quality import Scope, market_frames
from qdag.quality.offenders import offenders
from qdag.quality.rule import violations
from qdag.settings import FilesSource, Settings, UniverseSettings
from qdag_tests import stages
from qdag_tests.quality.toy import START, bars, named, put
from qdag_tests.stages import rules_for


def test_raw_frames_of_good_bars(scope: Scope) -> None:
    put(scope, schema.RAW_OHLCV, bars(scope.sessions()))
    found = named("raw_ohlcv", scope, tuple(c.name for c in schema.RAW_OHLCV.columns))
    assert set(found) == {
        "schema", "timeliness", "rows", "sessions", "instruments", "fields", "listings", "refused_files",
        "refused_rows", "refused_share", "findings", "conventions", "profile",
    }  # fmt: skip
    assert found["schema"]["stored"].all()
    assert dict(market_frames.frames(scope, ("date", "bid")))["schema"]["stored"].tolist() == [True, False]
    assert len(found["rows"]) == 3 * len(scope.sessions())
    assert found["sessions"]["share"].eq(1).all()
    assert found["instruments"]["share"].eq(1).all()
    np.testing.assert_allclose(found["rows"]["adjusted_return"].dropna(), 0.001, rtol=1e-9)
    assert found["refused_files"].empty
    assert "amount" not in set(found["fields"]["field"])
    for rule in rules_for("raw_ohlcv"):
        assert not violations(rule, found[rule.frame]).any(), rule.name


def test_completeness_counts_gaps_but_not_late_listings_or_delistings(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions)
    day = frame["date"].to_numpy().astype("M8[D]")
    late = (frame["instrument"] == "BBB") & (day < sessions[30])
    gone = (frame["instrument"] == "CCC") & (day > sessions[10])
    gap = (frame["instrument"] == "AAA") & (day >= sessions[5]) & (day < sessions[15])
    put(scope, schema.RAW_OHLCV, frame[~(late | gone | gap)])
    found = named("raw_ohlcv", scope)
    spans = found["instruments"].set_index("instrument")
    assert spans.loc["BBB", "share"] == 1
    assert spans.loc["CCC", "share"] == 1
    assert spans.loc["AAA", "sessions"] == len(sessions)
    assert spans.loc["AAA", "rows"] == len(sessions) - 10
    by_session = found["sessions"]
    # session 5..10: CCC alone trades and AAA is expected; 11..14: nobody trades, both are still expected
    assert by_session["share"].tolist()[4:12] == [1.0, *[0.5] * 6, 0.0]
    assert by_session["rows"].tolist()[11:15] == [0] * 4
    # the delisted CCC is no longer expected more than 20 sessions after its last row
    assert by_session["expected"].tolist()[30:32] == [3, 2]
    every = next(r for r in rules_for("raw_ohlcv") if r.name == "every session has bars")
    _, days = offenders(every, by_session)
    assert set(days) == set(sessions[11:15].tolist())


def test_a_short_window_remembers_who_was_there(scope: Scope) -> None:
    sessions = scope.sessions()
    frame = bars(sessions)
    put(scope, schema.RAW_OHLCV, frame[~((frame["date"] == sessions[-1]) & (frame["instrument"] != "AAA"))])
    last = sessions[-1].item()
    found = named("raw_ohlcv", Scope(scope.store, scope.settings, "toy", last, last))
    assert found["rows"]["instrument"].tolist() == ["AAA"]
    assert found["sessions"][["rows", "expected"]].to_numpy().tolist() == [[1, 3]]
    assert found["rows"]["adjusted_return"].tolist() == pytest.approx([0.001])
    assert found["instruments"]["instrument"].tolist() == ["AAA"]


def test_refused_files_and_rows(scope: Scope) -> None:
    put(scope, schema.RAW_OHLCV, bars(scope.sessions()))
    refused = pd.DataFrame(
        {
            "date": [START, date(2020, 2, 3), date(2020, 2, 4)],
            "instrument": ["DDD", "AAA", "AAA"],
            "source": ["DDD.csv", "AAA.csv", "AAA.csv"],
            "line": [0, 7, 8],
            "reason": ["not_a_table", "high_below_low", "high_below_low"],
            "row": ["{}", "x", "y"],
        }
    )
    put(scope, schema.QUARANTINE, refused)
    february = Scope(scope.store, scope.settings, "toy", date(2020, 2, 3), date(2020, 2, 3))
    assert named("raw_ohlcv", scope)["refused_files"]["source"].tolist() == ["DDD.csv"]
    found = named("raw_ohlcv", february)
    assert found["refused_files"].empty
    assert found["refused_rows"][["reason", "source", "line"]].to_numpy().tolist() == [["high_below_low", "AAA.csv", 7]]
    assert found["sessions"][["refused", "refused_share"]].to_numpy().tolist() == [[1, 0]]
    share = named("raw_ohlcv", scope)["refused_share"]
    assert share[["refused", "files", "share"]].to_numpy().tolist() == [[1, 4, 1 / 4]]


def test_a_broken_delivery_stops_the_chain(scope: Scope) -> None:
    put(scope, schema.RAW_OHLCV, bars(scope.sessions()))
    name = [f"X{i}" for i in range(5)]
    rows = pd.DataFrame({"date": date(2020, 2, 3), "instrument": name, "source": name, "line": 7, "row": ""})
    files = rows.assign(line=0, reason="api_error_page").head(3)
    put(scope, schema.QUARANTINE, pd.concat([rows.assign(reason="null_price"), files]))
    found = named("raw_ohlcv", scope)
    assert found["refused_share"][["refused", "files", "share"]].to_numpy().tolist() == [[3, 6, 1 / 2]]
    day = found["sessions"][found["sessions"]["refused"] > 0]
    assert day[["refused", "refused_share"]].to_numpy().tolist() == [[5, 5 / 8]]
    for rule in rules_for("raw_ohlcv"):
        if rule.name in ("few files refused", "few rows refused"):
            assert rule.severity == "error"
            assert violations(rule, found[rule.frame]).sum() == 1


def test_every_known_defect_of_the_real_files_is_found(real_market: Path, tmp_path: Path) -> None:
    us = ("BF.B", "ODFL", "MNST", "NDAQ", "CHTR", "GILD", "VTRS", "CARR", "AAPL")
    cn = ("SZ000011", "SZ000014", "SZ000019", "SH600018", "SH603073", "SZ301439", "BJ430556", "SH600009")
    universes = {
        "us": UniverseSettings(
            source=FilesSource(path=real_market / "us_daily"), calendar="XNYS", start=date(1999, 11, 1),
            end=date(2021, 4, 21), instruments=us,
        ),
        "cn": UniverseSettings(
            source=FilesSource(path=real_market / "cn_daily"), calendar="XSHG", start=date(1991, 1, 2),
            end=date(2023, 3, 17), instruments=cn, region="cn",
        ),
    }  # fmt: skip
    platform = stages.Platform.open(Settings(home=tmp_path, universes=universes))
    seen: dict[tuple[str, str], set[str]] = {}
    for name, spec in universes.items():
        assert spec.end is not None
        stages.raw_ohlcv(platform, name, spec.start, spec.end)
        found = named("raw_ohlcv", Scope(platform.store, platform.settings, name, spec.start, spec.end))
        for rule in rules_for("raw_ohlcv", (), platform.settings.quality_for(name)):
            frame = found[rule.frame]
            wrong = frame[violations(rule, frame)]
            if "instrument" in wrong:
                seen[name, rule.name] = set(wrong["instrument"].astype(str))
            # the exchange was open before the first of these instruments was listed, and one file of nine is many
            allowed = ("every session has bars", "few files refused")
            assert rule.check != "structure" or rule.name in allowed or wrong.empty, rule.name
        reasons = found["refused_rows"].groupby("instrument")["reason"].agg(lambda r: r.value_counts().to_dict())
        if name == "cn":
            assert reasons["SH600018"] == {"null_price": 1448}
            assert all(reasons[i] == {"close_outside_range": 1} for i in cn[:3])
    assert seen["us", "no file refused"] == {"BF.B"}
    assert seen["us", "bars traded"] == {"ODFL", "MNST", "NDAQ", "CHTR", "GILD"}
    assert {"VTRS", "CARR", "NDAQ", "CHTR"} <= seen["us", "listings and returns"]
    assert seen["cn", "no file refused"] == {"SZ301439", "BJ430556"}
    assert seen["cn", "no row refused"] == {"SZ000011", "SZ000014", "SZ000019", "SH600018"}
    assert "SH603073" in seen["cn", "listings and returns"]
    assert "SZ000011" in seen["cn", "instruments complete"] | seen["cn", "listings and returns"]
