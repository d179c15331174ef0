"""``qdag alerts``: try the targets, and see what was raised and where it went."""

from typing import Annotated

import typer

from qdag.cli.console import FAILED, Config


def try_targets(config: Config = None) -> None:
    """Send a test message to every target; exit code 1 if one fails, 2 if there is none."""
    from qdag.alerts import send_test
    from qdag.settings import load_settings

    results = send_test(load_settings(config))
    for name, why in results:
        typer.echo(f"{name}: {'sent' if why is None else f'FAILED: {why}'}")
    if any(why is not None for _, why in results):
        raise typer.Exit(FAILED)


def list_alerts(
    rows: Annotated[int, typer.Option(min=1, max=10_000, help="how many, newest first")] = 20,
    config: Config = None,
) -> None:
    """The newest alerts: what was seen, how often, and what became of it at each target."""
    from qdag.alerts import Outbox
    from qdag.settings import load_settings

    raised = Outbox(load_settings(config)).recent(rows)
    if not raised:
        typer.echo("no alert was raised; the sensors raise them while `qdag up` runs and they are on")
    for one in raised:
        again = f", seen {one.seen} times until {one.last_seen:%Y-%m-%d %H:%M}" if one.seen > 1 else ""
        typer.echo(f"{one.raised_at:%Y-%m-%d %H:%M} UTC  {one.alert.severity}  {one.alert.kind}{again}")
        for line in one.alert.text.splitlines():
            typer.echo(f"    {line}")
        for target, state in one.deliveries.items():
            typer.echo(f"    -> {target}: {state}")
        if not one.deliveries:
            typer.echo("    -> no target wanted it")
