"""The ``qdag`` command. Exit codes: 0 done; 1 a run or a check failed; 2 bad input, explained in one paragraph."""

import sys
from collections.abc import Callable
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qdag.features_cli import explain, features

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qdag.defs.launch import Launched
    from qdag.settings import Settings

app = typer.Typer(
    help="Market files in; versioned, checked, point-in-time features, factor metrics and tracked models out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(features)
app.command()(explain)
FAILED, BAD_INPUT = 1, 2

Config = Annotated[str | None, typer.Option("--config", help="settings file (default: $QDAG_CONFIG, else ./qdag.toml)")]
Universe = Annotated[
    str | None, typer.Option("--universe", "-u", help="which universe; may be left out if there is one")
]
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]
Months = Annotated[int, typer.Option(min=0, help="train at the last so many month ends of the range")]


def main() -> None:
    """Run the command; errors that qdag raises on purpose become one paragraph and exit code 2."""
    from qdag.errors import QdagError

    try:
        app()
    except QdagError as error:
        from rich.console import Console

        Console(stderr=True).print("error:", str(error), style="red", markup=False, highlight=False)
        sys.exit(BAD_INPUT)


def _open(config: str | None) -> "Settings":
    from qdag.home import prepare
    from qdag.settings import load_settings

    settings = load_settings(config)
    prepare(settings, config)
    return settings


def _universe(settings: "Settings", name: str | None) -> str:
    from qdag.errors import SettingsError

    if name is None:
        if len(settings.universes) > 1:
            raise SettingsError(f"several universes are set: name one with --universe: {', '.join(settings.universes)}")
        return next(iter(settings.universes))
    settings.universe(name)
    return name


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    # a pipe or a CI log has no width of its own
    return console if console.is_terminal else Console(width=140)


@app.command()
def demo(config: Config = None) -> None:
    """Run the whole chain on the embedded data and say what to open."""
    from qdag.settings import load_settings

    console = _console()
    settings = load_settings(config)
    universe = "sample" if "sample" in settings.universes else next(iter(settings.universes))
    _open(config)
    spec = settings.universe(universe)
    console.print(f"Materializing universe [bold]{universe}[/] ({spec.start} .. {spec.end}) into {settings.home}\n")
    outcome = _launch(console, settings, universe, None, None, None, 3)
    _summary(console, settings, universe, outcome)
    if not outcome.success:
        raise typer.Exit(FAILED)
    console.print(
        "\nWhat to open next:\n"
        "  [bold]qdag up[/] (or `make up`)   then\n"
        f"    {settings.dagster.ui_url}/asset-groups   the asset graph, checks and metadata\n"
        f"    {settings.mlflow.ui_url}   the training runs and the registered models\n"
        f"  [bold]qdag show factor_metrics[/]   a look at a table;  [bold]qdag status[/]   what is there\n"
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
    settings = _open(config)
    console = _console()
    name = _universe(settings, universe)
    first, last = (start.date() if start else None), (end.date() if end else None)
    outcome = _launch(console, settings, name, first, last, assets, months)
    _stages_table(console, outcome)
    _failures(console, outcome)
    if not outcome.success:
        raise typer.Exit(FAILED)


@app.command()
def status(universe: Universe = None, config: Config = None) -> None:
    """Per asset and universe: first and last session, missing sessions, the last check."""
    settings = _open(config)
    console = _console()
    from rich.table import Table

    from qdag.defs.status import asset_status

    names = [_universe(settings, universe)] if universe else list(settings.universes)
    table = Table("universe", "asset", "first", "last", "sessions", "missing", "last checks", box=None, pad_edge=False)
    for name in names:
        for row in asset_status(settings, name):
            table.add_row(name, *(str(cell) for cell in row))
    console.print(table)


@app.command()
def show(
    table: Annotated[str, typer.Argument(help="table name")],
    universe: Universe = None,
    start: Day = None,
    end: Day = None,
    instruments: Annotated[str | None, typer.Option(help="comma-separated")] = None,
    columns: Annotated[str | None, typer.Option(help="comma-separated")] = None,
    rows: Annotated[int, typer.Option(min=1, max=10_000)] = 20,
    config: Config = None,
) -> None:
    """A look at the newest values of a table."""
    settings = _open(config)
    from qdag.stages import Platform, look

    first, last = (start.date() if start else None), (end.date() if end else None)
    frame = look(
        Platform.open(settings),
        table,
        _universe(settings, universe),
        first,
        last,
        instruments.split(",") if instruments else None,
        columns.split(",") if columns else None,
        rows,
    )
    import pandas as pd

    with pd.option_context("display.width", _console().width, "display.max_rows", rows, "display.max_columns", 12):
        typer.echo(str(frame))


@app.command()
def doctor(config: Config = None) -> None:
    """What is available on this machine, and what to do about what is not."""
    from rich.table import Table

    from qdag.doctor import examine

    console = _console()
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
    config: Config = None,
) -> None:
    """Serve the Dagster UI with its daemon, and the MLflow UI, until interrupted."""
    settings = _open(config)
    from qdag.serve import serve

    raise typer.Exit(serve(settings, port, mlflow_port, typer.echo))


