"""Conditions against cases computed by hand, and against slow references."""

import statistics
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from qdag import alerts, schema
from qdag.assets.platform import Platform
from qdag.errors import UnknownNameError
from qdag.settings import AlertSettings, Settings
from qdag_tests.alerts.samples import bars, settings_of, write_metrics, year_of


def test_data_is_late_six_hours_after_an_early_close(tmp_path):
    """3 July 2024 closed at 13:00 in New York, 17:00 UTC; 4 July was no session."""
    platform = Platform.open(settings_of(tmp_path))
    bars(platform, [date(2024, 7, 1), date(2024, 7, 2)])
    assert alerts.late_data(platform, "toy", datetime(2024, 7, 3, 22, 59, tzinfo=UTC)) is None
    late = alerts.late_data(platform, "toy", datetime(2024, 7, 3, 23, 0, tzinfo=UTC))
    assert late.sessions == "2024-07-03 .. 2024-07-03"
    assert late.value == "newest stored session 2024-07-02, 1 missing"
    later = alerts.late_data(platform, "toy", datetime(2024, 7, 8, 12, tzinfo=UTC))
    assert later.sessions == "2024-07-03 .. 2024-07-05"
    assert later.value == "newest stored session 2024-07-02, 2 missing"
    assert later.key != late.key
    bars(platform, [date(2024, 7, 5)])
    assert alerts.late_data(platform, "toy", datetime(2024, 7, 8, 12, tzinfo=UTC)) is None


def test_hours_until_late_are_a_setting(tmp_path):
    platform = Platform.open(settings_of(tmp_path, late_hours=0))
    bars(platform, [date(2024, 7, 2)])
    assert alerts.late_data(platform, "toy", datetime(2024, 7, 3, 16, 59, tzinfo=UTC)) is None
    assert alerts.late_data(platform, "toy", datetime(2024, 7, 3, 17, 0, tzinfo=UTC))


def test_nothing_stored_is_late_and_an_ended_universe_never_is(tmp_path):
    now = datetime(2024, 7, 3, 23, tzinfo=UTC)
    late = alerts.late_data(Platform.open(settings_of(tmp_path)), "toy", now)
    assert "session none" in late.value
    assert late.sessions == "2023-01-03 .. 2024-07-03"
    assert alerts.late_data(Platform.open(settings_of(tmp_path, end=date(2024, 6, 25))), "toy", now) is None
    # not begun yet
    assert alerts.late_data(Platform.open(settings_of(tmp_path)), "toy", datetime(2023, 1, 3, 20, tzinfo=UTC)) is None


def test_p95_by_hand(tmp_path):
    """Of 1, 2, ..., 20 seconds the linear 95 % quantile is 1 + 0.95 * 19 = 19.05; one second of slack."""
    settings = settings_of(tmp_path)
    earlier = [float(s) for s in range(1, 21)]

    def slow(seconds, earlier=earlier):
        return alerts.slow_run(settings, "alpha158", "toy", "2024-07-03 .. 2024-07-03", "run-1", seconds, earlier)

    assert slow(20.05) is None
    found = slow(20.06)
    assert found.value == "20.1 s, median 10.5 s"
    assert "last 20 comparable runs 19.1 s" in found.limit
    assert found.link == "http://127.0.0.1:3000/runs/run-1"
    assert slow(1000.0, earlier[:9]) is None
    assert slow(1000.0, earlier[:10])


@given(st.lists(st.floats(0, 1e4), max_size=80), st.floats(0, 1e4))
def test_p95_equals_a_slow_reference(earlier, seconds):
    settings = Settings(alerts=AlertSettings(slow_history=30))
    last = sorted(earlier[-30:])
    expected = False
    if len(last) >= 10:
        position = 0.95 * (len(last) - 1)
        below, share = int(position), position - int(position)
        above = last[min(below + 1, len(last) - 1)]
        limit = last[below] + share * (above - last[below]) + 1.0
        if abs(seconds - limit) < 1e-6 * max(1.0, limit):
            return
        expected = seconds > limit
    assert (alerts.slow_run(settings, "a", "u", "", "r", seconds, earlier) is not None) == expected


