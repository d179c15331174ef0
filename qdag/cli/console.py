"""What every command uses: common options, opening a data home, and the terminal: a table, a frame, a progress."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

    from qdag.assets.platform import Platform
    from qdag.settings import Settings

FAILED, BAD_INPUT = 1, 2
"""Exit codes: a run or a check failed; what was asked for cannot be done as it was asked."""
LINE_SECONDS = 30.0
"""Between two lines about one thing, where progress is told in lines."""

Config = Annotated[str | None, typer.Option("--config", help="settings file (default: $QDAG_CONFIG, else ./qdag.toml)")]
"""Option: the settings file."""
Universe = Annotated[
    str | None, typer.Option("--universe", "-u", help="which universe; may be left out if there is one")
]
"""Option: one universe."""
Day = Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"])]
"""Option: a day."""


def day_of(given: datetime | None) -> date | None:
    """The day that an option has, if it was given."""
    return given.date() if given else None


def names_in(text: str | None) -> list[str] | None:
    """The names of a comma-separated option, if it was given."""
    return text.split(",") if text else None


def open_settings(config: str | None) -> "Settings":
    """The settings, with this process, and those that it starts, made ones of their data home."""
    from qdag.server.home import prepare
    from qdag.settings import load_settings

    settings = load_settings(config)
    prepare(settings, config)
    return settings


def open_platform(config: str | None) -> "Platform":
    """The settings and the tables, to run assets on them or to look at them."""
    settings = open_settings(config)
    from qdag.assets.platform import Platform

    return Platform.open(settings)


def stored_platform(config: str | None) -> "Platform":
    """The settings and the tables alone: no data home is made where there is none, and nothing can be run."""
    from qdag.assets.platform import Platform
    from qdag.settings import load_settings

    return Platform.open(load_settings(config))


def universe_name(settings: "Settings", name: str | None) -> str:
    """The universe that is named, or the only one.

    Raises
    ------
    UnknownNameError
        There is none of that name.
    SettingsError
        None is named and there are several.
    """
    from qdag.errors import SettingsError

    if name is None:
        if len(settings.universes) > 1:
            raise SettingsError(f"several universes are set: name one with --universe: {', '.join(settings.universes)}")
        return next(iter(settings.universes))
    settings.universe(name)
    return name


def universe_names(settings: "Settings", name: str | None) -> list[str]:
    """The universe that is named, or all."""
    return [universe_name(settings, name)] if name else list(settings.universes)


def screen(width: int = 140) -> "Console":
    """The terminal; a pipe or a CI log, which has no width of its own, gets ``width``. No text is read as markup."""
    from rich.console import Console

    console = Console(markup=False, highlight=False)
    return console if console.is_terminal else Console(width=width, markup=False, highlight=False)


def show_table(
    console: "Console",
    headings: Sequence[str],
    rows: Iterable[Iterable[object]],
    right: Collection[str] = (),
    title: str | None = None,
    wrap: bool = True,
) -> None:
    """Print a table without lines.

    Parameters
    ----------
    headings : one per column
    rows : cells, written as Python writes them
    right : headings of the columns that stand to the right
    title : a line above the headings
    wrap : whether a cell may take several lines, where it does not fit into one
    """
    from rich.table import Column, Table

    columns = [
        Column(heading, justify="right" if heading in right else "left", overflow="fold", no_wrap=not wrap)
        for heading in headings
    ]
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


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
        rows = zip(*(cells[i] for i in shown), strict=True)
        show_table(console, [names[i] for i in shown], rows, right=numeric, wrap=False)
        if not every_column:
            break
    if not len(frame):
        console.print("no rows")
    if done < len(names):
        console.print(f"and {len(names) - done} more columns, from {names[done]} to {names[-1]}")


def _cell(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    if value is None or value != value:  # NaN and NaT
        return ""
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 10_000 else f"{value:.4f}" if size >= 0.001 or not value else f"{value:.1e}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@contextmanager
def progress(console: "Console", width: int, *columns: "ProgressColumn") -> Iterator[Callable[..., None]]:
    """Show a bar for each thing that is reported while the block runs.

    A pipe or a log, where nothing can move, gets lines without bars: of each thing one when it is done, and of what is
    being done one after every ``LINE_SECONDS`` without a line, and the last one at the end of the block.

    Parameters
    ----------
    width : characters of a thing's name
    columns : what stands after its bar

    Yields
    ------
    report(what, done, total, **fields)
        Call it whenever more is done; ``fields`` are those of ``columns``.
    """
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    moving = console.is_terminal
    bar = [BarColumn()] if moving else []
    bars = Progress(TextColumn(f"{{task.description:<{width}}}"), *bar, *columns, console=console, disable=not moving)
    tasks: dict[str, TaskID] = {}
    over: set[str] = set()
    last_line = time.monotonic()

    def tell(what: str) -> None:
        nonlocal last_line
        last_line = time.monotonic()
        console.print(bars.make_tasks_table([task for task in bars.tasks if task.id == tasks[what]]))

    def report(what: str, done: int, total: int, **fields: Any) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, **fields)
        bars.update(tasks[what], completed=done, total=total, **fields)
        if done < total:
            over.discard(what)
            due = time.monotonic() - last_line >= LINE_SECONDS
        else:
            due = what not in over
            over.add(what)
        if due and not moving:
            tell(what)

    with bars:
        try:
            yield report
        finally:
            for what in [what for what in tasks if not moving and what not in over]:
                tell(what)
