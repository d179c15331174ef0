"""MLflow behind its login: who is named in the address of the settings gets in, everybody else is told what to do."""

import os
import sys
import time
import urllib.error
import urllib.request
from datetime import date
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from conftest import SESSIONS, make_settings

from qdag.errors import SettingsError
from qdag.models import connection, tracking
from qdag.models.training import train
from qdag.server.doctor import examine
from qdag_tests import servers

COMPOSE = Path(__file__).resolve().parents[2] / "docker-compose.yml"
USER, PASSWORD = "qdag", "p@ss/of%20 letters"
DAY = date(2011, 3, 31)


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """A server started as docker-compose.yml starts it, on SQLite."""
    pytest.importorskip("flask_wtf")
    folder = tmp_path_factory.mktemp("server")
    logins = yaml.safe_load(COMPOSE.read_text("utf-8"))["configs"]["logins"]["content"]
    (folder / "auth.ini").write_text(logins.replace("/data/", f"{folder}/"))
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "any",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    number = servers.free_port()
    options = ["--app-name=basic-auth", "--host=127.0.0.1", f"--port={number}", "--workers=1"]
    stores = [f"--backend-store-uri=sqlite:///{folder}/mlflow.db", f"--artifacts-destination={folder}/artifacts"]
    with (folder / "log").open("w") as log:
        server = servers.start(["mlflow", "server", *options, *stores], folder, log, environ)
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{number}/health", timeout=1).close()
                    break
                except OSError:
                    assert server.poll() is None, (folder / "log").read_text()
                    time.sleep(0.1)
            yield number
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture
def reached(port, tmp_path, monkeypatch):
    """Settings with the server's address and somebody in it."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        # restored afterwards, whatever a connection sets
        monkeypatch.setenv(name, "")

    def settings(login):
        made = make_settings(tmp_path)
        address = {"tracking_uri": f"http://{login}127.0.0.1:{port}"}
        return made.model_copy(update={"mlflow": made.mlflow.model_copy(update=address)})

    return settings


def test_who_is_named_in_the_address_trains_and_loads(reached, store):
    settings = reached(f"{USER}:{quote(PASSWORD, safe='')}@")
    tracked = tracking.track(settings, train(settings, store, "toy", DAY, SESSIONS))
    [known] = tracking.registered_models(settings, "toy")
    assert known.run_id == tracked.run_id
    assert tracking.load(settings, known).booster.num_feature() == len(known.features["alpha158"])
    # a password that is changed meanwhile is no reason to train again
    with pytest.raises(SettingsError, match=r"refuses user 'qdag'"):
        tracking.load(reached(f"{USER}:of-before@"), known)


@pytest.mark.parametrize(
    ("login", "told"),
    [(f"{USER}:hunter%402@", "user 'qdag' with the password"), ("", "requests without a user")],
)
def test_a_refused_login_says_what_to_set_and_no_password(reached, login, told):
    with pytest.raises(SettingsError, match=told) as caught:
        connection.prepare_store(reached(login))
    text = str(caught.value)
    assert "QDAG_MLFLOW__TRACKING_URI" in text
    assert "http://USER:PASSWORD@HOST:PORT" in text
    assert "hunter" not in text
    assert "API request" not in text


@pytest.mark.parametrize(("login", "good"), [(f"{USER}:{quote(PASSWORD, safe='')}@", True), (f"{USER}:wrong@", False)])
def test_the_doctor_asks_as_who_is_named(port, reached, login, good, monkeypatch):
    monkeypatch.setenv("QDAG_MLFLOW__TRACKING_URI", reached(login).tracking_uri)
    [told] = [finding for finding in examine() if finding.part == "MLflow"]
    assert told.ok == good
    assert "wrong" not in f"{told}"
    assert good or ("401" in told.found and "USER:PASSWORD" in told.remedy)


def test_nobody_sees_anything_without_a_login_but_that_it_is_well(port):
    for path in ("/", "/ajax-api/2.0/mlflow/experiments/search?max_results=1", "/api/2.0/mlflow-artifacts/artifacts"):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10)
