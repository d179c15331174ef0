"""Every operator against a slow, obvious reference, on the cases that break kernels."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qdag.engine import OPERATORS, Panel, compute, families, parse, plan
from qdag.engine.kernels import flags
from qdag.engine.operators import Operator, Source
from qdag.engine.reach import windowed
from qdag.errors import ExpressionError
from qdag_tests.reference import ROLLING, evaluate_panel, nasty_panel, operator_expressions

EXPRESSIONS = operator_expressions((1, 2, 3, 5, 7, 10, 20, 30, 60))
# below a window that has a value
TOO_SHORT = {"Skew_1", "Skew_2", "Kurt_1", "Kurt_2", "Kurt_3"}


@pytest.fixture(scope="module")
def panel() -> Panel:
    return nasty_panel(sessions=100)


@pytest.fixture(scope="module")
def computed(panel: Panel) -> dict[str, np.ndarray]:
    return compute({k: v for k, v in EXPRESSIONS.items() if k not in TOO_SHORT}, panel)


def check(name: str, ours: np.ndarray, theirs: np.ndarray, scale: np.ndarray | float = 0.0) -> None:
    """Same NaN and infinities; float32 values to 1e-6, or to the rounding of the numbers that cancel in them."""
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs), err_msg=name)
    np.testing.assert_array_equal(np.isinf(ours), np.isinf(theirs), err_msg=name)
    ok = np.isfinite(ours)
    error = np.abs(ours[ok].astype(float) - theirs[ok])
    allowed = 1e-6 * np.abs(theirs[ok]) + np.broadcast_to(scale, ours.shape)[ok]
    assert (error <= allowed).all(), (name, error.max(), np.argwhere(ok)[np.argmax(error - allowed)])


@pytest.mark.parametrize("name", [n for n in EXPRESSIONS if n not in TOO_SHORT])
def test_operator(name: str, panel: Panel, computed: dict[str, np.ndarray]):
    with np.errstate(invalid="ignore"):
        scale = 1e-13 * np.nan_to_num(np.nanmax(np.abs(panel["close"].astype(float)), axis=1, initial=0))[:, None]
    if name.startswith(("Cov", "Var")):
        scale = scale * np.nan_to_num(np.nanmax(panel["volume"].astype(float), axis=1, initial=0))[:, None]
    if name.startswith("EMA"):
        scale = scale * 10  # what it leaves out weighs at most 1e-12
    if name.startswith(("Skew", "Kurt", "Corr", "Rsquare", "nested")):
        scale = 1e-9
    check(name, computed[name], evaluate_panel(EXPRESSIONS[name], panel), scale)


def test_every_qlib_operator_is_covered():
    used = " ".join(EXPRESSIONS.values()) + "Mask ChangeInstrument Add Sub Mul Div Gt Ge Lt Le Eq Ne Or"
    missing = [n for n, o in OPERATORS.items() if o.source is Source.QLIB and n not in used]
    assert missing == []


VALUES = st.one_of(
    st.floats(-1e6, 1e6, width=32), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 1.0, 2.0, 1e-30])
)


@given(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=VALUES),
    st.sampled_from([n for n in ROLLING if n not in ("Skew", "Kurt")]),
    st.integers(1, 12),
)
def test_rolling_operators_on_any_values(values: np.ndarray, operator: str, window: int):
    days = np.datetime64("2020-01-01") + np.arange(values.shape[1])
    panel = Panel([f"I{i}" for i in range(len(values))], days, {"close": values})
    text = f"{operator}($close, {window})"
    ours, theirs = compute({"x": text}, panel)["x"], evaluate_panel(text, panel)
    scale = 1e-10 * np.abs(values[np.isfinite(values)]).astype(float).max(initial=0)
    if operator == "Var":
        scale *= scale * 1e10
    if operator == "Rsquare":
        # the guard and r squared of a window whose spread is rounding are not comparable
        spread = evaluate_panel(f"Std($close, {window})", panel)
        steady = ~(spread > 1e-4 + 1e-5 * np.abs(values[np.isfinite(values)]).max(initial=0))
        ours, theirs = np.where(steady, 0, ours), np.where(steady, 0, theirs)
        scale = 1e-6
    check(text, ours, theirs, scale)


def panel_of(values: np.ndarray) -> Panel:
    values = np.atleast_2d(np.asarray(values, np.float32))
    days = np.datetime64("2020-01-01") + np.arange(values.shape[1])
    return Panel([f"I{i}" for i in range(len(values))], days, {"close": values})


def test_hand_computed_windows():
    nan = np.nan
    panel = panel_of([[1, 2, nan, 4, 4]])
    got = compute(
        {
            "mean": "Mean($close, 3)",
            "rank": "Rank($close, 3)",
            "place": "IdxMax($close, 3)",
            "quantile": "Quantile($close, 3, 0.25)",
            "count": "Count($close, 3)",
            "slope": "Slope($close, 3)",
            "wma": "WMA($close, 3)",
            "ema": "EMA($close, 3)",
            "mad": "Mad($close, 3)",
        },
        panel,
    )
    expected = {
        "mean": [1, 1.5, 1.5, 3, 4],
        "rank": [1, 1, nan, 1, 0.75],
        "place": [1, 2, 3, 2, 1],
        "quantile": [1, 1.25, 1.25, 2.5, 4],
        "count": [1, 2, 2, 2, 2],
        "slope": [nan, 1, 1, 1, 0],
        "wma": [1, 5 / 6, 5 / 12, 7 / 6, 5 / 3],
        "ema": [1, 5 / 3, 5 / 3, 4.625 / 1.375, 6.3125 / 1.6875],
        "mad": [0, 0.5, 0.5, 1, 0],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(got[name][0], values, rtol=1e-6, err_msg=name)


def test_constant_window_of_20_ranks_in_the_middle():
    assert compute({"x": "Rank($close, 20)"}, panel_of(np.full(25, 7.3)))["x"][0, -1] == np.float32(0.525)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_moments_do_not_lose_digits_to_an_offset(offset: float):
    rng = np.random.default_rng(1)
    steps = rng.integers(-8, 8, (3, 200)).astype(np.float32)
    near, far = panel_of(steps), panel_of(steps + np.float32(offset))
    texts = {n: f"{n}($close, 20)" for n in ("Std", "Var", "Skew", "Kurt", "Slope", "Rsquare", "Resi", "Mad")}
    a, b = compute(texts, near), compute(texts, far)
    for name in texts:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_spike_leaves_nothing_behind():
    rng = np.random.default_rng(2)
    calm = np.round(10 + rng.normal(0, 1, 300), 2)
    spiked = calm.copy()
    spiked[5] = 1e12
    texts = {n: f"{n}($close, 20)" for n in (*ROLLING, "Ref")}
    a, b = compute(texts, panel_of(calm)), compute(texts, panel_of(spiked))
    for name in texts:
        np.testing.assert_array_equal(a[name][0, 30:], b[name][0, 30:], err_msg=name)


def test_a_flat_window_has_exactly_no_spread():
    # 0.1 is no binary fraction, and a mean of it is a float64 series
    panel = panel_of(np.full(100, 0.1))
    got = compute(
        {"std": "Std($close, 20)", "of_mean": "Var(Mean($close, 7), 60)", "slope": "Slope($close, 30)"}, panel
    )
    assert (got["std"][0, 1:] == 0).all()
    assert (got["slope"][0, 1:] == 0).all()
    assert (got["of_mean"][0, 1:] < 1e-30).all()


def test_values_that_differ_by_rounding_alone_have_no_correlation():
    # the deviations of the same values at other places of the window differ in their last bits
    rng = np.random.default_rng(1)
    volume = np.full((200, 40), np.nan)
    volume[:, 3:8] = rng.lognormal(15, 1, (200, 5))
    close = np.tile(np.linspace(10, 12, 40), (200, 1))
    close[:, :7] = np.nan
    fields = {"close": close.astype("f4"), "volume": volume.astype("f4")}
    panel = Panel([f"I{i}" for i in range(200)], np.arange(40).astype("M8[D]"), fields)
    found = compute({"x": "Corr(Std($volume, 10), $close, 5)"}, panel)["x"]
    # rows 7 to 12 hold the deviation of the same five volumes; other deviations in the window have no close beside them
    assert np.isnan(found[:, 8:11]).all()
    assert np.isfinite(found[:, 14:16]).all()


def test_adding_an_operator_is_one_declaration_and_a_kernel(monkeypatch):
    monkeypatch.setattr(flags, "_DECLARED", [])

    @flags.kernel("void(float32[::1], int64, int64, int64[::1], float64[::1])")
    def rolling_product(x, lanes, window, first, out):
        for i in range(x.size):
            out[i] = 1.0
            for back in range(min(window, i // lanes + 1)):
                value = x[i - back * lanes]
                out[i] *= 1.0 if np.isnan(value) else value

    product = Operator(
        name="Product",
        meaning="product of the valid values",
        source=Source.EXTENSION,
        parameters=("window",),
        reach=windowed,
        family=families.window(rolling_product),
    )
    panel = nasty_panel(instruments=7, sessions=60)
    text = "Product($close/Ref($close, 1), 5) - 1"
    with monkeypatch.context() as added:
        added.setitem(OPERATORS, "Product", product)
        assert plan({"x": text}).lookback == 5
        found = compute({"x": text}, panel)["x"]
    parse.cache_clear()
    with pytest.raises(ExpressionError, match="unknown operator 'Product'"):
        parse(text)

    returns = pd.DataFrame(panel["close"].T) / pd.DataFrame(panel["close"].T).shift(1)
    expected = (returns.fillna(1).rolling(5, min_periods=1).apply(np.prod, raw=True) - 1).T.to_numpy()
    np.testing.assert_allclose(found, np.where(panel.exists(), expected, np.nan), rtol=1e-5, atol=1e-6)
