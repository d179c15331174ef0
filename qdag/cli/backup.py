"""``qdag data backup`` and ``restore-backup``: copies of the tables elsewhere, and bringing them back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qdag.cli.console import Config, progress, screen, show_table, stored_platform
from qdag.text import ranges, stored_size

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from qdag.store.backup import Backup

Target = Annotated[str, typer.Argument(help="folder or URL (s3://bucket/prefix)", metavar="TARGET")]
"""Argument: where backups are."""


def _columns() -> "tuple[ProgressColumn, ...]":
    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    return MofNCompleteColumn(), TimeElapsedColumn()


def _beside(made: "Backup") -> str:
    """A line on what there is beside the tables; nothing where there is nothing."""
    told = [f"{name} {count:,} files" for name, count in made.folders.items() if count]
    return f"models and experiments: {', '.join(told)}\n" if told else ""


def backup(
    target: Target,
    show: Annotated[bool, typer.Option("--list", help="only list the backups that are there")] = False,
    config: Config = None,
) -> None:
    """Copy all tables, as they are at one moment, and the models to another folder or object store; only what is new
    is copied."""
    console = screen()
    if show:
        from qdag.store.backup import backups

        numbers = ("tables", "files", "size")
        known = (
            (one.id, f"{one.created:%Y-%m-%d %H:%M:%S}", len(one.versions), one.files, stored_size(one.size))
            for one in backups(target)
        )
        show_table(console, ["backup", "time (UTC)", *numbers], known, right=numbers)
        return
    platform = stored_platform(config)
    from qdag.models.saved import not_saved
    from qdag.operations.upkeep import back_up

    with progress(console, 10, *_columns()) as report:
        made = back_up(platform, target, report)
    rows = [[name, version, ranges(made.readable[name])] for name, version in made.versions.items()]
    show_table(console, ["table", "version", "readable versions"], rows, right=("version",))
    typer.echo(
        f"backup {made.id}: {made.files:,} files, {stored_size(made.size)}; {made.copied:,} new, "
        f"{stored_size(made.copied_size)} copied\n{_beside(made)}"
        "Qlib directories are derived (qdag materialize qlib_bin)"
    )
    if missing := not_saved(platform.settings):
        typer.echo(missing)


def restore_backup(
    source: Target,
    tables: Annotated[list[str] | None, typer.Option("--table", help="only these tables; repeat for more")] = None,
    backup_id: Annotated[str | None, typer.Option("--backup", help="which backup; the newest by default")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace tables and models that are there already")] = False,
    config: Config = None,
) -> None:
    """Bring tables back from a backup: the same rows, versions and history; and where no table is named, the models."""
    platform = stored_platform(config)
    from qdag.store.backup import restore_backup as bring_back

    console = screen()
    with progress(console, 10, *_columns()) as report:
        made = bring_back(platform.store, source, backup_id, tables, force, report, platform.settings.home)
    show_table(console, ["table", "version"], [[n, v] for n, v in made.versions.items()], right=("version",))
    typer.echo(
        f"restored {made.files:,} files, {stored_size(made.size)} of backup {made.id} into "
        f"{Path(platform.store.root)}\n{_beside(made)}"
        "Qlib directories are derived: qdag materialize qlib_bin"
    )
