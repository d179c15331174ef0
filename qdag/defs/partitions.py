"""Partitions: trading sessions x universe, months x universe; and which window a run is asked for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any

import dagster as dg
import numpy as np
from dagster._core.definitions.partitions.subset.default import DefaultPartitionsSubset

from qdag.core.sessions import calendar_for
from qdag.settings import Settings

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"


@dataclass(frozen=True)
class Window:
    """What a run covers of one universe: the calendar days from ``start`` to ``end``, inclusive."""

    universe: str
    start: date
    end: date

    def __str__(self) -> str:
        return f"{self.universe} {self.start} .. {self.end}"


class _AscendingSubset(DefaultPartitionsSubset):
    """Some partitions, told in ascending order: Dagster stores a run's events in the order of this."""

    def get_partition_keys(self) -> list[str]:
        return sorted(self.subset)

    def with_partition_keys(self, partition_keys: Iterable[str]) -> "_AscendingSubset":
        return _AscendingSubset({*self.subset, *partition_keys})

    def to_serializable_subset(self) -> DefaultPartitionsSubset:
        return DefaultPartitionsSubset(self.subset)


class DatesAndUniverses(dg.MultiPartitionsDefinition):
    """Dates times universes. What is materialized last of a run is its newest date.

    Servers, which know a definition by its parts alone, have Dagster's own class in the place of this one.
    """

    def __init__(self, partitions_defs: Mapping[str, dg.PartitionsDefinition]):
        super().__init__(partitions_defs)
        self._in_range = lru_cache(maxsize=8)(super().get_partition_keys_in_range)

    @property
    def partitions_subset_class(self) -> type[DefaultPartitionsSubset]:
        return _AscendingSubset

    def get_partition_keys_in_range(  # type: ignore[override]
        self, partition_key_range: dg.PartitionKeyRange, dynamic_partitions_store: Any = None
    ) -> Sequence[str]:
        # a step asks for them with the metadata of each
        return self._in_range(partition_key_range)


def session_partitions(settings: Settings) -> DatesAndUniverses:
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
    return DatesAndUniverses({"date": dates, "universe": _universes(settings)})


def month_partitions(settings: Settings) -> DatesAndUniverses:
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
    return DatesAndUniverses({"month": months, "universe": _universes(settings)})


def run_windows(tags: Mapping[str, str], universes: Iterable[str]) -> list[Window]:
    """What a run covers of each of the ``universes``, by its tags: a range of partitions, or one.

    A range reaches over all universes between those of its ends: a backfill of more universes than dates has a run per
    date. Months count from first to last day. Empty where the run is about none of the universes.

    Raises
    ------
    DagsterInvariantViolationError
        The run names no partition.
    """
    first = tags.get(RANGE_START) or tags.get(PARTITION)
    last = tags.get(RANGE_END) or tags.get(PARTITION)
    if not first or not last:
        raise dg.DagsterInvariantViolationError(
            "this run names no partition: choose partitions in the launch dialog, or use `qdag materialize`"
        )
    (start, low), (end, high) = first.split("|"), last.split("|")
    if len(start) == len("2000-01"):
        days = date.fromisoformat(f"{start}-01"), _next_month(date.fromisoformat(f"{end}-01")) - _DAY
    else:
        days = date.fromisoformat(start), date.fromisoformat(end)
    return [Window(universe, *days) for universe in sorted(universes) if low <= universe <= high]


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
