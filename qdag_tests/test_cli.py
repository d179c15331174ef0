"""The command as a person uses it, in processes of its own, on a small data home."""

import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from qdag.settings import load_settings
from qdag_tests.vendor_files import days_of, write_us

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
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "qdag.toml").write_text(TOML)
    return folder


def _qdag(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("QDAG_", "DAGSTER_"))}
    return subprocess.run(
        [sys.executable, "-m", "qdag", *arguments],
        cwd=folder,
        env=clean | {"COLUMNS": "160"} | environ,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def materialized(folder: Path) -> subprocess.CompletedProcess[str]:
    return _qdag(folder, "materialize", "--months", "2")


def test_the_whole_chain_in_one_command(folder, materialized):
    assert materialized.returncode == 0, materialized.stdout + materialized.stderr
    for asset in ("raw_ohlcv", "qlib_bin", "alpha158", "factor_metrics", "trained_model", "predictions"):
        assert asset in materialized.stdout
    assert "Traceback" not in materialized.stderr
    assert sorted(p.name for p in (folder / "home").iterdir()) == [
        "dagster",
        "definitions",
        "mlflow",
        "models",
        "qlib",
        "reports",
        "tables",
    ]


def test_nothing_is_written_outside_the_home(folder, materialized):
    assert sorted(p.name for p in folder.iterdir()) == ["home", "qdag.toml"]


def test_status_and_show_read_it_back(folder, materialized):
    status = _qdag(folder, "status")
    assert status.returncode == 0, status.stderr
    line = next(row for row in status.stdout.splitlines() if "alpha158" in row)
    assert "2018-01-02" in line
    assert "2019-12-31" in line
    assert "structure: passed" in line
    shown = _qdag(folder, "show", "labels", "--rows", "5")
    assert shown.returncode == 0, shown.stderr
    assert "label_5" in shown.stdout
    best = _qdag(folder, "show", "factor_metrics", "--rows", "3")
    assert best.stdout.startswith("toy, 2019-12-31, horizon 1, pool all")
    assert len(best.stdout.splitlines()) == 6
    assert "alpha158." in _qdag(folder, "top", "-h", "5", "-n", "3").stdout
    listed = _qdag(folder, "models")
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
def test_bad_input_is_one_paragraph_and_code_2(folder, materialized, arguments, says):
    done = _qdag(folder, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error:")
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_misspelt_command_names_the_nearest_once(folder):
    for arguments in (("materialze",), ("data", "verfy"), ("alerts", "tst")):
        done = _qdag(folder, *arguments)
        assert done.returncode == 2
        assert done.stderr.count("Did you mean") == 1


def test_a_failed_run_is_code_1_and_names_the_cause(folder):
    toml = TOML.replace(
        'kind = "synthetic", seed = 3, instruments = 12, planted_ic = 0.3', 'kind = "files", path = "none"'
    )
    (folder / "home").mkdir(exist_ok=True)
    other = folder / "home" / "missing.toml"
    other.write_text(toml.replace('home = "home"', 'home = "other"'))
    done = _qdag(folder, "materialize", "raw_ohlcv", "--config", str(other))
    other.unlink()
    assert done.returncode == 1
    assert "raw_ohlcv:" in done.stdout
    assert "none" in done.stdout


def test_init_writes_a_file_that_loads_and_never_over_another(tmp_path):
    write_us(tmp_path / "us", ["AAPL", "MSFT"], days_of("XNYS", date(2021, 1, 4), date(2021, 4, 21)))
    done = _qdag(tmp_path, "init", "us")
    assert done.returncode == 0, done.stderr
    assert "qdag materialize --universe us" in done.stdout
    assert load_settings(tmp_path / "qdag.toml", {}).universe("us").calendar == "XNYS"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["qdag.toml", "us"]
    before = (tmp_path / "qdag.toml").read_text()
    again = _qdag(tmp_path, "init", "us")
    assert again.returncode == 2
    assert "exists and is not overwritten" in " ".join(again.stderr.split())
    assert (tmp_path / "qdag.toml").read_text() == before


def test_doctor_finds_everything_on_a_prepared_machine(folder):
    done = _qdag(folder, "doctor")
    assert done.returncode == 0, done.stdout
    for part in ("Python", "pyqlib", "TA-Lib", "disk", "MLflow", "Dagster storage"):
        assert part in done.stdout
    lines = [line for line in done.stdout.splitlines() if "not installed" in line]
    assert all('uv pip install -e ".[' in line for line in lines)


def test_doctor_explains_a_broken_setting(folder):
    done = _qdag(folder, "doctor", QDAG_HORIZON="5")
    assert done.returncode == 1
    assert "horizons" in done.stdout
