"""A key that does not exist names the nearest one that does, at any depth."""

import pytest

from qdag.errors import SettingsError
from qdag_tests.settings.settings_text import US


@pytest.mark.parametrize(
    ("text", "wrong", "near"),
    [
        ("hom = 'x'", "'hom'", "'home'"),
        ("[training]\nhorizn = 5", "'training.horizn'", "'horizon'"),
        ("[mlflow]\ntracking_url = 'x'", "'mlflow.tracking_url'", "'tracking_uri'"),
        (US + "calender='XNYS'\nsource={kind='sample'}", "calender", "'calendar'"),
        (US + "source={kind='files', path='x', profle='auto'}", "profle", "'profile'"),
        (US + "source={kind='sample'}\npools={p={kind='top', siz=3}}", "'universes.us.pools.p.siz'", "'size'"),
        ("[[quality.price_limits]]\nlimt=0.1", "'quality.price_limits[0].limt'", "'limit'"),
    ],
)
def test_a_misspelt_key_names_the_nearest(load, text, wrong, near):
    with pytest.raises(SettingsError) as caught:
        load(text)
    assert wrong in str(caught.value)
    assert f"did you mean {near}" in str(caught.value)


def test_a_misspelt_variable_is_an_error_too(load):
    with pytest.raises(SettingsError, match="did you mean 'horizon'"):
        load(QDAG_TRAINING__HORIZZON="5")


def test_a_key_without_a_default_that_is_missing_is_said(refused):
    assert "'universes.us.start'" in refused("[universes.us]\ncalendar='XNYS'\nsource={kind='sample'}", "is missing")
