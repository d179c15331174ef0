"""``qdag data``: versions of the tables, what differs between them, retention, backups, damage. Exit code 1: damage."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qdag.terminal import FAILED, Config, screen

if TYPE_CHECKING:
    from rich.console import Console

    from qdag.stages import Platform

app = typer.Typer(
    help="Versions and upkeep of the stored tables.", no_args_is_help=True, rich_markup_mode=None, add_completion=False
)
TableName = Annotated[str, typer.Argument(help="table name", metavar="TABLE")]
TableNames = Annotated[list[str] | None, typer.Argument(help="tables; all when none is named", metavar="[TABLE]...")]
Universe = Annotated[str | None, typer.Option("--universe", "-u", help="only this universe")]
Target = Annotated[str, typer.Argument(help="folder or URL (s3://bucket/prefix)", metavar="TARGET")]


def _open(config: str | None) -> "Platform":
    from qdag.settings import load_settings
    from qdag.stages import Platform

    return Platform.open(load_settings(config))


def _print(console: "Console", names: list[str], rows: Sequence[Sequence[object]], right: tuple[str, ...] = ()) -> None:
    from rich.table import Table

    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right" if column.header in right else "left"
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table, markup=False, highlight=False)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 1024:,.1f} KiB"


def _numbers(numbers: tuple[int, ...]) -> str:
    """Versions in short: 1, 3 .. 7, 9."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join(" .. ".join(map(str, part)) for part in parts)


