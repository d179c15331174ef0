"""The assets as Dagster has them: each computes its windows of the run, has them judged, and shows what came out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import dagster as dg

from qdag.assets.asset import Asset
from qdag.assets.chain import Chain, chain
from qdag.assets.platform import Platform, Report
from qdag.assets.result import Result
from qdag.core.resources import memory_mib
from qdag.defs.checks import Checked, check_specs, page_of, run_checks
from qdag.defs.partitions import Window, month_partitions, run_windows, session_partitions
from qdag.defs.tags import ACCEPT_TAG, INSTRUMENTS_TAG
from qdag.schema import TableSpec
from qdag.settings import Settings
from qdag.text import markdown_preview

OWNERS = ["team:quant-platform"]
PROGRESS_SECONDS = 30.0
TAGS = {"instruments": INSTRUMENTS_TAG, "accepted": ACCEPT_TAG}
"""Tag of a run by the argument of an asset that it sets."""


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """All assets of the chain, for the universes, horizons and factors of the settings."""
    whole = chain(settings)
    partitions = {"session": session_partitions(settings), "month": month_partitions(settings)}
    return [_asset(settings, whole, asset, partitions[asset.period]) for asset in whole]


def _asset(
    settings: Settings, whole: Chain, asset: Asset, partitions: dg.MultiPartitionsDefinition
) -> dg.AssetsDefinition:
    spec = asset.table(settings)

    @dg.asset(
        name=asset.name,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[_dep(asset, whole[name]) for name in asset.upstream(settings)],
        check_specs=check_specs(settings, asset),
        group_name=asset.group,
        owners=OWNERS,
        kinds=set(asset.kinds),
        description=asset.describe(settings),
        code_version=asset.code_version(settings),
        metadata={"dagster/column_schema": _column_schema(spec)} if spec else {},
    )
    def run(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> dg.MaterializeResult:
        tags = context.run.tags
        asked = {key: tagged.split(",") for key in sorted(asset.takes) if (tagged := tags.get(TAGS[key]))}

        def compute(window: Window) -> Result:
            told = replace(platform.for_run(context.run_id), report=_logged(context, platform.report, window.universe))
            result = asset.compute(told, window.universe, window.start, window.end, **asked)
            context.log.info(result.summary())
            return result

        done, failed = _each(run_windows(context.run.tags, settings.universes), compute)
        began = time.perf_counter()
        judged = run_checks(asset, platform, list(done), context) if done else Checked([], {})
        check_seconds = round(time.perf_counter() - began, 3)
        if failed:
            for window, error in failed.items():
                context.log.error(f"{window}: {error}")
            raise next(iter(failed.values()))
        for window, result in done.items():
            _tell(context, platform, asset, window, result, page_of(judged, window) | {"check_seconds": check_seconds})
        return dg.MaterializeResult(check_results=judged.results)

    return run


def _each(
    windows: Sequence[Window], compute: Callable[[Window], Result]
) -> tuple[dict[Window, Result], dict[Window, Exception]]:
    """Compute every window: what fails for one universe takes nothing from another. Returns the results, and errors."""
    done, failed = {}, {}
    for window in windows:
        try:
            done[window] = compute(window)
        except Exception as error:
            if len(windows) > 1:
                error.add_note(f"universe: {window.universe}")
            failed[window] = error
    return done, failed


def _logged(context: dg.AssetExecutionContext, report: Report, universe: str) -> Report:
    """Report progress to the run's log too, now and then: done, in all, rows, time left, memory."""
    began = shown = time.monotonic()

    def tell(stage: str, done: int, total: int, rows: int) -> None:
        nonlocal shown
        report(stage, done, total, rows)
        now = time.monotonic()
        if 0 < done < total and now - shown >= PROGRESS_SECONDS:
            shown = now
            left = (now - began) / done * (total - done)
            used = memory_mib()
            context.log.info(
                f"{stage} of {universe}: {done:,} of {total:,}, {rows:,} rows, about {left:.0f} s left, "
                f"{used:,.0f} MiB in memory"
            )

    return tell


def _dep(asset: Asset, dep: Asset) -> dg.AssetDep:
    """Identity between equal partitions. Between months and sessions only lineage: which sessions a model reads and
    which model a session gets is known to the assets, and choosing sessions in the UI must not pull in whole months."""
    if asset.period == dep.period:
        return dg.AssetDep(dep.name)
    return dg.AssetDep(dep.name, partition_mapping=dg.SpecificPartitionsPartitionMapping([]))


def _column_schema(spec: TableSpec) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.dtype,
                description=f"{column.description} [{column.unit}]" if column.unit else column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in spec.columns
        ]
    )


def _tell(
    context: dg.AssetExecutionContext,
    platform: Platform,
    asset: Asset,
    window: Window,
    result: Result,
    page: Mapping[str, Any],
) -> None:
    """Give every partition of the window its own numbers, and the last one what is to be said of the whole window.

    A range of sessions is one event each in Dagster's history: what all of them repeat would be most of it.
    """
    keys = [key for key in map(str, context.partition_keys) if key.endswith(f"|{window.universe}")]
    for key in keys:
        metadata = _session_metadata(platform, asset, result, key)
        if key == keys[-1]:
            metadata |= {**_window_metadata(asset, result, window), **page}
        context.add_asset_metadata(metadata, partition_key=key)


def _session_metadata(platform: Platform, asset: Asset, result: Result, key: str) -> dict[str, Any]:
    """Numbers of one partition; of a month (a model) there are none but those of the window."""
    if asset.period == "month":
        return {}
    day = date.fromisoformat(key.split("|")[0])
    numbers = dict(result.by_session.get(day, {"rows": 0}))
    metadata: dict[str, Any] = {"dagster/row_count": numbers.pop("rows")}
    metadata |= {name: _metadata_value(value) for name, value in numbers.items()}
    if not metadata["dagster/row_count"] and (why := platform.why_empty(result.universe, day)):
        metadata["note"] = why
    return metadata


def _window_metadata(asset: Asset, result: Result, window: Window) -> dict[str, Any]:
    """What is to be said of a whole window, the most telling first."""
    metadata: dict[str, Any] = {"universe": window.universe, "window": f"{window.start} .. {window.end}"}
    if asset.period == "session":
        metadata |= {"sessions": result.sessions, "rows": result.rows}
        metadata["window_nan_share"] = round(result.nan_share, 6)
    if result.instruments and asset.period == "session":
        metadata["instruments"] = result.instruments
    for key, value in result.extra.items():
        metadata[key] = _metadata_value(value)
    if result.preview is not None:
        metadata["preview"] = dg.MetadataValue.md(markdown_preview(result.preview))
    metadata |= {"seconds": round(result.seconds, 3), "peak_mib": round(result.peak_mib, 1)}
    if result.version is not None:
        metadata["table_version"] = result.version
    return metadata


def _metadata_value(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return dg.MetadataValue.url(value)
    if isinstance(value, str) and ("\n" in value or value.startswith("![")):
        return dg.MetadataValue.md(value)
    if isinstance(value, float):
        return round(value, 6)
    return value.isoformat() if isinstance(value, date) else value
