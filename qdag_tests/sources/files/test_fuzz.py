"""Thousands of damaged vendor files: no crash, and every row of every file is stored, quarantined or corrected.

The rows that went in are counted on the raw bytes by a slow reference that shares nothing with the reader.
"""

import io
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qdag.core.sessions import calendar_for
from qdag.settings import FilesSource, UniverseSettings
from qdag.sources import open_source
from qdag_tests.sources.dates import misplaced

FILES, ROUNDS = 110, 10
START, END = date(2020, 1, 2), date(2020, 2, 28)
SESSIONS = [date(2020, 1, d) for d in (2, 3, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 21, 22)]
ODD = [
    "",
    "x",
    "inf",
    "-1",
    "1e999",
    "+5",
    " 5 ",
    "5.",
    ".5",
    "0x1A",
    "1_000",
    "１２",
    "nan",
    "9" * 400,
    "-0.0",
    "1e-400",
]
ODD += ["1,234.5", "1.234,5", "'5'", "5\u00a0", "\u2212" + "5", "1e5", "5e", "--5", "NULL", "五"]


class Layout:
    """How a profile writes a small file."""

    def __init__(self, profile: str):
        self.profile = profile
        self.tushare = profile == "tushare"
        self.header = (
            "ts_code,trade_date,open,high,low,close,pre_close,change,pct_chg,vol,amount"
            if self.tushare
            else "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient"
        ).split(",")
        self.calendar = "XSHG" if self.tushare else "XNYS"
        self.date = self.header.index("trade_date" if self.tushare else "timestamp")

    def stem(self, number: int) -> str:
        return f"{600000 + number}.SH" if self.tushare else f"T{number}"

    def instrument(self, number: int) -> str:
        return f"SH{600000 + number}" if self.tushare else f"T{number}"

    def rows(self, rng: random.Random, stem: str) -> list[list[str]]:
        rows = []
        close = rng.uniform(5, 900)
        for day in sorted(rng.sample(SESSIONS, rng.randint(3, 10))):
            before, close = close, close * rng.uniform(0.97, 1.03)
            o, h, lo, c = (f"{x:.2f}" for x in (before, max(before, close) * 1.01, min(before, close) / 1.01, close))
            if self.tushare:
                rows.append([stem, f"{day:%Y%m%d}", o, h, lo, c, o, "0", "0.5", "100", "77"])
            else:
                rows.append([day.isoformat(), o, h, lo, c, c, "1000", "0.0", "1.0"])
        return rows

    def day(self, text: str) -> date | None:
        """A date as the vendor writes it, with or without the midnight of libraries; an independent reading."""
        form = r"([1-9]\d{3})(\d\d)(\d\d)" if self.tushare else r"([1-9]\d{3})-(\d{1,2})-(\d{1,2})"
        midnight = r"(?:[ T]00:00:00(?:\.0+)?(?:[+-]\d\d:?\d\d|Z)?)?"
        found = re.fullmatch(form + midnight, text.strip(), re.ASCII)
        try:
            return date(*map(int, found.groups())) if found else None
        except ValueError:
            return None


def cells_of(line: str) -> list[str] | None:
    """Cells of a line; None where a quoted cell does not end, or goes on after its end."""
    cells, at = [], 0
    while True:
        if line[at : at + 1] == '"':
            at, text = at + 1, ""
            while True:
                end = line.find('"', at)
                if end < 0:
                    return None
                text, at = text + line[at:end], end + 1
                if line[at : at + 1] != '"':
                    break
                text, at = text + '"', at + 1
            if at < len(line) and line[at] != ",":
                return None
        else:
            end = line.find(",", at)
            end = len(line) if end < 0 else end
            text, at = line[at:end], end
        cells.append(text)
        if at >= len(line):
            return cells
        at += 1


def rows_in(data: bytes, layout: Layout) -> int:
    """Rows of a CSV file that a delivery of START to END has to account for."""
    lines = re.split(rb"\r\n|\r|\n", data.removeprefix(b"\xef\xbb\xbf"))
    while not lines[0].strip():
        lines.pop(0)
    header = [name.strip() for name in cells_of(lines[0].decode().strip())]
    at = header.index(layout.header[layout.date])
    count = 0
    days: list[date | None] = []
    for line in lines[1:]:
        if not line.strip(b" \t\v\f"):
            continue
        cells = cells_of(line.decode("utf-8", "replace")) if len(line) <= 1 << 20 else None
        if cells is None or len(cells) != len(header):
            # a line without cells has no place in the order of time
            count += 1
        else:
            days.append(layout.day(cells[at]))
    return count + accounted(days)


def accounted(days: list[date | None]) -> int:
    """Rows that have to be stored, refused or corrected."""
    told = misplaced(days, START, END)
    return sum(day is None or odd or START <= day <= END for day, odd in zip(days, told, strict=True))


# -- mutations of the rows, before they are text ----------------------------------------------------------------------


def shuffled_columns(rng: random.Random, table: list[list[str]]) -> None:
    order = rng.sample(range(len(table[0])), len(table[0]))
    table[:] = [[row[i] for i in order if i < len(row)] for row in table]


