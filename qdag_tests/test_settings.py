from datetime import date
from pathlib import Path

import pytest

from qdag.errors import SettingsError, UnknownNameError
from qdag.settings import load_settings

US = "[universes.us]\ncalendar='XNYS'\nstart=2020-01-01\n"


def _load(tmp_path: Path, text: str = "", **environ: str):
    file = tmp_path / "qdag.toml"
    file.write_text(text)
    return load_settings(file, environ)


def test_defaults_need_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    assert settings.home == tmp_path / ".qdag"
    assert settings.dagster_home.is_relative_to(settings.home)
    assert str(settings.home) in settings.tracking_uri
    assert list(settings.universes) == ["sample"]


@pytest.mark.parametrize(
    ("text", "wrong", "near"),
    [
        ("hom = 'x'", "'hom'", "'home'"),
        ("[training]\nhorizn = 5", "'training.horizn'", "'horizon'"),
        ("[mlflow]\ntracking_url = 'x'", "'mlflow.tracking_url'", "'tracking_uri'"),
        (US + "calender='XNYS'\nsource={kind='sample'}", "calender", "'calendar'"),
        (US + "source={kind='files', path='x', profle='auto'}", "profle", "'profile'"),
    ],
)
def test_a_misspelt_key_names_the_nearest(tmp_path, text, wrong, near):
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path, text)
    assert wrong in str(caught.value)
    assert f"did you mean {near}" in str(caught.value)


def test_a_misspelt_variable_is_an_error_too(tmp_path):
    with pytest.raises(SettingsError, match="did you mean 'horizon'"):
        _load(tmp_path, QDAG_TRAINING__HORIZZON="5")


def test_environment_wins_over_the_file(tmp_path):
    settings = _load(tmp_path, "home='a'\n[training]\nhorizon=1", QDAG_TRAINING__HORIZON="5", QDAG_HOME="/data")
    assert settings.training.horizon == 5
    assert settings.home == Path("/data")


def test_paths_in_a_file_are_relative_to_it(tmp_path):
    text = "home='h'\n[universes.us]\ncalendar='XNYS'\nstart=2020-01-01\nsource={kind='files', path='data'}"
    settings = _load(tmp_path, text)
    assert settings.home == tmp_path / "h"
    assert settings.universe("us").source.path == tmp_path / "data"
    assert settings.universe("us").start == date(2020, 1, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("horizons=[5, 1]", "increasing"),
        ("horizons=[]", "increasing"),
        ("horizons=[5]", "training.horizon 1"),
        ("[training]\ntrain_sessions=3", "greater than or equal to 20"),
        ("[universes.Bad-Name]\ncalendar='XNYS'\nstart=2020-01-01\nsource={kind='sample'}", "Bad-Name"),
        ("[universes.us]\ncalendar='XNYS'\nstart=2020-02-01\nend=2020-01-01\nsource={kind='sample'}", "is after end"),
        (US + "source={kind='files', path='x', profile='custom'}", "custom"),
        ("home = [", "cannot be read"),
    ],
)
def test_bad_values_say_what_and_why(tmp_path, text, says):
    with pytest.raises(SettingsError, match=says):
        _load(tmp_path, text)


def test_missing_file_and_unknown_universe(tmp_path):
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "none.toml", {})
    with pytest.raises(UnknownNameError, match="did you mean 'sample'"):
        load_settings(environ={}).universe("smaple")


def test_settings_cannot_be_changed(tmp_path):
    with pytest.raises(Exception, match="frozen"):
        _load(tmp_path).home = Path("/other")
