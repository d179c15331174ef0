"""The command as a person uses it, in processes of its own: running the chain and looking at it."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qdag_tests.cli.homes import command, environment

TOML = """
home = "home"
horizons = [1, 5]
[universes.toy]
calendar = "XNYS"
start = 2018-01-02
end = 2019-12-31
source = { kind = "synthetic", seed = 3, instruments = 12, planted_ic = 0.3 }
[training]
train_sessions = 250
valid_sessions = 60
test_sessions = 60
num_boost_round = 20
parameters = { lambda_l1 = 0.0, lambda_l2 = 1.0, min_data_in_leaf = 20 }
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    toy = tmp_path_factory.mktemp("cli")
    (toy / "qdag.toml").write_text(TOML)
    return toy


@pytest.fixture(scope="module")
def materialized(toy: Path) -> subprocess.CompletedProcess[str]:
    return command(toy, "materialize", "--months", "2")


def test_the_whole_chain_in_one_command(toy, materialized):
    assert materialized.returncode == 0, materialized.stdout + materialized.stderr
    for asset in ("raw_ohlcv", "qlib_bin", "alpha158", "factor_metrics", "trained_model", "predictions"):
        assert asset in materialized.stdout
    assert "Traceback" not in materialized.stderr
    assert sorted(p.name for p in (toy / "home").iterdir()) == [
        "dagster",
        "definitions",
        "mlflow",
        "models",
        "qlib",
        "reports",
        "tables",
    ]


def test_nothing_is_written_outside_the_home(toy, materialized):
    assert sorted(p.name for p in toy.iterdir()) == ["home", "qdag.toml"]


def test_status_and_show_read_it_back(toy, materialized):
    status = command(toy, "status")
    assert status.returncode == 0, status.stderr
    line = next(row for row in status.stdout.splitlines() if "alpha158" in row)
    assert "2018-01-02" in line
    assert "2019-12-31" in line
    assert "structure: passed" in line
    shown = command(toy, "show", "labels", "--rows", "5")
    assert shown.returncode == 0, shown.stderr
    assert "label_5" in shown.stdout
    best = command(toy, "show", "factor_metrics", "--rows", "3")
    assert best.stdout.startswith("toy, 2019-12-31, horizon 1, pool all")
    assert len(best.stdout.splitlines()) == 6
    assert "alpha158." in command(toy, "top", "-h", "5", "-n", "3").stdout
    listed = command(toy, "models")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:3] for line in listed.stdout.splitlines()[2:]] == [
        ["2", "2019-12-31", "yes"],
        ["1", "2019-11-29", listed.stdout.splitlines()[3].split()[2]],
    ]


def test_time_is_told_by_what_it_went_to_and_nothing_else_is_printed(materialized):
    assert re.search(r"\d+ s: \d+ s computing, \d+ s checks, \d+ s starting and recording", materialized.stdout)
    assert "factors" in materialized.stdout
    assert "egistered model" not in materialized.stdout + materialized.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("materialize", "--universe", "tyo"), "did you mean 'toy'"),
        (("materialize", "alpha185"), "did you mean 'alpha158'"),
        (("materialize", "--start", "2019-02-01", "--end", "2019-01-01"), "is after end"),
        (("materialize", "--start", "2021-02-01"), "has no session"),
        (("show", "labelz"), "did you mean 'labels'"),
        (("show", "labels", "--start", "2019-02-01", "--end", "2019-01-01"), "give the earlier day first"),
        (("show", "trained_model"), "`qdag models` lists them"),
        (
            ("materialize", "trained_model", "--start", "2019-11-04", "--end", "2019-11-20"),
            "2019-11-04 .. 2019-11-20 has none; ask with --end 2019-11-29 or --start 2019-10-31",
        ),
        (("status", "--config", "none.toml"), "does not exist; create it, or correct --config"),
        (("explain", "$clos/$open"), "unknown field '$clos'; did you mean '$close'"),
        (("settings", "horizn"), "did you mean 'horizons'"),
    ],
)
def test_bad_input_is_one_paragraph_and_code_2(toy, materialized, arguments, says):
    done = command(toy, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error:")
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_misspelt_command_names_the_nearest_once(toy):
    for arguments in (("materialze",), ("data", "verfy"), ("alerts", "tst")):
        done = command(toy, *arguments)
        assert done.returncode == 2
        assert done.stderr.count("Did you mean") == 1


def test_a_failed_run_is_code_1_and_names_the_cause(toy):
    toml = TOML.replace(
        'kind = "synthetic", seed = 3, instruments = 12, planted_ic = 0.3', 'kind = "files", path = "none"'
    )
    (toy / "home").mkdir(exist_ok=True)
    other = toy / "home" / "missing.toml"
    other.write_text(toml.replace('home = "home"', 'home = "other"'))
    done = command(toy, "materialize", "raw_ohlcv", "--config", str(other))
    other.unlink()
    assert done.returncode == 1
    assert "raw_ohlcv: " in done.stdout
    assert "qdag.errors" not in done.stdout
    assert "none" in done.stdout


def test_an_interrupted_run_says_so_in_a_sentence(tmp_path):
    (tmp_path / "qdag.toml").write_text(TOML)
    words = [sys.executable, "-m", "qdag", "materialize", "raw_ohlcv", "qlib_bin"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True) as run:
        # its rows are there, its checks are not done yet
        while not (tmp_path / "home" / "tables" / "raw_ohlcv").exists() and run.poll() is None:
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "raw_ohlcv: interrupted; the assets before it are done, and `qdag plan` tells what is left" in said
