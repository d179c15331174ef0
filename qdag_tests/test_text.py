"""Texts for people: short lists, sizes, and tables that show a text of the data itself and make nothing else of it."""

import re
from datetime import date
from html import unescape

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from qdag.text import (
    duration,
    listed,
    markdown_cell,
    markdown_code,
    markdown_frame,
    markdown_preview,
    markdown_table,
    ranges,
    size,
    stored_size,
    without_mentions,
)

RENDERER = MarkdownIt("gfm-like", {"html": True, "linkify": False})
PRINTED = st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=30)


def shown(table: str) -> list[str]:
    """The cells of a rendered table's body; every tag that is none of a table's is refused."""
    html = RENDERER.render(table)
    assert not set(re.findall(r"</?(\w+)", html)) - {"table", "thead", "tbody", "tr", "th", "td"}, html
    return [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", html, re.S)]


@given(PRINTED)
@example("<script>alert('x')</script>")
@example("![a](http://example.com/x.png)")
@example("[a](javascript:alert(1)) *b* __c__ `d` ~~e~~ &lt; \\| f")
@example("ends with a backslash\\")
@example("| three | cells |")
def test_a_cell_shows_its_text_and_nothing_else(text: str) -> None:
    words = " ".join(text.split())
    assert shown(markdown_table(["name", "n"], [[text, 3]])) == [words, "3"]


def test_addresses_do_not_become_links_by_themselves() -> None:
    assert markdown_cell("http://example.com") == "http\\://example.com"
    assert markdown_cell("www.example.com") == "www\\.example.com"


def test_numbers_stay_as_they_are() -> None:
    assert [markdown_cell(v) for v in (-3, 1.5e-9, True)] == ["-3", "1.5e-09", "True"]


@pytest.mark.parametrize("text", ["<!channel> up", "<@U12345>", "<#C1|x>", "hello @everyone", "@here", "@CHANNEL"])
def test_nobody_is_called_by_a_text(text: str) -> None:
    told = without_mentions(text)
    assert not re.search(r"<[!@#]|@(everyone|here|channel)", told, re.IGNORECASE)
    assert told.replace("\u2060", "") == text


@pytest.mark.parametrize("text", ["desk@example.com", "1 < 2", "a@b", "<b>"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_mentions(text) == text


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([], "none"),
        (["a"], "a"),
        (["a", "b"], "a, b"),
        (["a", "b", "c", "d", "e"], "a, b and 3 more"),
        (range(2000), "0, 1 and 1,998 more"),
    ],
)
def test_a_long_list_is_cut_and_counted(names, told) -> None:
    assert listed(names, 2) == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 kB"), (1.2e5, "120 kB"), (1e6, "1.0 MB"), (3.5e7, "35 MB"), (1.24e9, "1.2 GB")]
)
def test_sizes_of_estimates_are_decimal(count: float, told: str) -> None:
    assert size(count) == told


@pytest.mark.parametrize(
    ("count", "told"), [(512, "0.5 KiB"), (2**20 - 1, "1,024.0 KiB"), (2**20, "1.0 MiB"), (2**31, "2,048.0 MiB")]
)
def test_sizes_of_files_are_binary(count: int, told: str) -> None:
    assert stored_size(count) == told


@pytest.mark.parametrize(
    ("numbers", "told"), [((), ""), ((4,), "4"), ((1, 2), "1 .. 2"), ((1, 3, 4, 5, 6, 7, 9), "1, 3 .. 7, 9")]
)
def test_whole_numbers_in_short(numbers: tuple[int, ...], told: str) -> None:
    assert ranges(numbers) == told


def test_columns_stand_to_the_right_and_code_stays_code() -> None:
    written = markdown_table(["a_b", "n"], [["x_y", 1], [markdown_code("$a|$b"), 2]], right=["n"], cell=str)
    assert written == "| a_b | n |\n| --- | ---: |\n| x_y | 1 |\n| `$a\\|$b` | 2 |\n"
    assert markdown_code("") == ""


def test_a_frame_is_written_to_the_digits_that_are_asked_for() -> None:
    frame = pd.DataFrame({"factor": ["t.a_b", "t.c"], "ic": [0.123456789, float("nan")], "n": [12, 3]})
    assert shown(markdown_frame(frame)) == ["t.a_b", "0.123457", "12", "t.c", "nan", "3"]
    assert shown(markdown_frame(frame, ".4f", missing="")) == ["t.a_b", "0.1235", "12", "t.c", "", "3"]
    assert shown(markdown_frame(frame.head(0))) == []


def test_a_preview_counts_the_columns_that_it_leaves_out() -> None:
    few = pa.table({"day": [date(2024, 1, 2), None], "close": [1 / 3, 2.0]})
    assert markdown_preview(few) == "| day | close |\n| --- | --- |\n| 2024-01-02 | 0.333333 |\n| None | 2 |\n"
    many = pa.table({f"c{i}": [i] for i in range(15)})
    assert markdown_preview(many).splitlines()[0].count("c") == 12
    assert markdown_preview(many).endswith("| 11 |\n\n\n3 more columns")