def _progress(console: "Console") -> tuple[Any, Callable[[str, int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
    tasks: dict[str, Any] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=total)
        progress.update(tasks[what], completed=done, total=total)

    return progress, report


@app.command()
def versions(
    table: TableName,
    limit: Annotated[int, typer.Option(min=1, help="how many, newest first")] = 20,
    config: Config = None,
) -> None:
    """What each version of a table is: when, which run, which sessions, how many rows, from which inputs."""
    platform = _open(config)
    from qdag.maintenance import check_tables, protected_versions
    from qdag.store.versions import versions as table_versions

    check_tables(platform, [table])
    protected = protected_versions(platform.settings).get(table, set())
    rows = []
    for v in table_versions(platform.store, table, limit):
        notes = [f"of version {v.provenance['restored_version']}"] if "restored_version" in v.provenance else []
        notes += ["read by a model"] if v.version in protected else []
        notes += [v.provenance["reason"]] if "reason" in v.provenance else []
        notes += [] if v.readable else ["files gone"]
        rows.append(
            [
                v.version,
                f"{v.time:%Y-%m-%d %H:%M:%S}",
                v.operation,
                v.universe or "",
                (f"{v.start} .. {v.end}" if v.start else "") + (f" {v.match}" if v.match else ""),
                "" if v.rows is None else f"{v.rows:,}",
                (v.run or "")[:8],
                v.provenance.get("definition_version", ""),
                ", ".join(f"{name} {version}" for name, version in sorted(v.inputs.items())),
                ", ".join(notes),
            ]
        )
    heading = ["version", "time (UTC)", "operation", "universe", "sessions replaced", "rows", "run", "definition"]
    _print(screen(), [*heading, "inputs", "note"], rows, right=("version", "rows"))


@app.command()
def diff(
    table: TableName,
    first: Annotated[int, typer.Argument(min=0, help="the older version", metavar="V1")],
    second: Annotated[int, typer.Argument(min=0, help="the newer version", metavar="V2")],
    universe: Universe = None,
    cells: Annotated[int, typer.Option(min=0, max=10_000, help="show so many changed cells")] = 10,
    top: Annotated[int, typer.Option(min=1, help="show so many instruments and columns, most changed first")] = 10,
    config: Config = None,
) -> None:
    """Rows added, changed and removed between two versions, by instrument and by column."""
    platform = _open(config)
    from qdag.maintenance import check_tables
    from qdag.store.diff import diff as difference

    check_tables(platform, [table])
    found = difference(platform.store, table, first, second, universe, cells)
    console = screen()
    typer.echo(
        f"{table} {first} -> {second}: {found.added:,} rows added, {found.changed:,} changed, {found.removed:,} removed"
        f" ({found.compared} universe-months compared, {found.skipped} with the same files)"
    )
    if found.new_columns or found.lost_columns:
        typer.echo(f"columns: new {found.new_columns or 'none'}, lost {found.lost_columns or 'none'}")
    if found.groups:
        most = sorted(found.groups.items(), key=lambda item: (-sum(item[1]), item[0]))
        rows = [[name, *(f"{n:,}" for n in counts)] for name, counts in most[:top]]
        heading = ["instrument" if "instrument" in platform.store.keys(table) else platform.store.keys(table)[-1]]
        _print(console, [*heading, "added", "changed", "removed"], rows, right=("added", "changed", "removed"))
        _rest(len(most), top)
    if found.columns:
        columns = found.columns.most_common()
        _print(
            console, ["column", "changed cells"], [[c, f"{n:,}"] for c, n in columns[:top]], right=("changed cells",)
        )
        _rest(len(columns), top)
    if found.cells:
        rows = [[*c.key.values(), c.column, c.before, c.after] for c in found.cells]
        _print(console, [*found.cells[0].key, "column", f"version {first}", f"version {second}"], rows)


def _rest(count: int, shown: int) -> None:
    if count > shown:
        typer.echo(f"... and {count - shown} more")


@app.command()
def restore(
    table: TableName,
    version: Annotated[int, typer.Argument(min=0, help="version whose contents come back")],
    config: Config = None,
) -> None:
    """Make an old version's contents the newest, in a new commit; all universes of the table."""
    platform = _open(config)
    from qdag.maintenance import restore as restore_version

    made = restore_version(platform, table, version)
    typer.echo(f"{table}: version {made} has the contents of version {version}")
    if table == "raw_ohlcv":
        typer.echo("the Qlib directories and all tables after raw_ohlcv still hold the other values: materialize them")


@app.command()
def vacuum(
    tables: TableNames = None,
    keep_versions: Annotated[int | None, typer.Option(min=1, help="instead of retention.versions")] = None,
    keep_days: Annotated[float | None, typer.Option(min=0, help="instead of retention.days")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be deleted")] = False,
    config: Config = None,
) -> None:
    """Delete files that no kept version needs. Versions that registered models read are always kept."""
    platform = _open(config)
    from qdag.maintenance import vacuum as apply_retention

    done = apply_retention(platform, tables, keep_versions, keep_days, dry_run)
    rows: list[list[object]] = [[e.table, len(e.files), _size(e.size), _numbers(e.kept)] for e in done]
    what = "files to delete" if dry_run else "files deleted"
    _print(screen(), ["table", what, "size", "readable versions"], rows, right=(what, "size"))
    for e in done:
        if e.broken:
            typer.echo(f"{e.table}: a model read version {_numbers(e.broken)}, which lost files; see qdag data verify")


@app.command()
def compact(tables: TableNames = None, config: Config = None) -> None:
    """Merge small files; contents stay the same. Reading is faster afterwards; `vacuum` frees the space."""
    platform = _open(config)
    from qdag.maintenance import compact as merge

    rows: list[list[object]] = [[name, *counts] for name, counts in merge(platform, tables).items()]
    _print(screen(), ["table", "files before", "files after"], rows, right=("files before", "files after"))


@app.command()
def verify(
    tables: TableNames = None,
    repair: Annotated[bool, typer.Option("--repair", help="compute the lost sessions again")] = False,
    source: Annotated[
        str | None, typer.Option("--from", help="with --repair: take files from this backup target where it has them")
    ] = None,
    config: Config = None,
) -> None:
    """Read every stored file and compare it with the log and its checksum; exit code 1 if something is damaged."""
    platform = _open(config)
    from qdag.maintenance import lost_sessions, verify_tables
    from qdag.maintenance import repair as repair_damage

    console = screen()
    found = verify_tables(platform, tables)
    heading = ["table", "version", "files", "size", "rows", "checksum equal or new", "damaged"]
    rows: list[list[object]] = [
        [
            v.table,
            "" if v.version is None else v.version,
            v.files,
            _size(v.size),
            f"{v.rows:,}",
            f"{v.with_checksum} + {v.recorded}",
            len(v.damage) or "",
        ]
        for v in found
    ]
    _print(console, heading, rows, right=tuple(heading[1:]))
    damage = [d for v in found for d in v.damage]
    for d in damage:
        where = f"  {d.universe} {d.month}, {d.rows:,} rows of {d.first} .. {d.last}" if d.universe else ""
        older = f" (needed by version {d.version} only)" if d.kind == "data" and not d.newest else ""
        console.print(f"DAMAGED {d.table}/{d.file}: {d.problem}{older}", markup=False, highlight=False, soft_wrap=True)
        if where:
            console.print(where, markup=False, highlight=False)
    if not damage:
        return
    if repair and source:
        from qdag.store.backup import heal

        healed = heal(platform.store, source, damage)
        damage = [d for d in damage if d not in healed]
        typer.echo(f"{len(healed)} files came back from {source}, byte by byte")
    for (table, universe), sessions in lost_sessions(platform, damage).items():
        typer.echo(f"{table} of {universe}: {len(sessions)} sessions to compute again")
    if not repair:
        typer.echo("`qdag data verify --repair` computes them again, with `--from TARGET` as far as no backup has them")
        raise typer.Exit(FAILED)
    made = repair_damage(platform, damage)
    for text in made.dropped:
        typer.echo(text)
    for done in made.computed:
        change = "as before" if done.rows_before == done.rows_after else f"before {done.rows_before:,}"
        typer.echo(
            f"repaired {done.table} of {done.universe}: {len(done.sessions)} sessions {done.sessions[0]} .. "
            f"{done.sessions[-1]}; {done.rows_after:,} rows, {change}"
        )
    for one, reason in made.left:
        typer.echo(f"not repaired: {one.table}/{one.file}: {reason}")
    if made.left:
        raise typer.Exit(FAILED)


@app.command("backup")
def backup_tables(
    target: Target,
    show: Annotated[bool, typer.Option("--list", help="only list the backups that are there")] = False,
    config: Config = None,
) -> None:
    """Copy all tables, as they are at one moment, to another folder or object store; only what is new is copied."""
    console = screen()
    if show:
        from qdag.store.backup import backups

        rows: list[list[object]] = [
            [b.id, f"{b.created:%Y-%m-%d %H:%M:%S}", len(b.versions), b.files, _size(b.size)] for b in backups(target)
        ]
        _print(console, ["backup", "time (UTC)", "tables", "files", "size"], rows, right=("tables", "files", "size"))
        return
    platform = _open(config)
    from qdag.maintenance import back_up

    progress, report = _progress(console)
    with progress:
        made = back_up(platform, target, report)
    rows = [[name, version, _numbers(made.readable[name])] for name, version in made.versions.items()]
    _print(console, ["table", "version", "readable versions"], rows, right=("version",))
    typer.echo(
        f"backup {made.id}: {made.files:,} files, {_size(made.size)}; {made.copied:,} new, {_size(made.copied_size)} "
        f"copied\nQlib directories are derived (qdag materialize qlib_bin); MLflow's store is not part of it"
    )


@app.command("restore-backup")
def restore_backup(
    source: Target,
    tables: Annotated[list[str] | None, typer.Option("--table", help="only these tables; repeat for more")] = None,
    backup_id: Annotated[str | None, typer.Option("--backup", help="which backup; the newest by default")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace tables that are stored already")] = False,
    config: Config = None,
) -> None:
    """Bring tables back from a backup: the same rows, versions and history."""
    platform = _open(config)
    from qdag.store.backup import restore_backup as bring_back

    console = screen()
    progress, report = _progress(console)
    with progress:
        made = bring_back(platform.store, source, backup_id, tables, force, report)
    _print(console, ["table", "version"], [[n, v] for n, v in made.versions.items()], right=("version",))
    typer.echo(
        f"restored {made.files:,} files, {_size(made.size)} of backup {made.id} into {Path(platform.store.root)}\n"
        "Qlib directories are derived: qdag materialize qlib_bin"
    )
