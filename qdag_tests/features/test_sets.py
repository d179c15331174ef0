"""The declared feature sets."""

from pathlib import Path

import numpy as np
import pytest

from qdag.engine import Panel, compute, parse
from qdag.errors import UnknownNameError
from qdag.features.catalogue import catalogue_markdown, expressions, feature_set, feature_sets, lookbacks
from qdag.features.feature import Feature


@pytest.mark.parametrize(("name", "loader"), [("alpha158", "Alpha158DL"), ("alpha360", "Alpha360DL")])
def test_qlibs_sets_are_qlibs_own_configuration(name: str, loader: str):
    from qlib.contrib.data import loader as qlib_loader

    texts, names = getattr(qlib_loader, loader).get_feature_config()
    assert expressions(name) == dict(zip(names, texts, strict=True))
    assert list(feature_set(name).columns) == names
    assert len(names) == int(name.removeprefix("alpha"))


def test_sets_are_found_by_name():
    assert list(feature_sets()) == [
        "alpha158",
        "alpha360",
        "basic_statistics",
        "price_features",
        "technical_indicators",
    ]
    assert feature_sets()["alpha158"] is feature_set("alpha158")
    assert "nothing" not in feature_sets()
    with pytest.raises(UnknownNameError, match="did you mean 'alpha158'"):
        feature_set("alpha15")


@pytest.mark.parametrize("name", list(feature_sets()))
def test_every_feature_is_declared_in_full(name: str):
    features = feature_set(name).features
    names = [feature.name for feature in features]
    assert len(set(names)) == len(names)
    for feature in features:
        assert isinstance(feature, Feature)
        assert all((feature.group, feature.meaning, feature.direction)), feature.name
        if feature.expression is not None:
            parse(feature.expression)


def test_basic_statistics_cover_each_window():
    names = set(expressions("basic_statistics"))
    statistics = ("MEAN", "STD", "MAX", "MIN", "Q80", "Q20", "CORR", "RETURN")
    assert names == {f"{s}{d}" for s in statistics for d in (5, 10, 20, 30, 60)}


def test_price_features_are_distinct():
    texts = expressions("price_features")
    assert len(texts) == 17
    by_text: dict[str, list[str]] = {}
    for name, text in texts.items():
        by_text.setdefault(str(parse(text)), []).append(name)
    # a rate over 5 and over 20 sessions is known under two names
    assert [names for names in by_text.values() if len(names) > 1] == [
        ["price_change_5", "momentum_5"],
        ["price_change_20", "momentum_20"],
    ]


@pytest.mark.parametrize("days", [1, 5, 20])
def test_a_price_change_is_a_rate(days: int):
    assert expressions("price_features")[f"price_change_{days}"] == f"$close/Ref($close, {days})-1"


def rescaled(panel: Panel, by: float) -> Panel:
    """The same market with the adjustment factor 1 on another day: prices times a constant, volumes over it."""
    fields = {name: values / by if name == "volume" else values * by for name, values in panel.fields.items()}
    return Panel(panel.instruments, panel.sessions, {n: v.astype(np.float32) for n, v in fields.items()})


@pytest.mark.parametrize("name", list(feature_sets()))
def test_levels_follow_the_size_of_prices_and_factors_do_not(name: str):
    rng = np.random.default_rng(5)
    shape = (3, 150)
    close = 20 * np.exp(np.cumsum(rng.normal(0, 0.02, shape), axis=1))
    opened = close * np.exp(rng.normal(0, 0.01, shape))
    high, low = np.maximum(opened, close) * 1.01, np.minimum(opened, close) * 0.99
    fields = {"open": opened, "high": high, "low": low, "close": close, "vwap": (high + low) / 2}
    fields["volume"] = rng.lognormal(16, 0.5, shape)
    days = np.busday_offset("2020-01-01", np.arange(shape[1]))
    panel = Panel(list("abc"), days, {field: values.astype(np.float32) for field, values in fields.items()})

    def computed(panel: Panel) -> dict[str, np.ndarray]:
        code = feature_set(name).code
        return code.compute(panel, start=0, threads=1) if code else compute(expressions(name), panel)

    by = 64.0
    one, other = computed(panel), computed(rescaled(panel, by))
    for feature in feature_set(name).features:
        scale = {"": 1.0, "currency": by, "shares": 1 / by}[feature.unit]
        expected = one[feature.name] * scale
        size = np.nanmax(np.abs(expected))
        assert size > 0, feature.name
        np.testing.assert_allclose(other[feature.name], expected, rtol=1e-4, atol=1e-4 * size, err_msg=feature.name)
        assert feature.kind == ("level" if feature.unit else "factor")


def test_an_unknown_unit_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'currency'"):
        Feature("x", "g", "$close", "m", "d", "curency")


def test_the_documented_catalogue_is_the_code_s():
    written = (Path(__file__).parents[2] / "docs" / "features.md").read_text("utf-8")
    assert written == catalogue_markdown(feature_sets().values()), "run: qdag features --markdown > docs/features.md"


def test_every_feature_says_what_it_is():
    for features in feature_sets().values():
        for feature in features.features:
            assert all((feature.group, feature.meaning, feature.direction)), feature.name
        past = lookbacks(features)
        assert all(value == "all" or int(value) >= 0 for value in past.values())
