from datetime import date

import dagster as dg
import numpy as np
import pytest

from qdag.core.sessions import calendar_for
from qdag.defs.partitions import (
    RANGE_END,
    RANGE_START,
    Window,
    month_partitions,
    range_tags,
    run_windows,
    session_partitions,
)
from qdag.settings import SampleSource, Settings, UniverseSettings


def _settings(**universes):
    return Settings(
        universes={
            name: UniverseSettings(source=SampleSource(), calendar=calendar, start=start, end=end)
            for name, (calendar, start, end) in universes.items()
        }
    )


def test_keys_are_sessions_of_any_universe():
    settings = _settings(
        us=("XNYS", date(2020, 1, 20), date(2020, 2, 7)), cn=("XSHG", date(2020, 1, 20), date(2020, 2, 7))
    )
    keys = session_partitions(settings).get_partition_keys()
    us = {k.split("|")[0] for k in keys if k.endswith("|us")}
    # Martin Luther King Day is a session in Shanghai; the Chinese New Year is one in New York
    assert {"2020-01-20", "2020-01-27", "2020-02-07"} <= us
    assert "2020-01-25" not in us
    assert us == {k.split("|")[0] for k in keys if k.endswith("|cn")}


def test_a_holiday_of_all_universes_is_no_partition():
    keys = session_partitions(_settings(us=("XNYS", date(2020, 1, 13), date(2020, 1, 24)))).get_partition_keys()
    assert [k.split("|")[0] for k in keys] == [
        "2020-01-13", "2020-01-14", "2020-01-15", "2020-01-16", "2020-01-17",
        "2020-01-21", "2020-01-22", "2020-01-23", "2020-01-24",
    ]  # fmt: skip


def test_an_open_universe_has_a_partition_for_its_newest_session():
    settings = _settings(us=("XNYS", date(2026, 1, 2), None))
    keys = [str(k).split("|")[0] for k in session_partitions(settings).get_partition_keys()]
    today = np.datetime64(date.today())
    sessions = calendar_for(settings.universe("us")).all
    assert keys[0] == "2026-01-02"
    # on the day itself; on a closed day, the next session is the one that is still empty
    assert str(sessions[sessions <= today][-1]) in keys[-2:]
    assert keys[-1] <= str(sessions[sessions >= today][0])


def test_months_span_all_universes():
    settings = _settings(
        us=("XNYS", date(2020, 11, 2), date(2021, 1, 29)), cn=("XSHG", date(2020, 12, 1), date(2021, 2, 26))
    )
    keys = month_partitions(settings).get_partition_keys()
    assert sorted({k.split("|")[0] for k in keys}) == ["2020-11", "2020-12", "2021-01", "2021-02"]


def test_windows_of_a_range_of_one_partition_and_of_months():
    us = ["us"]
    assert run_windows(range_tags("us", "2020-01-02", "2020-03-04"), us) == [
        Window("us", date(2020, 1, 2), date(2020, 3, 4))
    ]
    assert run_windows({"dagster/partition": "2020-01-02|us"}, us) == [Window("us", date(2020, 1, 2), date(2020, 1, 2))]
    assert run_windows(range_tags("us", "2019-12", "2020-02"), us) == [
        Window("us", date(2019, 12, 1), date(2020, 2, 29))
    ]
    assert run_windows(range_tags("us", "2020-01-02", "2020-03-04"), ["cn", "uk"]) == []


def test_a_range_reaches_over_the_universes_between_its_ends():
    tags = {RANGE_START: "2020-01-02|cn", RANGE_END: "2020-01-02|us"}
    day = date(2020, 1, 2)
    found = run_windows(tags, {"us": 1, "au": 2, "jp": 3, "cn": 4})
    assert found == [Window("cn", day, day), Window("jp", day, day), Window("us", day, day)]


def test_a_run_without_partition_is_refused():
    with pytest.raises(dg.DagsterInvariantViolationError, match="no partition"):
        run_windows({}, ["us"])


def test_partitions_of_a_run_come_in_the_order_of_time():
    partitions = session_partitions(_settings(us=("XNYS", date(2020, 1, 2), date(2020, 12, 31))))
    chosen = partitions.empty_subset().with_partition_key_range(
        partitions, dg.PartitionKeyRange("2020-01-02|us", "2020-12-31|us")
    )
    keys = list(chosen.get_partition_keys())
    assert len(keys) == 253
    assert keys == sorted(keys)
    assert type(chosen.to_serializable_subset()).__name__ == "DefaultPartitionsSubset"
