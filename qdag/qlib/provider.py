"""Qlib's dataset provider on the engine. Importing this module imports Qlib."""

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from qlib.config import C
from qlib.data.cache import DiskDatasetCache, H
from qlib.data.data import Cal, LocalDatasetProvider
from qlib.data.inst_processor import InstProcessor
from qlib.utils import code_to_fname, init_instance_by_config, normalize_cache_fields, remove_fields_space

from qdag.engine import Panel, compute
from qdag.errors import MissingDataError, PanelError, UnknownNameError, nearest, unknown
from qdag.qlib.bins import Bins, Block
from qdag.qlib.expressions import Ours, Sorter, Theirs
from qdag.qlib.frames import Rows
from qdag.qlib.parts import Part, parts_of
from qdag.store.qlib.layout import SUFFIX

log = logging.getLogger("qdag.qlib")

DAY = "day"
CACHE_BYTES = 1 << 30
"""Memory for values of files, unless told otherwise."""
RESULT_BYTES = 1 << 27
"""About the most memory for results on their way into the frame."""
LANES = 64
"""Instruments that are computed at once by each thread."""
SMALL = 1 << 16
"""Values that are moved faster than threads are started."""
Spans = dict[str, Sequence[Any] | None]


def running_on() -> Path:
    """The directory of daily data that Qlib was started on."""
    return Path(C.dpm.get_data_uri(DAY))


