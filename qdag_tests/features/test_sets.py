"""The declared feature sets."""

from pathlib import Path

import pytest

from qdag.engine import parse
from qdag.errors import UnknownNameError
from qdag.features.catalogue import FEATURE_SETS, Feature, catalogue_markdown, expressions, feature_set, lookbacks


@pytest.mark.parametrize(("name", "loader"), [("alpha158", "Alpha158DL"), ("alpha360", "Alpha360DL")])
def test_qlibs_sets_are_qlibs_own_configuration(name: str, loader: str):
    from qlib.contrib.data import loader as qlib_loader

    texts, names = getattr(qlib_loader, loader).get_feature_config()
    assert expressions(name) == dict(zip(names, texts, strict=True))
    assert [feature.name for feature in feature_set(name)] == names
    assert len(names) == int(name.removeprefix("alpha"))


def test_sets_are_found_by_name():
    assert list(FEATURE_SETS) == [
        "alpha158",
        "alpha360",
        "basic_statistics",
        "price_features",
        "technical_indicators",
    ]
    assert FEATURE_SETS["alpha158"] is feature_set("alpha158")
    assert "nothing" not in FEATURE_SETS
    with pytest.raises(UnknownNameError, match="did you mean 'alpha158'"):
        feature_set("alpha15")


@pytest.mark.parametrize("name", list(FEATURE_SETS))
def test_every_feature_is_declared_in_full(name: str):
    features = feature_set(name)
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
    assert len({str(parse(text)) for text in texts.values()}) == 17
    assert texts["price_change_5"] == "$close-Ref($close, 5)"
    assert texts["momentum_5"] == "$close/Ref($close, 5)-1"


def test_the_documented_catalogue_is_the_code_s():
    written = (Path(__file__).parents[2] / "docs" / "features.md").read_text("utf-8")
    assert written == catalogue_markdown(FEATURE_SETS), "run: qdag features --markdown > docs/features.md"


def test_every_feature_says_what_it_is():
    for features in FEATURE_SETS.values():
        for feature in features:
            assert all((feature.group, feature.meaning, feature.direction)), feature.name
        past = lookbacks(features)
        assert all(value == "all" or int(value) >= 0 for value in past.values())
