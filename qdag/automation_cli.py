"""``qdag plan``, ``stale``, ``refresh`` and ``backfill``: what has to be computed, computing exactly that, ranges."""

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
    from collections.abc import Sequence

    from rich.console import Console

    from qdag.defs.launch import Launched
    from qdag.landing import Unread
    from qdag.refresh import Failed
    from qdag.settings import Settings
    from qdag.stages import Platform

Assets = Annotated[str | None, typer.Option("--assets", help="comma-separated; all by default")]


def plan(
    universe: Universe = None,
    months: Annotated[int, typer.Option(min=0, help="train at the last so many month ends")] = 3,
    config: Config = None,
) -> None:
    """What materializing what is new and refreshing what is stale would do: sessions, rows, time, size. Computes
    nothing."""
    import shutil

    from qdag.forecast import forecast
    from qdag.stages import Platform
    from qdag.terminal import duration, plain_table, size

    settings = open_settings(config)
    platform, console = Platform.open(settings), screen()
    seconds, large = 0.0, 0
    for name in [universe_name(settings, universe)] if universe else list(settings.universes):
        told = forecast(platform, name, months)
        seconds, large = seconds + told.seconds, large + told.bytes
        numbers = ("sessions", "rows", "time", "size")
        table = plain_table("asset", *numbers[:1], "first", "last", *numbers[1:], "why", right=numbers)
        for step in told.steps:
            days = step.sessions
            ends = (str(days[0]), str(days[-1]))
            about = (f"{step.rows:,}", duration(step.seconds), size(step.bytes))
            table.add_row(step.asset, f"{len(days):,}", *ends, *about, step.why)
        console.print(f"{name}: {told.source}")
        if told.steps:
            console.print(table)
            whole = len(told.new) and len(told.steps[0].sessions) == len(told.new) and told.new_is_all
            span = "" if whole else f" --start {told.new[0]} --end {told.new[-1]}" if len(told.new) else ""
            command = "materialize" if len(told.new) else "refresh"
            console.print(
                f"  about {duration(told.seconds)}, {size(told.bytes)}: qdag {command} --universe {name}{span}"
            )
        else:
            console.print("  everything is up to date")
        if len(told.beyond):
            console.print(
                f"  the files end on {told.newest}: {len(told.beyond):,} sessions after it wait for new files, "
                f"or for end = {told.newest} in the settings"
            )
        for wait in told.blocked:
            console.print(f"  {wait}")
    if large:
        free = shutil.disk_usage(next(f for f in (settings.home, *settings.home.parents) if f.exists())).free
        console.print(f"in all about {duration(seconds)} and {size(large)}; {size(free)} are free")


def stale(universe: Universe = None, config: Config = None) -> None:
    """What would be computed differently now, and why; files that changed since they were read are looked at."""
    import numpy as np
    from rich.table import Table

    from qdag.refresh import survey
    from qdag.stages import Platform

    settings = open_settings(config)
    platform = Platform.open(settings)
    name = universe_name(settings, universe)
    table = Table("asset", "sessions", "first", "last", "why", box=None, pad_edge=False)
    seen, files = survey(platform, name), _unread(platform, name)
    for asset, found in seen.stale.items():
        days, why = found.sessions, found.reason()
        if asset == "raw_ohlcv" and files and len(files.sessions):
            days, why = np.union1d(days, files.sessions), files.reason
        ends = (str(days[0]), str(days[-1])) if len(days) else ("", "")
        table.add_row(asset, str(len(days)), *ends, why)
    screen().print(table)
    for wait in seen.blocked:
        typer.echo(str(wait))


def refresh(universe: Universe = None, assets: Assets = None, config: Config = None) -> None:
    """Read files that changed, and compute exactly what is stale, in the order of the chain. No model is trained."""
    from qdag.refresh import survey
    from qdag.stages import Platform

    settings = open_settings(config)
    name = universe_name(settings, universe)
    platform, shown, chosen = Platform.open(settings), screen(), _assets(settings, assets)
    files = _unread(platform, name) if chosen is None or "raw_ohlcv" in chosen else None
    if files and len(files.sessions):
        typer.echo(f"raw_ohlcv: {files.reason}")
        start, end = files.sessions[0].item(), files.sessions[-1].item()
        if not _run(shown, settings, name, start, end, ["raw_ohlcv"]).success:
            raise typer.Exit(FAILED)
    _refresh(shown, platform, name, chosen)
    models = survey(platform, name, chosen).stale.get("trained_model")
    if not models:
        typer.echo("everything is up to date")
        return
    days = models.sessions
    ends = platform.calendar(name).month_ends()
    months = int(((ends >= days[0]) & (ends <= days[-1])).sum())
    typer.echo(
        f"everything is up to date but the models of {', '.join(map(str, days))}, which were trained on what changed "
        f"since; to train them again: qdag materialize trained_model --universe {name} --start {days[0]} "
        f"--end {days[-1]} --months {months}"
    )


def _unread(platform: "Platform", name: str) -> "Unread | None":
    """What the files of a universe hold that has not been read; None, with a line, where they cannot be looked at."""
    from qdag.errors import SourceError
    from qdag.landing import unread

    try:
        return unread(platform, name)
    except SourceError as error:
        typer.echo(f"the files of {name} cannot be looked at: {error}")
        return None


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


def accept(
    instruments: Annotated[list[str], typer.Argument(help="those whose stored rows may go")],
    universe: Universe = None,
    config: Config = None,
) -> None:
    """Take over deliveries that have less of an instrument than is stored, which are held back otherwise."""
    from qdag.errors import unknown
    from qdag.refresh import held_back
    from qdag.stages import Platform

    settings = open_settings(config)
    name = universe_name(settings, universe)
    platform = Platform.open(settings)
    held = {one.instrument: one for one in held_back(platform, name)}
    for instrument in instruments:
        if instrument not in held:
            raise unknown(f"instrument held back in universe {name!r}", instrument, held)
        typer.echo(f"{instrument}: {held[instrument].detail}")
    days = platform.store.read("raw_ohlcv", name, columns=["date"], instruments=instruments)["date"]
    shown = screen()
    outcome = _run(
        shown, settings, name, days[0].as_py(), platform.last_session(name), ["raw_ohlcv"], accepted=instruments
    )
    if not outcome.success:
        raise typer.Exit(FAILED)
    _refresh(shown, platform, name, None)


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
    accepted: "Sequence[str]" = (),
) -> "Launched":
    outcome = launch(shown, settings, universe, start, end, assets, 0, instruments, accepted)
    stages_table(shown, outcome)
    failures(shown, outcome)
    return outcome
