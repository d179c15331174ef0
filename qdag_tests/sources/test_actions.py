"""Factors and what is noticed about them: by hand, and that a new event never changes the past."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdag.sources.actions import REUSE_GAP, factors, ticker_reuse

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
    "split": st.sampled_from([1.0, 1.0, 2.0, 0.5, np.nan]),
    "dividend": st.sampled_from([0.0, 0.0, 0.04, 1.23, 50.0, np.nan]),
    "pre_close": price,
    "adjusted_close": st.sampled_from([0.5, 9.0, 20.0]),
    "factor": st.sampled_from([1.0, 1.5, 3.0]),
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

    (whole, gaps, noticed), (part, part_gaps, part_noticed) = found(bars), found(bars[:cut])
    usable = np.array([b["valid"] and b["close"] > 0 for b in bars[:cut]])
    if usable.any():
        # the base is the first valid row: it is there already
        assert whole[:cut][usable].tobytes() == part[usable].tobytes()
        assert part[usable][0] == 1
    assert gaps[:cut].tolist() == part_gaps.tolist()
    assert [k for k in kinds(noticed) if k[1] < cut] == kinds(part_noticed)


def test_events_against_the_adjusted_close_by_hand():
    close = [50.0, 24.5, 25.0, 20.0, 10.0]
    split = [1.0, 2.0, 1.0, 1.0, 2.0]
    dividend = [0.0, 0.0, 0.0, 0.5, 0.0]
    level = np.cumprod([1, 2, 1, 1 / (1 - 0.5 / 25), 2])
    rows = {"close": close, "split": split, "dividend": dividend, "adjusted_close": close * level}
    factor, gaps, noticed = factors("events", rows_of(rows))
    np.testing.assert_array_equal(factor, level)
    assert not gaps.any()
    assert kinds(noticed) == []
    # the vendor reinvests the dividend at the close of its day: 1 + 0.5 / 20 = 1.025, not 1.020408
    level[3:] *= (1 + 0.5 / 20) * (1 - 0.5 / 25)
    rows["adjusted_close"] = close * level
    assert kinds(factors("events", rows_of(rows))[2]) == [("factor_convention", 3)]
    # the vendor's adjusted close knows nothing of the last split
    level[4] /= 2
    rows["adjusted_close"] = close * level
    (found,) = [n for n in factors("events", rows_of(rows))[2] if n.kind == "factor_difference"]
    assert (found.at.tolist(), found.expected.tolist()) == ([4], [2.0])
    assert found.value[0] == pytest.approx(1.0)


def test_pct_chg_against_pre_close_by_hand():
    rows = {"close": [8.0, 5.0, 5.05], "pre_close": [8.0, 4.0, 5.0], "pct_chg": [0.0, 25.0, 1.0]}
    factor, _, noticed = factors("pre_close", rows_of(rows))
    assert factor.tolist() == [1.0, 2.0, 2.0]
    assert kinds(noticed) == []
    for told, listed in ((25.28, []), (25.29, [("factor_difference", 1)])):
        # 5 / 4 to the cent: 25 % up to 100 x 1.25 x (1 / (0.999 x 0.99875) - 1) + 0.005 = 0.28688 %
        assert kinds(factors("pre_close", rows_of({**rows, "pct_chg": [0.0, told, 1.0]}))[2]) == listed
    # a missing pre_close is no event; the vendor's change says that there was one
    assert kinds(factors("pre_close", rows_of({**rows, "pre_close": [8.0, np.nan, 5.0]}))[2]) == [
        ("factor_difference", 1)
    ]
    # traded without a close: the next row's event cannot be told
    gone = rows_of({**rows, "close": [8.0, np.nan, 5.05]}, valid=[True, False, True])
    assert kinds(factors("pre_close", gone)[2]) == [("factor_gap", 2)]


cents = st.integers(20, 20_000)


@given(
    st.lists(st.tuples(cents, st.integers(0, 8_000), st.sampled_from([1, 1, 1, 2, 3])), min_size=2, max_size=12),
    st.sampled_from([2, 3, 4]),
    st.sampled_from([2, 4, 8]),
    st.booleans(),
)
def test_rounding_alone_is_never_listed_as_a_difference(bars, decimals, digits, reinvested):
    """Exact arithmetic on unrounded prices, then rounded as a vendor does: what is left must be within the bound."""
    close = [Fraction(c, 100) + Fraction(k, 10**6) for c, k, _ in bars]
    dividend = [Fraction(0)] + [close[i - 1] * Fraction(bars[i][1], 40_000) for i in range(1, len(bars))]
    # one that rounds to nothing is not told at all: that difference is listed
    dividend = [d if round(float(d), decimals) else Fraction(0) for d in dividend]
    level = [Fraction(1)]
    for i in range(1, len(bars)):
        step = 1 + dividend[i] / close[i] if reinvested else 1 / (1 - dividend[i] / close[i - 1])
        level.append(level[-1] * bars[i][2] * step)
    rows = {
        "close": [round(float(c), decimals) for c in close],
        "dividend": [round(float(d), decimals) for d in dividend],
        "split": [float(s) for _, _, s in bars],
        "adjusted_close": [round(float(c * f / level[-1]), digits) for c, f in zip(close, level, strict=True)],
    }
    if min(rows["adjusted_close"]) > 50 * 10**-digits:
        found = kinds(factors("events", rows_of(rows))[2])
        assert [k for k in found if k[0] == "factor_difference"] == []
        assert reinvested or found == []
    pre_close = [close[0], *(close[i - 1] / bars[i][2] for i in range(1, len(bars)))]
    percent = [
        round(float(100 * (c / p - 1)), digits if digits < 8 else 2) for c, p in zip(close, pre_close, strict=True)
    ]
    rows = {
        "close": rows["close"],
        "pre_close": [round(float(p), decimals) for p in pre_close],
        "pct_chg": percent,
    }
    assert kinds(factors("pre_close", rows_of(rows))[2]) == []


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
