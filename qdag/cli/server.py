"""Commands for the machine: what is on it, its kernels, and the servers that run on it."""

from typing import Annotated

import typer

from qdag.cli.console import FAILED, Config, open_settings, screen, show_table


def doctor(config: Config = None) -> None:
    """What is available on this machine, and what to do about what is not."""
    from qdag.server.doctor import examine

    findings = list(examine(config))
    rows = (("ok" if one.ok else "!!", one.part, one.found, one.remedy) for one in findings)
    show_table(screen(), ["", "part", "found", "what to do"], rows)
    if not all(one.ok for one in findings):
        raise typer.Exit(FAILED)


def up(
    port: Annotated[int, typer.Option(help="Dagster UI")] = 3000,
    mlflow_port: Annotated[int, typer.Option(help="MLflow UI")] = 5000,
    automate: Annotated[
        bool, typer.Option("--automate", help="sensors and schedules on, unless stopped in the UI")
    ] = False,
    config: Config = None,
) -> None:
    """Serve the Dagster UI with its daemon, and the MLflow UI, until interrupted."""
    settings = open_settings(config)
    from qdag.server.up import serve

    raise typer.Exit(serve(settings, port, mlflow_port, typer.echo, automate))


def compile_kernels() -> None:
    """Compile all kernels into numba's cache now (NUMBA_CACHE_DIR), as images do, instead of in the first run."""
    import qdag.engine
    import qdag.factors.kernels  # noqa: F401
    from qdag.engine.kernels.flags import load_all

    typer.echo(f"{load_all()} kernels are compiled")


def webserver(
    workspace: Annotated[list[str], typer.Argument(help="workspace files that name the code locations")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 3000,
    read_only: Annotated[bool, typer.Option("--read-only", help="nothing can be started or changed")] = False,
    config: Config = None,
) -> None:
    """Serve the Dagster UI alone, for the host names of the settings; `qdag up` and the containers start it."""
    settings = open_settings(config)
    from qdag.server.webserver import serve_ui

    serve_ui(settings, workspace, host, port, read_only)
