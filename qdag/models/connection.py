"""The way to MLflow's store: its address, who is asked for, one process at a time that creates it, the experiment."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from qdag.errors import SettingsError, StoreError
from qdag.models.relocation import other_homes, relocate, sqlite_path
from qdag.settings import Settings
from qdag.store.files import locked

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOGIN_REMEDY = (
    "set mlflow.tracking_uri, or QDAG_MLFLOW__TRACKING_URI, to http://USER:PASSWORD@HOST:PORT of somebody it knows; "
    "in the password write %40 for @, %2F for / and %25 for %"
)
_opened: set[str] = set()
_lock = threading.RLock()


@contextmanager
def connected(settings: Settings) -> Iterator["MlflowClient"]:
    """A client, with MLflow's process-wide address pointing at the settings' store only inside the block.

    A :class:`SettingsError` where the server refuses the user or the password, whatever the block asks of it.
    """
    # read by MLflow on import: no usage reports, no complaint about a missing git, no progress of its own
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    with _lock:
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
        mlflow.set_tracking_uri(_address(settings))
        try:
            yield open_store(settings)
        except Exception as error:
            if login_refused(error):
                raise _login_error(settings) from None
            raise
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]


def login_refused(error: Exception) -> bool:
    """Whether MLflow's server asked for another user and password: by its client, or by a download of its files."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() == HTTPStatus.UNAUTHORIZED
    return getattr(getattr(error, "response", None), "status_code", None) == HTTPStatus.UNAUTHORIZED


def _login_error(settings: Settings) -> SettingsError:
    """Without the server's answer, which holds nothing but a page, and without the password."""
    uri, user, _ = apart(settings.tracking_uri)
    told = f"user {user!r} with the password of the address" if user else "requests without a user"
    return SettingsError(f"MLflow at {uri} refuses {told}; {LOGIN_REMEDY}")


def apart(uri: str) -> tuple[str, str, str]:
    """A server's address without user and password, and these; of any other store the address as it is and nothing."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return uri, "", ""
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return plain, unquote(parts.username or ""), unquote(parts.password or "")


def _address(settings: Settings) -> str:
    """The store's address for MLflow; a server's user and password apart, for MLflow's errors repeat the address."""
    uri, user, password = apart(settings.tracking_uri)
    if user or password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = user
        os.environ["MLFLOW_TRACKING_PASSWORD"] = password
    return uri


def open_store(settings: Settings) -> "MlflowClient":
    """A client. An SQLite store is created or migrated by one process at a time: two at once would fail half-way."""
    from mlflow import MlflowClient

    uri = _address(settings)
    path = sqlite_path(uri)
    if path is None or (uri in _opened and path.exists()):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    if path.exists() and not os.access(path.parent, os.W_OK):
        # models can be read from a home that cannot be written
        if others := other_homes(settings):
            raise StoreError(
                f"MLflow's store {uri} was moved or copied from {', '.join(others)} and cannot be written, so its "
                f"addresses stay behind; make {str(path.parent)!r} writable once"
            )
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    with locked(path.with_suffix(".lock")):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        if settings.mlflow.tracking_uri is None:
            relocate(settings)
    _opened.add(uri)
    return client


def experiment_id(settings: Settings, client: "MlflowClient") -> str:
    """Id of the experiment; created with its artifacts under the data home where the store is the embedded one."""
    from mlflow.exceptions import MlflowException

    name = settings.mlflow.experiment
    # without a location of its own an SQLite store writes artifacts below the current directory
    location = settings.artifacts.as_uri() if settings.mlflow.tracking_uri is None else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            # without the kind, MLflow's UI opens the experiment as one of language models
            tags = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage == "deleted":
        raise StoreError(
            f"MLflow experiment {name!r} is deleted; restore it in MLflow or set another mlflow.experiment"
        )
    return str(found.experiment_id)


def prepare_store(settings: Settings) -> str:
    """Create or migrate MLflow's store and the experiment in it; returns the experiment's id."""
    with connected(settings) as client:
        return experiment_id(settings, client)