def odd_cells(rng: random.Random, table: list[list[str]]) -> None:
    for _ in range(rng.randint(1, 6)):
        row = rng.choice([row for row in table if row])
        value = rng.choice(ODD)
        row[rng.randrange(len(row))] = f'"{value}"' if rng.random() < 0.3 else value


def thousands(rng: random.Random, table: list[list[str]]) -> None:
    quoted = rng.random() < 0.7
    for row in filter(None, table[1:]):
        for i, cell in enumerate(row):
            if re.fullmatch(r"\d{3,}\.?\d*", cell) and rng.random() < 0.5:
                text = cell[0] + "," + cell[1:]
                row[i] = f'"{text}"' if quoted else text


def other_dates(rng: random.Random, table: list[list[str]]) -> None:
    forms = ("%d/%m/%Y", "%Y-%m-%d", "%Y%m%d", "%Y/%m/%d", "%d.%m.%y", "%b %d, %Y", "%Y-%m-%dT00:00:00", "%s")
    form = rng.choice(forms)
    for row in filter(None, table[1:]):
        if rng.random() < 0.6:
            row[0 if "-" in row[0] else min(1, len(row) - 1)] = rng.choice(SESSIONS).strftime(form)


def far_dates(rng: random.Random, table: list[list[str]]) -> None:
    for row in filter(None, table[1:]):
        if rng.random() < 0.4:
            text = rng.choice(
                ["2019-12-31", "20191231", "2020-03-02", "20200302", "2020-1-6", "2020-02-30", "0000-01-01"]
            )
            row[0 if "-" in row[0] else min(1, len(row) - 1)] = text


def repeated_block(rng: random.Random, table: list[list[str]]) -> None:
    low = rng.randrange(len(table))
    block = [list(row) for row in table[low : low + rng.randint(1, 6)]]
    at = rng.randint(1, len(table))
    table[at:at] = block


def repeated_header(rng: random.Random, table: list[list[str]]) -> None:
    table.insert(rng.randint(1, len(table)), list(table[0]))


def ragged(rng: random.Random, table: list[list[str]]) -> None:
    row = rng.choice([row for row in table if row])
    row.append("9") if rng.random() < 0.5 else row.pop(rng.randrange(len(row)))


def empty_row(rng: random.Random, table: list[list[str]]) -> None:
    table.insert(rng.randint(1, len(table)), [""] * rng.choice([1, len(table[0])]))


def all_quoted(rng: random.Random, table: list[list[str]]) -> None:
    low = rng.choice([0, 1])
    table[low:] = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in table[low:]]


ROW_MUTATIONS = (
    shuffled_columns,
    odd_cells,
    thousands,
    other_dates,
    far_dates,
    repeated_block,
    repeated_header,
    ragged,
    empty_row,
    all_quoted,
)

# -- mutations of the bytes -------------------------------------------------------------------------------------------


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randint(0, len(data))]


def recoded(rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    at = rng.randint(0, len(text))
    text = text[:at] + rng.choice(["é", "平安银行", "", "Ω"]) + text[at:]
    return text.encode(
        rng.choice(["utf-16", "utf-16-le", "utf-8-sig", "latin-1", "gbk", "gb18030", "utf-32"]), "replace"
    )


def noise(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 40)) + data[at + rng.choice([0, 10]) :]


def flipped(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 8) if out else 0):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def nul(rng: random.Random, data: bytes) -> bytes:
    at = rng.randint(0, len(data))
    return data[:at] + b"\0" * rng.randint(1, 3) + data[at:]


def stray_quotes(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.randint(1, 4)):
        at = rng.choice([m.start() for m in re.finditer(rb"[,\n]", data)] or [0]) + rng.choice([0, 1, 2])
        data = data[:at] + rng.choice([b'"', b'""', b'"\n', b'\n"', b"'", b'\\"']) + data[at:]
    return data


