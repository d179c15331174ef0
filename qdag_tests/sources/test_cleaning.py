"""What is the same for every source: bad rows, duplicates, names and dates that cannot be, through small files."""

from datetime import date, timedelta

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from qdag.settings import ColumnMapping
from qdag_tests.sources.dates import misplaced
from qdag_tests.sources.files.delivered import TEXT, US, accounts, deliver, reasons, refused, universe, us


def test_every_bad_row_has_its_reason_and_line(tmp_path):
    bad = [
        (us(6, h=8, lo=9), "high_below_low"),
        (us(7, c=12), "close_outside_range"),
        (us(8, o=12), "open_outside_range"),
        (us(9, v=-1), "negative_volume"),
        (us(10, lo=0), "non_positive_price"),
        (us(13, o="x"), "bad_number"),
        (us(14, h="inf"), "bad_number"),
        (us(15, c=""), "null_price"),
        (us(16, v=""), "null_volume"),
        (us(11), "unknown_date"),
        ("2020-13-01,1,1,1,1,1,1,0,1\n", "bad_date"),
        (us(17, split=0), "bad_event"),
        ("2020-01-21,1,2\n", "wrong_columns"),
    ]
    text = "\ufeff" + US + us(2) + "\n" + "".join(row for row, _ in bad) + us(22, v=0)
    (tmp_path / "NA.csv").write_text(text, "utf-8")
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["NA", "NA"]
    assert delivery.bars["date"].to_pylist() == [date(2020, 1, 2), date(2020, 1, 22)]
    got = {
        line: (reason, row)
        for line, reason, row in zip(
            *(delivery.quarantine[c].to_pylist() for c in ("line", "reason", "row")), strict=True
        )
    }
    assert got == {line: (reason, row.strip()) for line, (row, reason) in enumerate(bad, start=4)}


def test_the_newest_of_duplicates_wins(tmp_path):
    (tmp_path / "A.csv").write_text(US + us(3) + us(3) + us(3, c=10.5) + us(3, c=99) + us(6))
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert (delivery.corrections, dict(reasons(delivery))) == (2, {"close_outside_range": 1})
    assert delivery.bars["close"].to_pylist() == [10.5, 10.0]


def test_us_events_by_hand(tmp_path):
    # a 2-for-1 split in a row that is refused still counts; dividend 0.5 on a close of 5
    rows = us(2) + us(3, h=4, lo=6, o=5, c=5, split=2, adj=10) + us(6, o=5, h=5, lo=5, c=5, div=0.5, adj=100 / 9)
    (tmp_path / "A.csv").write_text(US + rows)
    delivery = deliver(universe(tmp_path))
    assert delivery.bars["factor"].to_pylist() == [1.0, 2 / (1 - 0.5 / 5)]
    part = deliver(universe(tmp_path), start=date(2020, 1, 6))
    assert part.bars.equals(delivery.bars.slice(1))


def test_numbers_of_no_exchange_are_refused_and_the_rest_goes_on(tmp_path):
    """What one cell multiplies with its unit, or with a factor, must be a number that can be stored."""
    odd = [
        us(6, o=1e30, h=1e30, lo=1e30, c=1e30, adj=1e30),
        us(7, v=1e30),
        us(8, o=1e-300, h=1e-300, lo=1e-300, c=1e-300),
        us(9, h=1.7e308, o=1.7e308, lo=1, c=1.7e308),
    ]
    (tmp_path / "A.csv").write_text(US + us(2) + us(3, split="1e300") + "".join(odd) + us(10) + us(13, div="1e300"))
    (tmp_path / "B.csv").write_text(US + us(2) + us(3))
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert dict(reasons(delivery)) == {"bad_number": 4}
    assert delivery.bars["factor"].to_pylist() == [1.0] * 6
    assert delivery.findings.select(["date", "instrument", "kind"]).to_pylist() == [
        {"date": date(2020, 1, 3), "instrument": "A", "kind": "event_refused"},
        {"date": date(2020, 1, 13), "instrument": "A", "kind": "factor_gap"},
    ]


cell = st.sampled_from(["10", "11", "9", "", "x", "-1", "0", "inf"])

