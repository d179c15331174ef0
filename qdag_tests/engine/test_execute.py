"""Running plans: history, blocks, threads, stages across instruments, and bad input."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdag.engine import Panel, compute, compute_blocks, execute, plan
from qdag.engine.schedule import schedule
from qdag.errors import ExpressionError, PanelError, UnknownNameError
from qdag.features.catalogue import expressions
from qdag_tests.reference import nasty_panel, operator_expressions

SETS = ("alpha158", "alpha360", "basic_statistics", "price_features")


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the last bit; any NaN equals any NaN."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    both_nan = np.isnan(a) & np.isnan(b)
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | both_nan).all())


@pytest.fixture(scope="module")
def panel() -> Panel:
    return nasty_panel(instruments=20, sessions=180, seed=3)


@pytest.fixture(scope="module")
def everything() -> dict[str, str]:
    out = {f"op.{k}": v for k, v in operator_expressions((4, 5, 20, 60)).items() if not k.endswith("_0")}
    for name in SETS:
        out |= {f"{name}.{k}": v for k, v in expressions(name).items() if name != "alpha360" or k[-1] in "07"}
    return out | {
        "cs.rank": "CSRank(Mean($close, 5))",
        "cs.nested": "Mean(CSZScore($close/Ref($close, 3)), 5)-CSRank(CSRank($volume))",
        "mask": "Corr($close, Mask(Mean($close, 3), 'T0000'), 10)",
    }


@pytest.fixture(scope="module")
def whole(panel: Panel, everything: dict[str, str]) -> dict[str, np.ndarray]:
    return compute(everything, panel)


@given(data=st.data())
def test_increment_equals_the_whole_to_the_last_bit(panel, everything, whole, data):
    sessions = len(panel.sessions)
    begin = data.draw(st.integers(0, sessions - 1))
    end = data.draw(st.integers(begin + 1, min(sessions, begin + 30)))
    names = data.draw(st.lists(st.sampled_from(sorted(everything)), min_size=1, max_size=40, unique=True))
    chosen = plan({name: everything[name] for name in names})
    # exactly the look-back that the plan derives
    left = max(0, begin - chosen.lookback)
    part = compute(chosen, panel.window(left, end), start=begin - left, threads=data.draw(st.integers(1, 2)))
    for name in names:
        assert part[name].shape == (20, end - begin)
        assert same_bits(part[name], whole[name][:, begin:end]), name


@pytest.mark.parametrize("cut", [1, 7, 61, 120, 179])
def test_cutting_the_future_changes_nothing(panel, everything, whole, cut):
    # a window that ends is not a delisting: its last rows stay alive
    part = compute(everything, panel.window(0, cut))
    alive = panel.window(0, cut).exists()
    for name in everything:
        assert same_bits(np.where(alive, part[name], 0), np.where(alive, whole[name][:, :cut], 0)), name


@given(st.permutations(range(20)), st.integers(1, 25), st.integers(1, 3))
def test_order_blocks_and_threads_change_nothing(panel, whole, order, block, threads):
    texts = {
        "a": "Rsquare($close, 20)",
        "b": "Quantile($close, 10, 0.2)",
        "c": "CSRank($volume)",
        "d": "WMA($close, 5)",
    }
    shuffled = Panel(
        [panel.instruments[i] for i in order],
        panel.sessions,
        {name: values[list(order)] for name, values in panel.fields.items()},
        first=panel.first[list(order)],
        last=panel.last[list(order)],
    )
    expected = compute(texts, panel)
    got = compute(texts, shuffled, block_instruments=block, threads=threads)
    for name in texts:
        assert same_bits(got[name], expected[name][list(order)]), name


def test_long_panels_are_cut_into_segments_without_a_trace(panel, everything, whole, monkeypatch):
    monkeypatch.setattr(execute, "SEGMENT", 1)
    for text in sorted(everything)[::3]:
        # alone, so that the segment is as short as its own look-back allows
        got = compute({"x": everything[text]}, panel)["x"]
        assert same_bits(got, whole[text]), text
    ahead = "Ref(Mean($close, 3), -2)/Ref($close, -1)-1"
    cut = compute({"x": ahead}, panel, allow_future=True, start=11)["x"]
    monkeypatch.undo()
    assert same_bits(cut, compute({"x": ahead}, panel, allow_future=True)["x"][:, 11:])


def test_scaling_prices_scales_what_should_scale(panel):
    by_two = Panel(
        panel.instruments,
        panel.sessions,
        {k: v if k == "volume" else v * np.float32(2) for k, v in panel.fields.items()},
    )
    level = {"mean": "Mean($close, 20)", "std": "Std($close, 20)", "max": "Max($high, 10)", "slope": "Slope($close, 5)"}
    free = {k: v for k, v in expressions("alpha158").items() if k.startswith(("ROC", "MA", "STD", "QTL", "RANK", "IM"))}
    a, b = compute(level | free, panel), compute(level | free, by_two)
    for name in level:
        assert same_bits(a[name] * np.float32(2), b[name]), name
    for name in free:
        assert same_bits(a[name], b[name]), name


def test_nothing_outside_an_instruments_life(panel, whole):
    outside = ~panel.exists()
    assert outside.any()
    for name, values in whole.items():
        assert values.dtype == np.float32
        assert np.isnan(values[outside]).all(), name


def test_blocks_stream_the_same_values(panel):
    texts = expressions("price_features")
    expected = compute(texts, panel, start=100)
    seen = []
    for block, values in compute_blocks(texts, panel, start=100, block_instruments=7):
        assert list(values) == list(texts)
        for name in texts:
            assert same_bits(values[name], expected[name][block]), name
        seen.append((block.start, block.stop))
    assert seen == [(0, 7), (7, 14), (14, 20)]


def test_results_hold_sessions_outermost_so_that_tables_are_written_without_a_copy(panel):
    assert compute({"x": "$close"}, panel)["x"].T.flags.c_contiguous


def test_progress_is_told(panel):
    calls: list[tuple[int, int]] = []
    compute({"x": "$close"}, panel, block_instruments=8, threads=1, progress=lambda *done: calls.append(done))
    assert calls == [(8, 20), (16, 20), (20, 20)]
    calls.clear()
    for _ in compute_blocks({"x": "$close"}, panel, block_instruments=8, progress=lambda *done: calls.append(done)):
        pass
    assert calls == [(8, 20), (16, 20), (20, 20)]


def test_memory_is_filled_again(panel):
    memory = np.empty((1, 180, 20), np.float32)
    got = compute({"x": "$close*2"}, panel, out=memory)["x"]
    assert np.shares_memory(got, memory)
    assert same_bits(got, np.where(panel.exists(), panel["close"] * 2, np.nan))
    with pytest.raises(PanelError, match="out must be float32"):
        compute({"x": "$close*2"}, panel, out=memory.astype(float))


def test_two_names_of_one_series(panel):
    got = compute({"a": "$close/$open", "b": "$close / $open"}, panel)
    assert same_bits(got["a"], got["b"])


def test_labels_look_ahead_when_allowed(panel):
    text = "Ref($close, -2)/Ref($close, -1)-1"
    got = compute({"label": text}, panel, allow_future=True)["label"]
    frame = pd.DataFrame(panel["close"].T)
    expected = (frame.shift(-2) / frame.shift(-1) - 1).T.to_numpy()
    assert same_bits(np.where(panel.exists(), got, np.nan), np.where(panel.exists(), expected, np.nan))
    # a rolling value past the last row is no future value
    late = compute({"x": "Ref(Mean($close, 5), -1)"}, panel, allow_future=True)["x"]
    assert np.isnan(late[3, panel.last[3]])
    with pytest.raises(ExpressionError, match="future"):
        compute({"label": text}, panel)


# ---------------------------------------------------------------------- across instruments


def cross(panel: Panel, text: str, pool: np.ndarray | None = None) -> pd.DataFrame:
    return pd.DataFrame(compute({"x": text}, panel, pool=pool)["x"].T)


def test_cross_section_operators_equal_pandas(panel):
    pool = np.random.default_rng(5).random(panel.shape) < 0.7
    x = pd.DataFrame(np.where(pool & panel.exists(), panel["close"], np.nan).T.astype(float))
    expected = {
        "CSRank($close)": x.rank(axis=1, pct=True),
        "CSDemean($close)": x.sub(x.mean(axis=1), axis=0),
        "CSZScore($close)": x.sub(x.mean(axis=1), axis=0).div(x.std(axis=1), axis=0),
        "CSWinsor($close, 0.1)": x.clip(x.quantile(0.1, axis=1), x.quantile(0.9, axis=1), axis=0),
    }
    for text, frame in expected.items():
        got = cross(panel, text, pool)
        np.testing.assert_allclose(got, frame.astype(np.float32), rtol=2e-6, atol=1e-6 * 1e7, err_msg=text)
        np.testing.assert_array_equal(got.isna(), frame.isna())
    # the instruments of 1e7 apart, the others agree to float32
    calm = panel_without(panel, 9, 10)
    pool = np.delete(pool, [9, 10], axis=0)
    x = pd.DataFrame(np.where(pool & calm.exists(), calm["close"], np.nan).T.astype(float))
    np.testing.assert_allclose(
        cross(calm, "CSZScore($close)", pool),
        x.sub(x.mean(axis=1), axis=0).div(x.std(axis=1), axis=0).astype(np.float32),
        rtol=1e-5,
        atol=1e-6,
    )


def panel_without(panel: Panel, *rows: int) -> Panel:
    keep = [i for i in range(len(panel.instruments)) if i not in rows]
    fields = {name: values[keep] for name, values in panel.fields.items()}
    return Panel([panel.instruments[i] for i in keep], panel.sessions, fields, panel.first[keep], panel.last[keep])


def test_neutralize_is_a_regression_residual_or_a_group_mean(panel):
    calm = panel_without(panel, 9, 10)
    got = cross(calm, "CSNeutralize($close, Log($volume+1))").to_numpy()
    t = 170
    x, z = calm["close"][:, t].astype(float), np.log(calm["volume"][:, t] + np.float32(1)).astype(float)
    ok = np.isfinite(x) & np.isfinite(z)
    design = np.column_stack([np.ones(ok.sum()), z[ok]])
    residual = x[ok] - design @ np.linalg.lstsq(design, x[ok], rcond=None)[0]
    np.testing.assert_allclose(got[t][ok], residual, rtol=1e-4, atol=1e-5)
    assert np.isnan(got[t][~ok]).all()

    groups = np.repeat((np.arange(18) % 3)[:, None], 180, axis=1).astype(np.float32)
    grouped = Panel(calm.instruments, calm.sessions, {**calm.fields, "sector": groups}, calm.first, calm.last)
    got = compute({"x": "CSNeutralize($close, $sector, 'group')"}, grouped)["x"]
    frame = pd.DataFrame({"x": calm["close"][:, t].astype(float), "g": groups[:, t]})
    expected = frame["x"] - frame.groupby("g")["x"].transform("mean")
    np.testing.assert_allclose(got[:, t], expected.astype(np.float32), rtol=1e-5, atol=1e-5)


def test_another_instruments_series(panel):
    got = compute({"x": "$close/Mask($close, 't0001')", "y": "$close/ChangeInstrument('T0001', $close)"}, panel)
    expected = panel["close"] / panel["close"][1]
    assert same_bits(got["x"], np.where(panel.exists(), expected, np.nan))
    assert same_bits(got["x"], got["y"])
    with pytest.raises(UnknownNameError, match="unknown instrument 'SH000300'"):
        compute({"x": "Mask($close, 'SH000300')"}, panel)


# ---------------------------------------------------------------------- bad input


def test_unknown_field_names_the_nearest(panel):
    with pytest.raises(UnknownNameError, match=r"unknown field '\$clsoe'; did you mean '\$close'"):
        compute({"x": "$clsoe"}, panel)


@pytest.mark.parametrize("start", [-1, 181])
def test_start_outside_the_panel(panel, start):
    with pytest.raises(PanelError, match=f"got {start}"):
        compute({"x": "$close"}, panel, start=start)


def test_pool_of_another_shape(panel):
    with pytest.raises(PanelError, match="pool must be a bool array"):
        compute({"x": "CSRank($close)"}, panel, pool=np.ones((3, 3), bool))
    with pytest.raises(PanelError, match="pool must be a bool array"):
        compute({"x": "CSRank($close)"}, panel, pool=np.ones(panel.shape))


@pytest.mark.parametrize(("option", "value"), [("threads", 0), ("block_instruments", 0)])
def test_options_below_one(panel, option, value):
    with pytest.raises(PanelError, match=f"{option} must be at least 1, got 0"):
        compute({"x": "$close"}, panel, **{option: value})


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (1, 1)])
def test_empty_and_tiny_panels(shape):
    days = np.datetime64("2020-01-01") + np.arange(shape[1])
    names = [f"I{i}" for i in range(shape[0])]
    fields = {k: np.ones(shape, np.float32) for k in ("open", "high", "low", "close", "volume", "vwap")}
    got = compute(expressions("alpha158") | {"cs": "CSRank($close)"}, Panel(names, days, fields))
    assert all(values.shape == shape for values in got.values())


def test_float64_fields_are_taken_as_float32():
    days = np.datetime64("2020-01-01") + np.arange(3)
    values = np.array([[0.1, 0.2, 0.3]])
    double = compute({"x": "$close*3"}, Panel(["A"], days, {"close": values}))["x"]
    single = compute({"x": "$close*3"}, Panel(["A"], days, {"close": values.astype(np.float32)}))["x"]
    assert same_bits(double, single)


def test_a_series_ends_after_its_last_reader():
    graph = plan({"a": "Mean(Abs($close), 5)", "b": "Abs($close)+$open"})
    steps = schedule(graph.nodes, graph.outputs.values())
    ended = [i for step in steps for i in step.ends]
    assert sorted(ended) == list(range(len(graph.nodes)))
