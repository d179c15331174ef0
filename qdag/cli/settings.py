"""``qdag init`` and ``qdag settings``: a first settings file, and what can be set."""

from pathlib import Path
from typing import Annotated

import typer

from qdag.cli.console import Config, screen, show_table


def init(
    folders: Annotated[list[Path], typer.Argument(help="folders of vendor files; each becomes a universe")],
    config: Annotated[Path, typer.Option("--config", help="the file to write")] = Path("qdag.toml"),
) -> None:
    """Look at folders of vendor files and write a commented settings file for them. Nothing else is written."""
    from qdag.errors import SettingsError
    from qdag.operations.draft import draft
    from qdag.settings import load_settings

    if config.exists():
        raise SettingsError(f"{config} exists and is not overwritten; move it away, or name another with --config")
    text = draft(folders, config)
    try:
        with config.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SettingsError(f"{config} cannot be written: {error}; name another file with --config") from error
    settings = load_settings(config, {})
    typer.echo(text)
    given = f" --config {config}" if config != Path("qdag.toml") else ""
    typer.echo(f"written to {config}; have a look at it, then:\n  qdag doctor{given}\n  qdag plan{given}")
    for name in settings.universes:
        typer.echo(f"  qdag materialize --universe {name}{given}")


def settings(
    key: Annotated[str, typer.Argument(help="only keys that contain this text")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="every key, as docs/settings.md has it")] = False,
    config: Config = None,
) -> None:
    """Show the settings in effect with their meaning; docs/settings.md has all that can be set."""
    from qdag.settings import reference

    if markdown:
        typer.echo(reference.markdown(), nl=False)
        return
    from qdag.errors import unknown
    from qdag.settings import load_settings

    found = list(reference.in_effect(load_settings(config)))
    chosen = [row for row in found if key in row[0]]
    if not chosen:
        raise unknown("setting", key, [row[0] for row in found])
    show_table(screen(), ["setting", "value", "meaning"], chosen)
