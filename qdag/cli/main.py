"""The commands by name, and how errors leave. Exit codes: 0 done; 1 a run or a check failed; 2 bad input, explained in
one paragraph.

A command is a plain function of its module; the tables below register it, in the order of ``qdag --help``. What a
command needs beyond its options is imported when it runs: help has to be there at once.
"""

import sys
from collections.abc import Callable, Mapping

import typer

from qdag.cli import alerts, backup, data, features, look, run, server, settings
from qdag.cli.console import BAD_INPUT

COMMANDS: dict[str, Callable[..., None]] = {
    "assets": look.assets,
    "features": features.features,
    "explain": features.explain,
    "init": settings.init,
    "settings": settings.settings,
    "plan": run.plan,
    "stale": look.stale,
    "refresh": run.refresh,
    "retry-failed": run.retry_failed,
    "accept": run.accept,
    "backfill": run.backfill,
    "demo": run.demo,
    "materialize": run.materialize,
    "status": look.status,
    "verify-bin": look.verify_bin,
    "show": look.show,
    "top": look.top,
    "models": look.models,
    "pools": look.pools,
    "report": look.report,
    "doctor": server.doctor,
    "up": server.up,
    "compile": server.compile_kernels,
    "webserver": server.webserver,
}
"""``qdag NAME``."""
ALERTS: dict[str, Callable[..., None]] = {
    "test": alerts.try_targets,
    "list": alerts.list_alerts,
}
"""``qdag alerts NAME``."""
DATA: dict[str, Callable[..., None]] = {
    "versions": data.versions,
    "diff": data.diff,
    "restore": data.restore,
    "vacuum": data.vacuum,
    "compact": data.compact,
    "verify": data.verify,
    "backup": backup.backup,
    "restore-backup": backup.restore_backup,
    "show": look.show,
}
"""``qdag data NAME``."""


def _group(about: str, commands: Mapping[str, Callable[..., None]]) -> typer.Typer:
    group = typer.Typer(
        help=about,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        # click names the nearest command by itself
        suggest_commands=False,
        pretty_exceptions_enable=False,
    )
    for name, command in commands.items():
        group.command(name)(command)
    return group


app = _group(
    "Market files in; versioned, checked, point-in-time features, factor metrics and tracked models out.", COMMANDS
)
"""The whole command."""
data_app = _group("Versions and upkeep of the stored tables.", DATA)
"""``qdag data`` alone."""
app.add_typer(_group("Alerts: try the targets, see what was raised.", ALERTS), name="alerts")
app.add_typer(data_app, name="data")


def main() -> None:
    """Run the command; errors that qdag raises on purpose become one paragraph and exit code 2."""
    try:
        app()
    except Exception as error:
        from qdag.errors import QdagError
        from qdag.server.home import refused

        told = str(error) if isinstance(error, QdagError) else refused(error)
        if not told:
            raise
        from rich.console import Console

        Console(stderr=True).print("error:", told, style="red", markup=False, highlight=False)
        sys.exit(BAD_INPUT)
