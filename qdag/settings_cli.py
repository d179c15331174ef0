"""``qdag settings``: what can be set, and what is."""

from typing import Annotated

import typer

from qdag.terminal import Config, screen


def settings_command(
    key: Annotated[str, typer.Argument(help="only keys that contain this text")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="every key, as docs/settings.md has it")] = False,
    config: Config = None,
) -> None:
    """Show the settings in effect with their meaning; docs/settings.md has all that can be set."""
    from qdag import settings_reference as reference

    if markdown:
        typer.echo(reference.markdown(), nl=False)
        return
    from qdag.errors import unknown
    from qdag.settings import load_settings
    from qdag.terminal import plain_table

    found = list(reference.in_effect(load_settings(config)))
    chosen = [row for row in found if key in row[0]]
    if not chosen:
        raise unknown("setting", key, [row[0] for row in found])
    table = plain_table("setting", "value", "meaning")
    for row in chosen:
        table.add_row(*row)
    screen().print(table)
