"""The quality page from a small data home: what it says, that it is whole, and that it trusts no text."""

import json
import re
from dataclasses import asdict, replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from qdag import schema
from qdag.assets.chain import chain
from qdag.core.sessions import calendar_for
from qdag.errors import MissingDataError, SessionError, UnknownNameError
from qdag.quality import Offence, Rule, RuleResult, profile_table, quality_table
from qdag.quality.outcome import kept_profile, outcome
from qdag.quality.page import PageInputs, gather, newest_judged, page_path, render, write_page, write_pages
from qdag.quality.profiles import profile
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag.store.tables import TableStore

START, END = date(2020, 1, 2), date(2020, 6, 30)
TABLES = chain(Settings(custom_factors={"x": "$close"})).judged()
STRUCTURE = Rule(
    name="high not below low",
    table="raw_ohlcv",
    check="structure",
    kind="ordered",
    columns=("high", "low"),
    meaning="The range is reversed.",
)
VALUES = Rule(
    name="bars traded",
    table="raw_ohlcv",
    check="values",
    kind="between",
    columns=("volume",),
    meaning="No volume.",
    frame="rows",
    parameters={"minimum": 0},
)
NOTICE = Rule(
    name="listings and returns",
    table="raw_ohlcv",
    check="completeness",
    kind="empty",
    columns=(),
    meaning="New.",
    frame="listings",
    notice=True,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    universe = UniverseSettings(source=SyntheticSource(), calendar="XNYS", start=START, end=END)
    return Settings(home=tmp_path, universes={"toy": universe})


@pytest.fixture
def store(settings: Settings) -> TableStore:
    """Checks of 120 sessions: a warning on session 100, a structural failure on session 110, one notice at the end."""
    store = TableStore(settings.tables)
    days = calendar_for(settings.universe("toy")).all[:120]

    def broken(rule: Rule, at: int, instrument: str = "AAA") -> RuleResult:
        day = days[at].item()
        offence = Offence(str(day), instrument, "9", "high 8", "<script>alert('x')</script>")
        return RuleResult(rule, 240, 1, "1 of 240 break it", (offence,), {day: (1, (offence,))})

    results = [broken(STRUCTURE, 110), broken(VALUES, 100), broken(NOTICE, 119)]
    put(store, quality_table("raw_ohlcv"), outcome(results, "toy", days))
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(len(days) * 50, 2))
    matrix[-50 * 20 :, 1] += 3
    matrix[-25:, 0] = np.nan
    features = profile(np.repeat(days, 50), ["KMID", "MA5"], matrix)
    put(store, profile_table("alpha158"), kept_profile("alpha158", "toy", features))
    passed = [RuleResult(replace(STRUCTURE, table="alpha158", name="keys unique"), 9, 0, "all 9 hold")]
    put(store, quality_table("alpha158"), outcome(passed, "toy", days))
    refused = {"universe": "toy", "date": [days[118].item()], "instrument": "B", "source": "B.csv", "line": 0}
    rows = pd.DataFrame({**refused, "reason": "api_error_page", "row": "<b>no</b>"})
    put(store, schema.QUARANTINE, pa.Table.from_pandas(rows, schema.QUARANTINE.arrow(), preserve_index=False))
    return store


def put(store: TableStore, spec: schema.TableSpec, rows: pa.Table) -> None:
    store.replace(spec, "toy", START, END, rows, {})


def session(settings: Settings, at: int) -> date:
    return calendar_for(settings.universe("toy")).all[at].item()


def page_of(settings: Settings, store: TableStore, at: int):
    day = session(settings, at)
    return gather(settings, PageInputs(settings, store, "toy", TABLES, day, day), day)


@pytest.mark.parametrize(("at", "verdict"), [(110, "error"), (100, "warn"), (105, "good"), (119, "good")])
def test_the_verdict_is_the_worst_of_the_session(settings: Settings, store: TableStore, at: int, verdict: str) -> None:
    page = page_of(settings, store, at)
    assert page.verdict == verdict
    assert page.judged == ("raw_ohlcv", "alpha158")
    states = page.timeline.loc["raw_ohlcv"].tolist()
    assert len(states) == 60
    assert states[-1] == verdict
    expected = ["error" if i == 110 else "warn" if i == 100 else "good" for i in range(at - 59, at + 1)]
    assert states == expected
    assert set(page.timeline.loc["alpha158"]) == {"good"}


