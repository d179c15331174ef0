"""How models are trained."""

import pytest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[training]\ntrain_sessions=3", "greater than or equal to 20"),
        ("[training]\nfeatures = []", "training.features.* at least 1"),
        ("[training.parameters]\nnum_leaves = nan", "num_leaves must be a number or a text"),
        ("[training.parameters]\nNumLeaves = 3", "name 'NumLeaves' must match"),
        ("[training.parameters]\nobjective = ' '", "must be one line of printable text"),
    ],
)
def test_training_that_does_not_fit_is_refused(refused, text, says):
    refused(text, says)
