"""Lines of a CSV file: ends, quotes, blanks, bytes that are no text, and headers that are none."""

import pytest

from qdag.settings import ColumnMapping
from qdag.sources.files import csv
from qdag.sources.files.profiles import Profile
from qdag.sources.files.table import FileRefused
from qdag.sources.reasons import Reason

HEADER = b"d,o,h,l,c,v\n"
PROFILE = Profile("custom", ColumnMapping(date="d", open="o", high="h", low="l", close="c", volume="v"))


def cells(data: bytes) -> tuple[list[str], list[int], list[tuple[int, Reason]]]:
    """First cells, lines of the rows, and the lines that are none."""
    table = csv.read(HEADER + data, PROFILE)
    return table.columns["d"].to_pylist(), table.line.tolist(), [(line, reason) for line, _, reason in table.broken]


def test_lines_end_in_three_ways_and_blank_ones_are_no_rows():
    assert cells(b"a,1,2,3,4,5\r\n\r\n \t\rb,1,2,3,4,5\rc,1,2,3,4,5") == (["a", "b", "c"], [2, 5, 6], [])


def test_a_line_of_commas_is_a_row():
    assert cells(b",,,,,\n\na,1,2,3,4,5\n") == (["", "a"], [2, 4], [])


def test_quotes_end_on_their_line_or_cost_it():
    data = b'"a, b",1,2,3,4,5\n"c,1,2,3,4,5\nd,1,2,3,4,5\n"e ""f""",1,2,3,4,5\n'
    assert cells(data) == (["a, b", "d", 'e "f"'], [2, 4, 5], [(3, Reason.BROKEN_LINE)])


def test_a_line_of_other_length_is_told_with_its_number():
    assert cells(b"a,1,2,3,4,5\nb,1\nc,1,2,3,4,5,6\nd,1,2,3,4,5\n") == (
        ["a", "d"],
        [2, 5],
        [(3, Reason.WRONG_COLUMNS), (4, Reason.WRONG_COLUMNS)],
    )


def test_a_line_longer_than_any_costs_itself():
    assert cells(b"a,1,2,3,4,5\n" + b"x" * (csv.LONGEST_LINE + 1) + b"\nb,1,2,3,4,5\n") == (
        ["a", "b"],
        [2, 4],
        [(3, Reason.BROKEN_LINE)],
    )


def test_bytes_that_are_no_text_stay_in_their_cell():
    assert cells(b"a\xff,1,2,3,4,5\nb,1,2,3,4,5\n")[0] == ["a\ufffd", "b"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_FILE),
        (b"\xef\xbb\xbf \n", Reason.EMPTY_FILE),
        (b'{"error": 1}', Reason.API_ERROR_PAGE),
        (b"<html>", Reason.API_ERROR_PAGE),
        (b"hello\n1\n", Reason.NOT_A_TABLE),
        ("d,o\n".encode("utf-16"), Reason.UNREADABLE),
        (b"d,\xff\n", Reason.UNREADABLE),
    ],
)
def test_a_header_that_is_none_refuses_the_file(data, reason):
    with pytest.raises(FileRefused) as caught:
        csv.read_header(data)
    assert caught.value.reason is reason


def test_a_header_is_found_after_blank_lines():
    assert csv.read_header(b"\xef\xbb\xbf\r\n\n" + HEADER) == (["d", "o", "h", "l", "c", "v"], 3)
