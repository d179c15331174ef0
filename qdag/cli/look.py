"""Commands that look: what is stored, what is stale, the best factors, models, pools, the quality page."""

from datetime import datetime
from typing import Annotated

import typer

from qdag.cli.console import (
    FAILED,
    Config,
    Day,
    Universe,
    day_of,
    names_in,
    open_platform,
    open_settings,
    screen,
    show_frame,
    show_table,
    universe_name,
    universe_names,
)
from qdag.text import listed

SHOWN_FINDINGS = 50
"""Differences of a Qlib directory that are named; more are counted."""
SHOWN_SYMBOLS = 5
"""Unmatched members of a pool that are named, unless all are asked for."""


def status(universe: Universe = None, config: Config = None) -> None:
    """Per asset and universe: first and last session, missing sessions, and how the checks came out."""
    settings = open_settings(config)
    from qdag.views import asset_status

    rows = [(name, *row) for name in universe_names(settings, universe) for row in asset_status(settings, name)]
    show_table(screen(), ["universe", "asset", "first", "last", "sessions", "missing", "checks"], rows)


def assets(
    markdown: Annotated[bool, typer.Option("--markdown", help="as docs/assets.md has it")] = False,
    config: Config = None,
) -> None:
    """List the assets of the settings in the order in which they are made: what each is and is made from."""
    from qdag.settings import load_settings
    from qdag.views.assets import HEADING, asset_lines, assets_markdown

    settings = load_settings(config)
    if markdown:
        typer.echo(assets_markdown(settings), nl=False)
    else:
        show_table(screen(200), HEADING, asset_lines(settings))


def verify_bin(universe: Universe = None, start: Day = None, end: Day = None, config: Config = None) -> None:
    """Read every file of the Qlib directory back and compare it with raw_ohlcv, to the float32."""
    platform = open_platform(config)
    from qdag.assets.qlib_bin import verify_bins

    name = universe_name(platform.settings, universe)
    found = verify_bins(platform, name, day_of(start), day_of(end))
    lines = found.lines()
    for line in lines[:SHOWN_FINDINGS]:
        typer.echo(line)
    if len(lines) > SHOWN_FINDINGS:
        typer.echo(f"and {len(lines) - SHOWN_FINDINGS} more")
    typer.echo(f"{len(found.instruments)} instruments, {found.sessions} sessions; differences: {len(lines)}")
    if not found.ok:
        typer.echo(f"`qdag materialize qlib_bin --universe {name}` writes them again")
        raise typer.Exit(FAILED)


def show(
    table: Annotated[str, typer.Argument(help="table name")],
    universe: Universe = None,
    start: Day = None,
    end: Day = None,
    instruments: Annotated[str | None, typer.Option(help="comma-separated")] = None,
    columns: Annotated[str | None, typer.Option(help="comma-separated")] = None,
    rows: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    version: Annotated[int | None, typer.Option(min=0, help="an older version of the table")] = None,
    config: Config = None,
) -> None:
    """A look at the newest rows of a table; of factor_metrics the newest date's best factors."""
    platform, console = open_platform(config), screen()
    from qdag.schema import FACTOR_METRICS
    from qdag.views.stored import look

    name = universe_name(platform.settings, universe)
    plain = (start, end, instruments, columns, version) == (None,) * 5
    if table == FACTOR_METRICS.name and plain:
        from qdag.views import metrics_of_a_day

        day, best = metrics_of_a_day(platform, name, rows=rows)
        horizon = platform.settings.training_for(name).horizon
        console.print(f"{name}, {day}, horizon {horizon}, pool all: the largest |RankIC| first")
        show_frame(console, best)
        console.print("over all dates, other horizons and pools: qdag top; single rows: --start, --end, --columns")
        return
    first, last = day_of(start), day_of(end)
    frame = look(platform, table, name, first, last, names_in(instruments), names_in(columns), rows, version)
    show_frame(console, frame, every_column=columns is not None)


def top(
    universe: Universe = None,
    horizon: Annotated[int | None, typer.Option("--horizon", "-h", min=1, help="default: that of training")] = None,
    pool: Annotated[str, typer.Option(help="membership list that is judged")] = "all",
    table: Annotated[str | None, typer.Option(help="only factors of this feature table")] = None,
    start: Day = None,
    end: Day = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=10_000)] = 20,
    config: Config = None,
) -> None:
    """The best factors by |mean RankIC| over the stored dates."""
    platform, console = open_platform(config), screen()
    from qdag.views import leaderboard

    name = universe_name(platform.settings, universe)
    best = leaderboard(platform, name, horizon, pool, day_of(start), day_of(end), rows, table)
    shown = horizon or platform.settings.training_for(name).horizon
    console.print(f"{name}, horizon {shown}, pool {pool}: the largest |mean RankIC| first")
    show_frame(console, best)


def models(
    universe: Universe = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=10_000)] = 20,
    config: Config = None,
) -> None:
    """Registered models, the newest first, with their IC on the validation and the test sessions."""
    platform, console = open_platform(config), screen()
    from qdag.models.tracking import model_name
    from qdag.views import models

    name = universe_name(platform.settings, universe)
    found = models(platform, name)
    console.print(
        f"{model_name(name)}, {len(found)} versions; {platform.settings.mlflow.ui_url}/#/models/{model_name(name)}"
    )
    show_frame(console, found.head(rows))


def pools(
    universe: Universe = None,
    day: Annotated[datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="members on one session")] = None,
    unmatched: Annotated[bool, typer.Option("--unmatched", help="name all members that the universe lacks")] = False,
    config: Config = None,
) -> None:
    """Members of every pool year by year, or on one date; and the listed members that the universe does not hold."""
    platform, console = open_platform(config), screen()
    from qdag.views.pools import pool_report

    report = pool_report(platform, universe_name(platform.settings, universe), day_of(day))
    if len(report.summary):
        show_frame(console, report.summary)
    else:
        console.print("no pools but all; others are set under [universes.NAME.pools], see docs/pools.md")
    show_frame(console, report.counts)
    for heading, symbols in report.lists.items():
        shown = len(symbols) if unmatched or day else SHOWN_SYMBOLS
        rest = ": --unmatched names them" if len(symbols) > shown else ""
        console.print(f"\n{heading} ({len(symbols)}): {listed(symbols, shown)}{rest}")


def report(
    universe: Universe = None,
    day: Annotated[
        datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="session; by default the newest judged")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
    config: Config = None,
) -> None:
    """Write the quality page of a universe and session, and say where it is."""
    platform = open_platform(config)
    from qdag.assets.chain import chain
    from qdag.quality.page import newest_judged, write_page

    name, store = universe_name(platform.settings, universe), platform.store
    shown = chain(platform.settings).judged()
    session = day_of(day) or newest_judged(platform.settings, store, name, shown)
    path = write_page(platform.settings, store, name, session, shown)
    typer.echo(str(path))
    if open_page:
        import webbrowser

        webbrowser.open(path.as_uri())


def stale(universe: Universe = None, config: Config = None) -> None:
    """What would be computed differently now, and why; files that changed since they were read are looked at."""
    platform = open_platform(config)
    from qdag.views.stale import HEADING, stale_lines

    found = stale_lines(platform, universe_name(platform.settings, universe))
    if found.files:
        typer.echo(found.files)
    rows = [[name, count, first or "", last or "", why] for name, count, first, last, why in found.lines]
    show_table(screen(), HEADING, rows)
    for wait in found.waiting:
        typer.echo(wait)
