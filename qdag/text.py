"""Texts that came from outside (names of files and instruments, cells of deliveries) as plain text in markup.

What belongs here is how such a text is written so that a reader sees it and nothing reads it as markup.
"""

import re

# a cell is within a line, so what is markup at the beginning of one only is none here; URLs become links by themselves
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|~&:]|(?<=www)\.")
_MENTION = re.compile(r"<(?=[!@#])|@(?=everyone|here|channel|all)", re.IGNORECASE)
WORD_JOINER = "\u2060"


def markdown_cell(value: object) -> str:
    """A value as the text of one cell of a Markdown table: on one line, with nothing that is read as markup.

    Numbers stay as they are.
    """
    if isinstance(value, int | float):
        return str(value)
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(str(value).split()))


def without_mentions(text: str) -> str:
    """The same text for the eye, in which chat services find nobody to call: an invisible joiner parts each mention."""
    return _MENTION.sub(rf"\g<0>{WORD_JOINER}", text)
