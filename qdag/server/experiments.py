"""The MLflow UI on the embedded store of the data home, in one process: MLflow's own application, with two changes.

Its assistant, which runs programs of this machine for whoever reaches the server, is not offered. And a browser that
comes for the first time sees tables of models, instead of a chat about language models and notices of usage reports
that are off.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from qdag.models.connection import prepare_store
from qdag.server.guard import Application, Receive, Scope, Send
from qdag.settings import Settings, load_settings

ASSISTANT = "/ajax-api/3.0/mlflow/assistant"
# what MLflow's pages remember in the browser; a choice that was made there stays
_REMEMBERED: Mapping[str, object] = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
    "mlflow.settings.telemetry.enabled_v1": False,
}
_SCRIPT = """<script>
for (const [key, value] of Object.entries(%s))
  if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
if (!location.hash) history.replaceState(null, "", %s);
</script>"""


class Experiments:
    """MLflow's application without its assistant, and with the first page's choices made.

    Parameters
    ----------
    app : MLflow's ASGI application
    page : the HTML of all its pages
    first : the part after # of the page that is shown first
    """

    def __init__(self, app: Application, page: str, first: str):
        self._app = app
        head, tag, rest = page.partition("<head>")
        self._page = (head + tag + _SCRIPT % (json.dumps(_REMEMBERED), json.dumps(first)) + rest).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI has it."""
        if scope["type"] == "http" and scope["path"].startswith(ASSISTANT):
            await _answer(send, 403, b"text/plain", b"the assistant is not offered here\n")
        elif scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET":
            await _answer(send, 200, b"text/html; charset=utf-8", self._page)
        else:
            await self._app(scope, receive, send)


async def _answer(send: Send, status: int, kind: bytes, body: bytes) -> None:
    headers = [(b"content-type", kind), (b"cache-control", b"no-cache"), (b"x-content-type-options", b"nosniff")]
    headers += [(b"x-frame-options", b"SAMEORIGIN"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def experiments(settings: Settings) -> Experiments:
    """The application on the embedded store, which is created, migrated and in its place."""
    # by one process at a time: two that migrate at once fail half-way, and MLflow's own server would not wait
    experiment = prepare_store(settings)
    from mlflow.server import constants
    from mlflow.server.handlers import initialize_backend_stores

    # what `mlflow server` tells the processes that it starts; read when the application is imported
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: settings.tracking_uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: settings.tracking_uri,
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: str(settings.artifacts),
    }
    initialize_backend_stores(settings.tracking_uri, settings.tracking_uri, "mlflow-artifacts:/")
    from mlflow.server import app as flask
    from mlflow.server.fastapi_app import app

    first = "#" + settings.mlflow.runs_url(experiment).partition("#")[2]
    return Experiments(app, (Path(str(flask.static_folder)) / "index.html").read_text("utf-8"), first)


def main(host: str, port: str) -> None:
    """Serve until interrupted."""
    app = experiments(load_settings())
    import mlflow.server
    import uvicorn

    logs = Path(mlflow.server.__file__).with_name("uvicorn_log_config.yaml")
    uvicorn.run(app, host=host, port=int(port), log_config=str(logs), access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
