"""The plan: look-back, sharing, types, and what it refuses."""

import pytest

from qdag.engine import ALL_HISTORY, OPERATORS, families, parse, plan
from qdag.engine.families import Calling
from qdag.engine.operators import PARTS, Operator
from qdag.engine.plan import cost
from qdag.engine.reach import EMA_GAP, ema_window
from qdag.engine.tile import METHODS
from qdag.errors import ExpressionError
from qdag.features.catalogue import expressions


@pytest.mark.parametrize(
    ("text", "past"),
    [
        ("$close", 0),
        ("Mean($close, 5)", 4),
        ("Ref($close, 5)", 5),
        ("Delta($close, 5)", 5),
        ("Mean(Ref($close, 5), 5)", 9),
        ("Mean($close, 5)+Ref($open, 20)", 20),
        ("Corr(Mean($close, 5), Ref($open, 2), 10)", 13),
        ("Quantile(Std($close, 3), 4, 0.5)", 5),
        ("Mean($close, 0)", ALL_HISTORY),
        ("Mean(Ref($close, 0), 5)", ALL_HISTORY),
        ("CSRank(Mean($close, 7))", 6),
        ("Mean(CSRank(Mean($close, 7)), 3)", 8),
        ("EMA($close, 1)", 0),
        ("If(Ref($close, 3)>1, Ref($close, 1), Ref($close, 2))", 3),
    ],
)
def test_look_back(text: str, past: int):
    assert plan({"x": text}).lookback == past


def test_ema_looks_back_until_the_rest_weighs_nothing():
    decay, window = ema_window(20)
    settled = window - EMA_GAP
    assert decay**settled <= 1e-12 < decay ** (settled - 1)
    assert plan({"x": "EMA($close, 20)"}).lookback == window - 1
    with pytest.raises(ExpressionError, match="at most"):
        plan({"x": "EMA($close, 0.00001)"})


def test_look_back_and_fields_of_the_sets():
    alpha158 = plan(expressions("alpha158"))
    assert alpha158.lookback == 60
    assert alpha158.lookbacks["KMID"] == 0
    assert alpha158.lookbacks["MA5"] == 4
    assert alpha158.lookbacks["CORD60"] == 60
    assert alpha158.fields == {"open", "high", "low", "close", "volume", "vwap"}
    assert not alpha158.cross_sectional
    assert plan(expressions("alpha360")).lookback == 59


def test_equal_subexpressions_are_one_node():
    one = plan({"a": "Mean($close, 5)/$close", "b": "1+Mean($close,5)", "c": "Mean( $close , 5 ) / $close"})
    assert len(one.nodes) == 4  # $close, the mean, the ratio, the sum
    assert one.outputs["a"] == one.outputs["c"]
    shared = plan({"a": "Corr($close, $volume, 5)", "b": "Std($close, 5)"})
    assert sum(n.operator.name == "Std" for n in shared.nodes) == 2  # the guard of Corr reads the same Std


def test_explain_tells_nodes_sharing_and_look_back():
    text = plan({"a": "Mean($close, 5)/$close", "b": "CSRank(Mean($close, 5))"}).explain()
    assert "2 expressions, 4 nodes (7 without sharing), fields $close" in text
    assert "look-back 4 sessions" in text
    assert "cross-sectional" in text
    assert "Mean($close, 5)" in text
    assert "all history" in plan({"a": "Mean($close, 0)"}).explain()


def test_memory_estimate_follows_the_freeing_of_series():
    chain = plan({"a": "Abs(" * 20 + "$close" + ")" * 20})
    assert chain.memory(1000, lanes=16) == 2 * 4 * 16_000
    assert plan(expressions("alpha158")).memory(2000) < 20 * 2**20


@pytest.mark.parametrize("text", ["Ref($close, -1)", "Ref($close, -2)/Ref($close, -1)-1", "Mean(Delta($close, -3), 5)"])
def test_the_future_is_refused_unless_allowed(text: str):
    with pytest.raises(ExpressionError, match="future, which only labels may"):
        plan({"label": text})
    assert plan({"label": text}, allow_future=True).lookahead > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("And($close, $open>1)", "And joins comparisons"),
        ("Not($close)", "Not joins comparisons"),
        ("($close>1)-($open>1)", "cannot be subtracted"),
        ("Delta($close>1, 1)", "has no difference"),
    ],
)
def test_types_that_do_not_fit(text: str, said: str):
    with pytest.raises(ExpressionError, match=said):
        plan({"x": text})


