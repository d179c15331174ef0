"""Model types and their hyperparameters. Importing this module imports Qlib and LightGBM; do it inside functions."""

import contextlib
import io
from typing import Any

import lightgbm
from lightgbm.basic import _ConfigAliases
from qlib.data.dataset import DatasetH

with contextlib.redirect_stdout(io.StringIO()):  # Qlib prints "ModuleNotFoundError" for models whose extra is absent
    from qlib.contrib.model.gbdt import LGBModel

from qdag.errors import SettingsError, nearest
from qdag.settings import TrainingSettings

# examples/benchmarks/LightGBM/workflow_config_lightgbm_Alpha158.yaml of Qlib: tuned there for 300 stocks and 7 years
ALPHA158_LIGHTGBM: dict[str, float | int | str] = {
    "loss": "mse",
    "colsample_bytree": 0.8879,
    "learning_rate": 0.2,
    "subsample": 0.8789,
    "lambda_l1": 205.6999,
    "lambda_l2": 580.9768,
    "max_depth": 8,
    "num_leaves": 210,
}
# the same bits from the same rows, on any number of threads
REPRODUCIBLE: dict[str, float | int | str] = {"seed": 0, "deterministic": True, "force_row_wise": True}

_ELSEWHERE = {
    "num_iterations": "training.num_boost_round",
    "early_stopping_round": "training.early_stopping_rounds",
    "num_threads": "engine.threads",
    "objective": "nothing: the forward return is learnt with squared error ('mse')",
    "deterministic": "nothing: training is always reproducible",
}


class LightGBM(LGBModel):
    """Qlib's LGBModel, trained the same way but for two things.

    Its ``fit`` leaves Qlib's global recorder alone (upstream logs there and so opens a stray run), and the booster
    knows the names of its features.
    """

    def _prepare_data(self, dataset: DatasetH, reweighter: Any = None) -> list[tuple[lightgbm.Dataset, str]]:
        prepared = super()._prepare_data(dataset, reweighter)
        names = dataset.handler.get_cols("feature")
        for data, _ in prepared:
            data.set_feature_name(names)
        return prepared

    def fit(
        self,
        dataset: DatasetH,
        num_boost_round: int | None = None,
        early_stopping_rounds: int | None = None,
        verbose_eval: int = 0,
        evals_result: dict[str, Any] | None = None,
        reweighter: Any = None,
        **kwargs: Any,
    ) -> None:
        """Train on segment "train" with early stopping on "valid"; ``evals_result`` receives the curves."""
        data, names = zip(*self._prepare_data(dataset, reweighter), strict=True)
        self.model = lightgbm.train(
            self.params,
            data[0],
            num_boost_round=self.num_boost_round if num_boost_round is None else num_boost_round,
            valid_sets=list(data),
            valid_names=list(names),
            callbacks=[
                lightgbm.early_stopping(
                    self.early_stopping_rounds if early_stopping_rounds is None else early_stopping_rounds,
                    verbose=verbose_eval > 0,
                ),
                lightgbm.log_evaluation(period=verbose_eval),
                lightgbm.record_evaluation({} if evals_result is None else evals_result),
            ],
            **kwargs,
        )


def lightgbm_parameters(settings: TrainingSettings) -> dict[str, float | int | str]:
    """Qlib's published hyperparameters with the settings' overrides.

    Raises
    ------
    SettingsError
        A name that LightGBM does not know (it would ignore it in silence), or one that another setting decides.
    """
    aliases = _ConfigAliases._get_all_param_aliases()
    main = {alias: name for name, spellings in aliases.items() for alias in spellings} | {"loss": "objective"}
    chosen = {**ALPHA158_LIGHTGBM, **REPRODUCIBLE}
    for name, value in settings.parameters.items():
        if name not in main:
            raise SettingsError(f"training.parameters has {name!r}, no parameter of LightGBM{nearest(name, main)}")
        if elsewhere := _ELSEWHERE.get(main[name]):
            raise SettingsError(f"training.parameters may not set {name!r} (got {value!r}); it is set by {elsewhere}")
        # LightGBM prefers the main name over an alias, so a default left in place could win over the override
        chosen = {key: kept for key, kept in chosen.items() if main[key] != main[name]}
        chosen[name] = value
    return chosen


def lightgbm_model(settings: TrainingSettings, threads: int) -> LightGBM:
    """An unfitted model with the settings' hyperparameters."""
    return LightGBM(
        num_boost_round=settings.num_boost_round,
        early_stopping_rounds=settings.early_stopping_rounds,
        num_threads=threads,
        **lightgbm_parameters(settings),
    )
