"""A first settings file: what it guesses from files, and what it refuses."""

from datetime import date, timedelta

import pytest

from qdag.errors import SettingsError, SourceError
from qdag.operations.draft import best_calendar, draft, guessed_columns, name_pattern, recognise, universe_name
from qdag.settings import load_settings
from qdag_tests.vendor_files import days_of, write_custom, write_us

SPRING = (date(2021, 1, 4), date(2021, 4, 21))


def loaded(tmp_path, *folders):
    file = tmp_path / "qdag.toml"
    file.write_text(draft(folders, file))
    return file.read_text(), load_settings(file, {})


def test_a_known_layout(tmp_path):
    folder = write_us(tmp_path / "market" / "US daily", ["AAPL", "MSFT", "KO"], days_of("XNYS", *SPRING))
    (folder / "BF.csv").write_text('{"Error Message": "no"}')
    text, settings = loaded(tmp_path, folder)
    universe = settings.universe("us_daily")
    assert (universe.calendar, universe.region, universe.start, universe.end) == ("XNYS", "us", *SPRING)
    assert universe.source.path == folder
    assert 'path = "market/US daily"' in text
    assert "adjusted by splits and dividends" in text
    assert "4 files, 225 rows, 3 instruments" in text
    assert "# instruments: AAPL, KO, MSFT" in text
    assert "no table, left out: BF.csv api_error_page" in text


def test_names_of_files_that_have_a_form(tmp_path):
    folder = write_us(tmp_path / "us", ["AAPL", "BRK-B", "KO"], days_of("XNYS", *SPRING))
    for path in folder.iterdir():
        path.rename(folder / f"DA-{path.stem}-T-2021-04-21.csv")
    text, settings = loaded(tmp_path, folder)
    assert settings.universe("us").source.name == "DA-{instrument}-T-{date}"
    assert "# instruments: AAPL, BRK-B, KO" in text


def test_short_files_get_windows_that_fit(tmp_path):
    folder = write_us(tmp_path / "us", ["A", "B"], days_of("XNYS", *SPRING))
    _, settings = loaded(tmp_path, folder)
    training = settings.training_for("us")
    assert training.train_sessions + training.valid_sessions + training.test_sessions <= 75


def test_files_that_still_come_have_no_end(tmp_path):
    today = date.today()
    folder = write_us(tmp_path / "us", ["A", "B"], days_of("XNYS", today - timedelta(days=200), today))
    text, settings = loaded(tmp_path, folder)
    assert settings.universe("us").end is None
    assert "# end = " in text


@pytest.mark.parametrize("code", ["XSHG", "XHKG", "XLON"])
def test_the_calendar_is_the_one_whose_sessions_the_files_have(tmp_path, code):
    days = days_of(code, date(2018, 1, 2), date(2019, 12, 31))
    folder = write_us(tmp_path / "x", ["A", "B", "C"], days)
    text, settings = loaded(tmp_path, folder)
    assert settings.universe("x").calendar == code
    assert f"the files have {len(days)} of its {len(days)} sessions, and 0 other days" in text


def test_one_mistyped_date_moves_no_calendar(tmp_path):
    days = days_of("XNYS", date(2019, 1, 2), date(2019, 12, 31))
    folder = write_us(tmp_path / "x", [f"S{i}" for i in range(60)], days)
    write_us(folder, ["S7"], [date(2002, 1, 5), *days])
    assert best_calendar(recognise("x", folder)[1]).calendar == "XNYS"


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y"])
def test_an_unknown_layout_is_guessed_from_usual_names(tmp_path, form):
    days = days_of("XNYS", *SPRING)
    folder = write_custom(tmp_path / "x", ["A", "B"], days, form, "Ticker,Day,Open,High,Low,Close,Vol,Adj Close")
    text, settings = loaded(tmp_path, folder)
    universe = settings.universe("x")
    columns = universe.source.columns
    assert (columns.date, columns.instrument, columns.volume, columns.adjusted_close) == (
        "Day",
        "Ticker",
        "Vol",
        "Adj Close",
    )
    assert columns.date_format == form
    assert (universe.start, universe.end) == SPRING
    assert "CHECK: guessed from the names" in text


def test_prices_that_nothing_adjusts_are_told(tmp_path):
    folder = write_custom(tmp_path / "x", ["A"], days_of("XNYS", *SPRING), "%Y-%m-%d", "code,date,o,h,l,c,v")
    text, _ = loaded(tmp_path, folder)
    assert "adjusted by nothing: no column tells splits or dividends" in text


def test_columns_that_no_name_tells_are_refused_with_those_that_lack(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.csv").write_text("when,open,high,low,close,amt\n1,2,3,4,5,6\n")
    with pytest.raises(SourceError, match="No column is named like date or volume"):
        draft([tmp_path / "x"], tmp_path / "qdag.toml")
    assert guessed_columns(["Date", "Adj Close", "CLOSE"]) == {
        "date": "Date",
        "close": "CLOSE",
        "adjusted_close": "Adj Close",
    }


def test_what_is_no_folder_of_bars_is_refused(tmp_path):
    target = tmp_path / "qdag.toml"
    with pytest.raises(SourceError, match="does not exist"):
        draft([tmp_path / "none"], target)
    (tmp_path / "x").mkdir()
    with pytest.raises(SourceError, match=r"no .csv or .parquet"):
        draft([tmp_path / "x"], target)
    (tmp_path / "x" / "a.csv").write_text("")
    with pytest.raises(SourceError, match=r"no file in .* has a header"):
        draft([tmp_path / "x"], target)
    write_us(tmp_path / "x", ["A"], [])
    with pytest.raises(SourceError, match=r"no file of .* has a dated row"):
        draft([tmp_path / "x"], target)
    with pytest.raises(SettingsError, match="would both be universe 'x'"):
        draft([tmp_path / "x", tmp_path / "y" / "X"], target)


def test_universe_names_are_valid(tmp_path):
    assert universe_name(tmp_path / "US daily (2021)") == "us_daily_2021"
    assert universe_name(tmp_path / "2021") == "u_2021"
    assert universe_name(tmp_path / "行情") == "u"


@pytest.mark.parametrize(
    ("stems", "pattern"),
    [
        (["DA-ALK-T-2021-04-21", "DA-AAPL-T-2021-04-21", "DA-T-T-2021-04-21"], "DA-{instrument}-T-{date}"),
        (["AAPL_20200101", "MSFT_20210331"], "{instrument}_{date}"),
        (["daily AAPL", "daily MSFT"], "daily {instrument}"),
        (["BRK-B_daily", "AAPL_daily"], "{instrument}_daily"),
        (["AAPL", "MSFT"], None),
        (["SH600000", "SH600001"], None),
        (["BRK-B", "BRK-A", "MSFT"], None),
        (["AAPL"], None),
        ([], None),
    ],
)
def test_what_names_of_files_have_in_common(stems, pattern):
    assert name_pattern(stems) == pattern
