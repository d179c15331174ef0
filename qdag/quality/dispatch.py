"""What every asset's checks are, by its name: which rules, which frames, and what the quality page shows of it."""

from collections.abc import Callable, Sequence
from functools import partial

from qdag.errors import unknown
from qdag.features.catalogue import FEATURE_SETS, feature_set
from qdag.quality import features, market, market_frames, metrics, predictions, provider
from qdag.quality.checks import Frames, Scope
from qdag.quality.recompute import SecondOpinion
from qdag.quality.rule import LARGEST, Rule
from qdag.quality_reference import REFERENCES, difference, references
from qdag.schema import FEATURE_TABLES
from qdag.settings import QualitySettings

PERCENT = (0.0, 100.0)
SHARE = (0.0, 1.0)
BALANCE = (-1.0, 1.0)
NOT_NEGATIVE = (0.0, LARGEST)
RETURN = (-1.0, LARGEST)
FEATURE_BOUNDS: dict[str, dict[str, tuple[float, float]]] = {
    "alpha158": {
        **dict.fromkeys(("KUP2", "KLOW2", "LOW0", "RSQR", "RANK", "RSV", "IMAX", "IMIN", "MIN"), SHARE),
        **dict.fromkeys(("CNTP", "CNTN", "SUMP", "SUMN", "VSUMP", "VSUMN"), SHARE),
        **dict.fromkeys(("KMID2", "KSFT2", "IMXD", "CORR", "CORD", "CNTD", "SUMD", "VSUMD"), BALANCE),
        **dict.fromkeys(("KLEN", "KUP", "KLOW", "OPEN0", "VWAP0", "ROC", "MA", "STD", "QTLU", "QTLD"), NOT_NEGATIVE),
        **dict.fromkeys(("VMA", "VSTD", "WVMA"), NOT_NEGATIVE),
        **dict.fromkeys(("HIGH0", "MAX"), (1.0, LARGEST)),
        **dict.fromkeys(("KMID",), RETURN),
    },
    "basic_statistics": {
        **dict.fromkeys(("MEAN", "STD", "MAX", "MIN", "Q"), NOT_NEGATIVE),
        "CORR": BALANCE,
        "RETURN": RETURN,
    },
    "technical_indicators": {
        **dict.fromkeys(("rsi_14", "volume_rsi_14", "stoch_k", "stoch_d", "kdj_k", "kdj_d", "adx_14"), PERCENT),
        "willr_14": (-100.0, 0.0),
        **dict.fromkeys(("atr_14", "volatility_20", "hist_volatility_20"), NOT_NEGATIVE),
    },
    "price_features": {
        "price_position_20": SHARE,
        **dict.fromkeys(("volume_change", "volume_momentum_5", "volume_momentum_20"), RETURN),
        "price_change_": RETURN,
        **dict.fromkeys(("momentum_5", "momentum_20"), RETURN),
        **dict.fromkeys(("volume_ma_ratio_20", "volatility_5", "volatility_20"), NOT_NEGATIVE),
        **dict.fromkeys(("price_range", "price_range_ratio", "open_to_close"), NOT_NEGATIVE),
        "high_to_close": (1.0, LARGEST),
        "low_to_close": SHARE,
    },
    "labels": {"label_": (-0.9, 3.0)},
}
"""Bounds that a feature has by its definition, by column or by the column's name without its window; for labels,
what is plausible."""


def bounds_of(table: str, columns: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The bounded ones of the columns."""
    known = FEATURE_BOUNDS.get(table, {})
    found = {c: known.get(c, known.get(c.rstrip("0123456789"))) for c in columns}
    return {c: bounds for c, bounds in found.items() if bounds is not None}


def levels(table: str) -> frozenset[str]:
    """Columns of a table that are levels: these move with the market, so their drift says nothing."""
    if table not in FEATURE_SETS:
        return frozenset()
    return frozenset(f.name for f in feature_set(table) if f.kind == "level")


def rules_for(table: str, columns: Sequence[str] = (), limits: QualitySettings | None = None) -> tuple[Rule, ...]:
    """The rules of a table or asset.

    Parameters
    ----------
    columns : those that the table declares
    limits : the universe's; the defaults where left out

    Raises
    ------
    UnknownNameError
        The name is no table, feature table or asset.
    """
    limits = limits or QualitySettings()
    bounded, recomputed = table in FEATURE_BOUNDS, table in REFERENCES
    if table in FEATURE_TABLES:
        least = 0.5 if table == "custom_factors" else 0.0
        return features.rules(table, limits, bounded=bounded, recomputed=recomputed, least_nulls=least)
    builders: dict[str, Callable[[QualitySettings], tuple[Rule, ...]]] = {
        "raw_ohlcv": market.rules,
        "qlib_bin": provider.rules,
        "labels": partial(features.label_rules, "labels"),
        "factor_metrics": metrics.rules,
        "predictions": predictions.rules,
        "trained_model": lambda _: (),
        "backtest": lambda _: (),
    }
    if table not in builders:
        raise unknown("table", table, (*FEATURE_TABLES, *builders))
    return builders[table](limits)


def frames(table: str, scope: Scope, columns: Sequence[str] = ()) -> Frames:
    """Yield the named frames that the rules of ``table`` are judged on; ``rows`` may come in several parts.

    ``columns`` are the declared ones, keys included. A window without a session yields nothing: an empty partition is
    valid.

    Raises
    ------
    MissingDataError
        The table, or the Qlib directory, does not exist although the window has sessions.
    """
    if not len(scope.sessions()):
        return
    if table == "raw_ohlcv":
        yield from market_frames.frames(scope, columns)
    elif table == "qlib_bin":
        yield from provider.frames(scope)
    elif table == "factor_metrics":
        yield from metrics.frames(scope, columns)
    elif table == "predictions":
        yield from predictions.frames(scope, columns)
    else:
        known = columns or scope.store.columns(table)
        bounds, opinion = bounds_of(table, known), _opinion(table, known)
        if table == "labels":
            yield from features.label_frames(scope, table, columns, bounds=bounds, opinion=opinion)
        else:
            yield from features.frames(scope, table, columns, bounds=bounds, opinion=opinion, levels=levels(table))


def _opinion(table: str, columns: Sequence[str]) -> SecondOpinion | None:
    """How a sample of the table is computed again, if it is."""
    if table not in REFERENCES:
        return None
    horizons = [int(c.removeprefix("label_")) for c in columns if c.startswith("label_")]
    future = 1 + max(horizons, default=0) if table == "labels" else 0
    return SecondOpinion(references(table, columns), partial(difference, table), future=future)


def page_tables() -> dict[str, frozenset[str] | None]:
    """The judged tables in the order of the quality page, and of each the levels; None where there is no drift."""
    feature_tables = {table: levels(table) for table in FEATURE_TABLES}
    return {
        "raw_ohlcv": None,
        "qlib_bin": None,
        **feature_tables,
        "labels": None,
        "factor_metrics": None,
        "predictions": None,
    }
