"""The whole code location, built from settings; tests and the command pass their own platform."""

import warnings

import dagster as dg

from qdag.defs.assets import build_assets
from qdag.settings import Settings, load_settings
from qdag.stages import Platform

# range runs and mappings of partition dimensions are beta in Dagster; the tests hold what qdag needs of them
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

SESSION_JOB = "sessions"
TRAINING_JOB = "training"
PREDICTION_JOB = "prediction"


def build_defs(settings: Settings | None = None, platform: Platform | None = None) -> dg.Definitions:
    """Build the definitions; ``platform`` replaces the one opened from the settings."""
    settings = settings or load_settings()
    platform = platform or Platform.open(settings)
    assets = build_assets(settings)
    models = {"trained_model", "predictions"}
    chain = [a for a in assets if a.key.to_user_string() not in models]
    return dg.Definitions(
        assets=assets,
        jobs=[
            dg.define_asset_job(
                SESSION_JOB, chain, description="Market data to factor metrics for a range of sessions."
            ),
            dg.define_asset_job(TRAINING_JOB, ["trained_model"], description="Train and track the model of a month."),
            dg.define_asset_job(PREDICTION_JOB, ["predictions"], description="Score sessions with the serving model."),
        ],
        resources={"platform": dg.ResourceDefinition.hardcoded_resource(platform)},
        executor=dg.in_process_executor,
    )
