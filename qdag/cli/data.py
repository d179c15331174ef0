"""``qdag data`` but for backups: versions of the tables, what differs between them, retention, damage (exit code 1)."""

from typing import Annotated

import typer

from qdag.cli.console import FAILED, Config, screen, show_table, stored_platform
from qdag.schema import RAW_OHLCV
from qdag.text import ranges, stored_size

TableName = Annotated[str, typer.Argument(help="table name", metavar="TABLE")]
"""Argument: one table."""
TableNames = Annotated[list[str] | None, typer.Argument(help="tables; all when none is named", metavar="[TABLE]...")]
"""Argument: some tables."""
Universe = Annotated[str | None, typer.Option("--universe", "-u", help="only this universe")]
"""Option: one universe of a table; all by default."""


def versions(
    table: TableName,
    limit: Annotated[int, typer.Option(min=1, help="how many, newest first")] = 20,
    config: Config = None,
) -> None:
    """What each version of a table is: when, which run, which sessions, how many rows, from which inputs."""
    platform = stored_platform(config)
    from qdag.views.versions import table_versions

    found = table_versions(platform, table, limit).astype(object)
    rows = []
    for v in found.where(found.notna(), None).to_dict("records"):
        replaced = [f"{v['start']:%Y-%m-%d} .. {v['end']:%Y-%m-%d}"] if v["start"] else []
        rows.append(
            [
                v["version"],
                f"{v['time']:%Y-%m-%d %H:%M:%S}",
                v["operation"],
                v["universe"],
                " ".join([*replaced, *([v["match"]] if v["match"] else [])]),
                "" if v["rows"] is None else f"{v['rows']:,}",
                v["run"][:8],
                v["definition"],
                v["inputs"],
                v["note"],
            ]
        )
    heading = ["version", "time (UTC)", "operation", "universe", "sessions replaced", "rows", "run", "definition"]
    show_table(screen(), [*heading, "inputs", "note"], rows, right=("version", "rows"))


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
    platform = stored_platform(config)
    from qdag.operations.upkeep import check_tables
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
        show_table(console, [*heading, "added", "changed", "removed"], rows, right=("added", "changed", "removed"))
        _more(len(most), top)
    if found.columns:
        columns = found.columns.most_common()
        show_table(
            console, ["column", "changed cells"], [[c, f"{n:,}"] for c, n in columns[:top]], right=("changed cells",)
        )
        _more(len(columns), top)
    if found.cells:
        rows = [[*c.key.values(), c.column, c.before, c.after] for c in found.cells]
        show_table(console, [*found.cells[0].key, "column", f"version {first}", f"version {second}"], rows)


def _more(count: int, shown: int) -> None:
    if count > shown:
        typer.echo(f"... and {count - shown} more")


def restore(
    table: TableName,
    version: Annotated[int, typer.Argument(min=0, help="version whose contents come back")],
    config: Config = None,
) -> None:
    """Make an old version's contents the newest, in a new commit; all universes of the table."""
    platform = stored_platform(config)
    from qdag.operations.upkeep import restore as restore_version

    made = restore_version(platform, table, version)
    typer.echo(f"{table}: version {made} has the contents of version {version}")
    if table == RAW_OHLCV.name:
        typer.echo("the Qlib directories and all tables after raw_ohlcv still hold the other values: materialize them")


def vacuum(
    tables: TableNames = None,
    keep_versions: Annotated[int | None, typer.Option(min=1, help="instead of retention.versions")] = None,
    keep_days: Annotated[float | None, typer.Option(min=0, help="instead of retention.days")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be deleted")] = False,
    config: Config = None,
) -> None:
    """Delete files that no kept version needs. Versions that registered models read are always kept."""
    platform = stored_platform(config)
    from qdag.operations.upkeep import vacuum as apply_retention

    done = apply_retention(platform, tables, keep_versions, keep_days, dry_run)
    rows: list[list[object]] = [[e.table, len(e.files), stored_size(e.size), ranges(e.kept)] for e in done]
    what = "files to delete" if dry_run else "files deleted"
    show_table(screen(), ["table", what, "size", "readable versions"], rows, right=(what, "size"))
    for e in done:
        if e.broken:
            typer.echo(f"{e.table}: a model read version {ranges(e.broken)}, which lost files; see qdag data verify")


def compact(tables: TableNames = None, config: Config = None) -> None:
    """Merge small files; contents stay the same. Reading is faster afterwards; `vacuum` frees the space."""
    platform = stored_platform(config)
    from qdag.operations.upkeep import compact as merge

    rows: list[list[object]] = [[name, *counts] for name, counts in merge(platform, tables).items()]
    show_table(screen(), ["table", "files before", "files after"], rows, right=("files before", "files after"))


def verify(
    tables: TableNames = None,
    repair: Annotated[bool, typer.Option("--repair", help="compute the lost sessions again")] = False,
    source: Annotated[
        str | None, typer.Option("--from", help="with --repair: take files from this backup target where it has them")
    ] = None,
    config: Config = None,
) -> None:
    """Read every stored file and compare it with the log and its checksum; exit code 1 if something is damaged."""
    platform = stored_platform(config)
    from qdag.operations.repair import lost_sessions
    from qdag.operations.repair import repair as repair_damage
    from qdag.operations.upkeep import verify_tables

    console = screen()
    found = verify_tables(platform, tables)
    heading = ["table", "version", "files", "size", "rows", "checksum equal or new", "damaged"]
    rows: list[list[object]] = [
        [
            v.table,
            "" if v.version is None else v.version,
            v.files,
            stored_size(v.size),
            f"{v.rows:,}",
            f"{v.with_checksum} + {v.recorded}",
            len(v.damage) or "",
        ]
        for v in found
    ]
    show_table(console, heading, rows, right=tuple(heading[1:]))
    damage = [d for v in found for d in v.damage]
    for d in damage:
        where = f"  {d.universe} {d.month}, {d.rows:,} rows of {d.first} .. {d.last}" if d.universe else ""
        older = f" (needed by version {d.version} only)" if d.kind == "data" and not d.newest else ""
        console.print(f"DAMAGED {d.table}/{d.file}: {d.problem}{older}", soft_wrap=True)
        if where:
            console.print(where)
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
