"""Factors and what is noticed about them: by hand, and that a new event never changes the past."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdag.sources.actions import factors, ticker_reuse
from qdag.sources.actions.arithmetic import LARGEST_FACTOR
from qdag.sources.actions.evidence import CONVENTION, REUSE_GAP

ADJUSTMENTS = ("events", "pre_close", "adjusted_close", "factor", "none")


def rows_of(columns: dict[str, list[float]], code=None, valid=None) -> dict[str, np.ndarray]:
    size = len(columns["close"])
    found = {name: np.array(values, np.float64) for name, values in columns.items()}
    found.setdefault("volume", np.ones(size))
    found["code"] = np.zeros(size, np.int32) if code is None else np.array(code, np.int32)
    found["valid"] = np.ones(size, bool) if valid is None else np.array(valid, bool)
    found["date"] = np.datetime64("2020-01-01") + np.arange(size)
    return found


def kinds(noticed) -> list[tuple[str, int]]:
    return [(n.kind, at) for n in noticed for at in n.at.tolist()]


price = st.sampled_from([0.05, 1.0, 9.99, 10.0, 12.5, 80.31, np.nan, 0.0])
BAR = {
    "close": price,
    "volume": st.sampled_from([0.0, 100.0]),
    "split": st.sampled_from([1.0, 1.0, 1.0, 2.0, 0.5, np.nan, 1.4, 1e300]),
    "dividend": st.sampled_from([0.0, 0.0, 0.0, 0.04, 1.23, 50.0, np.nan, 1e300]),
    "pre_close": st.one_of(price, st.sampled_from([1e-300, 1e300])),
    "adjusted_close": st.sampled_from([0.5, 9.0, 10.0, 20.0, 1e300, 5e-324]),
    "factor": st.sampled_from([1.0, 1.5, 3.0, 1e300, 5e-324]),
    "pct_chg": st.sampled_from([0.0, 1.23, np.nan]),
    "valid": st.booleans(),
}
bar = st.fixed_dictionaries(BAR)


@given(st.lists(bar, min_size=2, max_size=30), st.integers(1, 29), st.sampled_from(ADJUSTMENTS))
def test_a_longer_history_has_the_same_bits_at_its_begin(bars, cut, adjustment):
    cut = min(cut, len(bars) - 1)

    def found(part):
        valid = [b["valid"] and b["close"] > 0 for b in part]
        return factors(adjustment, rows_of({n: [b[n] for b in part] for n in BAR if n != "valid"}, valid=valid))

    whole, part = found(bars), found(bars[:cut])
    usable = np.array([b["valid"] and b["close"] > 0 for b in bars])
    head = usable[:cut]
    if head.any():
        # the base is the first valid row: it is there already
        assert whole.factor[:cut][head].tobytes() == part.factor[head].tobytes()
        assert part.factor[head][0] == 1
    # whatever is delivered, what is stored is a number
    assert (whole.factor[usable] >= 1 / LARGEST_FACTOR).all()
    assert (whole.factor[usable] <= LARGEST_FACTOR).all()
    assert whole.gaps[:cut].tolist() == part.gaps.tolist()
    assert [k for k in kinds(whole.noticed) if k[1] < cut] == kinds(part.noticed)


def test_events_against_the_adjusted_close_by_hand():
    close = [50.0, 24.5, 25.0, 20.0, 10.0]
    split = [1.0, 2.0, 1.0, 1.0, 2.0]
    dividend = [0.0, 0.0, 0.0, 0.5, 0.0]
    level = np.cumprod([1, 2, 1, 1 / (1 - 0.5 / 25), 2])
    rows = {"close": close, "split": split, "dividend": dividend, "adjusted_close": close * level}
    found = factors("events", rows_of(rows))
    np.testing.assert_array_equal(found.factor, level)
    assert not found.gaps.any()
    assert kinds(found.noticed) == []
    # the vendor reinvests the dividend at the close of its day: 1 + 0.5 / 20 = 1.025, not 1.020408
    level[3:] *= (1 + 0.5 / 20) * (1 - 0.5 / 25)
    rows["adjusted_close"] = close * level
    assert kinds(factors("events", rows_of(rows)).noticed) == [("factor_convention", 3)]
    # the vendor's adjusted close knows nothing of the last split
    level[4] /= 2
    rows["adjusted_close"] = close * level
    (found,) = [n for n in factors("events", rows_of(rows)).noticed if n.kind == "factor_difference"]
    assert (found.at.tolist(), found.expected.tolist()) == ([4], [2.0])
    assert found.value[0] == pytest.approx(1.0)


def test_pct_chg_against_pre_close_by_hand():
    rows = {"close": [8.0, 5.0, 5.05], "pre_close": [8.0, 4.0, 5.0], "pct_chg": [0.0, 25.0, 1.0]}
    found = factors("pre_close", rows_of(rows))
    assert found.factor.tolist() == [1.0, 2.0, 2.0]
    assert kinds(found.noticed) == []
    for told, listed in ((25.28, []), (25.29, [("factor_difference", 1)])):
        # 5 / 4 to the cent: 25 % up to 100 x 1.25 x (1 / (0.999 x 0.99875) - 1) + 0.005 = 0.28688 %
        assert kinds(factors("pre_close", rows_of({**rows, "pct_chg": [0.0, told, 1.0]})).noticed) == listed
    # a missing pre_close is no event; the vendor's change says that there was one
    assert kinds(factors("pre_close", rows_of({**rows, "pre_close": [8.0, np.nan, 5.0]})).noticed) == [
        ("factor_difference", 1)
    ]
    # traded without a close: the next row's event cannot be told
    gone = rows_of({**rows, "close": [8.0, np.nan, 5.05]}, valid=[True, False, True])
    assert kinds(factors("pre_close", gone).noticed) == [("factor_gap", 2)]


move = st.integers(75, 130)


@given(
    st.integers(20, 20_000),
    st.lists(st.tuples(move, st.integers(0, 8_000), st.sampled_from([1, 1, 1, 2, 3])), min_size=1, max_size=12),
    st.sampled_from([2, 3, 4]),
    st.sampled_from([2, 4, 8]),
    st.booleans(),
    st.booleans(),
)
def test_rounding_alone_is_never_listed_as_a_difference(first, bars, decimals, digits, reinvested, after):
    """Exact arithmetic on unrounded prices, then rounded as a vendor does: what is left must be within the bound.

    ``after``: the vendor tells a dividend per share after a split of the same day.
    """
    close, dividend, level, told = [Fraction(first, 100)], [Fraction(0)], [Fraction(1)], [Fraction(0)]
    for percent, share, split in bars:
        paid = close[-1] * Fraction(share, 40_000)
        # one that rounds to nothing is not told at all: that difference is listed
        paid = paid if round(float(paid / split if after else paid), decimals) else Fraction(0)
        now = (close[-1] - paid) / split * Fraction(percent, 100)
        step = split + paid / now if reinvested else split / (1 - paid / close[-1])
        level.append(level[-1] * step)
        dividend.append(paid)
        told.append(paid / split if after else paid)
        close.append(now)
    splits = [1, *(split for _, _, split in bars)]
    rows = {
        "close": [round(float(c), decimals) for c in close],
        "dividend": [round(float(d), decimals) for d in told],
        "split": [float(s) for s in splits],
        "adjusted_close": [round(float(c * f / level[-1]), digits) for c, f in zip(close, level, strict=True)],
    }
    if min(rows["adjusted_close"]) > 50 * 10**-digits and min(rows["close"]) > 50 * 10**-decimals:
        found = factors("events", rows_of(rows)).noticed
        assert reinvested or kinds(found) == []
        # reinvesting at another price is a convention as long as it makes little
        for one in found:
            little = np.abs(one.value / one.expected - 1) <= CONVENTION
            assert little.all() if one.kind == "factor_convention" else not little.any()
    pre_close = [close[0], *(close[i - 1] / splits[i] for i in range(1, len(splits)))]
    percent = [
        round(float(100 * (c / p - 1)), digits if digits < 8 else 2) for c, p in zip(close, pre_close, strict=True)
    ]
    rows = {
        "close": rows["close"],
        "pre_close": [round(float(p), decimals) for p in pre_close],
        "pct_chg": percent,
    }
    if min(rows["close"]) > 50 * 10**-decimals:
        assert kinds(factors("pre_close", rows_of(rows)).noticed) == []


# close, previous close, split, dividend, and by how many percent the vendor's adjusted close changed
SPIN_OFFS = {
    "HLT 2017-01-04": (58.00, 27.39, 0.3333, 24.48, 0.4),
    "LDOS 2013-09-30": (45.52, 16.03, 0.25, 21.35, 4.3),
    "RTX 2020-04-03": (49.93, 86.01, 1.589, 13.28, 16.78),
}


@pytest.mark.parametrize(("close", "known", "split", "dividend", "percent"), SPIN_OFFS.values(), ids=list(SPIN_OFFS))
def test_a_split_and_a_dividend_on_one_day_are_read_as_the_adjusted_close_tells(close, known, split, dividend, percent):
    told = known / close * (1 + percent / 100)
    rows = {
        "close": [known, known, close, close],
        "split": [1, 1, split, 1],
        "dividend": [0, 0, dividend, 0],
        "adjusted_close": [known / told, known / told, close, close],
    }
    found = factors("events", rows_of(rows))
    expected = split / (1 - dividend * split / known)
    assert found.factor.tolist() == [1, 1, expected, expected]
    assert abs(close * expected / known / (1 + percent / 100) - 1) < 0.05
    assert found.dividend.tolist() == [0, 0, dividend * split, 0]
    # a vendor that tells the same dividend per share of the day before
    rows["dividend"] = [0, 0, dividend * split, 0]
    same = factors("events", rows_of(rows))
    np.testing.assert_allclose(same.factor, found.factor, rtol=1e-12)
    # and without an adjusted close, by the price
    del rows["adjusted_close"]
    np.testing.assert_allclose(factors("events", rows_of(rows)).factor, found.factor, rtol=1e-12)
    rows["dividend"] = [0, 0, dividend, 0]
    if split < 1:
        np.testing.assert_allclose(factors("events", rows_of(rows)).factor, found.factor, rtol=1e-12)


def test_a_convention_makes_no_more_than_a_percent():
    """The vendor reinvests a tenth of the price at a close that moved by some percent."""
    for close, kind in ((18.5, "factor_convention"), (22.0, "factor_difference"), (40.0, "event_refused")):
        told = 1 + 2.0 / close
        rows = {"close": [20.0, close], "dividend": [0.0, 2.0], "adjusted_close": [20 / told, close]}
        found = factors("events", rows_of({**rows, "split": [1.0, 1.0]}))
        assert kinds(found.noticed) == [(kind, 1)]
        expected = told if kind == "event_refused" else 1 / (1 - 2 / 20)
        assert found.factor[1] == pytest.approx(expected, rel=1e-12)


def test_a_step_that_the_adjusted_close_contradicts_is_refused():
    # the vendor forgot the split of the day; its adjusted close did not
    rows = {"close": [32.0, 16.5, 16.0], "adjusted_close": [16.0, 16.5, 16.0]}
    found = factors("events", rows_of({**rows, "split": [1, 1, 1], "dividend": [0, 0, 0]}))
    assert (found.factor.tolist(), kinds(found.noticed)) == ([1, 2, 2], [("event_refused", 1)])
    # a split that was none
    rows = {"close": [10.0, 10.0, 10.0], "adjusted_close": [10.0, 10.0, 10.0]}
    found = factors("events", rows_of({**rows, "split": [1, 2, 1], "dividend": [0, 0, 0]}))
    assert (found.factor.tolist(), kinds(found.noticed)) == ([1, 1, 1], [("event_refused", 1)])
    # one wrong adjusted close says two wrong steps, and no price moved so
    rows["adjusted_close"] = [10.0, 999.0, 10.0]
    found = factors("events", rows_of({**rows, "split": [1, 1, 1], "dividend": [0, 0, 0]}))
    assert found.factor.tolist() == [1, 1, 1]
    assert kinds(found.noticed) == [("factor_difference", 1), ("factor_difference", 2)]


@pytest.mark.parametrize(
    ("adjustment", "column"),
    [
        ("events", {"split": [1, 1e300, 1, 1]}),
        ("events", {"split": [1, 3, 1, 1]}),
        ("events", {"split": [1, 1e-4, 1, 1]}),
        ("events", {"dividend": [0, 9.9999999, 0, 0]}),
        ("events", {"dividend": [0, 5, 0, 0]}),
        ("pre_close", {"pre_close": [10, 1e-300, 10, 10]}),
        ("pre_close", {"pre_close": [10, 1e300, 10, 10]}),
        ("pre_close", {"pre_close": [10, 5, 10, 10]}),
        ("factor", {"factor": [1, 1e300, 1, 1]}),
        ("factor", {"factor": [1, 5e-324, 1, 1]}),
        ("factor", {"factor": [1e300, 2, 2, 2]}),
        ("adjusted_close", {"adjusted_close": [10, 1e5, 10, 10]}),
        ("adjusted_close", {"adjusted_close": [1e308, 10, 10, 10]}),
    ],
)
def test_an_event_that_no_price_followed_is_refused_and_the_rest_goes_on(adjustment, column):
    """A second instrument beside it, and a later event of the same one, are as without it."""
    rows = {"close": [10, 10, 10, 5, 10, 10, 10, 5], "code": [0] * 4 + [1] * 4}
    plain = {"events": {"split": [1, 1, 1, 2]}, "pre_close": {"pre_close": [10, 10, 10, 5]}}
    plain |= {"factor": {"factor": [1, 1, 1, 2]}, "adjusted_close": {"adjusted_close": [10, 10, 10, 10]}}
    ((name, values),) = column.items()
    ((later, good),) = plain[adjustment].items()
    last = {"factor": 2 * values[-1]}.get(name, good[-1] if name == later else 0)
    given = {name: [*values[:3], last, *(good if name == later else [0] * 4)]}
    given = given if name == later else {**given, later: good * 2}
    if name == "factor" and values[0] == 1e300:
        given["factor"][3] = 4
    found = factors(adjustment, rows_of({**{k: v for k, v in rows.items() if k != "code"}, **given}, code=rows["code"]))
    np.testing.assert_allclose(found.factor, [1, 1, 1, 2, 1, 1, 1, 2], rtol=1e-12)
    refused = [at for kind, at in kinds(found.noticed) if kind in ("event_refused", "factor_gap")]
    assert refused[0] == 1
    assert max(refused) < 3


def test_a_history_of_many_events_stays_a_number():
    size = 300
    rows = {"close": [10.0] * size, "split": [1.35] * size, "dividend": [0.0] * size}
    found = factors("events", rows_of(rows))
    assert found.factor.max() <= LARGEST_FACTOR
    assert found.factor[115] == pytest.approx(1.35**115)
    assert kinds(found.noticed)[0] == ("event_refused", 116)


def test_a_name_that_comes_back_as_another_company():
    close = [10.0, 10.0, 31.0, 31.0, 9.0, 9.0]
    rows = rows_of({"close": close}, code=[0, 0, 0, 1, 1, 1])
    position = np.array([0, 1, 2 + REUSE_GAP, 0, 1 + REUSE_GAP, 5 + REUSE_GAP])
    found = ticker_reuse(rows, np.ones(6), position)
    assert (found.at.tolist(), found.value.tolist(), found.expected.tolist()) == ([2, 4], [31.0, 9.0], [10.0, 31.0])
    assert found.detail.format(value=31, expected=10, bound=REUSE_GAP).endswith(
        f"over {REUSE_GAP} sessions without a row"
    )
    # a split explains it; a shorter suspension or a smaller jump is an ordinary one
    assert not len(ticker_reuse(rows, np.array([1, 1, 1 / 3, 1, 3, 3]), position).at)
    assert not len(ticker_reuse(rows, np.ones(6), position - np.array([0, 0, 1, 0, 1, 1])).at)
    # a refused row is not the instrument's first again
    gone = {**rows, "valid": np.array([1, 1, 0, 1, 0, 1], bool)}
    assert ticker_reuse(gone, np.ones(6), position).at.tolist() == [5]
