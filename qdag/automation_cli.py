"""``qdag stale``, ``refresh`` and ``backfill``: what has to be computed, computing exactly that, and filling ranges."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from qdag.terminal import (
    FAILED,
    Config,
    Day,
    Universe,
    failures,
    launch,
    open_settings,
    screen,
    stages_table,
    universe_name,
)

if TYPE_CHECKING:
    from rich.console import Console

    from qdag.defs.launch import Launched
    from qdag.refresh import Failed
    from qdag.settings import Settings
    from qdag.stages import Platform

Assets = Annotated[str | None, typer.Option("--assets", help="comma-separated; all by default")]


def stale(universe: Universe = None, config: Config = None) -> None:
    """What would be computed differently now, and why."""
    from rich.table import Table

    from qdag.refresh import survey
    from qdag.stages import Platform

    settings = open_settings(config)
    platform = Platform.open(settings)
    name = universe_name(settings, universe)
    table = Table("asset", "sessions", "first", "last", "why", box=None, pad_edge=False)
    seen = survey(platform, name)
    for asset, found in seen.stale.items():
        days = found.sessions
        ends = (str(days[0]), str(days[-1])) if found else ("", "")
        table.add_row(asset, str(len(days)), *ends, found.reason())
    screen().print(table)
    for wait in seen.blocked:
        typer.echo(str(wait))


def refresh(universe: Universe = None, assets: Assets = None, config: Config = None) -> None:
    """Compute exactly what is stale, in the order of the chain."""
    from qdag.stages import Platform

    settings = open_settings(config)
    name = universe_name(settings, universe)
    _refresh(screen(), Platform.open(settings), name, _assets(settings, assets))
    typer.echo("everything is up to date")


def _refresh(shown: "Console", platform: "Platform", name: str, chosen: list[str] | None, judge: bool = True) -> None:
    """Run what can run until nothing is left; ``judge``: have the checks that others wait for judged again, once."""
    from qdag.refresh import survey

    settings = platform.settings
    asked: set[tuple[Any, ...]] = set()
    while (seen := survey(platform, name, chosen)).requests:
        for request in seen.requests:
            key = (request.assets, request.start, request.end)
            outcome = _run(shown, settings, name, request.start, request.end, list(request.assets))
            if not outcome.success or key in asked:
                raise typer.Exit(FAILED)
            asked.add(key)
    if not seen.blocked:
        return
    for request in seen.judging if judge else ():
        if not _run(shown, settings, name, request.start, request.end, list(request.assets)).success:
            break
    else:
        if judge and seen.judging:
            return _refresh(shown, platform, name, chosen, judge=False)
    for wait in seen.blocked:
        typer.echo(str(wait))
    raise typer.Exit(FAILED)


def retry_failed(universe: Universe = None, config: Config = None) -> None:
    """Ask again for the instruments that failed, for them alone, and compute what follows from their rows."""
    from rich.table import Table

    from qdag.refresh import failed_instruments
    from qdag.stages import Platform

    settings = open_settings(config)
    name = universe_name(settings, universe)
    platform = Platform.open(settings)
    shown = screen()

    def listed() -> "list[Failed]":
        failed = failed_instruments(platform, name)
        table = Table("instrument", "from", "reason", "told", "source", box=None, pad_edge=False)
        for one in failed:
            table.add_row(one.instrument, str(one.start), one.reason, one.detail[:80], one.source)
        if failed:
            shown.print(table)
        return failed

    if not (failed := listed()):
        typer.echo("no instrument failed")
        return
    names = sorted({one.instrument for one in failed})
    last = platform.store.sessions("raw_ohlcv", name)
    start = min(one.start for one in failed)
    end = max(last[-1].item(), start) if len(last) else None
    outcome = _run(shown, settings, name, start, end, ["raw_ohlcv"], names)
    if not outcome.success:
        raise typer.Exit(FAILED)
    _refresh(shown, platform, name, None)
    if still := listed():
        typer.echo(f"{len(still)} of {len(names)} failed again")
        raise typer.Exit(FAILED)


def backfill(
    start: Day = None,
    end: Day = None,
    universe: Universe = None,
    assets: Assets = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="sessions of one run; automation.chunk_sessions")] = None,
    again: Annotated[bool, typer.Option("--again", help="compute what is up to date too")] = False,
    config: Config = None,
) -> None:
    """Fill a range, one run per chunk of sessions; what is up to date is passed over: it resumes where it stopped."""
    from qdag.refresh import backfill_chunks
    from qdag.stages import Platform

    settings = open_settings(config)
    name = universe_name(settings, universe)
    platform = Platform.open(settings)
    shown = screen()
    first, last = (start.date() if start else None), (end.date() if end else None)
    size = chunk or settings.automation.chunk_sessions
    done = 0
    for part in backfill_chunks(platform, name, first, last, _assets(settings, assets), size, again):
        done += part.sessions
        head = f"{part.start} .. {part.end}  {done} of {part.total} sessions"
        if not part.assets:
            shown.print(f"{head}: up to date")
            continue
        shown.print(f"{head}: {', '.join(part.assets)}")
        outcome = _run(shown, settings, name, part.start, part.end, list(part.assets))
        if not outcome.success:
            raise typer.Exit(FAILED)


def _assets(settings: "Settings", text: str | None) -> list[str] | None:
    from qdag.errors import unknown
    from qdag.stages import asset_names

    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in asset_names(settings):
            raise unknown("asset", name, asset_names(settings))
    return names


def _run(
    shown: "Console",
    settings: "Settings",
    universe: str,
    start: Any,
    end: Any,
    assets: list[str],
    instruments: list[str] | None = None,
) -> "Launched":
    outcome = launch(shown, settings, universe, start, end, assets, 0, instruments)
    stages_table(shown, outcome)
    failures(shown, outcome)
    return outcome
