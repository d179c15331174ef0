"""How things are written for people: names cut short, sizes and durations, Markdown tables.

What belongs here is text alone, made of values that the caller has. Texts that came from outside (names of files and
instruments, cells of deliveries) are written so that a reader sees them and nothing reads them as markup.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# a cell is within a line, so what is markup at the beginning of one only is none here; URLs become links by themselves
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&:]|(?<=www)\.")
_MENTION = re.compile(r"<(?=[!@#])|@(?=everyone|here|channel|all)", re.IGNORECASE)
WORD_JOINER = "\u2060"
"""Takes no room and parts nothing: what stands at both sides of it is no longer one word to a program."""
PREVIEW_COLUMNS = 12
"""Columns of a preview; further ones are counted below it."""


def listed(names: Sequence[object], shown: int) -> str:
    """The first names and how many more there are: ``a, b and 3 more``; ``none`` where there is no name."""
    more = len(names) - shown
    return ", ".join(map(str, names[:shown])) + (f" and {more:,} more" if more > 0 else "") if len(names) else "none"


def duration(seconds: float) -> str:
    """A few words for an estimate: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes of an estimate as people say them: 120 kB, 35 MB, 1.2 GB."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if count >= one:
            return f"{count / one:.1f} {unit}" if count < 10 * one else f"{count / one:,.0f} {unit}"
    return f"{count / 1e3:.0f} kB"


def stored_size(count: int) -> str:
    """Bytes that are stored, to a tenth of a binary unit: 0.5 KiB, 12.0 MiB, 2,048.0 MiB."""
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 1024:,.1f} KiB"


def ranges(numbers: Iterable[int]) -> str:
    """Ascending whole numbers in short: 1, 3 .. 7, 9."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join(" .. ".join(map(str, part)) for part in parts)


def markdown_cell(value: object) -> str:
    """A value as the text of one cell of a Markdown table: on one line, with nothing that is read as markup.

    Numbers stay as they are.
    """
    if isinstance(value, int | float):
        return str(value)
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(str(value).split()))


def markdown_code(text: str) -> str:
    """A text of one line, without a backtick, as code in a cell of a Markdown table; nothing where there is none."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def markdown_table(
    names: Sequence[str],
    rows: Iterable[Iterable[object]],
    right: Collection[str] = (),
    cell: Callable[[Any], str] = markdown_cell,
) -> str:
    """A Markdown table; its last line ends with a newline.

    Parameters
    ----------
    names : heading of every column, which is read as markup
    rows : values of every row
    right : headings of the columns that stand to the right
    cell : how a value is written; ``str`` for texts that are markup on purpose
    """
    rules = ("---:" if name in right else "---" for name in names)
    return "".join(f"| {' | '.join(line)} |\n" for line in (names, rules, *(map(cell, row) for row in rows)))


def markdown_frame(frame: "pd.DataFrame", floats: str = ".6g", missing: str | None = None) -> str:
    """A frame as a Markdown table.

    Parameters
    ----------
    floats : format of floating-point numbers
    missing : text of an undefined value; by default what Python writes for it
    """
    rows = ([_written(value, floats, missing) for value in row] for row in frame.itertuples(index=False))
    return markdown_table([str(name) for name in frame.columns], rows)


def markdown_preview(rows: "pa.Table") -> str:
    """A few rows of a table as a Markdown table of its first columns, and how many more columns it has."""
    shown, more = rows.column_names[:PREVIEW_COLUMNS], len(rows.column_names) - PREVIEW_COLUMNS
    values = ([_written(row[name]) for name in shown] for row in rows.select(shown).to_pylist())
    return markdown_table(shown, values) + (f"\n\n{more} more columns" if more > 0 else "")


def _written(value: object, floats: str = ".6g", missing: str | None = None) -> str:
    if missing is not None and (value is None or value != value):
        return missing
    return format(value, floats) if isinstance(value, float) else str(value)


def without_mentions(text: str) -> str:
    """The same text for the eye, in which chat services find nobody to call: an invisible joiner parts each mention."""
    return _MENTION.sub(rf"\g<0>{WORD_JOINER}", text)
