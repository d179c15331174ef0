"""The Dagster UI of a workspace, behind the guard: Dagster's own application, which must be wrapped to be guarded."""

import logging
from collections.abc import Sequence

from qdag.server.guard import LOOPBACK, Guard
from qdag.settings import Settings


def allowed_hosts(settings: Settings) -> tuple[str, ...]:
    """Names under which the UI answers: this machine's own, that of ``dagster.ui_url``, and those that are set."""
    from urllib.parse import urlsplit

    linked = urlsplit(settings.dagster.ui_url).netloc.rpartition("@")[2]
    name = linked if linked.endswith("]") else linked.rsplit(":", 1)[0]
    return tuple(dict.fromkeys((*LOOPBACK, *((name,) if name else ()), *settings.dagster.allowed_hosts)))


def serve_ui(settings: Settings, workspace: Sequence[str], host: str, port: int, read_only: bool = False) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    workspace : files that name the code locations, as ``dagster-webserver --workspace`` takes them
    read_only : nothing can be started or changed
    """
    import uvicorn
    from dagster import DagsterInstance
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget
    from dagster._utils.log import configure_loggers
    from dagster_webserver import cli, version
    from dagster_webserver.app import create_app_from_workspace_process_context

    configure_loggers(log_level="INFO")
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(
            cli.DEFAULT_DB_STATEMENT_TIMEOUT, cli.DEFAULT_POOL_RECYCLE, cli.DEFAULT_POOL_MAX_OVERFLOW
        )
        target = WorkspaceFileTarget(paths=list(workspace))
        with WorkspaceProcessContext(instance, target, version=version.__version__, read_only=read_only) as context:
            app = create_app_from_workspace_process_context(context, live_data_poll_rate=2000)
            logging.getLogger("dagster-webserver").info("Serving the UI on http://%s:%s", host, port)
            uvicorn.run(Guard(app, allowed_hosts(settings)), host=host, port=port, log_level="warning")
