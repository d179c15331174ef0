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
UNITS = {"kernels": "compiled", "raw_ohlcv": "steps", "factor_metrics": "factors", "trained_model": "models"}
"""What the progress of a stage counts, where it is not sessions."""

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
    accepted: "Sequence[str]" = (),
) -> "Launched":
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[memory]}"),
        console=console,
    ) as progress:
        loading = progress.add_task("loading", total=1, unit="", rows="", memory="")
        _quiet()
        from qdag.defs.launch import launch

        progress.update(loading, completed=1)
        report = _reporter(progress)
        if assets is None:
            _load_kernels(report)
        return launch(settings, universe, start, end, assets, months, report, instruments, accepted)


def _load_kernels(report: Callable[[str, int, int, int], None]) -> None:
    """Compile what the whole chain needs and the cache lacks: for a minute in which nothing else would move."""
    import qdag.engine
    import qdag.factors._kernels  # noqa: F401
    from qdag.engine.kernels.flags import load_all

    load_all(lambda done, total: report("kernels", done, total, 0))


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
            unit = UNITS.get(stage, "sessions")
            tasks[stage] = progress.add_task(stage, total=total, unit=unit, rows="", memory="")
        told = {"rows": f"{rows:,} rows" if rows else "", "memory": f"{memory_mib():,.0f} MiB"}
        progress.update(tasks[stage], completed=done, total=total, **told)

    return report


def stages_table(console: "Console", outcome: "Launched") -> None:
    """What each asset wrote and what it took, where the rest of the time went, and what there is to know of it."""
    numbers = ("rows", "instruments", "sessions", "empty cells", "compute s", "checks s", "peak MiB")
    table = plain_table("asset", *numbers, right=numbers)
    computing = checking = 0.0
    for name, seen in outcome.assets.items():
        computing += seen.get("seconds", 0.0)
        checking += seen.get("check_seconds", 0.0)
        table.add_row(
            name,
            f"{next((seen[k] for k in ('rows', 'training_rows') if k in seen), 0):,}",
            str(seen.get("instruments", seen.get("training_instruments", ""))),
            str(seen.get("sessions", "")),
            f"{seen['window_nan_share']:.2%}" if "window_nan_share" in seen else "",
            f"{seen.get('seconds', 0.0):.1f}",
            f"{seen.get('check_seconds', 0.0):.1f}",
            f"{seen.get('peak_mib', 0.0):,.0f}",
        )
    console.print(table)
    rest = max(0.0, outcome.seconds - computing - checking)
    passed = sum(check.passed for check in outcome.checks)
    told = f"; checks: {passed} of {len(outcome.checks)} passed" if outcome.checks else ""
    console.print(
        f"{outcome.seconds:.0f} s: {computing:.0f} s computing, {checking:.0f} s checks, {rest:.0f} s starting and "
        f"recording{told}"
    )
    for name, seen in outcome.assets.items():
        if "columns_without_values" in seen:
            console.print(f"  {name}: nothing in the columns {seen['columns_without_values']}")
        for key, what in (("sessions_without_model", "model before them"), ("sessions_without_features", "features")):
            if seen.get(key):
                console.print(f"  {name}: {seen[key]:,} sessions have no {what} and no scores")
        if "note" in seen:
            console.print(f"  {name}: {seen['note']}")
    for note in outcome.notes:
        console.print(f"  {note}")


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


def show_frame(console: "Console", frame: Any, every_column: bool = False) -> None:
    """Print a frame: numbers to the right in short, nothing where a value is missing, and the columns that fit.

    every_column : print those that do not fit below, beside the first column again
    """
    names = [str(name) for name in frame.columns]
    cells = [[_cell(value) for value in frame[name]] for name in frame.columns]
    widths = [2 + max([len(name), *map(len, column)]) for name, column in zip(names, cells, strict=True)]
    numeric = [name for name in names if frame[name].dtype.kind in "fiu"]
    done = 0
    while done < len(names):
        shown = [0] if done else []
        while done < len(names) and (len(shown) < 2 or sum(widths[i] for i in [*shown, done]) - 2 <= console.width):
            shown.append(done)
            done += 1
        table = plain_table(*(names[i] for i in shown), right=numeric)
        for column in table.columns:
            column.no_wrap = True
        for row in zip(*(cells[i] for i in shown), strict=True):
            table.add_row(*row)
        console.print(table)
        if not every_column:
            break
    if not len(frame):
        console.print("no rows")
    if done < len(names):
        console.print(f"and {len(names) - done} more columns, from {names[done]} to {names[-1]}")


def duration(seconds: float) -> str:
    """A few words for an estimate: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes as people say them: 120 kB, 35 MB, 1.2 GB."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if count >= one:
            return f"{count / one:.1f} {unit}" if count < 10 * one else f"{count / one:,.0f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _cell(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    if value is None or value != value:  # NaN and NaT
        return ""
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 10_000 else f"{value:.4f}" if size >= 0.001 or not value else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
