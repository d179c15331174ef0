"""Commands that compute: the chain on the embedded data, assets over a range, and exactly what is new or stale."""

from typing import TYPE_CHECKING, Annotated

import typer

from qdag.cli.console import (
    FAILED,
    Config,
    Day,
    Universe,
    day_of,
    open_platform,
    open_settings,
    screen,
    show_frame,
    show_table,
    universe_name,
    universe_names,
)
from qdag.cli.outcome import run_assets
from qdag.schema import RAW_OHLCV
from qdag.text import duration, size

if TYPE_CHECKING:
    from rich.console import Console

    from qdag.assets.platform import Platform
    from qdag.defs.launch import Launched
    from qdag.operations.failed import Failed
    from qdag.operations.forecast import Forecast
    from qdag.operations.survey import Request
    from qdag.settings import Settings

Assets = Annotated[str | None, typer.Option("--assets", help="comma-separated; all by default")]
"""Option: some assets."""


def demo(config: Config = None) -> None:
    """Run the whole chain on the embedded data and say what to open."""
    platform, console = open_platform(config), screen()
    settings = platform.settings
    universe = "sample" if "sample" in settings.universes else next(iter(settings.universes))
    spec = settings.universe(universe)
    console.print(f"Materializing universe {universe} ({spec.start} .. {spec.end}) into {settings.home}\n")
    outcome = run_assets(console, settings, universe, months=3)
    if not outcome.success:
        raise typer.Exit(FAILED)
    _show_results(console, platform, universe, outcome)
    console.print(
        "\nWhat to open next:\n"
        "  qdag up (or make up), then\n"
        f"    {settings.dagster.ui_url}/asset-groups   the asset graph, checks and metadata\n"
        f"    {settings.mlflow.ui_url}   the training runs and the registered models\n"
        "  qdag show factor_metrics   a look at a table;  qdag status   what is there\n"
    )


def _show_results(console: "Console", platform: "Platform", universe: str, outcome: "Launched") -> None:
    """The best factors, and the model's metrics."""
    from qdag.assets.chain import chain
    from qdag.views.stored import best_factors

    horizon = platform.settings.training_for(universe).horizon
    best = best_factors(platform, universe, horizon)
    console.print(f"\nTop factors by |mean RankIC|, horizon {horizon}:")
    show_frame(console, best)
    trained = [outcome.assets[asset.name] for asset in chain(platform.settings).months if asset.name in outcome.assets]
    model = trained[0] if trained else {}
    console.print(f"\nModel {model.get('model')}, trained on {model.get('training_date')}, {model.get('mlflow_run')}")
    for segment in ("valid", "test"):
        metrics = {name: model.get(f"{segment}_{name}") for name in ("ic", "rank_ic", "icir", "rank_icir")}
        shown = "  ".join(f"{k} {v:+.4f}" if v is not None else f"{k} undefined" for k, v in metrics.items())
        console.print(f"  {segment:<6}{shown}")


def materialize(
    assets: Annotated[list[str] | None, typer.Argument(help="assets to materialize; all when none is named")] = None,
    universe: Universe = None,
    start: Day = None,
    end: Day = None,
    months: Annotated[int, typer.Option(min=0, help="train at the last so many month ends of the range")] = 3,
    config: Config = None,
) -> None:
    """Materialize assets of one universe over a range of sessions, as one run."""
    settings = open_settings(config)
    name = universe_name(settings, universe)
    if not run_assets(
        screen(), settings, name, start=day_of(start), end=day_of(end), assets=assets, months=months
    ).success:
        raise typer.Exit(FAILED)


def plan(
    universe: Universe = None,
    months: Annotated[int, typer.Option(min=0, help="train at the last so many month ends")] = 3,
    config: Config = None,
) -> None:
    """What materializing what is new and refreshing what is stale would do: sessions, rows, time, size. Computes
    nothing."""
    import shutil

    from qdag.operations.forecast import forecast

    platform, console = open_platform(config), screen()
    settings = platform.settings
    seconds, large = 0.0, 0
    for name in universe_names(settings, universe):
        told = forecast(platform, name, months)
        seconds, large = seconds + told.seconds, large + told.bytes
        _show_forecast(console, name, told)
    if large:
        free = shutil.disk_usage(next(f for f in (settings.home, *settings.home.parents) if f.exists())).free
        console.print(f"in all about {duration(seconds)} and {size(large)}; {size(free)} are free")


