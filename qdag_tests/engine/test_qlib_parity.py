"""The engine against Qlib's own ``D.features``, on a synthetic market with every irregularity."""

from pathlib import Path

import numpy as np
import pytest

from qdag.engine import OPERATORS, Panel, compute
from qdag.engine.operators import Source
from qdag.features.catalogue import expressions
from qdag_tests.reference import nasty_panel, operator_expressions, qlib_features, qlib_init, write_provider


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory) -> Panel:
    # the 1e7 offset and the spike cost Qlib itself its digits; they are compared with exact references elsewhere
    panel = nasty_panel(instruments=9, sessions=140, seed=8)
    root: Path = tmp_path_factory.mktemp("qlib") / "provider"
    write_provider(panel, root)
    qlib_init(root)
    return panel


def mismatch(ours: np.ndarray, theirs: np.ndarray, noise: np.ndarray | float) -> str | None:
    if (np.isnan(ours) != np.isnan(theirs)).any():
        return f"{(np.isnan(ours) != np.isnan(theirs)).sum()} NaN"
    if (np.isinf(ours) != np.isinf(theirs)).any():
        return "inf"
    ok = np.isfinite(ours)
    error = np.where(ok, np.abs(ours.astype(float) - np.where(ok, theirs, 0)), 0)
    wrong = error > 1e-5 * np.abs(np.where(ok, theirs, 0)) + noise
    return f"{wrong.sum()} values, largest error {error[wrong].max():.1e}" if wrong.any() else None


@pytest.mark.parametrize("name", ["alpha158", "alpha360"])
def test_feature_set(panel: Panel, name: str):
    texts = expressions(name)
    ours, theirs = compute(texts, panel), qlib_features(texts, panel)
    # an exact 0 (a flat window, no gain) where Qlib's running sums leave 1e-9 or less
    wrong = {k: m for k in texts if (m := mismatch(ours[k], theirs[k], 1e-8))}
    assert wrong == {}


def test_operators(panel: Panel):
    texts = operator_expressions((5, 20, 60))
    ours, theirs = compute(texts, panel), qlib_features(texts, panel)
    wrong = {k: m for k in texts if (m := mismatch(ours[k], theirs[k], 1e-8))}
    # running sums of a float64 series (Mean of constant prices) leave Qlib a residue where the spread is zero
    assert set(wrong) <= {"IdxMin_of_std_5", "IdxMin_of_std_20", "IdxMin_of_std_60"}, wrong


def test_operators_that_follow_qlib_are_classes_of_its():
    from qlib.data import ops

    ours = {name for name, operator in OPERATORS.items() if operator.source is Source.QLIB}
    assert ours == {name for name in OPERATORS if isinstance(getattr(ops, name, None), type)}
