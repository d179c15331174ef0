"""Running assets with progress in the terminal, and telling how they came out."""

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from qdag.cli.console import progress, show_table

if TYPE_CHECKING:
    from rich.console import Console

    from qdag.assets.platform import Report
    from qdag.defs.launch import Launched
    from qdag.settings import Settings

KERNELS = "kernels"


def run_assets(
    console: "Console",
    settings: "Settings",
    universe: str,
    *,
    start: date | None = None,
    end: date | None = None,
    assets: list[str] | None = None,
    months: int = 0,
    instruments: Sequence[str] | None = None,
    accepted: Sequence[str] = (),
    reason: str = "",
) -> "Launched":
    """Materialize assets as one run, with progress, and print what each wrote and what failed.

    The parameters are those of ``defs.launch.launch``.
    """
    from rich.progress import TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
        TextColumn("{task.fields[rows]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[memory]}"),
    )
    with progress(console, 22, *columns) as show:
        show("loading", 0, 1, unit="", rows="", memory="")
        _quiet()
        from qdag.assets.chain import chain
        from qdag.core.resources import memory_mib
        from qdag.defs.launch import launch

        units = {asset.name: asset.unit for asset in chain(settings)} | {KERNELS: "compiled"}

        def report(asset: str, done: int, total: int, rows: int) -> None:
            unit, memory = units[asset], f"{memory_mib():,.0f} MiB"
            show(asset, done, total, unit=unit, rows=f"{rows:,} rows" if rows else "", memory=memory)

        show("loading", 1, 1)
        if assets is None:
            _load_kernels(report)
        outcome = launch(settings, universe, start, end, assets, months, report, instruments, accepted, reason)
    _show_assets(console, outcome)
    _show_failures(console, outcome)
    return outcome


def _load_kernels(report: "Report") -> None:
    """Compile what the whole chain needs and the cache lacks: for a minute in which nothing else would move."""
    import qdag.engine
    import qdag.factors.kernels  # noqa: F401
    from qdag.engine.kernels.flags import load_all

    load_all(lambda done, total: report(KERNELS, done, total, 0))


def _quiet() -> None:
    """Keep the libraries' own console logs out of the progress display; Dagster's are in its UI."""
    import logging

    for name in ("dagster", "mlflow", "alembic", "qdag"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _show_assets(console: "Console", outcome: "Launched") -> None:
    """What each asset wrote and what it took, where the rest of the time went, and what there is to know of it."""
    numbers = ("rows", "instruments", "sessions", "empty cells", "compute s", "checks s", "peak MiB")
    rows = []
    computing = checking = 0.0
    for name, seen in outcome.assets.items():
        computing += seen.get("seconds", 0.0)
        checking += seen.get("check_seconds", 0.0)
        rows.append(
            (
                name,
                f"{next((seen[k] for k in ('rows', 'training_rows') if k in seen), 0):,}",
                str(seen.get("instruments", seen.get("training_instruments", ""))),
                str(seen.get("sessions", "")),
                f"{seen['window_nan_share']:.2%}" if "window_nan_share" in seen else "",
                f"{seen.get('seconds', 0.0):.1f}",
                f"{seen.get('check_seconds', 0.0):.1f}",
                f"{seen.get('peak_mib', 0.0):,.0f}",
            )
        )
    show_table(console, ["asset", *numbers], rows, right=numbers)
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


def _show_failures(console: "Console", outcome: "Launched") -> None:
    """Checks that did not pass, with what was seen, and the errors of failed steps."""
    for check in outcome.checks:
        if not check.passed:
            console.print(f"  {check.severity}: {check.asset} / {check.check}")
            for line in check.description.splitlines():
                console.print(f"    {line}")
    for error in outcome.errors:
        console.print(error, style="red")
