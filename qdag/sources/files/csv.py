"""CSV files, text cell by cell.

A row is a line: lines end with LF, CRLF or CR, lines of white space are no rows, and a quoted cell that does not end on
its line costs the lines that it touches. A file is read whole. Its header is UTF-8, or it is refused; a row with other
bytes is refused where they are in a cell that is needed.
"""

import csv
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qdag.sources.files.profiles import Profile
from qdag.sources.files.table import FileRefused, FileTable, check_header
from qdag.sources.reasons import Reason

LONGEST_LINE = 1 << 20
"""Bytes of a line; a longer one is no row."""
_BLANK = " \t\n\v\f"
_BOM = b"\xef\xbb\xbf"


def read_header(data: bytes) -> tuple[list[str], int]:
    """Column names, and how many lines come before the first row; FileRefused where there is no header."""
    body = data.removeprefix(_BOM)
    begin = body.lstrip()
    if not begin:
        raise FileRefused(Reason.EMPTY_FILE, f"{len(data)} bytes, all blank")
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in body[:1000]:
        raise FileRefused(Reason.UNREADABLE, "not UTF-8 text (UTF-16 or binary); save it as UTF-8")
    if begin[:1] in b"{[<":
        raise FileRefused(Reason.API_ERROR_PAGE, begin[:500].decode("utf-8", "replace"))
    line = _unix(begin[: LONGEST_LINE + 2]).split(b"\n", 1)[0]
    if len(line) > LONGEST_LINE:
        raise FileRefused(Reason.NOT_A_TABLE, f"a first line of more than {LONGEST_LINE} bytes")
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise FileRefused(Reason.UNREADABLE, f"the header is not UTF-8: {error}; save the file as UTF-8") from None
    try:
        header = [name.strip() for name in next(csv.reader([text], strict=True))]
    except csv.Error as error:
        raise FileRefused(Reason.NOT_A_TABLE, f"{error}: {text[:500]}") from None
    if len(header) < 2:
        raise FileRefused(Reason.NOT_A_TABLE, text[:500])
    return header, _unix(body[: len(body) - len(begin)]).count(b"\n") + 1


def _utf8(data: bytes) -> bytes:
    """The same text, with U+FFFD for bytes that are no UTF-8: they cost the rows whose cells are needed, no others."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace").encode()
    return data


def _unix(data: bytes) -> bytes:
    """The same lines, ended by LF."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data


def read(data: bytes, profile: Profile) -> FileTable:
    """The rows of a file's bytes; FileRefused where they are no table of the layout."""
    from pyarrow.csv import ConvertOptions, ParseOptions, ReadOptions, read_csv

    header, before = read_header(data)
    check_header(header, profile)
    body = _utf8(_unix(data.removeprefix(_BOM)))
    screened, broken = _screened(body, before)
    odd: list[int] = []

    def remember(row: "pa.csv.InvalidRow") -> str:
        odd.append(row.number)
        return "skip"

    try:
        table = read_csv(
            pa.BufferReader(screened),
            # one thread: only then is a broken line's number told
            read_options=ReadOptions(use_threads=False, skip_rows=before, column_names=header, block_size=1 << 24),
            parse_options=ParseOptions(ignore_empty_lines=False, invalid_row_handler=remember),
            convert_options=ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                include_columns=profile.wanted(header),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            raise FileRefused(Reason.HEADER_WITHOUT_ROWS, ",".join(header)) from None
        raise FileRefused(Reason.UNREADABLE, f"{error}; save the file as UTF-8 CSV") from None
    line = np.arange(before + 1, before + 1 + table.num_rows + len(odd), dtype=np.int64)
    if odd:
        line = line[~np.isin(line, odd)]
        texts = zip(odd, _lines(body, np.array(odd)), strict=True)
        broken += [(number, text, Reason.WRONG_COLUMNS) for number, text in texts if text.strip(_BLANK)]
    # a blank line comes as a row of empty cells, as do a line of commas, which is a row, and an emptied line
    empty = np.ones(table.num_rows, bool)
    for column in table.columns:
        if not empty.any():
            break
        empty &= pc.equal(column, "").to_numpy()
    if empty.any():
        at = np.flatnonzero(empty)
        keep = ~empty
        keep[at] = [bool(text.strip(_BLANK)) for text in _lines(screened, line[at])]
        table, line = table.filter(pa.array(keep)), line[keep]
    if not len(line) and not broken:
        raise FileRefused(Reason.HEADER_WITHOUT_ROWS, ",".join(header))
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return FileTable(columns, line, broken, partial(_lines, body))


def _screened(body: bytes, before: int) -> tuple[bytes, list[tuple[int, str, Reason]]]:
    """The same lines, of which those that no parser should see are emptied; these lines, refused.

    Quoted cells that end on their line are written in the one way that every parser reads alike.
    """
    broken: list[tuple[int, str, Reason]] = []
    longest = len(body) > LONGEST_LINE and max(map(len, body.split(b"\n"))) > LONGEST_LINE
    if b'"' not in body and not longest:
        return body, broken
    lines = body.split(b"\n")
    for at in range(before, len(lines)):
        line = lines[at]
        if len(line) > LONGEST_LINE:
            cells = None
        elif b'"' in line:
            cells = _cells(line)
        else:
            continue
        if cells is None:
            broken.append((at + 1, line[:LONGEST_LINE].decode("utf-8", "replace"), Reason.BROKEN_LINE))
            lines[at] = b""
        else:
            lines[at] = cells
    return b"\n".join(lines), broken


def _cells(line: bytes) -> bytes | None:
    """A line with its cells quoted where they must be; None where a quote does not end."""
    try:
        cells = next(csv.reader([line.decode()], strict=True))
    except csv.Error:
        return None
    text = ",".join('"' + cell.replace('"', '""') + '"' if set(cell) & set(',"') else cell for cell in cells)
    # a quoted nothing is a cell, and its line no blank one
    return text.encode() if text.strip() else b'""'


def _lines(body: bytes, line: np.ndarray) -> list[str]:
    lines = body.split(b"\n")
    return [lines[at - 1].decode("utf-8", "replace") for at in line.tolist()]