def test_an_error_names_the_expression():
    with pytest.raises(ExpressionError, match="bad: unknown operator 'Meen'") as error:
        plan({"good": "$close", "bad": "Meen($close, 5)"})
    assert error.value.position == 0


def test_dtypes_follow_numpy():
    dtypes = {
        "$close+1": "float32",
        "$close+Mean($close, 2)": "float64",
        "($close>1)+1": "float64",
        "($close>1)*$close": "float32",
        "($close>1)+($open>1)": "bool",
        "If($close>1, $close, 0.5)": "float32",
        "If($close>1, 1, 0)": "float64",
        "Sign(Mean($close, 2))": "float32",
        "Max($close, 3)/$close": "float64",
    }
    graph = plan({text: text for text in dtypes})
    assert {text: graph.nodes[graph.outputs[text]].dtype for text in dtypes} == dtypes


@pytest.mark.parametrize("declared", [{}, {"family": families.SUMS}], ids=["no kernel", "no code of the kernel"])
def test_an_operator_without_a_kernel_is_refused_when_the_plan_is_made(monkeypatch, declared):
    product = Operator(name="Prod", meaning="product", parameters=("window",), **declared)
    monkeypatch.setitem(OPERATORS, "Prod", product)
    with pytest.raises(ExpressionError, match="operator Prod is declared, but no kernel computes it"):
        plan({"x": "$open + Prod($close, 13)"})
    parse.cache_clear()


def test_every_operator_has_a_kernel_and_every_way_of_calling_one_a_method():
    for operator in (*OPERATORS.values(), *PARTS.values()):
        if not operator.made_of:
            operator.computed_by((5,))
    assert METHODS.keys() | {Calling.CROSS, Calling.OTHER} == set(Calling)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Delta($close, 5)", ["Field", "Ref", "Sub"]),
        ("Med($close, 5)", ["Field", "Quantile"]),
        ("Corr($close, $open, 5)", ["Field", "Field", "UnguardedCorr", "Std", "Std", "DropFlat"]),
        ("ChangeInstrument('SPY', $close)", ["Field", "Mask"]),
        ("($close>1)+($open>1)", ["Field", "Gt", "Field", "Gt", "Or"]),
        ("5<$close", ["Field", "Gt"]),
    ],
)
def test_operators_that_are_made_of_others(text: str, parts: list[str]):
    nodes = plan({"x": text}).nodes
    assert [node.operator.name for node in nodes] == parts
    assert nodes[-1].text == str(parse(text))


def nested(depth: int, window: int) -> str:
    return "Mean(" * depth + "$close" + f", {window})" * depth


@pytest.mark.parametrize(
    ("text", "sessions"),
    [
        ("$close/$open - 1", 2),
        ("Mean($close, 20)/$close", 21),
        ("Std($close, 20)/Std($close, 20)", 21),
        ("Corr($close, Log($volume+1), 30)", 32),
        ("Sum($close, 0)", 5_000),
        ("EMA($close, 0.1)", 19),
        (nested(40, 240), 9_600),
    ],
)
def test_what_an_expression_costs(text: str, sessions: int):
    assert cost(parse(text)) == sessions
    plan({"x": text})


@pytest.mark.parametrize("text", [nested(49, 240), "+".join(f"Mean($close, {4990 + i})" for i in range(3))])
def test_windows_that_add_up_to_too_much_are_refused(text: str):
    with pytest.raises(ExpressionError, match=r"x: .* add up to 1\d,\d{3} sessions; at most 10,000 are allowed"):
        plan({"x": text})


def test_the_sets_cost_a_tenth_of_what_is_allowed_at_most():
    for name in ("alpha158", "alpha360", "basic_statistics", "price_features"):
        assert max(cost(parse(text)) for text in expressions(name).values()) <= 1_000