def quarantine(platform: Platform, refused: list[tuple[date, str, str]]):
    rows = {
        "universe": ["toy"] * len(refused),
        "date": [d for d, _, _ in refused],
        "instrument": [i for _, i, _ in refused],
        "source": ["f.csv"] * len(refused),
        "line": list(range(len(refused))),
        "reason": [r for _, _, r in refused],
        "row": [""] * len(refused),
    }
    table = pa.table(rows).cast(schema.QUARANTINE.arrow())
    days = [d for d, _, _ in refused]
    platform.store.replace(schema.QUARANTINE, "toy", min(days), max(days), table, {"run": "test"})


def test_share_of_failed_instruments_by_hand(tmp_path):
    """2 July: 38 stored, 2 refused, 5.0 % and not more. 3 July: 40 stored and a 41st refused. 4 July is no session."""
    platform = Platform.open(settings_of(tmp_path))
    day, other, holiday = date(2024, 7, 2), date(2024, 7, 3), date(2024, 7, 4)
    names = [f"I{i:02d}" for i in range(40)]
    bars(platform, [day], names[2:])
    bars(platform, [other], names)

    def failed(stored, start=day, end=day):
        return alerts.failed_instruments(platform, "raw_ohlcv", "toy", start, end, stored, "run-1")

    assert failed(38) is None
    refused = [(day, "I00", "null_price"), (day, "I01", "null_price"), (day, "I01", "high_below_low")]
    # a second row of a session that has its bar is no failure
    quarantine(platform, [*refused, *((day, name, "null_price") for name in names[2:])])
    assert failed(38) is None
    quarantine(platform, [(other, "NEW", "not_a_table"), *((holiday, name, "no_session") for name in names)])
    assert failed(40, other, holiday) is None
    found = failed(40, end=holiday)
    assert found.what == "3 of 41 instruments failed in raw_ohlcv"
    assert found.value == "7.3%"
    assert found.sessions == "2024-07-02 .. 2024-07-04"
    assert found.detail.startswith("no_session 2, null_price 2, high_below_low 1, not_a_table 1: I00, I01, NEW")


def test_an_instrument_that_is_not_published_has_failed(tmp_path):
    platform = Platform.open(settings_of(tmp_path))
    day = date(2024, 7, 2)
    names = [f"I{i:02d}" for i in range(10)]
    bars(platform, [day], names)
    folder = platform.settings.provider("toy") / "instruments"
    folder.mkdir(parents=True)
    (folder / "all.txt").write_text("".join(f"{n}\t2024-07-02\t2024-07-02\n" for n in names))
    assert alerts.failed_instruments(platform, "qlib_bin", "toy", day, day, 10, "r") is None
    (folder / "all.txt").write_text("".join(f"{n}\t2024-07-02\t2024-07-02\n" for n in names[1:]))
    found = alerts.failed_instruments(platform, "qlib_bin", "toy", day, day, 10, "r")
    assert found.what == "1 of 10 instruments failed in qlib_bin"


