"""The whole code location, built from settings; tests and the command pass their own platform."""

import warnings

import dagster as dg
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG

from qdag.assets.chain import chain
from qdag.assets.platform import Platform
from qdag.defs.alerts import build_alert_sensors
from qdag.defs.assets import build_assets
from qdag.defs.maintenance import maintenance_job
from qdag.defs.schedules import build_schedules
from qdag.defs.sensors import build_sensors
from qdag.settings import Settings, load_settings

# range runs and mappings of partition dimensions are beta in Dagster; the tests hold what qdag needs of them
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

SESSION_JOB = "sessions"
TRAINING_JOB = "training"
REFRESH_JOB = "refresh"


def build_defs(settings: Settings | None = None, platform: Platform | None = None) -> dg.Definitions:
    """Build the definitions; ``platform`` replaces the one opened from the settings."""
    settings = settings or load_settings()
    platform = platform or Platform.open(settings)
    assets = build_assets(settings)
    whole = chain(settings)
    limit = {MAX_RUNTIME_SECONDS_TAG: str(settings.automation.max_runtime_seconds)}
    before = [asset.name for asset in whole.sessions if asset not in whole.after_months]
    sessions = dg.define_asset_job(
        SESSION_JOB, before, description="Market data to factor metrics for a range of sessions.", tags=limit
    )
    months = [asset.name for asset in whole.months]
    training = dg.define_asset_job(
        TRAINING_JOB, months, description="Train and track the model of a month.", tags=limit
    )
    per_session = [asset.name for asset in whole.sessions]
    refresh = dg.define_asset_job(
        REFRESH_JOB, per_session, description="Some assets for a range of sessions, scores included.", tags=limit
    )
    maintenance = maintenance_job(platform)
    running = settings.automation.enabled
    return dg.Definitions(
        assets=assets,
        jobs=[sessions, training, refresh, maintenance],
        resources={"platform": dg.ResourceDefinition.hardcoded_resource(platform)},
        sensors=[
            *build_sensors(platform, refresh, running),
            *build_alert_sensors(platform, assets, running=running),
        ],
        schedules=build_schedules(platform, refresh, training, per_session, maintenance, running),
        executor=dg.in_process_executor,
    )
