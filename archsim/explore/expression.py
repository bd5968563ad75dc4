"""Arithmetic between axes, such as ``=noc.rows * noc.cols`` or ``=memory.stacks * 0.8 TB/s``.

Numbers, dotted names, ``+ - * / // % **``, parentheses, min, max, round, ceil, floor, sqrt and log2; a unit may
follow. The text is parsed by Python's own parser and walked here; nothing is ever executed.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from archsim.errors import InputError, did_you_mean

__all__ = ["Expression"]

Number = int | float

_MAX_LENGTH, _MAX_DEPTH, _MAX_POWER = 200, 20, 64
_BINARY: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_FUNCTIONS: dict[str, Callable[..., Number]] = {
    "min": min, "max": max, "round": round, "ceil": math.ceil, "floor": math.floor, "sqrt": math.sqrt,
    "log2": math.log2,
}  # fmt: skip
_UNIT = re.compile(r"(?<=[\d)\w])\s+([A-Za-z][A-Za-z0-9]*(?:/s)?)$")


@dataclass(frozen=True)
class Expression:
    """A parsed expression; `names` are the axes it reads.

    >>> Expression.parse("=noc.rows * noc.cols").evaluate({"noc.rows": 4, "noc.cols": 8})
    32
    >>> Expression.parse("=memory.stacks * 0.8 TB/s").evaluate({"memory.stacks": 6})
    '4.8 TB/s'
    """

    text: str
    unit: str
    names: frozenset[str]
    _node: ast.expr

    @staticmethod
    def parse(text: str) -> Expression:
        """Parse ``=ARITHMETIC [UNIT]``; anything else is an InputError that quotes it."""
        body = text.removeprefix("=").strip()
        if len(body) > _MAX_LENGTH:
            raise InputError(f"expression '{text[:30]}...' is longer than {_MAX_LENGTH} characters")
        match = _UNIT.search(body)
        unit = match[1] if match else ""
        try:
            node = ast.parse(body[: match.start()] if match else body, mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise InputError(f"expression '{text}' is not arithmetic between axes") from None
        names: set[str] = set()
        _check(node, text, names, 0)
        return Expression(text, unit, frozenset(names), node)

    def evaluate(self, values: Mapping[str, Number]) -> Number | str:
        """The value at a point, whole numbers as int; with the unit appended where the expression ends in one."""
        try:
            value = _evaluate(self._node, values)
        except KeyError as error:
            name = error.args[0]
            raise InputError(f"expression '{self.text}': no axis '{name}'{did_you_mean(name, values)}") from None
        except (ZeroDivisionError, ValueError, OverflowError, TypeError) as error:
            raise InputError(f"expression '{self.text}' has no value here ({error})") from None
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)
        return f"{value:.12g} {self.unit}" if self.unit else value


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value)
        return None if head is None else f"{head}.{node.attr}"
    return None


def _check(node: ast.expr, text: str, names: set[str], depth: int) -> None:
    """Accept only what `_evaluate` knows."""
    if depth > _MAX_DEPTH:
        raise InputError(f"expression '{text}' is nested deeper than {_MAX_DEPTH}")
    name = _dotted(node)
    if name is not None:
        names.add(name)
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        _check(node.left, text, names, depth + 1)
        _check(node.right, text, names, depth + 1)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check(node.operand, text, names, depth + 1)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            known = did_you_mean(node.func.id, _FUNCTIONS) or f" (known: {', '.join(_FUNCTIONS)})"
            raise InputError(f"expression '{text}': unknown function '{node.func.id}'{known}")
        for argument in node.args:
            _check(argument, text, names, depth + 1)
    elif not (isinstance(node, ast.Constant) and type(node.value) in (int, float)):
        raise InputError(f"expression '{text}' is not arithmetic between axes")


def _evaluate(node: ast.expr, values: Mapping[str, Number]) -> Number:
    name = _dotted(node)
    if name is not None:
        return values[name]
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, (int, float))
        return node.value
    if isinstance(node, ast.UnaryOp):
        return -_evaluate(node.operand, values)
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _FUNCTIONS[node.func.id](*(_evaluate(argument, values) for argument in node.args))
    assert isinstance(node, ast.BinOp)
    left, right = _evaluate(node.left, values), _evaluate(node.right, values)
    if isinstance(node.op, ast.Pow) and abs(right) > _MAX_POWER:
        raise ValueError(f"a power of {right}")
    return _BINARY[type(node.op)](left, right)
