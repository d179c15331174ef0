"""Partitions: trading sessions x universe, months x universe; and which window a run is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import dagster as dg
import numpy as np

from qdag.sessions import calendar_for
from qdag.settings import Settings

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"


@dataclass(frozen=True)
class Window:
    """What a run covers: one universe and the calendar days from ``start`` to ``end``, inclusive."""

    universe: str
    start: date
    end: date


def session_partitions(settings: Settings) -> dg.MultiPartitionsDefinition:
    """Dates that are a session of any universe, times universes. A date that is no session of a universe is empty."""
    universes = settings.universes.values()
    start = min(u.start for u in universes)
    end = None if any(u.end is None for u in universes) else max(u.end for u in universes if u.end)
    sessions = np.unique(np.concatenate([calendar_for(u).all for u in universes]))
    days = np.arange(np.datetime64(start), (np.datetime64(end) if end else sessions[-1]) + 1)
    closed = days[~np.isin(days, sessions)]
    exclusions: list[object] = []
    if np.all(np.is_busday(sessions)):
        exclusions.append("0 0 * * 0,6")
        closed = closed[np.is_busday(closed)]
    exclusions += [_midnight(day) for day in closed.tolist()]
    dates = dg.TimeWindowPartitionsDefinition(
        start=start.isoformat(),
        end=(end + timedelta(days=1)).isoformat() if end else None,
        fmt="%Y-%m-%d",
        cron_schedule="0 0 * * *",
        exclusions=exclusions,  # type: ignore[arg-type]
        # a session's partition exists on the day itself, so that it can run after the close
        end_offset=0 if end else 1,
    )
    return dg.MultiPartitionsDefinition({"date": dates, "universe": _universes(settings)})


def month_partitions(settings: Settings) -> dg.MultiPartitionsDefinition:
    """Months of all universes, times universes; a month stands for its last session."""
    universes = settings.universes.values()
    ends = [u.end for u in universes]
    months = dg.TimeWindowPartitionsDefinition(
        start=min(u.start for u in universes).strftime("%Y-%m"),
        end=None if None in ends else _next_month(max(e for e in ends if e)).strftime("%Y-%m"),
        fmt="%Y-%m",
        cron_schedule="0 0 1 * *",
        end_offset=1 if None in ends else 0,
    )
    return dg.MultiPartitionsDefinition({"month": months, "universe": _universes(settings)})


def run_window(tags: Mapping[str, str]) -> Window:
    """The window of a run, from its tags: a range of partitions, or one. Months count from first to last day."""
    first = tags.get(RANGE_START) or tags.get(PARTITION)
    last = tags.get(RANGE_END) or tags.get(PARTITION)
    if not first or not last:
        raise dg.DagsterInvariantViolationError(
            "this run names no partition: choose partitions in the launch dialog, or use `qdag materialize`"
        )
    (start, universe), (end, other) = first.split("|"), last.split("|")
    if universe != other:
        raise dg.DagsterInvariantViolationError(f"a run covers one universe, got {universe!r} and {other!r}")
    if len(start) == len("2000-01"):
        return Window(universe, date.fromisoformat(f"{start}-01"), _next_month(date.fromisoformat(f"{end}-01")) - _DAY)
    return Window(universe, date.fromisoformat(start), date.fromisoformat(end))


def range_tags(universe: str, start: str, end: str) -> dict[str, str]:
    """Run tags that make one run cover the partitions from ``start`` to ``end`` of a universe."""
    return {RANGE_START: f"{start}|{universe}", RANGE_END: f"{end}|{universe}"}


_DAY = timedelta(days=1)


def _next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(days=32)).replace(day=1)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)


def _universes(settings: Settings) -> dg.StaticPartitionsDefinition:
    return dg.StaticPartitionsDefinition(sorted(settings.universes))
