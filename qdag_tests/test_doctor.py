"""What doctor says of the data of universes, without storing anything."""

from datetime import date

from qdag.doctor import examine
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
                  "adjusted by splits and dividends", "1 no tables, for example BF.csv"):  # fmt: skip
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
