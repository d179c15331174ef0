"""Texts of the data in markup: what a renderer shows is the text itself, and it makes nothing else of it."""

import re
from html import unescape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from qdag import stages
from qdag.text import markdown_cell, without_mentions

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
    assert shown(stages._rows(["name", "n"], [[text, 3]])) == [words, "3"]


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
