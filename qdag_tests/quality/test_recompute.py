"""A sample computed again agrees with what the stages store, and finds what is stale."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from qdag.features.catalogue import feature_set
from qdag.features.references import Reference
from qdag.quality import Scope
from qdag.quality.rule import violations
from qdag_tests import stages
from qdag_tests.quality.toy import columns_of, named
from qdag_tests.stages import rules_for


@pytest.mark.parametrize("table", [*stages.FEATURE_TABLES[:4], "labels"])
def test_the_slow_second_opinion_agrees_with_what_the_stages_store(computed: stages.Platform, table: str) -> None:
    columns = columns_of(computed, table)
    scope = Scope(computed.store, computed.settings, "toy", date(2019, 6, 3), date(2019, 12, 31))
    found = named(table, scope, columns)
    again = found["recomputed"]
    assert again["column"].nunique() == (len(feature_set(table).references) if table != "labels" else 4) >= 4
    assert len(again) == 60 * again["column"].nunique()
    assert again["difference"].max() < 0.1
    assert again["stored"].notna().mean() > 0.8
    assert found["bounds"]["within"].all()


def test_a_stale_table_is_found_out(computed: stages.Platform) -> None:
    scope = Scope(computed.store, computed.settings, "toy", date(2019, 6, 3), date(2019, 12, 31))
    table = computed.store.read("price_features", "toy").to_pandas()
    rule = next(r for r in rules_for("price_features") if r.name == "a sample computed again")
    try:
        spoiled = table.assign(momentum_20=table["momentum_20"] + np.float32(0.001))
        spec = stages.table_spec(computed.settings, "price_features")
        assert spec is not None
        rows = pa.Table.from_pandas(spoiled, spec.arrow(), preserve_index=False)
        computed.store.replace(spec, "toy", date(2019, 1, 2), date(2019, 12, 31), rows, {})
        again = named("price_features", scope, columns_of(computed, "price_features"))["recomputed"]
        assert set(again.loc[violations(rule, again), "column"]) == {"momentum_20"}
    finally:
        rows = pa.Table.from_pandas(table, spec.arrow(), preserve_index=False)
        computed.store.replace(spec, "toy", date(2019, 1, 2), date(2019, 12, 31), rows, {})


@pytest.mark.parametrize(
    ("stored", "expected", "close", "agrees"),
    [(1.0, 1.0, 5, True), (np.nan, np.nan, 5, True), (np.nan, 1.0, 5, False), (1.0, np.nan, 5, False),
     (np.inf, np.inf, 5, True), (1.0, 1.001, 5, False), (1e-9, 2e-9, 5, True)],
)  # fmt: skip
def test_when_two_values_agree(stored: float, expected: float, close: float, agrees: bool) -> None:
    assert (Reference(lambda bars, t: expected).difference(stored, expected, close) <= 1) == agrees
