"""Universes: calendar, days, region, instruments, pools and overrides."""

import pytest

from qdag.errors import UnknownNameError
from qdag.settings import load_settings
from qdag_tests.settings.settings_text import SAMPLE, US


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (US.replace("2020-01-01", "2020-02-01") + "end=2020-01-01\n" + SAMPLE, "is after end"),
        (US.replace("XNYS", "XNYZ") + SAMPLE, "universes.us.calendar: .* did you mean 'XN"),
        (US.replace("XNYS", "XSHG").replace("2020", "1980") + SAMPLE, "known from 1990-12-03"),
        (US + SAMPLE + "instruments=['A', 'A']", "'A' is named more than once"),
        (US + SAMPLE + "instruments=[]", "universes.us.instruments: .* at least 1"),
        (US + "source={kind='yahoo'}", "source 'yahoo' needs instruments"),
        (US + SAMPLE + "pools={all={kind='top', size=3}}", "pool 'all' always exists"),
        (US + SAMPLE + "pools={c={kind='index', index='csi300'}}", "index csi300 is of region 'cn', not 'us'"),
        (US + SAMPLE + "training={features=['alpha15']}", "universes.us.training.features .*'alpha15'"),
        (US + SAMPLE + "training={horizn=5}", "training.* unknown setting 'horizn'; did you mean 'horizon'"),
        (US + SAMPLE + "quality={jump=-1}", "universes.us.quality: setting jump: .* greater than 0"),
    ],
)
def test_a_universe_that_does_not_fit_is_refused(refused, text, says):
    refused(text, says)


@pytest.mark.parametrize(("code", "region"), [("XNYS", "us"), ("XSHG", "cn"), ("SSE", "cn"), ("XHKG", "us")])
def test_the_region_is_that_of_the_calendar_unless_it_is_given(load, code, region):
    text = US.replace("XNYS", code) + SAMPLE
    assert load(text).universe("us").region == region
    other = "us" if region == "cn" else "cn"
    assert load(text + f"region='{other}'").universe("us").region == other


def test_a_wrong_calendar_is_one_error(refused):
    assert refused(US.replace("XNYS", "XNYZ") + SAMPLE, "calendar").count("setting ") == 1


def test_an_unknown_universe_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'sample'"):
        load_settings(environ={}).universe("smaple")
