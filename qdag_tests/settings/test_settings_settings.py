"""What must fit together across tables: horizons, feature tables, custom factors."""

import pytest

CUSTOM = "[custom_factors]\n"
KEYS = ("date", "universe", "instrument", "month", "factor", "pool", "horizon")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("horizons=[5, 1]", "increasing"),
        ("horizons=[]", "increasing"),
        ("horizons=[5]", "training.horizon 1"),
        ("universes = {}", "at least one universe"),
        ("[training]\nfeatures = ['alpha360']", "has 'alpha360', which is not computed: add it to .*\"alpha360\""),
        ("features = ['alpha15']", "features has no feature set 'alpha15'; did you mean 'alpha158'"),
        ("features = []", "features names no feature set"),
        ("features = ['alpha158', 'alpha158']", "features names 'alpha158' more than once"),
        ("features = ['price_features']", "training.features has 'alpha158', which is not computed"),
        ("[training]\nfeatures = ['custom_factors']", r"there is no table \[custom_factors\]"),
        ("[training]\nfeatures = ['labels', 'alpha158']", "no feature table 'labels'"),
        ("[training]\nfeatures = ['alpha158', 'alpha158']", "more than once"),
        (CUSTOM + "gap = 'Mean($close,'", "custom factor gap: syntax error"),
        (CUSTOM + "gap = 'Meen($close, 5)'", "custom factor gap: unknown operator 'Meen'; did you mean 'Mean'"),
        (CUSTOM + "gap = 'Ref($close, -1)'", "custom factor gap: .* looks 1 session into the future"),
        (CUSTOM + "gap = '$clos/$open'", r"custom factor gap: unknown field '\$clos'; did you mean '\$close'"),
        (CUSTOM + f"gap = '{'Mean(' * 60}$close{', 240)' * 60}'", "custom factor gap: .* add up to 14,400 sessions"),
        (CUSTOM + "gap = '5'", "custom factor gap: .* only the number 5"),
        *((CUSTOM + f"{key} = '$close'", f"custom factor '{key}'.* key of a table") for key in KEYS),
        (CUSTOM + '"gap\\n" = "$close"', "must match"),
        (CUSTOM + "Gap = '$close'", "must match"),
    ],
)
def test_what_does_not_fit_together_is_refused(refused, text, says):
    refused(text, says)


def test_what_custom_factors_may_be(load):
    text = CUSTOM + 'gap = """\n$open/Ref($close, 1)\n - 1"""\nmom = "CSRank(Delta($vwap, 20))"\n'
    settings = load(text + "[training]\nfeatures = ['alpha158', 'custom_factors']")
    assert list(settings.custom_factors) == ["gap", "mom"]
    assert settings.training_for("sample").features == ("alpha158", "custom_factors")