def _launch(
    console: "Console",
    settings: "Settings",
    universe: str,
    start: date | None,
    end: date | None,
    assets: list[str] | None,
    months: int,
) -> "Launched":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        loading = progress.add_task("loading", total=1)
        _quiet()
        from qdag.defs.launch import launch

        progress.update(loading, completed=1)
        return launch(settings, universe, start, end, assets, months, _reporter(progress))


def _quiet() -> None:
    """Keep the libraries' own console logs out of the progress display; Dagster's are in its UI."""
    import logging

    for name in ("dagster", "mlflow", "alembic", "qdag"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _reporter(progress: Any) -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total)
        progress.update(tasks[stage], completed=done, total=total)

    return report


def _stages_table(console: "Console", outcome: "Launched") -> None:
    from rich.table import Table

    table = Table(
        "asset", "rows", "instruments", "sessions", "NaN share", "seconds", "peak MiB", box=None, pad_edge=False
    )
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for name, seen in outcome.assets.items():
        table.add_row(
            name,
            f"{next((seen[k] for k in ('rows', 'dagster/row_count', 'training_rows') if k in seen), 0):,}",
            str(seen.get("instruments", seen.get("training_instruments", ""))),
            str(seen.get("sessions", "")),
            f"{seen['nan_share']:.2%}" if "nan_share" in seen else "",
            f"{seen.get('seconds', 0.0):.2f}",
            f"{seen.get('peak_mib', 0.0):,.0f}",
        )
    console.print(table)
    passed = sum(check.passed for check in outcome.checks)
    console.print(f"checks: {passed} of {len(outcome.checks)} passed")


def _failures(console: "Console", outcome: "Launched") -> None:
    for check in outcome.checks:
        if not check.passed:
            console.print(f"  {check.severity}: {check.asset} / {check.check}: {check.description}", markup=False)
    for error in outcome.errors:
        console.print(error, style="red", markup=False)


def _summary(console: "Console", settings: "Settings", universe: str, outcome: "Launched") -> None:
    """Rows and seconds per table, the best factors, the model's metrics."""
    from qdag.stages import Platform, best_factors

    _stages_table(console, outcome)
    _failures(console, outcome)
    if not outcome.success:
        return
    horizon = settings.training_for(universe).horizon
    best = best_factors(Platform.open(settings), universe, horizon)
    console.print(f"\nTop factors by |mean RankIC|, horizon {horizon}:")
    console.print(_frame(best))
    model = outcome.assets.get("trained_model", {})
    console.print(f"\nModel {model.get('model')}, trained on {model.get('training_date')}, {model.get('mlflow_run')}")
    for segment in ("valid", "test"):
        metrics = {name: model.get(f"{segment}_{name}") for name in ("ic", "rank_ic", "icir", "rank_icir")}
        shown = "  ".join(f"{k} {v:+.4f}" if v is not None else f"{k} undefined" for k, v in metrics.items())
        console.print(f"  {segment:<6}{shown}", highlight=False)


def _frame(frame: Any) -> "Table":
    from rich.table import Table

    table = Table(*map(str, frame.columns), box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    return table
