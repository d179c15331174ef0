"""The ``qdag`` command. Exit codes: 0 done; 1 a run or a check failed; 2 bad input, explained in one paragraph."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from qdag.alerts_cli import app as alerts_app
from qdag.automation_cli import accept, backfill, plan, refresh, retry_failed, stale
from qdag.data_cli import app as data_app
from qdag.features_cli import explain, features
from qdag.settings_cli import init, settings_command
from qdag.terminal import (
    BAD_INPUT,
    FAILED,
    Config,
    Day,
    Universe,
    failures,
    launch,
    open_settings,
    screen,
    show_frame,
    stages_table,
    universe_name,
)

if TYPE_CHECKING:
    from rich.console import Console

    from qdag.defs.launch import Launched
    from qdag.settings import Settings

app = typer.Typer(
    help="Market files in; versioned, checked, point-in-time features, factor metrics and tracked models out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # click names the nearest command by itself
    suggest_commands=False,
    pretty_exceptions_enable=False,
)
app.command()(features)
app.command()(explain)
app.command()(init)
app.command("settings")(settings_command)
app.command()(plan)
app.command()(stale)
app.command()(refresh)
app.command("retry-failed")(retry_failed)
app.command()(accept)
app.command()(backfill)
app.add_typer(alerts_app, name="alerts")
app.add_typer(data_app, name="data")
SHOWN_FINDINGS = 50
SHOWN_SYMBOLS = 5

Months = Annotated[int, typer.Option(min=0, help="train at the last so many month ends of the range")]


def main() -> None:
    """Run the command; errors that qdag raises on purpose become one paragraph and exit code 2."""
    from qdag.errors import QdagError
    from qdag.home import refused

    try:
        app()
    except Exception as error:
        told = str(error) if isinstance(error, QdagError) else refused(error)
        if not told:
            raise
        from rich.console import Console

        Console(stderr=True).print("error:", told, style="red", markup=False, highlight=False)
        sys.exit(BAD_INPUT)


@app.command()
def demo(config: Config = None) -> None:
    """Run the whole chain on the embedded data and say what to open."""
    from qdag.settings import load_settings

    console = screen()
    settings = load_settings(config)
    universe = "sample" if "sample" in settings.universes else next(iter(settings.universes))
    open_settings(config)
    spec = settings.universe(universe)
    console.print(f"Materializing universe {universe} ({spec.start} .. {spec.end}) into {settings.home}\n")
    outcome = launch(console, settings, universe, None, None, None, 3)
    _summary(console, settings, universe, outcome)
    if not outcome.success:
        raise typer.Exit(FAILED)
    console.print(
        "\nWhat to open next:\n"
        "  qdag up (or make up), then\n"
        f"    {settings.dagster.ui_url}/asset-groups   the asset graph, checks and metadata\n"
        f"    {settings.mlflow.ui_url}   the training runs and the registered models\n"
        "  qdag show factor_metrics   a look at a table;  qdag status   what is there\n"
    )


@app.command()
def materialize(
    assets: Annotated[list[str] | None, typer.Argument(help="assets to materialize; all when none is named")] = None,
    universe: Universe = None,
    start: Day = None,
    end: Day = None,
    months: Months = 3,
    config: Config = None,
) -> None:
    """Materialize assets of one universe over a range of sessions, as one run."""
    settings = open_settings(config)
    console = screen()
    name = universe_name(settings, universe)
    first, last = (start.date() if start else None), (end.date() if end else None)
    outcome = launch(console, settings, name, first, last, assets, months)
    stages_table(console, outcome)
    failures(console, outcome)
    if not outcome.success:
        raise typer.Exit(FAILED)


@app.command()
def status(universe: Universe = None, config: Config = None) -> None:
    """Per asset and universe: first and last session, missing sessions, and how the checks came out."""
    settings = open_settings(config)
    console = screen()
    from rich.table import Table

    from qdag.status import asset_status

    names = [universe_name(settings, universe)] if universe else list(settings.universes)
    table = Table("universe", "asset", "first", "last", "sessions", "missing", "checks", box=None, pad_edge=False)
    for name in names:
        for row in asset_status(settings, name):
            table.add_row(name, *(str(cell) for cell in row))
    console.print(table)


@app.command("verify-bin")
def verify_bin(universe: Universe = None, start: Day = None, end: Day = None, config: Config = None) -> None:
    """Read every file of the Qlib directory back and compare it with raw_ohlcv, to the float32."""
    settings = open_settings(config)
    from qdag.stages import Platform, verify_bins

    name = universe_name(settings, universe)
    first, last = (day.date() if day else None for day in (start, end))
    found = verify_bins(Platform.open(settings), name, first, last)
    lines = found.lines()
    for line in lines[:SHOWN_FINDINGS]:
        typer.echo(line)
    if len(lines) > SHOWN_FINDINGS:
        typer.echo(f"and {len(lines) - SHOWN_FINDINGS} more")
    typer.echo(f"{len(found.instruments)} instruments, {found.sessions} sessions; differences: {len(lines)}")
    if not found.ok:
        typer.echo(f"`qdag materialize qlib_bin --universe {name}` writes them again")
        raise typer.Exit(FAILED)


@app.command()
@data_app.command()
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
    settings = open_settings(config)
    from qdag.stages import Platform, look

    platform, name, console = Platform.open(settings), universe_name(settings, universe), screen()
    first, last = (start.date() if start else None), (end.date() if end else None)
    plain = (start, end, instruments, columns, version) == (None,) * 5
    if table == "factor_metrics" and plain:
        from qdag.views import metrics_of_a_day

        day, best = metrics_of_a_day(platform, name, rows=rows)
        horizon = settings.training_for(name).horizon
        console.print(f"{name}, {day}, horizon {horizon}, pool all: the largest |RankIC| first")
        show_frame(console, best)
        console.print("over all dates, other horizons and pools: qdag top; single rows: --start, --end, --columns")
        return
    frame = look(
        platform,
        table,
        name,
        first,
        last,
        instruments.split(",") if instruments else None,
        columns.split(",") if columns else None,
        rows,
        version,
    )
    show_frame(console, frame, every_column=columns is not None)


@app.command()
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
    settings = open_settings(config)
    from qdag.stages import Platform
    from qdag.views import leaderboard

    name = universe_name(settings, universe)
    first, last = (start.date() if start else None), (end.date() if end else None)
    best = leaderboard(Platform.open(settings), name, horizon, pool, first, last, rows, table)
    console = screen()
    shown = horizon or settings.training_for(name).horizon
    console.print(f"{name}, horizon {shown}, pool {pool}: the largest |mean RankIC| first")
    show_frame(console, best)


@app.command("models")
def list_models(
    universe: Universe = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=10_000)] = 20,
    config: Config = None,
) -> None:
    """Registered models, the newest first, with their IC on the validation and the test sessions."""
    settings = open_settings(config)
    from qdag.models.tracking import model_name
    from qdag.stages import Platform
    from qdag.views import models

    name, console = universe_name(settings, universe), screen()
    found = models(Platform.open(settings), name)
    console.print(f"{model_name(name)}, {len(found)} versions; {settings.mlflow.ui_url}/#/models/{model_name(name)}")
    show_frame(console, found.head(rows))


@app.command()
def pools(
    universe: Universe = None,
    day: Annotated[datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="members on one session")] = None,
    unmatched: Annotated[bool, typer.Option("--unmatched", help="name all members that the universe lacks")] = False,
    config: Config = None,
) -> None:
    """Members of every pool year by year, or on one date; and the listed members that the universe does not hold."""
    settings = open_settings(config)
    from qdag.stages import Platform, pool_report

    console = screen()
    report = pool_report(Platform.open(settings), universe_name(settings, universe), day.date() if day else None)
    show_frame(console, report.summary)
    show_frame(console, report.counts)
    for heading, symbols in report.lists.items():
        named = symbols if unmatched or day else symbols[:SHOWN_SYMBOLS]
        more = len(symbols) - len(named)
        rest = f" and {more:,} more: --unmatched names them" if more else ""
        console.print(f"\n{heading} ({len(symbols)}): {', '.join(named) or 'none'}{rest}")


@app.command()
def report(
    universe: Universe = None,
    day: Annotated[
        datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="session; by default the newest judged")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
    config: Config = None,
) -> None:
    """Write the quality page of a universe and session, and say where it is."""
    settings = open_settings(config)
    from qdag.quality_report import newest_judged, write_page
    from qdag.stages import Platform

    name = universe_name(settings, universe)
    store = Platform.open(settings).store
    path = write_page(settings, store, name, day.date() if day else newest_judged(settings, store, name))
    typer.echo(str(path))
    if open_page:
        import webbrowser

        webbrowser.open(path.as_uri())


@app.command()
def doctor(config: Config = None) -> None:
    """What is available on this machine, and what to do about what is not."""
    from rich.table import Table

    from qdag.doctor import examine

    console = screen()
    table = Table("", "part", "found", "what to do", box=None, pad_edge=False)
    worst = 0
    for finding in examine(config):
        table.add_row("ok" if finding.ok else "!!", finding.part, finding.found, finding.remedy)
        worst |= not finding.ok
    console.print(table)
    if worst:
        raise typer.Exit(FAILED)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Dagster UI")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="MLflow UI")] = 5000,
    automate: Annotated[
        bool, typer.Option("--automate", help="sensors and schedules on, unless stopped in the UI")
    ] = False,
    config: Config = None,
) -> None:
    """Serve the Dagster UI with its daemon, and the MLflow UI, until interrupted."""
    settings = open_settings(config)
    from qdag.server.up import serve

    raise typer.Exit(serve(settings, port, mlflow_port, typer.echo, automate))


@app.command("compile")
def compile_kernels() -> None:
    """Compile all kernels into numba's cache now (NUMBA_CACHE_DIR), as images do, instead of in the first run."""
    import qdag.engine
    import qdag.factors._kernels  # noqa: F401
    from qdag.engine.kernels.flags import load_all

    typer.echo(f"{load_all()} kernels are compiled")


