"""``qdag init`` and ``qdag doctor`` before anything is stored."""

from datetime import date

from qdag.settings import load_settings
from qdag_tests.cli.homes import command
from qdag_tests.vendor_files import days_of, write_us


def test_init_writes_a_file_that_loads_and_never_over_another(tmp_path):
    write_us(tmp_path / "us", ["AAPL", "MSFT"], days_of("XNYS", date(2021, 1, 4), date(2021, 4, 21)))
    done = command(tmp_path, "init", "us")
    assert done.returncode == 0, done.stderr
    assert "qdag materialize --universe us" in done.stdout
    assert load_settings(tmp_path / "qdag.toml", {}).universe("us").calendar == "XNYS"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["qdag.toml", "us"]
    before = (tmp_path / "qdag.toml").read_text()
    again = command(tmp_path, "init", "us")
    assert again.returncode == 2
    assert "exists and is not overwritten" in " ".join(again.stderr.split())
    assert (tmp_path / "qdag.toml").read_text() == before


def test_doctor_finds_everything_on_a_prepared_machine(tmp_path):
    done = command(tmp_path, "doctor")
    assert done.returncode == 0, done.stdout
    for part in ("Python", "pyqlib", "TA-Lib", "disk", "MLflow", "Dagster storage"):
        assert part in done.stdout
    lines = [line for line in done.stdout.splitlines() if "not installed" in line]
    assert all('uv pip install -e ".[' in line for line in lines)


def test_doctor_explains_a_broken_setting(tmp_path):
    done = command(tmp_path, "doctor", QDAG_HORIZON="5")
    assert done.returncode == 1
    assert "horizons" in done.stdout
