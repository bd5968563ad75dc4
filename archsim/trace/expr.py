"""Integer expressions in a trace's symbols, such as ``ctx + 1`` or ``8*batch*seq``.

Grammar (usual precedence, left associative)::

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "//") factor)*
    factor  = integer | symbol | "-" factor | "(" sum ")" | "min(" sum "," sum ")"

The parser is a whitelist of its own: nothing that is not in the grammar is ever evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Union

from archsim.errors import InputError

__all__ = ["Expr"]

_TOKEN = re.compile(r"\s*(?:(?P<int>\d+)|(?P<name>[A-Za-z_]\w*)|(?P<op>//|[-+*(),]))", re.ASCII)
_MAX_LENGTH = 400
_MAX_DEPTH = 40

# A parsed expression: a number, a symbol, or (operator, left, right).
_Node = Union[int, str, "tuple[str, _Node, _Node]"]


@dataclass(frozen=True)
class Expr:
    """An integer expression, compared and printed by its canonical text.

    >>> Expr.parse("8 * batch*(ctx+1)").evaluate({"batch": 2, "ctx": 4})
    80
    >>> str(Expr.parse("batch * (ctx+1) - (2)"))
    'batch*(ctx + 1) - 2'
    """

    text: str
    _node: _Node = field(repr=False, compare=False)

    @staticmethod
    def parse(text: str) -> Expr:
        """Parse `text`; anything outside the grammar is an InputError that quotes it."""
        return _parse(text)

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The value with each symbol replaced by its number in `values`."""
        try:
            return _evaluate(self._node, values)
        except KeyError as error:
            raise InputError(f"expression '{self.text}': symbol {error} has no value") from None
        except ZeroDivisionError:
            raise InputError(f"expression '{self.text}' divides by zero") from None

    @cached_property
    def symbols(self) -> frozenset[str]:
        """The names that the expression needs."""
        return frozenset(_names(self._node))

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def _parse(text: str) -> Expr:
    if len(text) > _MAX_LENGTH:
        raise InputError(f"expression '{text[:30]}...' is longer than {_MAX_LENGTH} characters")
    node = _Parser(text).parse()
    return Expr(_print(node), node)


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self.text, self.tokens, self.at, self.depth = text, list[tuple[str, str]](), 0, 0
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self.error(f"unexpected '{text[position:].lstrip()[0]}'")
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()

    def parse(self) -> _Node:
        node = self.sum()
        if self.at < len(self.tokens):
            raise self.error(f"unexpected '{self.tokens[self.at][1]}'")
        return node

    def sum(self) -> _Node:
        node = self.product()
        while operator := self.take("+", "-"):
            node = _binary(operator, node, self.product())
        return node

    def product(self) -> _Node:
        node = self.factor()
        while operator := self.take("*", "//"):
            node = _binary(operator, node, self.factor())
        return node

    def factor(self) -> _Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.error(f"nested deeper than {_MAX_DEPTH}")
        if self.take("-"):
            node: _Node = _binary("-", 0, self.factor())
        elif self.take("("):
            node = self.sum()
            if not self.take(")"):
                raise self.error("')' is missing")
        elif self.tokens[self.at : self.at + 2] == [("name", "min"), ("op", "(")]:
            self.at += 2
            node = self.least()
        elif self.at < len(self.tokens) and self.tokens[self.at][0] != "op":
            group, token = self.tokens[self.at]
            self.at += 1
            node = int(token) if group == "int" else token
        else:
            found = f"'{self.tokens[self.at][1]}'" if self.at < len(self.tokens) else "the end"
            raise self.error(f"a number, a symbol or '(' is expected, not {found}")
        self.depth -= 1
        return node

    def least(self) -> _Node:
        left = self.sum()
        if not self.take(","):
            raise self.error("',' is missing in min(a,b)")
        node = _binary("min", left, self.sum())
        if not self.take(")"):
            raise self.error("')' is missing")
        return node

    def take(self, *operators: str) -> str:
        if self.at < len(self.tokens) and self.tokens[self.at][1] in operators:
            self.at += 1
            return self.tokens[self.at - 1][1]
        return ""

    def error(self, what: str) -> InputError:
        return InputError(f"expression '{self.text}': {what}")


def _binary(operator: str, left: _Node, right: _Node) -> _Node:
    """The node, or its number where both sides are numbers (a division by zero stays, to fail when evaluated)."""
    node = (operator, left, right)
    constant = isinstance(left, int) and isinstance(right, int) and not (operator == "//" and right == 0)
    return _evaluate(node, {}) if constant else node


def _evaluate(node: _Node, values: Mapping[str, int]) -> int:
    if isinstance(node, int):
        return node
    if isinstance(node, str):
        return values[node]
    operator, left, right = node
    a, b = _evaluate(left, values), _evaluate(right, values)
    if operator == "*":
        return a * b
    if operator == "+":
        return a + b
    if operator == "min":
        return min(a, b)
    return a - b if operator == "-" else a // b


def _names(node: _Node) -> set[str]:
    if isinstance(node, tuple):
        return _names(node[1]) | _names(node[2])
    return {node} if isinstance(node, str) else set()


def _print(node: _Node) -> str:
    if not isinstance(node, tuple):
        return str(node)
    operator, left, right = node
    if operator == "min":
        return f"min({_print(left)},{_print(right)})"  # no space: files separate expressions by ", "
    if operator == "-" and left == 0:
        return f"-{_wrap(right, '')}"
    if operator in "+-":
        return f"{_print(left)} {operator} {_wrap(right, '*//')}"
    return f"{_wrap(left, '*//')}{operator}{_wrap(right, '')}"


def _wrap(node: _Node, bare: str) -> str:
    """Print `node`, in parentheses unless it is an atom or an operator of `bare` (one that binds tightly enough)."""
    atom = not (isinstance(node, tuple) and node[0] != "min") and not (isinstance(node, int) and node < 0)
    return _print(node) if atom or (isinstance(node, tuple) and node[0] in bare) else f"({_print(node)})"