class EngineDatasetProvider(LocalDatasetProvider):
    """What ``D.features`` asks, computed by qdag's engine; a ``dataset_provider`` for ``qlib.init``.

    Frames have the rows, columns, dtypes and NaN of Qlib's own provider. What the engine does not have is computed by
    Qlib, which is said once in the log ``qdag.qlib``: operators that were registered, ``P(...)``, other frequencies.

    Parameters
    ----------
    threads : that compute
    cache_bytes : memory for values of files; what was not asked for the longest is dropped first

    Raises
    ------
    PanelError
        ``threads`` or ``cache_bytes`` is too small.
    """

    def __init__(self, threads: int = 2, cache_bytes: int = CACHE_BYTES):
        super().__init__()
        if threads < 1:
            raise PanelError(f"threads={threads} cannot compute; give 1 or more")
        if cache_bytes < 0:
            raise PanelError(f"cache_bytes={cache_bytes} is no amount of memory; give 0 for none")
        self.threads = threads
        self.bins = Bins(cache_bytes)
        self.sorter = Sorter()
        self.told: set[str] = set()
        self.stamps: dict[Path, tuple[int, int, int]] = {}
        self.calendar: np.ndarray | None = None
        self.index = pd.DatetimeIndex([])

    def dataset(
        self,
        instruments: Any,
        fields: Sequence[Any],
        start_time: Any = None,
        end_time: Any = None,
        freq: str = DAY,
        disk_cache: int = 0,
        inst_processors: Sequence[Any] = (),
    ) -> pd.DataFrame:
        """As Qlib's: a float32 frame indexed (instrument, datetime), one column for each field.

        Parameters
        ----------
        disk_cache : not used; files are kept in memory

        Raises
        ------
        MissingDataError
            The directory that Qlib was started with is no provider.
        UnknownNameError
            A pool without a file.
        ExpressionError
            A text that is no expression of operators, fields and numbers.
        StoreError
            A damaged data file.
        """
        columns = self.get_column_names(fields)
        texts = remove_fields_space(columns)
        sorted_texts = self.sorter.sort(texts)
        if reason := _not_ours(freq):
            self._tell(f"Qlib computes everything: {reason}")
            return super().dataset(instruments, columns, start_time, end_time, freq, list(inst_processors))
        self._look(running_on())
        spans = self.spans(instruments)
        days = Cal.calendar(start_time, end_time, freq)
        if not len(days):
            log.warning("no session from %s to %s in the calendar: the answer is empty", start_time, end_time)
            return super().dataset(spans, columns, start_time, end_time, freq)
        unique = normalize_cache_fields(columns) if inst_processors else list(dict.fromkeys(texts))
        by_text = dict(zip(texts, sorted_texts, strict=True))
        first, last = Cal.locate_index(days[0], days[-1], DAY)[2:]
        answer = self._answer(spans, [by_text[text] for text in unique], slice(first, last + 1))
        if answer is None:
            return super().dataset(spans, columns, start_time, end_time, freq, list(inst_processors))
        rows, values = answer
        if inst_processors:
            return _processed(rows.frames(values, unique), columns, inst_processors)
        if len(unique) < len(texts):
            values = values[[unique.index(text) for text in texts]]
        return rows.frame(values, columns)

    # ------------------------------------------------------------------ what is asked

    def _look(self, folder: Path) -> None:
        """Forget what Qlib holds in memory of a directory whose calendar or data files were written again."""
        calendar = folder / "calendars" / f"{DAY}.txt"
        try:
            found = calendar.stat()
        except FileNotFoundError:
            raise MissingDataError(
                f"no Qlib provider of daily data at {str(folder)!r} (no calendars/day.txt); give qlib.init another "
                "provider_uri"
            ) from None
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self.stamps.setdefault(calendar, stamp) != stamp:
            log.info("the calendar of %s was written again: what was in memory is read again", folder)
            self.stamps[calendar] = stamp
            H.clear()

    def spans(self, instruments: Any) -> Spans:
        """The instruments asked, sorted, each with its spans; None where it has no such limits."""
        if isinstance(instruments, str):
            raise UnknownNameError(
                f"instruments={instruments!r} is a text; give D.instruments({instruments!r}) for a pool, or a list"
            )
        if isinstance(instruments, Mapping) and "market" in instruments:
            folder, pool = running_on() / "instruments", instruments["market"]
            if not (folder / f"{pool.lower()}.txt").is_file() and C.instrument_provider == "LocalInstrumentProvider":
                raise unknown("pool", pool, [path.stem for path in folder.glob("*.txt")])
        asked = self.get_instruments_d(instruments, DAY)
        given = asked if isinstance(asked, Mapping) else dict.fromkeys(asked)
        return {name: given[name] for name in sorted(given)}

    def _when(self) -> pd.DatetimeIndex:
        """Qlib's whole calendar as an index, converted once."""
        calendar = Cal._get_calendar(DAY, False)[0]
        if self.calendar is not calendar:
            self.calendar, self.index = calendar, pd.DatetimeIndex(calendar)
        return self.index

    # ------------------------------------------------------------------ the answer

    def _answer(self, spans: Spans, wanted: Sequence[Ours | Theirs], range_: slice) -> tuple[Rows, np.ndarray] | None:
        """Rows, and float32 values (wanted, rows); None where Qlib has other values than float32.

        Parameters
        ----------
        range_ : positions in the calendar
        """
        ours = [one for one in wanted if isinstance(one, Ours)]
        low = max(0, range_.start - max((one.past for one in ours), default=0))
        high = range_.stop + max((one.future for one in ours), default=0)
        block = self._block(list(spans), sorted({field for one in ours for field in one.fields}), low, high)
        when = self._when()
        allowed = within(spans, when, low, high)
        inside = slice(range_.start - low, range_.stop - low)
        rows = Rows(list(spans), when[range_], None if allowed is None else allowed[:, inside])
        parts, asked = parts_of(wanted, block, inside.start, len(spans))
        for part in parts:
            rows.add_spans(part.first - inside.start, part.last - inside.start)
        answers = []
        for names, columns in asked.items():
            some = {name: spans[name] for name in map(rows.instruments.__getitem__, names)}
            frame = self._ask_qlib(some, [wanted[k] for k in columns], when[range_])
            if len(frame) and not (frame.dtypes == np.float32).all():
                return None
            answers.append((columns, frame, rows.places(frame)))
            rows.add(*answers[-1][2])
        rows.close()
        values = np.empty((len(wanted), len(rows)), np.float32)
        for part in parts:
            self._compute(part, [wanted[k].text for k in part.columns], block, inside, allowed, rows, values)
        for k, one in enumerate(wanted):
            if isinstance(one, Theirs):
                values[k] = np.nan
        for columns, frame, places in answers:
            for at, k in enumerate(columns):
                rows.put(values[k], places, frame.iloc[:, at].to_numpy())
        return rows, values

    def _block(self, names: Sequence[str], fields: Sequence[str], low: int, high: int) -> Block:
        """The fields that are read, of the instruments asked and no other; what is missing is told."""
        folder = str(running_on() / "features")
        folders = [f"{folder}{os.sep}{code_to_fname(name).lower()}" for name in names]
        block = self.bins.block(folders, fields, low, high)
        if self.bins.changed:
            self.bins.changed = False
            H["f"].clear()
        there = None
        for field in fields:
            if (block.first[field] <= block.last[field]).any():
                continue
            if there is None:
                there = [one for one in folders if os.path.isdir(one)]
            known = {name.removesuffix(SUFFIX) for one in there[:1] for name in os.listdir(one)}
            if there and not any(os.path.exists(f"{one}{os.sep}{field.lower()}{SUFFIX}") for one in there):
                self._tell(f"no instrument asked has ${field}: it is NaN, as in Qlib{nearest(field, known)}")
        if names and there == []:
            self._tell(f"no data of any instrument asked below {folder}, {names[0]!r} among them")
        return block

    def _ask_qlib(self, spans: Spans, expressions: Sequence[Ours | Theirs], days: pd.DatetimeIndex) -> pd.DataFrame:
        """Qlib's own frame; what is asked, and why, is said once."""
        for one in expressions:
            if isinstance(one, Theirs):
                self._tell(f"Qlib computes {one.text}: {one.reason}")
            else:
                self._tell(
                    f"Qlib computes {one.text} where the fields' files have different rows ({next(iter(spans))!r} "
                    "is one of the instruments)"
                )
        return self.dataset_processor(spans, [one.text for one in expressions], days[0], days[-1], DAY)

    def _compute(
        self,
        part: Part,
        texts: Sequence[str],
        block: Block,
        inside: slice,
        allowed: np.ndarray | None,
        rows: Rows,
        values: np.ndarray,
    ) -> None:
        """Fill the columns of a part, some instruments after the other in the same memory."""
        plan = self.sorter.plan(tuple(texts))
        width = next(iter(block.values.values())).shape[1]
        # the engine asks of sessions only that they increase; positions also stand for those after the calendar
        sessions = np.arange(width).astype("datetime64[D]")
        panel = Panel(rows.instruments, sessions, {f: block.values[f] for f in plan.fields}, part.first, part.last)
        instruments, length = len(rows.instruments), width - inside.start
        size = max(1, min(LANES * self.threads, RESULT_BYTES // (4 * length * len(texts))))
        if plan.cross_sectional:
            size = instruments
        memory = np.empty(len(texts) * length * min(size, instruments), np.float32)
        with ThreadPoolExecutor(self.threads) as executor:
            for begin in range(0, instruments, size):
                some = slice(begin, min(begin + size, instruments))
                shape = len(texts), length, some.stop - some.start
                out = memory[: np.prod(shape)].reshape(shape)
                pool = allowed & panel.exists() if plan.cross_sectional and allowed is not None else None
                compute(plan, panel.rows(some), threads=self.threads, start=inside.start, pool=pool, out=out)
                run = executor.map if out.size > SMALL else map
                into, answers = (values[k] for k in part.columns), out[:, : inside.stop - inside.start]
                list(run(partial(rows.fill, some), into, answers))

    def _tell(self, message: str) -> None:
        if message not in self.told:
            self.told.add(message)
            log.warning(message)


def _not_ours(freq: str) -> str:
    """Why the directory is not read here; empty where it is."""
    if freq != DAY:
        return f"freq={freq!r} is not {DAY!r}"
    for option in ("feature_provider", "expression_provider"):
        usual = "Local" + "".join(word.title() for word in option.split("_"))
        if C[option] != usual:
            return f"{option} is not Qlib's {usual}"
    return ""


def within(spans: Spans, when: pd.DatetimeIndex, low: int, high: int) -> np.ndarray | None:
    """Bool (instruments, high - low): positions within the spans; None where nobody has such limits."""
    if all(each is None for each in spans.values()):
        return None
    found = np.zeros((len(spans), high - low), bool)
    owners = [i for i, each in enumerate(spans.values()) for _ in each or ()]
    begins, ends = ([pair[k] for each in spans.values() for pair in each or ()] for k in (0, 1))
    first = when.searchsorted(pd.DatetimeIndex(begins), "left") - low
    stop = when.searchsorted(pd.DatetimeIndex(ends), "right") - low
    for i, a, b in zip(owners, first.tolist(), stop.tolist(), strict=True):
        found[i, max(a, 0) : max(b, 0)] = True
    for i, each in enumerate(spans.values()):
        if each is None:
            found[i] = True
    return found


def _processed(frames: dict[str, pd.DataFrame], columns: Sequence[str], inst_processors: Sequence[Any]) -> pd.DataFrame:
    """Qlib's processors on each instrument's frame, put together as Qlib does it."""
    done = {}
    for name, frame in frames.items():
        for processor in inst_processors:
            if processor:
                made = init_instance_by_config(processor, accept_types=InstProcessor)
                frame = made(frame, instrument=name)
        if len(frame):
            done[name] = frame
    if not done:
        index = pd.MultiIndex.from_arrays([[], []], names=("instrument", "datetime"))
        return pd.DataFrame(index=index, columns=list(columns), dtype=np.float32)
    return DiskDatasetCache.cache_to_origin_data(pd.concat(done, names=["instrument"], sort=False), columns)
