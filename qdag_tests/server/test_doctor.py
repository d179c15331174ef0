"""What doctor says of the data of universes, without storing anything."""

import sqlite3
from contextlib import closing
from datetime import date

from qdag.server.doctor import examine
from qdag_tests.vendor_files import days_of, write_custom, write_us

TOML = """
[universes.good]
calendar = "XNYS"
start = 2021-01-04
end = 2021-04-21
source = { kind = "files", path = "us" }
[universes.longer]
calendar = "XNYS"
start = 2021-02-01
end = 2021-06-30
source = { kind = "files", path = "us" }
[universes.elsewhere]
calendar = "XSHG"
start = 2021-01-04
end = 2021-04-21
source = { kind = "files", path = "us" }
[universes.missing]
calendar = "XNYS"
start = 2021-01-04
source = { kind = "files", path = "none" }
[universes.future]
calendar = "XNYS"
start = 2190-01-04
source = { kind = "synthetic" }
[universes.raw]
calendar = "XNYS"
start = 2021-01-04
end = 2021-04-21
[universes.raw.source]
kind = "files"
path = "raw"
profile = "custom"
columns = { instrument = "i", date = "d", open = "o", high = "h", low = "l", close = "c", volume = "v" }
"""


def test_the_data_of_every_universe_is_looked_at(tmp_path):
    days = days_of("XNYS", date(2021, 1, 4), date(2021, 4, 21))
    write_us(tmp_path / "us", ["AAPL", "BA", "KO", "MSFT"], days)
    (tmp_path / "us" / "BF.csv").write_text("<html>")
    write_custom(tmp_path / "raw", ["A"], days, "%Y-%m-%d", "i,d,o,h,l,c,v")
    (tmp_path / "qdag.toml").write_text(TOML)
    found: dict[str, list] = {}
    for finding in examine(str(tmp_path / "qdag.toml")):
        found.setdefault(finding.part, []).append(finding)

    (good,) = found["data of good"]
    assert good.ok
    assert good.remedy == ""
    for words in ("5 files, layout alphavantage", "AAPL, BA, KO and 1 more", "2021-01-04 .. 2021-04-21",
                  "adjusted by splits and dividends", "left out as no table: 1, for example BF.csv"):  # fmt: skip
        assert words in good.found
    assert "75 sessions of XNYS, 2021-01-04 .. 2021-04-21, region us" in found["universe good"][0].found

    told = [(f.found, f.remedy) for f in found["data of longer"][1:]]
    assert told[0][0] == "the files end on 2021-04-21, 49 sessions before the universe does"
    assert "set end = 2021-04-21" in told[0][1]
    assert told[1][0] == "19 days of the files lie before start"

    other = found["data of elsewhere"][1]
    assert not other.ok
    assert "are no session of XSHG: 2021-02-11, 2021-02-12" in other.found
    (missing,) = found["data of missing"]
    assert not missing.ok
    assert "of universe 'missing' does not exist" in missing.found
    assert not found["data of future"][0].ok
    assert "adjusted by nothing" in found["data of raw"][0].found
    assert not (tmp_path / ".qdag").exists()


def part(name):
    return [finding for finding in examine() if finding.part == name]


def test_no_password_shows_and_a_file_that_holds_one_is_for_its_owner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "qdag.toml"
    file.write_text('[mlflow]\ntracking_uri = "http://me:hunter2@127.0.0.1:9"\n')
    file.chmod(0o644)
    [told] = part("settings file")
    assert not told.ok
    assert "its mode is 644: others can read it" in told.found
    assert told.remedy == "chmod 600 qdag.toml"
    assert all("hunter2" not in f"{finding}" for finding in examine())
    assert "http://***@127.0.0.1:9" in part("MLflow")[0].found
    file.chmod(0o600)
    assert part("settings file")[0].ok
    file.chmod(0o644)
    file.write_text('[alerts]\nurls = ["json://h/hook-is-the-secret"]\n')
    assert not part("settings file")[0].ok
    file.write_text('home = "there"\n')
    assert part("settings file")[0].ok


def test_a_home_that_was_moved_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("QDAG_HOME", str(tmp_path))
    (tmp_path / "mlflow").mkdir()
    with closing(sqlite3.connect(tmp_path / "mlflow" / "mlflow.db")) as store:
        store.execute("CREATE TABLE experiments (artifact_location TEXT)")
        store.execute("INSERT INTO experiments VALUES ('file:///before/mlflow/artifacts')")
        store.commit()
    [told] = part("MLflow")
    assert told.ok
    assert "its models are looked for in file:///before/mlflow/artifacts" in told.found
    assert "the next run or `qdag up` has it point here" in told.remedy
