"""The quality page: one self-contained HTML file per universe and session, from what the checks have kept.

Nothing is judged here and nothing but the page is written; reading a page needs no server.
"""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qdag.errors import MissingDataError
from qdag.quality.outcome import quality_table
from qdag.quality.page.gather import Page, PageInputs, Tables, gather, read_outcomes
from qdag.quality.page.render import render
from qdag.settings import Settings
from qdag.store.files import write_text

if TYPE_CHECKING:
    from qdag.store.tables import TableStore

__all__ = ["Page", "PageInputs", "gather", "newest_judged", "page_path", "render", "write_page", "write_pages"]

FAILING_PAGES = 5
"""A run writes the pages of up to so many of its newest sessions on which a rule failed."""


def page_path(settings: Settings, universe: str, day: date) -> Path:
    """Where the page of a universe and session lies."""
    settings.universe(universe)
    return settings.reports / universe / f"{day:%Y-%m-%d}.html"


def write_pages(settings: Settings, store: "TableStore", universe: str, sessions: np.ndarray, tables: Tables) -> Path:
    """Write the page of the last of the sessions and of up to ``FAILING_PAGES`` of the newest on which a rule failed.

    Returns the path of the last session's page.
    """
    first, last = sessions[0].item(), sessions[-1].item()
    rules = read_outcomes(store, universe, tables, first, last)
    bad = rules[(rules["violations"] > 0) & (rules["severity"] != "notice")] if len(rules) else rules
    failing = [day for day in sorted(set(bad["date"])) if day != last][-FAILING_PAGES:] if len(bad) else []
    inputs = PageInputs(settings, store, universe, tables, failing[0] if failing else last, last)
    for day in failing:
        _write(settings, inputs, day)
    return _write(settings, inputs, last)


def newest_judged(settings: Settings, store: "TableStore", universe: str, tables: Tables) -> date:
    """The newest session of the universe that some check has judged; MissingDataError where there is none.

    What was judged when the universe reached further does not count.
    """
    spec = settings.universe(universe)
    span = np.array([spec.start, spec.end or date.max], "M8[D]")
    names = [n for n in (quality_table(t).name for t in tables) if store.exists(n)]
    judged = (store.sessions(name, universe) for name in names)
    inside = (days[(days >= span[0]) & (days <= span[1])] for days in judged)
    newest = [days[-1].item() for days in inside if len(days)]
    if not newest:
        raise MissingDataError(f"no check has judged universe {universe!r} yet; run `qdag materialize -u {universe}`")
    return max(newest)


def write_page(settings: Settings, store: "TableStore", universe: str, day: date, tables: Tables) -> Path:
    """Write the page of one session; returns its path. Errors as of :func:`gather`."""
    return _write(settings, PageInputs(settings, store, universe, tables, day, day), day)


def _write(settings: Settings, inputs: PageInputs, day: date) -> Path:
    path = page_path(settings, inputs.universe, day)
    write_text(path, render(gather(settings, inputs, day)))
    return path
