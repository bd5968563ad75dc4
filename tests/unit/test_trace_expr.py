"""Does the expression parser compute what Python computes, and nothing else?"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsim.errors import InputError
from archsim.trace.expr import Expr

VALUES = {"batch": 3, "seq": 17, "ctx": 1000}

leaves = st.integers(0, 10**6).map(str) | st.sampled_from(sorted(VALUES))
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "//"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, st.sampled_from(["+", "-", "*", "//"]), inner).map(lambda t: f"{t[0]}{t[1]}{t[2]}"),
        inner.map(lambda text: f"-({text})"),
    ),
    max_leaves=8,
)


@given(expressions)
def test_agrees_with_python_and_survives_printing(text: str) -> None:
    try:
        expected = eval(text, {"__builtins__": {}}, dict(VALUES))
    except ZeroDivisionError:
        with pytest.raises(InputError, match="divides by zero"):
            Expr.parse(text).evaluate(VALUES)
        return
    expr = Expr.parse(text)
    assert expr.evaluate(VALUES) == expected
    assert Expr.parse(str(expr)) == expr
    assert Expr.parse(str(expr)).evaluate(VALUES) == expected


@given(st.text(max_size=60))
def test_any_text_parses_or_is_an_input_error(text: str) -> None:
    try:
        expr = Expr.parse(text)
    except InputError:
        return
    assert Expr.parse(str(expr)) == expr


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the end"),
        ("1 +", "the end"),
        ("(batch", "')' is missing"),
        ("batch)", "unexpected ')'"),
        ("2 ** 3", "not '*'"),
        ("1.5", "unexpected '.'"),
        ("__import__('os')", "unexpected '''"),
        ("batch.real", "unexpected '.'"),
        ("a b", "unexpected 'b'"),
        ("f(1)", "unexpected '('"),
        ("(" * 50 + "1" + ")" * 50, "nested deeper"),
        ("1+" * 300 + "1", "longer than"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused(text: str, what: str) -> None:
    with pytest.raises(InputError, match=re.escape(what)):
        Expr.parse(text)


def test_a_missing_symbol_is_named() -> None:
    with pytest.raises(InputError, match="'ctx' has no value"):
        Expr.parse("ctx + 1").evaluate({"batch": 1})


def test_symbols() -> None:
    assert Expr.parse("8*batch*(ctx + 1)").symbols == {"batch", "ctx"}
    assert Expr.parse("7").symbols == frozenset()
