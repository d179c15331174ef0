"""A write to a provider directory: made beside what is there, on disk, then published.

1. Panels, some sessions of all instruments each, are transposed through a scratch file, so memory depends on neither
   the history nor the universe.
2. Data files are made: in a new ``features`` tree where nothing published is kept, else extended in place or written
   anew beside the old ones. All are on disk before anything refers to them.
3. Published are: data, instruments and pools, the calendar last. A reader never sees a session that is not whole, and
   the same write again repairs a crash.

What stops a publication, and what leaves an instrument out: a name that no file can have leaves its instrument out,
for ever and in the same way however the directory is built; it is reported. Everything else stops the publication,
with the calendar as it was: a file that cannot be written (done again, it may work), and two instruments with one
folder (either choice would mix them up).
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np

from qdag.core.pools import Pool
from qdag.engine.panel import Panel
from qdag.errors import StoreError
from qdag.store.files import locked, sync
from qdag.store.qlib.files import LOCK, TEMPORARY, flush
from qdag.store.qlib.layout import folder_name, qlib_symbol
from qdag.store.qlib.listings import DAY, FUTURE, calendar_text, listings
from qdag.store.qlib.made import Files
from qdag.store.qlib.plan import NEW, OLD, TREE, increasing, plan_write
from qdag.store.qlib.scratch import Scratch
from qdag.store.threads import prefetch

Pools = Callable[[Mapping[str, tuple[date, date]], np.ndarray], Sequence[Pool]]
"""Membership lists made from first and last session of every listed instrument, and the sessions to be published."""


@dataclass(frozen=True)
class WriteReport:
    """What a write did.

    Attributes
    ----------
    instruments : listed afterwards
    patched, rewritten : instruments whose files were extended in place, and made anew
    removed : folders of instruments without any row left
    sessions, start, end : the written range
    rows : its cells from each instrument's first to its last row
    missing : NaN among their values
    aliases : symbols that Qlib knows by another name
    left_out : instruments without files, with the reason
    pools : instruments listed per pool
    without_bins : per pool, members within the published sessions that have no files, so that the pool's file leaves
        them out
    """

    instruments: int
    patched: int
    rewritten: int
    removed: int
    sessions: int
    start: date
    end: date
    rows: int
    missing: int
    aliases: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    pools: dict[str, int] = field(default_factory=dict)
    without_bins: dict[str, list[str]] = field(default_factory=dict)


class QlibBinWriter:
    """Builds and extends one provider directory; one writer at a time, others wait.

    Parameters
    ----------
    provider : the directory, which is made by the first write
    """

    def __init__(self, provider: Path):
        self.provider = Path(provider)

    def write(
        self,
        panels: Panel | Iterable[Panel],
        calendar: np.ndarray,
        future: np.ndarray | Sequence[np.datetime64] = (),
        pools: Sequence[Pool] | Pools = (),
    ) -> WriteReport:
        """Put the panels' sessions in place and publish the calendar up to their end.

        Parameters
        ----------
        panels : one panel, or several that follow each other (an iterable is read as it goes, so that a long history
            need not be in memory). Each has all ``ENGINE_FIELDS``, adjusted, of the whole universe; the sessions are
            consecutive in ``calendar``. Instruments that are in none have no rows in the range. When the range is the
            whole calendar, the directory is built anew; else the range replaces what is stored there, and must begin
            no later than the session after the last published one.
        calendar : every session of the universe from its start, at least up to the range's end, datetime64[D]
        future : sessions after the calendar, for ``day_future.txt``
        pools : membership lists, each a file ``instruments/<name>.txt``; files of other pools are removed. Spans are
            clipped to the published range, overlapping ones joined; members without files are left out and reported.
            A function gets the first and last session of every listed instrument, and the sessions to be published.

        Suspended sessions are NaN; a file runs from its instrument's first to its last session with any value. Built
        at once or session by session, the bytes are the same. A field that files of earlier sessions do not have is
        NaN there until these are written again.

        Raises
        ------
        StoreError
            Sessions that do not fit the calendar or leave a gap, instruments that share a folder, or files that cannot
            be written or have lost values outside the range (all in one error); the calendar is then as it was.
        """
        calendar = increasing("calendar", calendar)
        future = increasing("future", np.asarray(future, "datetime64[D]"))
        if len(future) and len(calendar) and future[0] <= calendar[-1]:
            raise StoreError(f"future session {future[0]} is not after the calendar's end {calendar[-1]}")
        self.provider.mkdir(parents=True, exist_ok=True)
        with self._lock(), Scratch(self.provider) as scratch:
            low, high = scratch.fill(panels, calendar)
            plan = plan_write(self.provider, calendar, future, low, high, scratch.names)
            sessions = plan.calendar[: plan.total]
            files = Files(plan)
            try:
                with closing(prefetch(scratch.blocks(plan.names), 1)) as blocks:
                    files.make(blocks)
                scratch.close()
                listed = files.listed
                if callable(pools):
                    days = sessions.tolist()
                    pools = pools({n: (days[a], days[b]) for n, (a, b) in listed.items()}, sessions)
                texts, members, without_bins = listings(listed, sessions, pools)
                texts[FUTURE] = calendar_text(np.concatenate([plan.calendar, plan.future]))
                # the last one publishes
                texts[DAY] = calendar_text(sessions)
                publish(files, texts)
            finally:
                files.clean()
            removed = _remove_strangers(self.provider, listed, members)
        return WriteReport(
            instruments=len(listed),
            patched=files.patched,
            rewritten=files.rewritten,
            removed=removed,
            sessions=high - low,
            start=plan.calendar[low].item(),
            end=plan.calendar[high - 1].item(),
            rows=files.rows,
            missing=files.missing,
            aliases={n: qlib_symbol(n) for n in sorted(listed) if qlib_symbol(n) != n},
            left_out=dict(plan.left_out),
            pools=members,
            without_bins=without_bins,
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """The directory for this writer alone, without what an unfinished write has left."""
        with locked(self.provider / LOCK) as file:
            file.seek(0)
            if file.read():
                # the last writer did not finish
                shutil.rmtree(self.provider / NEW, ignore_errors=True)
                for path in (self.provider / TREE).glob(f"*/*{TEMPORARY}"):
                    path.unlink()
            file.truncate(0)
            file.write("a write is going on, or did not finish\n")
            file.flush()
            yield
            file.truncate(0)


def publish(files: Files, texts: Mapping[str, str]) -> None:
    """Have everything on disk, then give the new files their names: data first, then the texts in their order.

    Parameters
    ----------
    files : made, and not yet in place
    texts : contents by path inside the directory; the last one publishes
    """
    plan, provider = files.plan, files.plan.provider
    parts: list[Path] = []
    try:
        for name, text in texts.items():
            part = provider / (name + TEMPORARY)
            part.parent.mkdir(exist_ok=True)
            part.write_text(text, encoding="utf-8", newline="\n")
            parts.append(part)
        flush(provider, [*files.temporary, *files.changed, *map(str, parts)])
        if plan.fresh:
            # better no calendar for a moment than one that does not fit the files
            (provider / DAY).unlink(missing_ok=True)
            shutil.rmtree(provider / OLD, ignore_errors=True)
            if (provider / TREE).exists():
                (provider / TREE).replace(provider / OLD)
            (provider / NEW).replace(provider / TREE)
        for part in [*map(Path, files.temporary), *parts]:
            part.replace(part.with_name(part.name.removesuffix(TEMPORARY)))
        sync((provider / DAY).parent)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _remove_strangers(provider: Path, listed: Iterable[str], pools: Iterable[str]) -> int:
    """Delete what nothing refers to any more; the number of instruments."""
    wanted = {folder_name(n) for n in listed}
    removed = 0
    for entry in (provider / TREE).iterdir():
        if entry.name not in wanted:
            removed += entry.is_dir() and not entry.is_symlink()
            _remove(entry)
    files = {"all.txt", *(f"{name}.txt" for name in pools)}
    for path in (provider / "instruments").iterdir():
        if path.name not in files:
            _remove(path)
    shutil.rmtree(provider / OLD, ignore_errors=True)
    return removed


def _remove(path: Path) -> None:
    """Delete a folder with what is in it, or whatever else lies there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