def line_ends(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.4:
        return data.replace(b"\n", rng.choice([b"\r\n", b"\r"]))
    return re.sub(rb"\n", lambda _: rng.choice([b"\n", b"\r\n", b"\r", b"\n\n", b"\n \t\n", b"\r\r\n"]), data)


def blank_begin(rng: random.Random, data: bytes) -> bytes:
    return rng.choice([b"\n", b"\r\n\r\n", b" \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\v\f\n"]) + data


def another_separator(rng: random.Random, data: bytes) -> bytes:
    return data.replace(b",", rng.choice([b";", b"\t", b"|", b", "]))


def replaced(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(
        [b"", b"\n\n", b'{"code": 40203}', b"<html>503</html>", b"null", rng.randbytes(300), b"\x1f\x8b" + data]
    )


BYTE_MUTATIONS = (
    truncated,
    recoded,
    noise,
    flipped,
    nul,
    stray_quotes,
    line_ends,
    blank_begin,
    another_separator,
    replaced,
)


def long_line(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    filler = rng.choice([b"9" * 10_000_000, b"1," * 5_000_000, b'"' + b"x\n" * 5_000, b'"' + b"y" * 10_000_000 + b'"'])
    lines.insert(rng.randint(1, len(lines)), filler)
    return b"\n".join(lines)


def csv_file(rng: random.Random, layout: Layout, stem: str) -> bytes:
    table = [list(layout.header), *layout.rows(rng, stem)]
    for mutation in rng.sample(ROW_MUTATIONS, rng.choice([0, 1, 1, 2, 3])):
        mutation(rng, table)
    data = "".join(",".join(row) + "\n" for row in table).encode()
    for mutation in rng.sample(BYTE_MUTATIONS, rng.choice([0, 1, 1, 2])):
        data = mutation(rng, data)
    return data


def parquet_file(rng: random.Random, layout: Layout, stem: str) -> bytes:
    """Columns of odd types, then truncated or with flipped bits."""
    rows = layout.rows(rng, stem)
    columns: dict[str, pa.Array] = {}
    for i, name in enumerate(layout.header):
        texts = pa.array([row[i] for row in rows])
        kinds = [texts, texts.dictionary_encode(), texts.cast(pa.large_string()), texts.cast(pa.binary())]
        if i == layout.date:
            dates = pa.array([layout.day(row[i]) for row in rows])
            kinds = [
                texts,
                dates,
                dates.cast(pa.timestamp("ns")),
                dates.cast(pa.timestamp("us", "UTC")),
                dates.cast(pa.int32()),
            ]
        elif name != "ts_code":
            number = texts.cast(pa.float64())
            lists = pa.array([[x] for x in number.to_pylist()])
            kinds = [number] * 6 + [
                texts,
                number.cast(pa.float32()),
                pa.nulls(len(rows)),
                lists,
                pa.array([True] * len(rows)),
            ]
        columns[name] = rng.choice(kinds[:1] * 3 + kinds)
    if rng.random() < 0.1:
        columns.pop(rng.choice(layout.header))
    table = pa.table(columns)
    if rng.random() < 0.3:
        table = pa.concat_tables([table, table.slice(1, 2)])
    out = io.BytesIO()
    pq.write_table(table, out, compression=rng.choice(["NONE", "snappy"]), write_page_checksum=rng.random() < 0.5)
    data = out.getvalue()
    damage: Callable = rng.choice([lambda _, x: x, truncated, flipped, flipped, noise, nul])
    return damage(rng, data)


def parquet_rows(data: bytes, layout: Layout) -> int:
    """Rows of a readable Parquet file: all dates of the layout lie in the range, unless bits were flipped."""
    column = pq.read_table(io.BytesIO(data), columns=[layout.header[layout.date]]).column(0)
    days: list[date | None] = []
    for value in column:
        try:
            day = value.as_py()
        except (ValueError, OverflowError):
            # further away than a date reaches: none
            day = None
        if isinstance(day, int):
            day = str(day)
        day = layout.day(day) if isinstance(day, str) else getattr(day, "date", lambda day=day: day)()
        days.append(day if isinstance(day, date) and day.year >= 1000 else None)
    return accounted(days)


@pytest.mark.parametrize("profile", ["alphavantage", "tushare"])
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_every_row_is_accounted_for(tmp_path, profile, seed):
    layout = Layout(profile)
    rng = random.Random(f"{profile} {seed}")
    contents = {}
    for number in range(FILES):
        suffix = "parquet" if rng.random() < 0.2 else "csv"
        make = parquet_file if suffix == "parquet" else csv_file
        contents[number] = f"{layout.stem(number)}.{suffix}", make(rng, layout, layout.stem(number))
    if seed < 3:
        name, data = f"{layout.stem(FILES)}.csv", csv_file(rng, layout, layout.stem(FILES))
        contents[FILES] = name, long_line(rng, data)
    for name, data in contents.values():
        (tmp_path / name).write_bytes(data)
    spec = UniverseSettings(
        source=FilesSource(path=tmp_path, profile=profile), calendar=layout.calendar, start=START, end=END
    )
    delivery = open_source("u", spec).deliver(calendar_for(spec).all, START, END)
    stored = Counter(delivery.bars["instrument"].to_pylist())
    refused = list(zip(*(delivery.quarantine[c].to_pylist() for c in ("source", "line", "reason")), strict=True))
    whole = {source for source, line, _ in refused if line == 0}
    lines = Counter(source for source, line, _ in refused if line)
    assert len({(source, line) for source, line, _ in refused}) == len(refused), "a line is refused once"
    delivered = 0
    for number, (name, data) in contents.items():
        kept = stored[layout.instrument(number)] + lines[name]
        if name in whole:
            assert kept == 0, name
            continue
        count = (parquet_rows if name.endswith("parquet") else rows_in)(data, layout)
        assert kept <= count, (name, kept, count, data[:3000])
        delivered += count
    assert delivered == delivery.bars.num_rows + sum(lines.values()) + delivery.corrections
    assert delivery.checks["rows_delivered"] == delivered
    assert delivery.files == len(delivery.versions) == len(contents)
    # most files are only a little damaged: their rows are there
    assert delivery.bars.num_rows > FILES
    assert set(stored) <= {layout.instrument(number) for number in contents}
