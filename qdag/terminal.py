"""What every command of ``qdag`` uses: common options, the console, opening a data home, running with progress."""

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qdag.defs.launch import Launched
    from qdag.settings import Settings

FAILED, BAD_INPUT = 1, 2

Config = Annotated[str | None, typer.Option("--config", help="settings file (default: $QDAG_CONFIG, else ./qdag.toml)")]
Universe = Annotated[
    str | None, typer.Option("--universe", "-u", help="which universe; may be left out if there is one")
]
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]


def open_settings(config: str | None) -> "Settings":
    from qdag.home import prepare
    from qdag.settings import load_settings

    settings = load_settings(config)
    prepare(settings, config)
    return settings


def universe_name(settings: "Settings", name: str | None) -> str:
    from qdag.errors import SettingsError

    if name is None:
        if len(settings.universes) > 1:
            raise SettingsError(f"several universes are set: name one with --universe: {', '.join(settings.universes)}")
        return next(iter(settings.universes))
    settings.universe(name)
    return name


def screen(width: int = 140) -> "Console":
    """The terminal; a pipe or a CI log, which has no width of its own, gets ``width``. No text is read as markup."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(width=width, markup=False, highlight=False)


def launch(
    console: "Console",
    settings: "Settings",
    universe: str,
    start: date | None,
    end: date | None,
    assets: list[str] | None,
    months: int,
    instruments: "Sequence[str] | None" = None,
) -> "Launched":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[memory]}"),
        console=console,
    ) as progress:
        loading = progress.add_task("loading", total=1, rows="", memory="")
        _quiet()
        from qdag.defs.launch import launch

        progress.update(loading, completed=1)
        return launch(settings, universe, start, end, assets, months, _reporter(progress), instruments)


def _quiet() -> None:
    """Keep the libraries' own console logs out of the progress display; Dagster's are in its UI."""
    import logging

    for name in ("dagster", "mlflow", "alembic", "qdag"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _reporter(progress: Any) -> Callable[[str, int, int, int], None]:
    from qdag.stages import memory_mib

    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int, rows: int) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total, rows="", memory="")
        told = {"rows": f"{rows:,} rows" if rows else "", "memory": f"{memory_mib():,.0f} MiB"}
        progress.update(tasks[stage], completed=done, total=total, **told)

    return report


def stages_table(console: "Console", outcome: "Launched") -> None:
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
            f"{next((seen[k] for k in ('rows', 'training_rows') if k in seen), 0):,}",
            str(seen.get("instruments", seen.get("training_instruments", ""))),
            str(seen.get("sessions", "")),
            f"{seen['window_nan_share']:.2%}" if "window_nan_share" in seen else "",
            f"{seen.get('seconds', 0.0):.2f}",
            f"{seen.get('peak_mib', 0.0):,.0f}",
        )
    console.print(table)
    passed = sum(check.passed for check in outcome.checks)
    console.print(f"checks: {passed} of {len(outcome.checks)} passed")


def failures(console: "Console", outcome: "Launched") -> None:
    for check in outcome.checks:
        if not check.passed:
            console.print(f"  {check.severity}: {check.asset} / {check.check}")
            for line in check.description.splitlines():
                console.print(f"    {line}")
    for error in outcome.errors:
        console.print(error, style="red")


def plain_table(*headings: str, right: Sequence[str] = (), title: str | None = None) -> "Table":
    """A table without lines."""
    from rich.table import Column, Table

    columns = [Column(h, justify="right" if h in right else "left", overflow="fold") for h in headings]
    return Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)


def frame_table(frame: Any) -> "Table":
    from rich.table import Table

    table = Table(*map(str, frame.columns), box=None, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    return table