row = st.tuples(
    st.sampled_from(["2020-01-02", "2020-01-03", "2020-01-04", "2020-01-06", "2019-12-31", "2020-02-03", "?"]),
    cell,
    cell,
    cell,
    cell,
    cell,
    cell,
    st.sampled_from(["0", "1", "-1"]),
    st.sampled_from(["1", "2", "0"]),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(row, max_size=25))
def test_no_row_is_lost(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("p")
    (folder / "A.csv").write_text(US + "".join(",".join(r) + "\n" for r in rows))
    spec = universe(folder)
    delivery = deliver(spec)
    accounts(delivery)
    days = [None if r[0] == "?" else date.fromisoformat(r[0]) for r in rows]
    told = misplaced(days, spec.start, spec.end)
    inside = sum(d is None or odd or spec.start <= d <= spec.end for d, odd in zip(days, told, strict=True))
    assert (delivery.checks["rows_delivered"], delivery.checks["rows_outside"]) == (inside, len(rows) - inside)
    part = deliver(spec, start=date(2020, 1, 3), end=date(2020, 1, 5))
    accounts(part)
    inside = [date(2020, 1, 3) <= d <= date(2020, 1, 5) for d in delivery.bars["date"].to_pylist()]
    assert part.bars.equals(delivery.bars.filter(pa.array(inside, pa.bool_())))


def test_names_that_differ_in_capitals_only(tmp_path):
    """The first by name stays; in a file of several instruments, the first that comes."""
    for name in ("DOV.csv", "dov.csv", "sub/Dov.csv", "NA.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TEXT)
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["DOV", "NA"]
    assert refused(delivery) == {
        "dov.csv": ("name_clash", "dov"),
        "sub/Dov.csv": ("name_clash", "Dov"),
    }
    # alone it is read
    assert deliver(universe(tmp_path, instruments=("dov",))).bars["instrument"].to_pylist() == ["dov"]
    columns = ColumnMapping(
        date="timestamp", instrument="s", open="open", high="high", low="low", close="close", volume="volume"
    )
    several = tmp_path / "several"
    several.mkdir()
    rows = "".join(f"{name},{us(day)}" for name in ("b", "B", "b") for day in (3, 6))
    (several / "all.csv").write_text(US.replace("timestamp", "s,timestamp") + rows)
    delivery = deliver(universe(several, profile="custom", columns=columns))
    accounts(delivery)
    assert delivery.bars["instrument"].to_pylist() == ["b", "b"]
    assert (dict(reasons(delivery)), delivery.corrections) == ({"name_clash": 2}, 2)


def test_a_mistyped_year_is_told(tmp_path):
    wrong = [us(8).replace("2020", "2220"), us(9).replace("2020", "1920")]
    ascending = us(2) + us(3) + us(6) + us(7) + wrong[0] + wrong[1] + us(10)
    (tmp_path / "A.csv").write_text(US + us(2).replace("2020", "2019") + ascending + us(3).replace("-01-", "-02-"))
    newest_first = [us(10), wrong[1], us(8), us(7), wrong[0], us(3), us(2), us(2).replace("2020", "2018")]
    (tmp_path / "B.csv").write_text(US + "".join(newest_first))
    coming = date.today() + timedelta(days=40)
    (tmp_path / "C.csv").write_text(TEXT + us(6).replace("2020-01-06", coming.isoformat()))
    delivery = deliver(universe(tmp_path))
    accounts(delivery)
    told = [(row["instrument"], row["reason"], row["line"]) for row in delivery.quarantine.to_pylist()]
    assert sorted(told) == [
        ("A", "misplaced_date", 7),
        ("A", "misplaced_date", 8),
        ("B", "misplaced_date", 3),
        ("B", "misplaced_date", 6),
        ("C", "misplaced_date", 3),
    ]
    # history before the universe, and what comes after its end, are other times: counted
    assert delivery.checks["rows_outside"] == 3
    # what was mistyped is no last day of a file
    assert [version.last for version in delivery.versions] == [date(2020, 2, 3), date(2020, 1, 10), date(2020, 1, 3)]
    # asked for day by day it is the same, told on the first asked day, as what has no date at all
    part = deliver(universe(tmp_path), start=date(2020, 1, 7), end=date(2020, 1, 8))
    assert dict(reasons(part)) == {"misplaced_date": 5}
    assert set(part.quarantine["date"].to_pylist()) == {date(2020, 1, 7)}
