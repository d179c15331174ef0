"""Pools: spans against the slow definition; and through the whole chain, from files to Qlib and the metrics."""

import itertools
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qdag.assets.chain import compute
from qdag.assets.factor_metrics import _StoredMatrices
from qdag.assets.inputs import industries_of
from qdag.assets.platform import Platform
from qdag.core.pools import Pool, Span, all_pool, top_pool
from qdag.core.pools import read_pool as read_pool_file
from qdag.core.sessions import calendar_for
from qdag.errors import MissingDataError, PanelError, SessionError, SourceError, StoreError
from qdag.factors import factor_metrics, iter_factor_metrics
from qdag.quality import Scope
from qdag.quality.rule import violations
from qdag.settings import Settings, TrainingSettings, UniverseSettings
from qdag.sources.membership import pools_of
from qdag.store.matrices import table_matrix
from qdag.store.qlib.layout import qlib_symbol
from qdag.store.qlib.reader import published_days, read_pool, read_provider_panel
from qdag.views.pools import pool_report
from qdag_tests import stages
from qdag_tests.stages import frames, rules_for

SESSIONS = np.arange("2020-01-01", "2020-01-11", dtype="M8[D]")
DAY = date(2020, 1, 1)


def test_mask_is_the_slow_definition():
    spans = (
        Span("A", date(2020, 1, 2), date(2020, 1, 3)),
        Span("A", date(2020, 1, 8), date(2021, 1, 1)),
        Span("B", date(2019, 1, 1), date(2020, 1, 1)),
        Span("GONE", date(2019, 1, 1), date(2022, 1, 1)),
    )
    mask = Pool("p", spans).mask(["B", "A", "C"], SESSIONS)
    for i, name in enumerate(["B", "A", "C"]):
        for s, day in enumerate(SESSIONS.tolist()):
            assert mask[i, s] == any(x.instrument == name and x.start <= day <= x.end for x in spans)


def test_all_pool():
    first = {"B": date(2020, 1, 3), "A": date(2020, 1, 1)}
    pool = all_pool(first, {"A": date(2020, 1, 2), "B": date(2020, 1, 10)})
    assert pool.mask(["A", "B"], SESSIONS).sum(axis=1).tolist() == [2, 8]
    assert all_pool(first, date(2020, 1, 10)).mask(["A"], SESSIONS).all()


