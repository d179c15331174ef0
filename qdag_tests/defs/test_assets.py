"""What the code location declares: lineage, policies, and how far a choice in the UI reaches."""

import re
from datetime import date

import dagster as dg
import pytest

from qdag.assets.platform import Platform
from qdag.defs.build import build_defs
from qdag.settings import Settings, SyntheticSource, UniverseSettings
from qdag_tests.stages import asset_names


@pytest.fixture(scope="module")
def definitions(tmp_path_factory) -> dg.Definitions:
    universe = UniverseSettings(
        source=SyntheticSource(instruments=5), calendar="XNYS", start=date(2018, 1, 2), end=date(2018, 6, 29)
    )
    settings = Settings(home=tmp_path_factory.mktemp("home"), universes={"toy": universe, "other": universe})
    return build_defs(settings, Platform.open(settings))


def test_every_asset_is_there_in_one_chain(definitions):
    graph = definitions.resolve_asset_graph()
    names = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert names == {n for n in asset_names(Settings()) if n != "custom_factors"}
    assert {k.to_user_string() for k in graph.root_materializable_asset_keys} == {"raw_ohlcv"}
    upstream = {k.to_user_string() for k in graph.get(dg.AssetKey("trained_model")).parent_keys}
    assert upstream == {"alpha158", "labels"}


def test_every_asset_can_be_understood_from_its_page(definitions):
    graph = definitions.resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description
        assert node.owners
        assert node.kinds
        assert node.group_name != "default"
        assert isinstance(node.backfill_policy, dg.BackfillPolicy)
        if key.to_user_string() not in ("qlib_bin", "trained_model"):
            schema = node.metadata["dagster/column_schema"]
            assert all(column.description for column in getattr(schema, "schema", schema).columns)
    columns = graph.get(dg.AssetKey("alpha158")).metadata["dagster/column_schema"]
    described = {c.name: c.description for c in getattr(columns, "schema", columns).columns}
    assert "`($close-$open)/$open`" in described["KMID"]
    # descriptions are Markdown: what is in no code span would lose its asterisks
    assert "`Std(Abs($close/Ref($close, 1)-1)*$volume, 5)" in described["WVMA5"]
    for key in graph.get_all_asset_keys():
        schema = graph.get(key).metadata.get("dagster/column_schema")
        for column in getattr(schema, "schema", schema).columns if schema else ():
            assert "*" not in re.sub(r"`[^`]*`", "", column.description), column.name
    assert "the job `training`" in graph.get(dg.AssetKey("trained_model")).description


def test_choosing_sessions_of_everything_stays_with_these_sessions(definitions):
    """Materialize all, on two sessions: no month and no other session is pulled in."""
    graph = definitions.resolve_asset_graph()
    keys = {"2018-02-28|toy", "2018-03-01|toy"}
    chosen = dg.AssetKey("alpha158")
    subset = graph.get(chosen).partitions_def.subset_with_partition_keys(keys)
    for name, expected in (("factor_metrics", keys), ("predictions", keys), ("trained_model", set())):
        child = graph.get(dg.AssetKey(name))
        mapping = graph.get_partition_mapping(child.key, chosen)
        reached = mapping.get_downstream_partitions_for_partitions(
            subset, graph.get(chosen).partitions_def, child.partitions_def
        )
        assert set(reached.get_partition_keys()) == expected, name
