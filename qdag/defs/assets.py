"""The assets: each takes the platform, runs one stage over the run's window, and shows what came out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import dagster as dg

from qdag import schema, stages
from qdag.defs.checks import Checked, check_specs, page_of, run_checks
from qdag.defs.partitions import Window, month_partitions, run_windows, session_partitions
from qdag.settings import Settings

OWNERS = ["team:quant-platform"]
PROGRESS_SECONDS = 30.0
INSTRUMENTS_TAG = "qdag/instruments"
"""On a run: the only instruments, separated by commas, that raw_ohlcv asks its source for."""
ACCEPT_TAG = "qdag/accept"
"""On a run: instruments, separated by commas, that may lose stored rows which raw_ohlcv would else hold back."""
Stage = Callable[..., stages.StageResult]


def build_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """All assets of the chain, for the universes, horizons and factors of the settings."""
    sessions = session_partitions(settings)
    assets = [
        _asset(settings, sessions, "raw_ohlcv", "market", stages.raw_ohlcv, (), {"python", "deltalake"}),
        _asset(settings, sessions, "qlib_bin", "market", stages.qlib_bin, ("raw_ohlcv",), {"python", "qlib"}),
        *(
            _asset(
                settings, sessions, name, "features", stages.feature_stage(name), ("qlib_bin",), {"numba", "deltalake"}
            )
            for name in stages.feature_tables(settings)
        ),
        _asset(settings, sessions, "labels", "labels", stages.labels, ("qlib_bin",), {"numba", "deltalake"}),
    ]
    evaluated = (*stages.feature_tables(settings), "labels")
    assets.append(
        _asset(
            settings, sessions, "factor_metrics", "factors", stages.factor_metrics, evaluated, {"numba", "deltalake"}
        )
    )
    months = month_partitions(settings)
    model_inputs = (*stages.training_tables(settings), "labels")
    assets.append(
        _asset(settings, months, "trained_model", "models", stages.trained_model, model_inputs, {"lightgbm", "mlflow"})
    )
    scored = ("trained_model", *stages.training_tables(settings))
    assets.append(
        _asset(settings, sessions, "predictions", "models", stages.predictions, scored, {"lightgbm", "deltalake"})
    )
    return assets


def _asset(
    settings: Settings,
    partitions: dg.MultiPartitionsDefinition,
    name: str,
    group: str,
    stage: Stage,
    deps: Sequence[str],
    kinds: set[str],
) -> dg.AssetsDefinition:
    specs = stages.table_spec(settings, name)

    @dg.asset(
        name=name,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[_dep(name, dep) for dep in deps],
        check_specs=check_specs(name),
        group_name=group,
        owners=OWNERS,
        kinds=kinds,
        description=stages.describe(settings, name),
        code_version=stages.code_version(settings, name),
        metadata={"dagster/column_schema": _column_schema(specs)} if specs else {},
    )
    def run(context: dg.AssetExecutionContext, platform: dg.ResourceParam[stages.Platform]) -> dg.MaterializeResult:
        named = {"instruments": INSTRUMENTS_TAG, "accepted": ACCEPT_TAG} if name == "raw_ohlcv" else {}
        asked = {key: tagged.split(",") for key, tag in named.items() if (tagged := context.run.tags.get(tag))}

        def compute(window: Window) -> stages.StageResult:
            told = replace(platform.for_run(context.run_id), report=_logged(context, platform.report, window.universe))
            result = stage(told, window.universe, window.start, window.end, **asked)
            context.log.info(stages.summary(result))
            return result

        done, failed = _each(run_windows(context.run.tags, settings.universes), compute)
        began = time.perf_counter()
        judged = run_checks(name, platform, list(done), context) if done else Checked([], {})
        check_seconds = round(time.perf_counter() - began, 3)
        if failed:
            for window, error in failed.items():
                context.log.error(f"{window}: {error}")
            raise next(iter(failed.values()))
        for window, result in done.items():
            _tell(context, platform, window, result, page_of(judged, window) | {"check_seconds": check_seconds})
        return dg.MaterializeResult(check_results=judged.results)

    return run


def _each(
    windows: Sequence[Window], compute: Callable[[Window], stages.StageResult]
) -> tuple[dict[Window, stages.StageResult], dict[Window, Exception]]:
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


def _logged(context: dg.AssetExecutionContext, report: stages.Report, universe: str) -> stages.Report:
    """Report progress to the run's log too, now and then: done, in all, rows, time left, memory."""
    began = shown = time.monotonic()

    def tell(stage: str, done: int, total: int, rows: int) -> None:
        nonlocal shown
        report(stage, done, total, rows)
        now = time.monotonic()
        if 0 < done < total and now - shown >= PROGRESS_SECONDS:
            shown = now
            left = (now - began) / done * (total - done)
            used = stages.memory_mib()
            context.log.info(
                f"{stage} of {universe}: {done:,} of {total:,}, {rows:,} rows, about {left:.0f} s left, "
                f"{used:,.0f} MiB in memory"
            )

    return tell


def _dep(name: str, dep: str) -> dg.AssetDep:
    """Identity between equal partitions. Between months and sessions only lineage: which sessions a model reads and
    which model a session gets is known to the stages, and choosing sessions in the UI must not pull in whole months."""
    if (name == "trained_model") == (dep == "trained_model"):
        return dg.AssetDep(dep)
    return dg.AssetDep(dep, partition_mapping=dg.SpecificPartitionsPartitionMapping([]))


def _column_schema(spec: schema.TableSpec) -> dg.TableSchema:
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
    platform: stages.Platform,
    window: Window,
    result: stages.StageResult,
    page: Mapping[str, Any],
) -> None:
    """Give every partition of the window its own numbers, and the last one what is to be said of the whole window.

    A range of sessions is one event each in Dagster's history: what all of them repeat would be most of it.
    """
    keys = [key for key in map(str, context.partition_keys) if key.endswith(f"|{window.universe}")]
    for key in keys:
        metadata = _session_metadata(platform, result, key)
        if key == keys[-1]:
            metadata |= {**_window_metadata(result, window), **page}
        context.add_asset_metadata(metadata, partition_key=key)


def _session_metadata(platform: stages.Platform, result: stages.StageResult, key: str) -> dict[str, Any]:
    """Numbers of one partition; of a month (a model) there are none but those of the window."""
    if result.table == "trained_model":
        return {}
    day = date.fromisoformat(key.split("|")[0])
    numbers = dict(result.by_session.get(day, {"rows": 0}))
    metadata: dict[str, Any] = {"dagster/row_count": numbers.pop("rows")}
    metadata |= {name: _metadata_value(value) for name, value in numbers.items()}
    if not metadata["dagster/row_count"] and (why := stages.why_empty(platform, result.universe, day)):
        metadata["note"] = why
    return metadata


def _window_metadata(result: stages.StageResult, window: Window) -> dict[str, Any]:
    """What is to be said of a whole window, the most telling first."""
    metadata: dict[str, Any] = {"universe": window.universe, "window": f"{window.start} .. {window.end}"}
    if result.table != "trained_model":
        metadata |= {"sessions": result.sessions, "rows": result.rows}
        metadata["window_nan_share"] = round(result.nan_share, 6)
    if result.instruments and result.table != "trained_model":
        metadata["instruments"] = result.instruments
    for key, value in result.extra.items():
        metadata[key] = _metadata_value(value)
    if result.preview is not None:
        metadata["preview"] = dg.MetadataValue.md(stages.markdown(result.preview))
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
