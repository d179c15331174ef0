"""Names, symbols, days, paths and addresses, wherever a setting has one."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from qdag.errors import SettingsError
from qdag.settings import Settings
from qdag_tests.settings.settings_text import SAMPLE, US


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[universes.Bad-Name]\ncalendar='XNYS'\nstart=2020-01-01\n" + SAMPLE, "Bad-Name"),
        ('[universes."us\\n"]\ncalendar="XNYS"\nstart=2020-01-01\nsource={kind="sample"}', "must match"),
        (US + SAMPLE + "instruments=['../A']", r"instruments\[0\]: must be a symbol"),
        (US.replace("2020-01-01", "20200101") + SAMPLE, "write a day as 2020-01-31"),
        (US.replace("2020", "0001") + SAMPLE, "universes.us.start: .* 1900-01-01"),
        (US + SAMPLE + "end = 9999-12-31\n", "universes.us.end: .* 2199-12-31"),
        ("home = 's3://bucket/x'", r"setting home: must be a path of this machine; .*\(got 's3://bucket/x'\)"),
        ("home = ''", "setting home: must be one line of printable text that is not blank"),
        ("[dagster]\nui_url = 'javascript:alert(1)'", "dagster.ui_url: must be an address that begins with http"),
        ("[training]\nnum_boost_round = true", "num_boost_round is neither true nor false"),
        ("horizons = [1, true]", "horizons is neither true nor false"),
    ],
)
def test_what_is_none_is_refused(refused, text, says):
    refused(text, says)


def test_an_address_is_no_home_from_a_variable_or_from_python_either(load):
    with pytest.raises(SettingsError, match="path of this machine"):
        load(QDAG_HOME="s3://bucket/x")
    with pytest.raises(ValidationError, match="path of this machine"):
        Settings(home=Path("s3://bucket/x"))


def test_settings_cannot_be_changed(load):
    with pytest.raises(Exception, match="frozen"):
        load().home = Path("/other")