def test_read_pool(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("instrument,start,end\nNA,2020-01-01,2020-01-05\nTRUE,2020-01-01,\n", "utf-8")
    assert read_pool_file("p", path).mask(["NA", "TRUE"], SESSIONS).sum(axis=1).tolist() == [5, 10]
    for text, said in (
        ("a,b\n", "lacks the columns"),
        ("instrument,start,end\nA,x,\n", "line 2"),
        ("instrument,start,end\nA,2020-01-02,2020-01-01\n", "swap"),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(SourceError, match=said):
            read_pool_file("p", path)
    with pytest.raises(SourceError, match="cannot be read"):
        read_pool_file("p", tmp_path / "none.csv")


days = st.integers(-3, 13).map(lambda n: DAY + timedelta(days=n))
span_lists = st.lists(st.tuples(st.sampled_from("AB"), days, days), max_size=8).map(
    lambda found: tuple(Span(n, min(a, b), max(a, b)) for n, a, b in found)
)


@given(span_lists, st.dictionaries(st.sampled_from("AB"), st.tuples(days, days).map(sorted).map(tuple)), st.booleans())
def test_joined_and_clipped_spans_are_the_same_days(spans, stored, weekends):
    pool = Pool("p", spans)
    before = pool.mask("AB", SESSIONS)
    joined, overlapping = pool.joined()
    np.testing.assert_array_equal(joined.mask("AB", SESSIONS), before)
    for one, two in zip(joined.spans, joined.spans[1:], strict=False):
        assert one.instrument != two.instrument or two.start > one.end
    # every span that shares a day with those before it in order counts
    shared, seen = 0, {"A": set(), "B": set()}
    for span in sorted(spans):
        covered = {span.start + timedelta(days=n) for n in range((span.end - span.start).days + 1)}
        shared += bool(covered & seen[span.instrument])
        seen[span.instrument] |= covered
    assert overlapping == shared
    np.testing.assert_array_equal(joined.counts(SESSIONS), before.sum(axis=0))
    assert joined.members(DAY) == tuple(n for n, m in zip("AB", before[:, 0], strict=True) if m)

    sessions = SESSIONS[np.is_busday(SESSIONS)] if weekends else SESSIONS
    clipped, lost = pool.clipped(stored, sessions)
    after = clipped.mask("AB", sessions)
    before = before[:, np.isin(SESSIONS, sessions)]
    assert all(s.start in sessions.tolist() and s.end in sessions.tolist() for s in clipped.spans)
    # as few spans as there are runs of sessions
    starts = after & ~np.concatenate([np.zeros((2, 1), bool), after[:, :-1]], axis=1)
    assert len(clipped.spans) == starts.sum()
    for i, name in enumerate("AB"):
        low, high = stored.get(name, (date.max, date.min))
        inside = [low <= day <= high for day in sessions.tolist()]
        np.testing.assert_array_equal(after[i], before[i] & inside)
    assert {s.instrument for s in clipped.spans} == {s.instrument for s in spans} - set(lost)


def _top_slowly(size, window, names, sessions, traded):
    """Members of each session, one session after another."""
    result = []
    days = sessions.tolist()
    for day in days:
        before = [s for s, d in enumerate(days) if d < day.replace(day=1)][-window:]
        mean = {
            n: np.nansum(row[before]) / len(before) if before else 0.0 for n, row in zip(names, traded, strict=True)
        }
        ranked = sorted((-value, name) for name, value in mean.items() if value > 0)
        result.append({name for _, name in ranked[:size]})
    return result


@hypothesis_settings(max_examples=40)
@given(st.integers(1, 4), st.sampled_from([1, 5, 21, 60]), st.integers(0, 10_000), st.booleans())
def test_top_pool_is_the_slow_definition_and_never_looks_ahead(size, window, seed, ties):
    sessions = np.arange("2020-01-06", "2020-06-20", dtype="M8[D]")
    sessions = sessions[np.is_busday(sessions)]
    random = np.random.default_rng(seed)
    names = ["C", "A", "NA", "B", "D"]
    # whole numbers: their sums are exact in any order
    traded = random.integers(0, 3 if ties else 1_000_000, (5, len(sessions))).astype(float)
    traded[random.random(traded.shape) < 0.2] = np.nan
    traded[3] = np.nan
    pool = top_pool("t", size, window, names, sessions, traded)
    mask = pool.mask(names, sessions)
    expected = _top_slowly(size, window, names, sessions, traded)
    assert [{n for n, m in zip(names, column, strict=True) if m} for column in mask.T] == expected
    cut = int(random.integers(1, len(sessions)))
    shorter = top_pool("t", size, window, names, sessions[:cut], traded[:, :cut])
    np.testing.assert_array_equal(shorter.mask(names, sessions[:cut]), mask[:, :cut])


# -- through the chain ------------------------------------------------------------------------------------------------

START, END = date(2018, 1, 2), date(2018, 12, 31)
NAMES = ["NA", "TRUE", "null", "BRK-B", "AAPL", "FB", "MSFT", "XX", "YY", "ZZ"]
HEADER = "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"
POOL_FILE = """instrument,start,end
NA,2017-01-01,2018-06-29
NA,2018-08-01,
TRUE,2018-02-01,
TRUE,2018-03-01,2018-05-01
null,2018-02-01,2018-11-30
BRK.B,2018-01-02,
XX,2018-01-02,
YY,2018-01-02,
ZZ,2018-01-02,2018-01-10
GONE,2018-01-02,
OLD,2010-01-02,2011-01-01
"""


def _settings(folder, end=END, **more):
    universe = {
        "source": {"kind": "files", "path": folder / "bars"},
        "calendar": "XNYS",
        "start": START,
        "end": end,
        "industries": folder / "stocks.csv",
        "pools": {
            "listed": {"kind": "file", "path": folder / "pool.csv", "size": 7},
            "dow": {"kind": "index", "index": "dow30"},
            "sp500": {"kind": "index", "index": "sp500"},
            "busy": {"kind": "top", "size": 3, "window": 20},
        },
    }
    return Settings(
        home=folder / "home",
        universes={"toy": UniverseSettings.model_validate(universe | more)},
        horizons=(1, 5),
        features=(),
        training=TrainingSettings(features=("custom_factors",)),
        custom_factors={
            "gap": "$close/Ref($close, 5)",
            "neutral": "CSNeutralize($close/Ref($close, 5), $industry, 'group')",
            "code": "$industry",
        },
    )


def _bars(folder):
    """Ten symbols that readers like to mistake, in files of their own; ZZ is listed late and XX is suspended."""
    (folder / "bars").mkdir()
    random = np.random.default_rng(3)
    sessions = calendar_for(_settings(folder).universe("toy")).between(START, END)
    for k, name in enumerate(NAMES):
        close = 50 * np.exp(np.cumsum(random.normal(0, 0.02, len(sessions))))
        volume = random.integers(1_000, 9_000, len(sessions))
        lines = [
            f"{day},{c},{c + 1},{c - 1},{c},{c},{v},0,1\n"
            for s, (day, c, v) in enumerate(zip(sessions, close.round(2), volume, strict=True))
            if not (name == "ZZ" and s < 40) and not (name == "XX" and 60 <= s < 110) and not (k == 8 and s > 200)
        ]
        (folder / "bars" / f"{name}.csv").write_text(HEADER + "".join(lines))
    (folder / "pool.csv").write_text(POOL_FILE)
    (folder / "stocks.csv").write_text(
        "ts_code,symbol,name,area,industry,list_date\n"
        + "".join(f"{n},{n},x,y,{i},20000101\n" for n, i in zip(NAMES, "aabbbcccd", strict=False))
        + "OTHER,OTHER,x,y,zzz,20000101\n"
    )


def _fill(platform, start, end):
    steps = ("raw_ohlcv", "qlib_bin", "custom_factors", "labels", "factor_metrics")
    return {name: compute(name, platform, "toy", start, end) for name in steps}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A filled platform with custom factors only, and what its stages said."""
    folder = tmp_path_factory.mktemp("pools")
    _bars(folder)
    platform = Platform.open(_settings(folder))
    return platform, _fill(platform, START, END), folder


def test_pools_are_clipped_matched_and_counted(chain):
    platform, done, _ = chain
    provider = platform.settings.provider("toy")
    held = published_days(provider)
    assert sorted(held) == sorted(NAMES)
    listed = read_pool(provider, "listed")
    assert listed.spans == (
        Span("BRK-B", START, END),
        Span("NA", START, date(2018, 6, 29)),
        Span("NA", date(2018, 8, 1), END),
        Span("TRUE", date(2018, 2, 1), END),
        Span("XX", START, END),
        Span("YY", START, held["YY"][1]),
        Span("null", date(2018, 2, 1), date(2018, 11, 30)),
    )
    assert held["YY"][1] < END
    pools = done["qlib_bin"].extra["pools"]
    assert "| listed | file | 7 | 4 | 4 | 4 | 6 | 2 | 1 | 0 |" in pools
    lost = done["qlib_bin"].extra["pool_listed_unmatched"]
    assert lost == "GONE, ZZ (nothing stored while a member); `qdag pools` lists all"
    assert {s.instrument for s in read_pool(provider, "sp500").spans} == {"AAPL", "BRK-B", "FB", "MSFT"}
    assert read_pool(provider, "dow").members(date(2018, 6, 1)) == ("AAPL", "MSFT")
    assert "pool_sp500_unmatched" in done["qlib_bin"].extra
    assert " more; `qdag pools` lists all" in done["qlib_bin"].extra["pool_sp500_unmatched"]
    busy = read_pool(provider, "busy").counts(platform.calendar("toy").between(START, END))
    assert set(busy[:21]) == {0}
    assert set(busy[21:]) == {3}


def test_session_by_session_writes_the_same_instruments_files(chain, tmp_path):
    platform, _, folder = chain
    other = Platform.open(_settings(folder).model_copy(update={"home": tmp_path}))
    sessions = platform.calendar("toy").between(START, END)
    cuts = [0, 35, 59, 60, 61, 110, 203, 204, len(sessions)]
    for low, high in itertools.pairwise(cuts):
        for step in (stages.raw_ohlcv, stages.qlib_bin):
            step(other, "toy", sessions[low].item(), sessions[high - 1].item())
        held = published_days(other.settings.provider("toy"))
        for name in other.settings.universe("toy").pools:
            for span in read_pool(other.settings.provider("toy"), name).spans:
                assert held[span.instrument][0] <= span.start <= span.end <= held[span.instrument][1]
    for name in ("all", *other.settings.universe("toy").pools):
        files = [p.settings.provider("toy") / "instruments" / f"{name}.txt" for p in (platform, other)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_adding_a_session_only_extends(chain, tmp_path):
    _, _, folder = chain
    other = Platform.open(_settings(folder).model_copy(update={"home": tmp_path}))
    sessions = other.calendar("toy").between(START, END)
    before: dict[str, Pool] = {}
    for low, high in ((0, 120), (120, 121), (121, 122), (122, 126)):
        for step in (stages.raw_ohlcv, stages.qlib_bin):
            step(other, "toy", sessions[low].item(), sessions[high - 1].item())
        for name in other.settings.universe("toy").pools:
            pool = read_pool(other.settings.provider("toy"), name)
            if name in before:
                np.testing.assert_array_equal(
                    pool.mask(NAMES, sessions[:low]), before[name].mask(NAMES, sessions[:low]), err_msg=name
                )
            before[name] = pool


def test_qlib_lists_and_reads_the_pools(chain):
    import qlib
    from qlib.data import D

    platform, _, _ = chain
    provider = platform.settings.provider("toy")
    qlib.init(provider_uri=str(provider), region="us", kernels=1, logging_level=50)
    sessions = platform.calendar("toy").between(START, END)
    panel = read_provider_panel(provider, ("close",))
    symbols = [qlib_symbol(n) for n in panel.instruments]
    for name in ("all", *platform.settings.universe("toy").pools):
        pool = read_pool(provider, name)
        mask = pool.mask(panel.instruments, sessions)
        for s in range(0, len(sessions), 19):
            found = D.list_instruments(D.instruments(name), sessions[s], sessions[s], as_list=True)
            assert sorted(found) == sorted(symbols[i] for i in np.flatnonzero(mask[:, s])), (name, sessions[s])
        if mask.any():
            frame = D.features(D.instruments(name), ["$close"], freq="day")["$close"]
            got = np.full(mask.shape, np.nan, np.float32)
            got[
                [symbols.index(n) for n in frame.index.get_level_values("instrument")],
                np.searchsorted(sessions, frame.index.get_level_values("datetime").to_numpy().astype("M8[D]")),
            ] = frame
            np.testing.assert_array_equal(got, np.where(mask, panel["close"], np.float32(np.nan)))
    # Qlib reads the words NA and null as missing values, so they carry a tail there and nowhere else
    assert [s for s in symbols if s.endswith("_")] == ["NA_", "null_"]
    raw = platform.store.read("raw_ohlcv", "toy", instruments=["NA", "TRUE", "null"]).to_pandas()
    assert set(raw["instrument"]) == {"NA", "TRUE", "null"}
    for name in ("NA", "TRUE", "null"):
        series = D.features([qlib_symbol(name)], ["$close"], freq="day")["$close"]
        np.testing.assert_array_equal(series, raw[raw["instrument"] == name]["close"].astype(np.float32))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_words_for_missing_are_symbols_in_a_column_too(tmp_path, kind):
    names = ["NA", "TRUE", "null", "nan", "None", "1E5", "007"]
    lines = [f"2018-01-0{d},{n},1,2,1,1.5,10\n" for d in (2, 3) for n in names]
    (tmp_path / "bars").mkdir()
    text = "date,symbol,open,high,low,close,volume\n" + "".join(lines)
    (tmp_path / "bars" / "all.csv").write_text(text)
    if kind == "parquet":
        frame = pd.read_csv(tmp_path / "bars" / "all.csv", dtype={"symbol": str}, keep_default_na=False)
        frame.to_parquet(tmp_path / "bars" / "all.parquet")
        (tmp_path / "bars" / "all.csv").unlink()
    (tmp_path / "pool.csv").write_text("instrument,start,end\n" + "".join(f"{n},2018-01-03,\n" for n in names))
    columns = {c: c for c in ("date", "open", "high", "low", "close", "volume")} | {"instrument": "symbol"}
    source = {"kind": "files", "path": tmp_path / "bars", "profile": "custom", "columns": columns}
    pools = {"odd": {"kind": "file", "path": tmp_path / "pool.csv"}}
    platform = Platform.open(_settings(tmp_path, end=date(2018, 1, 3), source=source, pools=pools))
    for step in (stages.raw_ohlcv, stages.qlib_bin):
        step(platform, "toy", START, date(2018, 1, 3))
    stored = platform.store.read("raw_ohlcv", "toy")
    assert sorted(set(stored["instrument"].to_pylist())) == sorted(names)
    provider = platform.settings.provider("toy")
    assert read_pool(provider, "odd").members(date(2018, 1, 3)) == tuple(sorted(names))
    assert read_provider_panel(provider, ("close",)).instruments == tuple(sorted(names))


def test_metrics_of_every_pool_are_those_of_its_members(chain):
    platform, _, _ = chain
    provider = platform.settings.provider("toy")
    got = platform.store.read("factor_metrics", "toy").to_pandas()
    assert set(got["pool"]) == {"all", "listed", "dow", "sp500", "busy"}
    panel = read_provider_panel(provider, ("close",))
    sessions = panel.sessions

    def matrices(table, columns):
        return table_matrix(platform.store.read(table, "toy"), columns, panel.instruments, sessions)

    features = {f"custom_factors.{k}": v for k, v in matrices("custom_factors", ["gap", "neutral", "code"]).items()}
    labels = {h: matrices("labels", [f"label_{h}"])[f"label_{h}"] for h in (1, 5)}
    keys = ["factor", "horizon", "date"]
    for name in ("listed", "sp500", "busy"):
        pool = read_pool(provider, name)
        # a suspended member has no rows
        mask = pool.mask(panel.instruments, sessions) & panel.traded()
        expected = factor_metrics(
            features,
            labels,
            sessions,
            mask,
            pool_name=name,
            universe="toy",
            dates=(sessions[0].item(), sessions[-1].item()),
        ).to_pandas()
        mine = got[got["pool"] == name]
        pd.testing.assert_frame_equal(
            mine.sort_values(keys, ignore_index=True)[list(expected)], expected.sort_values(keys, ignore_index=True)
        )
        # by hand: who counts is who is a member, and trades, on the signal's session
        for row in mine[(mine["factor"] == "custom_factors.gap") & (mine["horizon"] == 5)].iloc[40::37].itertuples():
            s = int(np.searchsorted(sessions, np.datetime64(row.signal_date)))
            members = [panel.instruments.index(n) for n in pool.members(row.signal_date)]
            members = [i for i in members if not np.isnan(panel["close"][i, s])]
            values = pd.DataFrame({"x": features["custom_factors.gap"][members, s], "y": labels[5][members, s]})
            pairs = values.dropna()
            assert row.n == len(pairs)
            assert row.coverage == pytest.approx(values["x"].notna().mean())
            if len(pairs) >= 3:
                assert row.rank_ic == pytest.approx(pairs["x"].rank().corr(pairs["y"].rank()), abs=1e-6)


def test_features_are_read_once_for_all_pools(chain, monkeypatch):
    platform, _, _ = chain
    read = []
    load = _StoredMatrices._load
    monkeypatch.setattr(
        _StoredMatrices,
        "_load",
        lambda self, table, columns: read.append(columns) or load(self, table, columns),
    )
    stages.factor_metrics(platform, "toy", date(2018, 12, 3), END)
    assert read == [["gap", "neutral", "code"]]


def test_a_pool_that_was_never_written_says_what_to_do(chain):
    platform, _, folder = chain
    pools = {"new": {"kind": "top", "size": 2}}
    other = Platform.open(_settings(folder, pools=pools))
    with pytest.raises(MissingDataError, match=r"pools \['new'\] are not in .*materialize qlib_bin"):
        stages.factor_metrics(other, "toy", date(2018, 12, 3), END)
    report = pool_report(other, "toy")
    assert report.summary["written"].tolist() == ["no"]
    assert platform.settings.provider("toy") == other.settings.provider("toy")


def test_a_torn_file_of_a_pool_is_told_with_its_line_and_remedy(tmp_path):
    (tmp_path / "instruments").mkdir()
    torn = tmp_path / "instruments" / "liquid.txt"
    torn.write_text("AAPL\t2000-01-03\t2010-12-31\nIBM\t2000-01")
    assert read_pool(tmp_path, "other") is None
    with pytest.raises(StoreError, match=r"liquid\.txt, line 2: 'IBM\\t2000-01' is no .*materialize qlib_bin again"):
        read_pool(tmp_path, "liquid")


def test_industries_are_a_field_of_custom_factors(chain):
    platform, done, _ = chain
    frame = platform.store.read("custom_factors", "toy").to_pandas()
    industry = dict(zip(NAMES, "aabbbcccd", strict=False))
    code = frame["instrument"].map(industry).map({n: i for i, n in enumerate("abcd")})
    pd.testing.assert_series_equal(frame["code"], code.astype("float32"), check_names=False)
    groups = frame.assign(group=frame["instrument"].map(industry)).groupby(["date", "group"])["gap"]
    expected = frame["gap"] - groups.transform("mean")
    np.testing.assert_allclose(frame["neutral"], expected, atol=2e-6)
    assert frame.loc[frame["instrument"] == "ZZ", "neutral"].isna().all()
    assert frame["neutral"].notna().sum() > 1500
    assert done["custom_factors"].extra["instruments_without_industry"] == "1 of 10: ZZ"


def test_without_a_list_every_industry_is_unknown_and_counted(chain, tmp_path):
    _, _, folder = chain
    other = Platform.open(_settings(folder, industries=None, pools={}))
    found = industries_of(other, "toy", ["A", "B"])
    assert found.unknown == ("A", "B")
    assert np.isnan(found.series(["A", "B"])).all()


def test_definitions_follow_the_lists(tmp_path):
    _bars(tmp_path)
    settings = _settings(tmp_path)
    tables = ("qlib_bin", "factor_metrics", "custom_factors", "labels")

    def texts():
        return [stages.definition(settings, "toy", table).version for table in tables]

    def changed(before):
        return [table for table, a, b in zip(tables, before, texts(), strict=True) if a != b]

    before = texts()
    (tmp_path / "pool.csv").write_text("instrument,start,end\nNA,2018-01-02,\n")
    assert changed(before) == ["qlib_bin", "factor_metrics"]
    before = texts()
    (tmp_path / "stocks.csv").unlink()
    # metrics are of the columns as they are defined
    assert changed(before) == ["factor_metrics", "custom_factors"]
    before = texts()
    settings = _settings(tmp_path, pools={"busy": {"kind": "top", "size": 3, "window": 21}})
    assert changed(before) == ["qlib_bin", "factor_metrics"]


def test_an_empty_pool_has_metrics_without_values(chain):
    platform, _, _ = chain
    panel = read_provider_panel(platform.settings.provider("toy"), ("close",))
    close, exists = panel["close"], panel.exists()
    call = {"pool_name": "all", "universe": "toy", "dates": (panel.sessions[3].item(), panel.sessions[9].item())}
    one = {"t.x": close.astype(np.float32)}
    batches = list(
        iter_factor_metrics(one, {1: close}, panel.sessions, exists, others={"none": np.zeros_like(exists)}, **call)
    )
    assert [b["pool"][0].as_py() for b in batches] == ["all", "none"]
    none = batches[1].to_pandas()
    assert none["n"].tolist() == [0] * 7
    assert none[["ic", "rank_ic", "coverage", "long_short", "icir"]].isna().all(axis=None)
    for others, said in (({"all": exists}, "'all' is given twice"), ({"p": exists[1:]}, "pool must be bool")):
        with pytest.raises(PanelError, match=said):
            iter_factor_metrics(one, {1: close}, panel.sessions, exists, others=others, **call)


def test_quality_judges_the_files(chain):
    platform, _, _ = chain
    rules = [r for r in rules_for("qlib_bin") if r.frame in ("pools", "pool_spans", "pool_sizes")]

    def broken(pl, settings=None):
        seen = dict(frames("qlib_bin", Scope(pl.store, settings or pl.settings, "toy", START, END)))
        return {
            r.name: int(violations(r, seen[r.frame]).sum())
            for r in rules
            if r.frame in seen and violations(r, seen[r.frame]).any()
        }

    # 4 to 6 of 7; the indexes hold what the universe has of them, and a pool of the largest is empty in its first month
    listed = read_pool(platform.settings.provider("toy"), "listed").counts(
        sessions := platform.calendar("toy").between(START, END)
    )
    expected = int((listed < 0.8 * 7).sum())
    assert broken(platform) == {"pools near their size": expected}
    # one that is meant to be complete has 4 of 500
    spec = platform.settings.universe("toy")
    pools = {
        n: p.model_copy(update={"complete": n == "sp500"}) if p.kind == "index" else p for n, p in spec.pools.items()
    }
    universes = {**platform.settings.universes, "toy": spec.model_copy(update={"pools": pools})}
    complete = platform.settings.model_copy(update={"universes": universes})
    assert broken(platform, complete) == {"pools near their size": expected + len(sessions)}
    provider = platform.settings.provider("toy") / "instruments"
    kept = (provider / "listed.txt").read_text()
    try:
        (provider / "listed.txt").write_text(
            "TRUE\t2018-02-01\t2018-12-31\nTRUE\t2018-02-05\t2018-02-06\nGONE\t2018-02-01\t2018-03-01\n"
            "YY\t2018-02-01\t2018-12-31\n"
        )
        found = broken(platform)
        assert found["spans of pools apart"] == 1
        assert found["members of pools stored"] == 2
        (provider / "listed.txt").unlink()
        assert broken(platform)["configured pools written"] == 1
    finally:
        (provider / "listed.txt").write_text(kept)


def test_report_for_people(chain):
    platform, _, _ = chain
    report = pool_report(platform, "toy")
    assert report.summary["written"].tolist() == ["yes"] * 4
    assert report.summary.set_index("pool").loc["listed", ["size", "instruments", "unmatched"]].tolist() == [7, 6, 2]
    assert report.counts.to_dict("records") == [
        {"session": "2018-12-31", "all": 9, "listed": 4, "dow": 2, "sp500": 4, "busy": 3}
    ]
    assert report.lists["unmatched members of listed"] == ("GONE", "ZZ (nothing stored while a member)")
    report = pool_report(platform, "toy", date(2018, 6, 1))
    assert report.lists["listed on 2018-06-01"] == ("BRK-B", "NA", "TRUE", "XX", "YY", "null")
    with pytest.raises(SessionError, match="2018-06-02 is no session"):
        pool_report(platform, "toy", date(2018, 6, 2))


def test_command_lists_pools(chain, tmp_path, capsys):
    from qdag.cli.look import pools

    _, _, folder = chain
    config = tmp_path / "qdag.toml"
    config.write_text(
        f'home = "{folder / "home"}"\n[universes.toy]\ncalendar = "XNYS"\nstart = {START}\nend = {END}\n'
        f'source = {{ kind = "files", path = "{folder / "bars"}" }}\n'
        f'[universes.toy.pools.listed]\nkind = "file"\npath = "{folder / "pool.csv"}"\n'
    )
    pools(config=str(config))
    said = capsys.readouterr().out
    assert "unmatched members of listed (2): GONE, ZZ" in said
    assert "2018-12-31" in said


def test_real_market(real_market, tmp_path):
    """The members of real indexes on real files: what the index's own list says, of what is stored."""
    import index_constitution

    settings = UniverseSettings.model_validate(
        {
            "source": {"kind": "files", "path": real_market / "us_daily"},
            "calendar": "XNYS",
            "start": date(2010, 1, 4),
            "end": date(2020, 12, 31),
            "pools": {name: {"kind": "index", "index": name} for name in ("sp500", "nasdaq100", "dow30")},
        }
    )
    stored = {path.stem: (date(2010, 1, 4), date(2020, 12, 31)) for path in (real_market / "us_daily").glob("*.csv")}
    former = {"FB": "META", "PCLN": "BKNG"}
    sessions = np.arange("2010-01-04", "2021-01-01", dtype="M8[D]")
    for found in pools_of(settings, stored, sessions, dict):
        for day in (date(2011, 3, 1), date(2015, 6, 30), date(2020, 12, 31)):
            official = set(index_constitution.constituents_at(found.pool.name, day)["symbol"])
            expected = {name for name in stored if former.get(name, name) in official}
            assert set(found.pool.members(day)) == expected, (found.pool.name, day)