def test_ic_drop_by_hand(tmp_path):
    """232 dates of 0.05 and 20 of x: the year's mean is 0.05 - 20/252 (0.05 - x), so the drop is 232/252 (0.05 - x).

    It exceeds 0.02 where x < 0.05 - 0.02 * 252/232 = 0.028276; likewise with every sign turned.
    """
    platform = Platform.open(settings_of(tmp_path, ic_top=20))
    sessions = platform.calendar("toy").all[:252]
    still = np.full(252, 0.01)
    swing = np.tile([0.2, -0.2], 126)
    holes = year_of(0.05, 0.0)
    holes[-20:-9] = np.nan
    few = year_of(0.05, 0.0)
    few[:130] = np.nan
    ics = {
        ("all", 1, "t.fell"): year_of(0.05, 0.0282),
        ("all", 1, "t.just"): year_of(0.05, 0.0284),
        ("all", 1, "t.rose"): year_of(0.05, 0.2),
        ("all", 1, "t.minus_fell"): year_of(-0.05, -0.0282),
        ("all", 1, "t.minus_just"): year_of(-0.05, -0.0284),
        ("all", 1, "t.minus_grew"): year_of(-0.05, -0.2),
        ("all", 1, "t.turned"): year_of(0.05, -0.05),
        # the same falls on a noisy factor: 0.0201 is 0.4, 0.2 is 3.2 standard errors of a mean of 20
        ("all", 1, "t.noisy"): year_of(0.05, 0.0282) + swing,
        ("all", 1, "t.noisy_fell"): year_of(0.05, -0.1672) + swing,
        ("all", 1, "t.nine_recent"): holes,
        ("all", 1, "t.few"): few,
        ("all", 1, "t.still"): still,
        ("top", 1, "t.fell"): year_of(0.05, 0.0282),
        ("all", 5, "t.fell"): year_of(0.05, 0.0),
    }
    write_metrics(platform, ics, sessions)
    found = {a.key: a for a in alerts.ic_drops(platform, "toy")}
    fallen = ("all|1|t.fell", "all|1|t.minus_fell", "all|1|t.turned", "all|1|t.noisy_fell", "top|1|t.fell")
    assert set(found) == {f"toy|{key}" for key in fallen}
    fell = found["toy|all|1|t.fell"]
    assert fell.value == "mean IC +0.0282 on the last 20 dates, pool all: 0.0201 below"
    assert found["toy|all|1|t.minus_fell"].value.endswith("0.0201 above")
    assert fell.limit == "at most 0.02 and 2 standard errors below the mean of the last 252 dates, +0.0483"
    assert fell.sessions == f"{sessions[-20]} .. {sessions[-1]}"
    # 0.1 / sqrt(20) would be 0.0224; here std is 0.0218 * sqrt(232 * 20 / 252 / 251)
    deviation = 0.0218 * np.sqrt(232 * 20 / 252 / 251)
    assert fell.detail.startswith(f"the drop is {0.0218 * 232 / 252 / (deviation / np.sqrt(20)):.1f} standard errors")


def test_watched_factors_are_watched_at_every_horizon_and_unknown_ones_are_refused(tmp_path):
    platform = Platform.open(settings_of(tmp_path, ic_factors=["t.a"]))
    sessions = platform.calendar("toy").all[:252]
    write_metrics(platform, {("all", h, f): year_of(0.05, 0.0) for h in (1, 5) for f in ("t.a", "t.b")}, sessions)
    assert {a.key for a in alerts.ic_drops(platform, "toy")} == {"toy|all|1|t.a", "toy|all|5|t.a"}
    wrong = Platform.open(settings_of(tmp_path, ic_factors=["t.aa"]))
    with pytest.raises(UnknownNameError, match=r"did you mean 't\.a'"):
        alerts.ic_drops(wrong, "toy")


def test_ic_of_a_short_history_is_not_judged(tmp_path):
    platform = Platform.open(settings_of(tmp_path))
    assert alerts.ic_drops(platform, "toy") == []
    sessions = platform.calendar("toy").all[:120]
    write_metrics(platform, {("all", 1, "t.a"): year_of(0.05, -0.5)[-120:]}, sessions)
    assert alerts.ic_drops(platform, "toy") == []


@budget(max_examples=15)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(30, 60), st.sampled_from([0.0, 1.0, 2.0]))
def test_ic_drops_equal_a_slow_reference(tmp_path_factory, seed, horizon, length, errors):
    rng = np.random.default_rng(seed)
    platform = Platform.open(
        settings_of(
            tmp_path_factory.mktemp("ic"), horizons=(1, horizon), ic_recent=5, ic_trailing=40, ic_top=3,
            ic_factors=["t.a", "t.b", "t.c"], ic_errors=errors,
        )
    )  # fmt: skip
    sessions = platform.calendar("toy").all[:length]
    ics = {}
    for pool in ("all", "top"):
        for h in (1, horizon):
            for factor in ("t.a", "t.b", "t.c"):
                values = rng.normal(rng.normal(0, 0.05), 0.05, length)
                values[rng.random(length) < 0.4] = np.nan
                ics[pool, h, factor] = values
    write_metrics(platform, ics, sessions)
    expected = set()
    for (pool, h, factor), values in ics.items():
        year = [v for v in values[-40:] if v == v]
        recent = [v for v in values[-5:] if v == v]
        if len(recent) >= 3 and len(year) >= 20:
            before, now = sum(year) / len(year), sum(recent) / len(recent)
            drop = before - now if before >= 0 else now - before
            if drop > 0.02 and drop >= errors * statistics.stdev(year) / (len(recent) / min(h, len(recent))) ** 0.5:
                expected.add(f"toy|{pool}|{h}|{factor}")
    assert {a.key for a in alerts.ic_drops(platform, "toy")} == expected
