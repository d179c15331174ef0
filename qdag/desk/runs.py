"""Runs from a desk: recorded by Dagster in the data home, as those of the command."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING

from qdag.errors import QdagError, SourceError
from qdag.schema import RAW_OHLCV

if TYPE_CHECKING:
    import pandas as pd

    from qdag.assets.platform import Platform
    from qdag.defs.launch import Launched
    from qdag.operations.survey import Request
    from qdag.settings import Settings


def run(
    settings: "Settings",
    universe: str,
    assets: Sequence[str] | None,
    start: date | None,
    end: date | None,
    months: int = 0,
) -> "Launched":
    """Materialize as of ``qdag.defs.launch.launch``.

    QdagError: a run failed, with its errors.
    """
    from qdag.defs.launch import launch

    with _made_of(settings):
        outcome = launch(settings, universe, start, end, None if assets is None else list(assets), months)
    if not outcome.success:
        failed = [f"{c.asset} / {c.check}: {c.description}" for c in outcome.checks if not c.passed]
        raise QdagError(f"run {', '.join(outcome.runs)} failed: " + "; ".join(outcome.errors or failed))
    return outcome


@contextmanager
def _made_of(settings: "Settings") -> Iterator[None]:
    """Make this process one of the data home; afterwards its variables are as before, so that another can be opened."""
    from qdag.server.home import prepare

    before = dict(os.environ)
    try:
        prepare(settings)
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def refresh(platform: "Platform", universe: str, assets: Sequence[str] | None) -> "list[Launched]":
    """Bring a universe up to date, see ``Desk.refresh``."""
    from qdag.assets.chain import chain
    from qdag.operations.refresh import bring_up_to_date

    chosen = None if assets is None else [chain(platform.settings)[name].name for name in assets]
    done: list[Launched] = []
    if chosen is None or RAW_OHLCV.name in chosen:
        sessions = _unread(platform, universe)
        if sessions:
            done.append(run(platform.settings, universe, [RAW_OHLCV.name], *sessions))

    def compute(request: "Request") -> bool:
        done.append(run(platform.settings, universe, request.assets, request.start, request.end))
        return True

    left = bring_up_to_date(platform, universe, compute, chosen)
    if not left.ended:
        raise QdagError(f"universe {universe!r} is stale again after it was computed; look at qdag stale")
    if left.blocked:
        raise QdagError("; ".join(map(str, left.blocked)) + "; look at desk.stale() and the quality page")
    return done


def stale(platform: "Platform", universe: str) -> "pd.DataFrame":
    """Stale sessions of every asset, see ``Desk.stale``."""
    import pandas as pd

    from qdag.views.stale import HEADING, stale_lines

    found = stale_lines(platform, universe)
    if found.files:
        raise SourceError(found.files)
    frame = pd.DataFrame(found.lines, columns=list(HEADING)).set_index("asset")
    return frame.assign(first=pd.to_datetime(frame["first"]), last=pd.to_datetime(frame["last"]))


def _unread(platform: "Platform", universe: str) -> tuple[date, date] | None:
    from qdag.views.stale import unread_files

    files, trouble = unread_files(platform, universe)
    if trouble:
        raise SourceError(trouble)
    return (files.sessions[0].item(), files.sessions[-1].item()) if files and len(files.sessions) else None