@app.command()
def webserver(
    workspace: Annotated[list[str], typer.Argument(help="workspace files that name the code locations")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 3000,
    read_only: Annotated[bool, typer.Option("--read-only", help="nothing can be started or changed")] = False,
    config: Config = None,
) -> None:
    """Serve the Dagster UI alone, for the host names of the settings; `qdag up` and the containers start it."""
    settings = open_settings(config)
    from qdag.server.webserver import serve_ui

    serve_ui(settings, workspace, host, port, read_only)


def _summary(console: "Console", settings: "Settings", universe: str, outcome: "Launched") -> None:
    """Rows and seconds per table, the best factors, the model's metrics."""
    from qdag.stages import Platform, best_factors

    stages_table(console, outcome)
    failures(console, outcome)
    if not outcome.success:
        return
    horizon = settings.training_for(universe).horizon
    best = best_factors(Platform.open(settings), universe, horizon)
    console.print(f"\nTop factors by |mean RankIC|, horizon {horizon}:")
    show_frame(console, best)
    model = outcome.assets.get("trained_model", {})
    console.print(f"\nModel {model.get('model')}, trained on {model.get('training_date')}, {model.get('mlflow_run')}")
    for segment in ("valid", "test"):
        metrics = {name: model.get(f"{segment}_{name}") for name in ("ic", "rank_ic", "icir", "rank_icir")}
        shown = "  ".join(f"{k} {v:+.4f}" if v is not None else f"{k} undefined" for k, v in metrics.items())
        console.print(f"  {segment:<6}{shown}")
