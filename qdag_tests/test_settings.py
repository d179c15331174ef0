import contextlib
import copy
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from qdag.errors import SettingsError, UnknownNameError
from qdag.settings import Settings, load_settings, settings_from

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


CUSTOM = "[custom_factors]\n"
KEYS = ("date", "universe", "instrument", "month", "factor", "pool", "horizon")
SAMPLE = "source={kind='sample'}\n"
FILES = (
    US + "source={kind='files', path='x', profile='custom', columns={date='d', open='o', high='h', low='l', "
    "close='c', volume='v', date_format='%Y'}}"
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CUSTOM + "gap = 'Mean($close,'", "custom factor gap: syntax error"),
        (CUSTOM + "gap = 'Meen($close, 5)'", "custom factor gap: unknown operator 'Meen'; did you mean 'Mean'"),
        (CUSTOM + "gap = 'Ref($close, -1)'", "custom factor gap: .* looks 1 session into the future"),
        (CUSTOM + "gap = '$clos/$open'", r"custom factor gap: unknown field '\$clos'; did you mean '\$close'"),
        (CUSTOM + f"gap = '{'Mean(' * 60}$close{', 240)' * 60}'", "custom factor gap: .* add up to 14,400 sessions"),
        (CUSTOM + "gap = '5'", "custom factor gap: .* only the number 5"),
        *((CUSTOM + f"{key} = '$close'", f"custom factor '{key}'.* key of a table") for key in KEYS),
        (CUSTOM + '"gap\\n" = "$close"', "must match"),
        (CUSTOM + "Gap = '$close'", "must match"),
        ("[training]\nfeatures = ['alpha360']", "training.features has no feature table 'alpha360'.* 'alpha158'"),
        ("[training]\nfeatures = ['custom_factors']", r"there is no table \[custom_factors\]"),
        ("[training]\nfeatures = []", "training.features.* at least 1"),
        ("[training]\nfeatures = ['labels', 'alpha158']", "no feature table 'labels'"),
        ("[training]\nfeatures = ['alpha158', 'alpha158']", "more than once"),
        (US + SAMPLE + "training={features=['alpha15']}", "universes.us.training.features .*'alpha15'"),
        (US + SAMPLE + "training={horizn=5}", "training.* unknown setting 'horizn'; did you mean 'horizon'"),
        (US + SAMPLE + "quality={jump=-1}", "universes.us.quality: setting jump: .* greater than 0"),
        (US.replace("XNYS", "XNYZ") + SAMPLE, "universes.us.calendar: .* did you mean 'XN"),
        (US.replace("XNYS", "XSHG").replace("2020", "1980") + SAMPLE, "known from 1990-12-03"),
        (US.replace("2020-01-01", "20200101") + SAMPLE, "write a day as 2020-01-31"),
        (US.replace("2020", "0001") + SAMPLE, "universes.us.start: .* 1900-01-01"),
        (US + SAMPLE + "end = 9999-12-31\n", "universes.us.end: .* 2199-12-31"),
        (US + "source={path='x'}", "universes.us.source' needs a kind: one of .*'files'.*"),
        (US + "source={kind='nope'}", "universes.us.source: .*'nope'"),
        (US + "source={kind='files', path='http://h/x'}", "universes.us.source.path: must be a path of this machine"),
        (FILES.replace("'%Y'", "'%Y-%m'"), "columns.date_format: must tell year, month and day"),
        (FILES.replace("'%Y'", "'%'"), "columns.date_format: must tell year, month and day"),
        (US + "source={kind='yahoo', timeout=inf}\ninstruments=['A']", "universes.us.source.timeout: .* finite"),
        (US + SAMPLE + "instruments=['../A']", r"instruments\[0\]: must be a symbol"),
        (US + SAMPLE + "instruments=['A', 'A']", "'A' is named more than once"),
        (US + SAMPLE + "instruments=[]", "universes.us.instruments: .* at least 1"),
        ('[universes."us\\n"]\ncalendar="XNYS"\nstart=2020-01-01\nsource={kind="sample"}', "must match"),
        ("[automation]\nmaintenance_cron = '0 3 31 2 *'", "automation.maintenance_cron: .* never comes"),
        ("[automation]\nmaintenance_cron = 'weekly'", "automation.maintenance_cron: 'weekly' has 1 fields, not 5"),
        ("[retention]\ndays = 1e300", "retention.days: .* less than or equal to 36525"),
        ("[training]\nnum_boost_round = true", "num_boost_round is neither true nor false"),
        ("[training.parameters]\nnum_leaves = nan", "num_leaves must be a number or a text"),
        ("[dagster]\nui_url = 'javascript:alert(1)'", "dagster.ui_url: must be an address that begins with http"),
        ("horizons = [1, true]", "horizons is neither true nor false"),
        ("home = 's3://bucket/x'", r"setting home: must be a path of this machine; .*\(got 's3://bucket/x'\)"),
        ("home = ''", "setting home: must be one line of printable text that is not blank"),
        ("home = 'a'\nx = [\n1,\n", r"cannot be read: .*\(at line 3, the last\)"),
        ("x = " + "[" * 5000, "nested too deeply"),
        ("horizons = [" + "1" * 5000 + "]", "cannot be read"),
    ],
)
def test_absurd_values_are_seen_when_the_settings_load(tmp_path, text, says):
    with pytest.raises(SettingsError, match=f"(?s){says}") as caught:
        _load(tmp_path, text)
    assert "validation error" not in str(caught.value)


def test_an_address_is_no_home_from_a_variable_or_from_python_either(tmp_path):
    with pytest.raises(SettingsError, match="path of this machine"):
        _load(tmp_path, QDAG_HOME="s3://bucket/x")
    with pytest.raises(ValidationError, match="path of this machine"):
        Settings(home=Path("s3://bucket/x"))


def test_what_custom_factors_may_be(tmp_path):
    text = CUSTOM + 'gap = """\n$open/Ref($close, 1)\n - 1"""\nmom = "CSRank(Delta($vwap, 20))"\n'
    settings = _load(tmp_path, text + "[training]\nfeatures = ['alpha158', 'custom_factors']")
    assert list(settings.custom_factors) == ["gap", "mom"]
    assert settings.training_for("sample").features == ("alpha158", "custom_factors")


@pytest.mark.parametrize(("code", "region"), [("XNYS", "us"), ("XSHG", "cn"), ("SSE", "cn"), ("XHKG", "us")])
def test_the_region_is_that_of_the_calendar_unless_it_is_given(tmp_path, code, region):
    text = US.replace("XNYS", code) + SAMPLE
    assert _load(tmp_path, text).universe("us").region == region
    other = "us" if region == "cn" else "cn"
    assert _load(tmp_path, text + f"region='{other}'").universe("us").region == other


def test_a_wrong_calendar_is_one_error(tmp_path):
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path, US.replace("XNYS", "XNYZ") + SAMPLE)
    assert str(caught.value).count("setting ") == 1


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


def test_missing_file_and_unknown_universe(tmp_path):
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(tmp_path / "none.toml", {})
    with pytest.raises(UnknownNameError, match="did you mean 'sample'"):
        load_settings(environ={}).universe("smaple")


def test_settings_cannot_be_changed(tmp_path):
    with pytest.raises(Exception, match="frozen"):
        _load(tmp_path).home = Path("/other")
