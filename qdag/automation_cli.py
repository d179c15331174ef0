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
    from qdag.settings import Settings

Assets = Annotated[str | None, typer.Option("--assets", help="comma-separated; all by default")]


def stale(universe: Universe = None, config: Config = None) -> None:
    """What would be computed differently now, and why."""
    from rich.table import Table

    from qdag.refresh import blocked_assets, stale_assets
    from qdag.stages import Platform

    settings = open_settings(config)
    platform = Platform.open(settings)
    name = universe_name(settings, universe)
    table = Table("asset", "sessions", "first", "last", "why", box=None, pad_edge=False)
    for asset, found in stale_assets(platform, name).items():
        days = found.sessions
        ends = (str(days[0]), str(days[-1])) if found else ("", "")
        table.add_row(asset, str(len(days)), *ends, found.reason())
    screen().print(table)
    for wait in blocked_assets(platform, name):
        typer.echo(str(wait))


def refresh(universe: Universe = None, assets: Assets = None, config: Config = None) -> None:
    """Compute exactly what is stale, in the order of the chain."""
    from qdag.refresh import blocked_assets, next_runs
    from qdag.stages import Platform

    settings = open_settings(config)
    name = universe_name(settings, universe)
    platform = Platform.open(settings)
    shown = screen()
    chosen = _assets(settings, assets)
    asked: set[tuple[Any, ...]] = set()
    while requests := next_runs(platform, name, chosen):
        for request in requests:
            key = (request.assets, request.start, request.end)
            outcome = _run(shown, settings, name, request.start, request.end, list(request.assets))
            if not outcome.success or key in asked:
                raise typer.Exit(FAILED)
            asked.add(key)
    waiting = blocked_assets(platform, name)
    for wait in waiting:
        typer.echo(str(wait))
    if waiting:
        raise typer.Exit(FAILED)
    typer.echo("everything is up to date")


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


def _run(shown: "Console", settings: "Settings", universe: str, start: Any, end: Any, assets: list[str]) -> "Launched":

    outcome = launch(shown, settings, universe, start, end, assets, 0)
    stages_table(shown, outcome)
    failures(shown, outcome)
    return outcome