def test_completeness_drift_and_quarantine(settings: Settings, store: TableStore) -> None:
    page = page_of(settings, store, 119)
    filled = page.completeness.set_index(["table", "column"])["filled"]
    assert filled["alpha158", "KMID"] == 0.5
    assert filled["alpha158", "MA5"] == 1
    assert [d.column for d in page.drifts] == ["MA5", "KMID"]
    assert page.drifts[0].psi > 3 > 0.1 > page.drifts[1].psi
    assert len(page.drifts[0].median) == 60
    assert page.quarantine["reason"].tolist() == ["api_error_page"]
    # 30 sessions are too few to compare with
    assert page_of(settings, store, 30).drifts == ()


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    VOID = ("meta", "br", "rect", "polyline", "polygon")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("at", [5, 100, 110, 119])
def test_a_page_is_whole_and_loads_nothing(settings: Settings, store: TableStore, at: int) -> None:
    html = render(page_of(settings, store, at))
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert not parser.seen & {"script", "link", "img", "iframe"}
    assert "&lt;script&gt;" in html or at == 5
    assert not re.findall(r'(?:src|href)="(?!http://127\.0\.0\.1:3000/)', html)
    assert f"assets/raw_ohlcv?view=checks&amp;partition={session(settings, at)}%7Ctoy" in html
    assert "prefers-color-scheme:dark" in html
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.S).lower().replace("finance", "")


def test_no_text_of_the_data_is_markup(settings: Settings, store: TableStore) -> None:
    evil = "\"'><script>alert(1)</script>"
    days = calendar_for(settings.universe("toy")).all[:120]
    day = days[-1].item()
    offence = Offence(str(day), *[f"{evil}{n}" for n in range(4)])
    rule = Rule(
        name=f"{evil}r",
        table="raw_ohlcv",
        check="values",
        kind="empty",
        columns=(),
        meaning=f"{evil}m",
        frame="rows",
        asks=f"{evil}a",
    )
    notice = replace(rule, name=f"{evil}n", notice=True)
    results = [RuleResult(r, 1, 1, f"{evil}o", (offence,), {day: (1, (offence,))}) for r in (rule, notice)]
    put(store, quality_table("raw_ohlcv"), outcome(results, "toy", days))
    matrix = np.random.default_rng(0).normal(size=(len(days) * 30, 1))
    matrix[-1] = np.nan
    columns = profile(np.repeat(days, 30), [f"{evil}c"], matrix)
    for table in ("alpha158", "raw_ohlcv"):
        put(store, profile_table(table), kept_profile(table, "toy", columns))
    listed = {"universe": "toy", "date": [day], "instrument": f"{evil}i"}
    for spec, texts in ((schema.QUARANTINE, ("source", "reason", "row")), (schema.FINDINGS, ("kind", "detail"))):
        frame = pd.DataFrame({**listed, **{name: f"{evil}{name}" for name in texts}}).assign(
            line=3, value=0, expected=0
        )
        put(store, spec, pa.Table.from_pandas(frame, spec.arrow(), preserve_index=False))
    html = render(page_of(settings, store, 119))
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []
    assert "script" not in parser.seen
    for shown in "rmaonc0123":
        assert f"&lt;/script&gt;{shown}" in html, shown
    assert "&lt;/script&gt;reason" in html
    assert "&lt;/script&gt;detail" in html


def test_a_run_writes_its_last_page_and_the_failing_ones(settings: Settings, store: TableStore) -> None:
    days = calendar_for(settings.universe("toy")).all[95:120]
    path = write_pages(settings, store, "toy", days, TABLES)
    assert path == page_path(settings, "toy", session(settings, 119))
    written = sorted(p.name for p in path.parent.iterdir())
    assert written == [f"{session(settings, at)}.html" for at in (100, 110, 119)]
    assert "structural rule broken" in page_path(settings, "toy", session(settings, 110)).read_text()
    assert newest_judged(settings, store, "toy", TABLES) == session(settings, 119)


def test_what_cannot_be_shown_is_explained(settings: Settings, store: TableStore, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="qdag materialize -u toy --start 2020-06-26"):
        write_page(settings, store, "toy", date(2020, 6, 26), TABLES)
    with pytest.raises(SessionError, match="no session"):
        write_page(settings, store, "toy", date(2020, 1, 4), TABLES)
    with pytest.raises(UnknownNameError, match="toy"):
        write_page(settings, store, "tyo", date(2020, 1, 3), TABLES)
    with pytest.raises(MissingDataError, match="no check has judged"):
        newest_judged(settings, TableStore(tmp_path / "empty"), "toy", TABLES)


def test_days_judged_beyond_a_universe_that_ends_earlier_now_are_not_shown(
    settings: Settings, store: TableStore
) -> None:
    """As after a first run without an end over files that end earlier."""
    end = session(settings, 80)
    market = settings.universe("toy").model_copy(update={"end": end})
    shorter = settings.model_copy(update={"universes": {"toy": market}})
    assert newest_judged(shorter, store, "toy", TABLES) == end
    assert write_page(shorter, store, "toy", end, TABLES).exists()


def test_offenders_survive_the_store(settings: Settings, store: TableStore) -> None:
    rules = page_of(settings, store, 110).rules.set_index("rule")
    (line,) = json.loads(rules.loc["high not below low", "offenders"])
    assert set(line) == set(asdict(Offence("", "", "", "", "")))
    assert line["instrument"] == "AAA"