def _show_forecast(console: "Console", name: str, told: "Forecast") -> None:
    """What a universe's next run would write, step by step, the command for it, and what has to wait."""
    console.print(f"{name}: {told.source}")
    if told.steps:
        numbers = ("sessions", "rows", "time", "size")
        rows = [
            (
                step.asset,
                f"{len(step.sessions):,}",
                step.sessions[0],
                step.sessions[-1],
                f"{step.rows:,}",
                duration(step.seconds),
                size(step.bytes),
                step.why,
            )
            for step in told.steps
        ]
        show_table(console, ["asset", "sessions", "first", "last", "rows", "time", "size", "why"], rows, right=numbers)
        whole = len(told.new) and len(told.steps[0].sessions) == len(told.new) and told.new_is_all
        span = "" if whole else f" --start {told.new[0]} --end {told.new[-1]}" if len(told.new) else ""
        command = "materialize" if len(told.new) else "refresh"
        console.print(f"  about {duration(told.seconds)}, {size(told.bytes)}: qdag {command} --universe {name}{span}")
    else:
        console.print("  everything is up to date")
    if len(told.beyond):
        console.print(
            f"  the files end on {told.newest}: {len(told.beyond):,} sessions after it wait for new files, "
            f"or for end = {told.newest} in the settings"
        )
    for wait in told.blocked:
        console.print(f"  {wait}")


def refresh(universe: Universe = None, assets: Assets = None, config: Config = None) -> None:
    """Read files that changed, and compute exactly what is stale, in the order of the chain. No model is trained."""
    from qdag.assets.chain import chain
    from qdag.operations.survey import survey
    from qdag.views.stale import unread_files

    platform = open_platform(config)
    settings = platform.settings
    name = universe_name(settings, universe)
    shown, chosen = screen(), _assets(settings, assets)
    files, trouble = unread_files(platform, name) if chosen is None or RAW_OHLCV.name in chosen else (None, "")
    if trouble:
        typer.echo(trouble)
    if files and len(files.sessions):
        typer.echo(f"{RAW_OHLCV.name}: {files.reason}")
        start, end = files.sessions[0].item(), files.sessions[-1].item()
        if not run_assets(shown, settings, name, start=start, end=end, assets=[RAW_OHLCV.name]).success:
            raise typer.Exit(FAILED)
    _refresh(shown, platform, name, chosen)
    if not len(platform.stored(RAW_OHLCV.name, name)):
        typer.echo(f"no bars of {name} are stored yet; to store them: qdag materialize --universe {name}")
        return
    seen = survey(platform, name, chosen).stale
    models = next((seen[asset.name] for asset in chain(settings).months if seen.get(asset.name)), None)
    if not models:
        typer.echo("everything is up to date")
        return
    days = models.sessions
    ends = platform.calendar(name).month_ends()
    months = int(((ends >= days[0]) & (ends <= days[-1])).sum())
    typer.echo(
        f"everything is up to date but the models of {', '.join(map(str, days))}, which were trained on what changed "
        f"since; to train them again: qdag materialize {models.asset} --universe {name} --start {days[0]} "
        f"--end {days[-1]} --months {months}"
    )


def _refresh(shown: "Console", platform: "Platform", name: str, chosen: list[str] | None) -> None:
    """Run what can run until nothing is left, and say what waits."""
    from qdag.operations.refresh import bring_up_to_date

    left = bring_up_to_date(
        platform, name, lambda request: _run_request(shown, platform.settings, name, request).success, chosen
    )
    for wait in left.blocked:
        typer.echo(str(wait))
    if not left.done:
        raise typer.Exit(FAILED)


