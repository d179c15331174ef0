"""A file, variables over it, paths relative to it, and any input at all: settings load or say why they do not."""

import contextlib
import copy
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qdag.errors import SettingsError
from qdag.settings import load_settings, settings_from

FILE = """
home='h'
[universes.us]
calendar='XNYS'
start=2020-01-01
source={kind='files', path='data'}
industries='lists/i.csv'
pools={p={kind='file', path='p.csv'}, t={kind='top', size=3}}
[universes.web]
calendar='XNYS'
start=2020-01-01
instruments=['A']
source={kind='yahoo', cache='/kept'}
"""


def test_defaults_need_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    assert settings.home == tmp_path / ".qdag"
    assert settings.dagster_home.is_relative_to(settings.home)
    assert str(settings.home) in settings.tracking_uri
    assert list(settings.universes) == ["sample"]


def test_environment_wins_over_the_file(load):
    settings = load("home='a'\n[training]\nhorizon=1", QDAG_TRAINING__HORIZON="5", QDAG_HOME="/data")
    assert settings.training.horizon == 5
    assert settings.home == Path("/data")


def test_paths_in_a_file_are_relative_to_it_wherever_they_stand(load, tmp_path):
    settings = load(FILE)
    us = settings.universe("us")
    assert settings.home == tmp_path / "h"
    assert us.source.path == tmp_path / "data"
    assert us.industries == tmp_path / "lists" / "i.csv"
    assert us.pools["p"].path == tmp_path / "p.csv"
    assert settings.universe("web").source.cache == Path("/kept")
    assert us.start == date(2020, 1, 1)
    # also where a variable says what the table is of
    told = load(FILE.replace("kind='files', ", ""), QDAG_UNIVERSES__US__SOURCE__KIND="files")
    assert told.universe("us").source.path == tmp_path / "data"


def test_a_file_that_does_not_exist_is_said(tmp_path):
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "none.toml", {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("home = [", "cannot be read"),
        ("home = 'a'\nx = [\n1,\n", r"cannot be read: .*\(at line 3, the last\)"),
        ("x = " + "[" * 5000, "nested too deeply"),
        ("horizons = [" + "1" * 5000 + "]", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_said(refused, text, says):
    refused(text, says)


def test_a_variable_below_a_plain_value_and_one_of_broken_json_are_errors(load):
    with pytest.raises(SettingsError, match="nests below 'home', which is a plain value"):
        load("home='a'", QDAG_HOME__X="b")
    with pytest.raises(SettingsError, match="QDAG_HORIZONS is not valid JSON"):
        load(QDAG_HORIZONS="[1, ")


COLUMNS = dict.fromkeys(("date", "open", "high", "low", "close", "volume"), "x")
FULL = {
    "home": "home",
    "horizons": [1, 5],
    "universes": {
        "us": {
            "calendar": "XNYS",
            "start": date(2018, 1, 2),
            "end": date(2018, 3, 1),
            "instruments": ["A"],
            "source": {"kind": "files", "path": "m", "profile": "custom", "columns": COLUMNS},
            "training": {"horizon": 5},
            "quality": {"price_limits": [{"prefix": "S", "limit": 0.1, "since": date(2018, 1, 1)}]},
            "pools": {
                "p": {"kind": "file", "path": "p.csv", "symbols": {"A": "B"}, "size": 3},
                "t": {"kind": "top", "size": 3, "window": 20},
                "i": {"kind": "index", "index": "sp500"},
            },
            "industries": "i.csv",
        },
        "syn": {"calendar": "XSHG", "start": date(2018, 1, 2), "source": {"kind": "synthetic", "seed": 3}},
        "web": {
            "calendar": "XNYS",
            "start": date(2018, 1, 2),
            "instruments": ["A"],
            "source": {"kind": "yahoo", "interval": 0.1, "timeout": 5, "retries": 3, "cache": "c"},
        },
    },
    "training": {"train_sessions": 250, "features": ["alpha158"], "parameters": {"num_leaves": 3}},
    "quality": {"jump": 0.4, "sampled_cells": 4, "behind_sessions": 1},
    "engine": {"threads": 2, "block_instruments": 64},
    "mlflow": {"tracking_uri": "sqlite:////tmp/x.db", "experiment": "q", "ui_url": "http://127.0.0.1:5000"},
    "retention": {"versions": 3, "days": 3.0},
    "automation": {"enabled": True, "maintenance_cron": "0 3 * * 0", "backup": "b", "chunk_sessions": 20},
    "alerts": {"urls": ["json://h/p"], "repeat_hours": 1.0, "ic_recent": 5, "ic_factors": ["alpha158.KMID"]},
    "custom_factors": {"gap": "$open/Ref($close, 1) - 1"},
}


def _places(value, place=()):
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*place, key))


ANYTHING = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["$close", "Mean($close,", "../x", "s3://b/x", "* * * * *", "cn", "sample", "custom_factors"]),
    st.integers(),
    st.sampled_from([0, 1, -1, 7, 10**9, 10**30]),
    st.floats(),
    st.booleans(),
    st.none(),
    st.dates(),
    st.datetimes(),
    st.lists(st.one_of(st.integers(-2, 9), st.text(max_size=3)), max_size=2),
    st.dictionaries(st.text(max_size=3) | st.sampled_from(["date", "kind"]), st.text(max_size=3), max_size=2),
)


@hypothesis_settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(sorted(_places(FULL), key=repr)), ANYTHING), min_size=1, max_size=2))
def test_settings_load_or_say_why_they_do_not(changes):
    data = copy.deepcopy(FULL)
    for place, value in changes:
        inside = data
        try:
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # what the first change took away
    with contextlib.suppress(SettingsError):
        settings = settings_from(data)
        for universe in settings.universes:
            settings.quality_for(universe)
            settings.training_for(universe)
