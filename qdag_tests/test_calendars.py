"""What settings know of exchanges and of cron, against the packages that have the last word."""

from itertools import product

import exchange_calendars
import pytest
from dagster._utils.schedules import is_valid_cron_string

from qdag.calendars import CALENDARS, KNOWN_FROM, cron_mistake, region_of


def test_the_codes_are_those_of_the_package():
    assert frozenset(exchange_calendars.get_calendar_names(include_aliases=True)) == CALENDARS
    assert KNOWN_FROM.keys() <= CALENDARS


@pytest.mark.parametrize("code", sorted(KNOWN_FROM))
def test_the_first_days_are_those_of_the_package(code: str):
    assert type(exchange_calendars.get_calendar(code)).bound_min().date() == KNOWN_FROM[code]


def test_mainland_china_has_rules_of_its_own():
    names = exchange_calendars.calendar_utils
    assert {c for c in CALENDARS if region_of(c) == "cn"} == {c for c in CALENDARS if names.resolve_alias(c) == "XSHG"}


FIELDS = (
    "*",
    "0",
    "7",
    "15",
    "31",
    "59",
    "60",
    "*/5",
    "1-5",
    "5-1",
    "1,3",
    "mon",
    "feb",
    "L",
    "",
    "*/0",
    "1-3/2",
    "-1",
)


def test_what_is_taken_for_a_schedule_is_one_for_dagster():
    taken = 0
    for minute, day, month, weekday in product(FIELDS, FIELDS, FIELDS[:8], FIELDS):
        text = f"{minute} 3 {day} {month} {weekday}"
        if cron_mistake(text) is None:
            taken += 1
            assert is_valid_cron_string(text), text
    assert taken > 1_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0 3 * *", "4 fields"),
        ("@daily", "1 fields"),
        ("61 3 * * *", "'61' is no minute"),
        ("0 25 * * *", "'25' is no hour"),
        ("0 3 31 2 *", "never comes"),
        ("0 3 30 feb,feb *", "never comes"),
        ("0 3 * * sunday", "'sunday' is no weekday"),
        ("0 3 5-1 * *", "'5-1' is no day of the month"),
    ],
)
def test_what_is_wrong_with_a_schedule(text: str, says: str):
    assert says in str(cron_mistake(text))