def _run_request(shown: "Console", settings: "Settings", universe: str, request: "Request") -> "Launched":
    assets = list(request.assets)
    return run_assets(
        shown, settings, universe, start=request.start, end=request.end, assets=assets, reason=request.reason
    )


def retry_failed(universe: Universe = None, config: Config = None) -> None:
    """Ask again for the instruments that failed, for them alone, and compute what follows from their rows."""
    from qdag.operations.failed import failed_instruments

    platform = open_platform(config)
    settings = platform.settings
    name = universe_name(settings, universe)
    shown = screen()

    def listed() -> "list[Failed]":
        failed = failed_instruments(platform, name)
        if failed:
            rows = ((one.instrument, one.start, one.reason, one.detail[:80], one.source) for one in failed)
            show_table(shown, ["instrument", "from", "reason", "told", "source"], rows)
        return failed

    if not (failed := listed()):
        typer.echo("no instrument failed")
        return
    names = sorted({one.instrument for one in failed})
    last = platform.store.sessions(RAW_OHLCV.name, name)
    start = min(one.start for one in failed)
    end = max(last[-1].item(), start) if len(last) else None
    outcome = run_assets(shown, settings, name, start=start, end=end, assets=[RAW_OHLCV.name], instruments=names)
    if not outcome.success:
        raise typer.Exit(FAILED)
    _refresh(shown, platform, name, None)
    if still := listed():
        typer.echo(f"{len(still)} of {len(names)} failed again")
        raise typer.Exit(FAILED)


def accept(
    instruments: Annotated[list[str], typer.Argument(help="those whose stored rows may go")],
    universe: Universe = None,
    config: Config = None,
) -> None:
    """Take over deliveries that have less of an instrument than is stored, which are held back otherwise."""
    from qdag.errors import unknown
    from qdag.operations.failed import held_back

    platform = open_platform(config)
    settings = platform.settings
    name = universe_name(settings, universe)
    held = {one.instrument: one for one in held_back(platform, name)}
    for instrument in instruments:
        if instrument not in held:
            raise unknown(f"instrument held back in universe {name!r}", instrument, held)
        typer.echo(f"{instrument}: {held[instrument].detail}")
    days = platform.store.read(RAW_OHLCV.name, name, columns=["date"], instruments=instruments)["date"]
    shown = screen()
    start, end = days[0].as_py(), platform.last_session(name)
    outcome = run_assets(shown, settings, name, start=start, end=end, assets=[RAW_OHLCV.name], accepted=instruments)
    if not outcome.success:
        raise typer.Exit(FAILED)
    _refresh(shown, platform, name, None)


def backfill(
    start: Day = None,
    end: Day = None,
    universe: Universe = None,
    assets: Assets = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="sessions of one run; automation.chunk_sessions")] = None,
    again: Annotated[bool, typer.Option("--again", help="compute what is up to date too")] = False,
    config: Config = None,
) -> None:
    """Fill a range, one run per chunk of sessions; what is up to date is passed over: it resumes where it stopped."""
    from qdag.operations.backfill import backfill_chunks

    platform = open_platform(config)
    settings = platform.settings
    name = universe_name(settings, universe)
    shown = screen()
    first, last = day_of(start), day_of(end)
    sessions = chunk or settings.automation.chunk_sessions
    done = 0
    for part in backfill_chunks(platform, name, first, last, _assets(settings, assets), sessions, again):
        done += part.sessions
        head = f"{part.start} .. {part.end}  {done} of {part.total} sessions"
        if not part.assets:
            shown.print(f"{head}: up to date")
            continue
        shown.print(f"{head}: {', '.join(part.assets)}")
        outcome = run_assets(shown, settings, name, start=part.start, end=part.end, assets=list(part.assets))
        if not outcome.success:
            raise typer.Exit(FAILED)


def _assets(settings: "Settings", text: str | None) -> list[str] | None:
    from qdag.assets.chain import chain

    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [chain(settings)[name].name for name in names]
