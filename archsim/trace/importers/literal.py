"""A strict reader of the nested lists that Chakra and ONNX files keep as text, such as ``[[2, 3], [],
'Tensor(float)']``.

Python evaluates nothing here. Lists and tuples nest, items are integers, reals, quoted text or bare words
(``<Object>``, ``None``, ``True``), which are kept as text.
"""

from __future__ import annotations

import re
from typing import Union

__all__ = ["Literal", "parse_literal"]

Literal = Union[int, float, str, "list[Literal]"]

_MAX_LENGTH = 2**20
_MAX_DEPTH = 32
_TOKEN = re.compile(
    r"""\s*(?:(?P<open>[\[(])|(?P<close>[\])])|(?P<comma>,)|(?P<int>-?\d{1,20}(?![\w.]))|(?P<real>-?\d[\w.+-]{0,40})
    |'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<word><[\w :.]{0,80}>|[A-Za-z_][\w.:]{0,80}))\s*""",
    re.ASCII | re.VERBOSE,
)


def parse_literal(text: str) -> Literal:
    """Read `text`; ValueError if it is anything else.

    >>> parse_literal("[[2, 3], ['Tensor(float)', <Object>], ()]")
    [[2, 3], ['Tensor(float)', '<Object>'], []]
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"a list of {len(text)} characters is too long")
    root: list[Literal] = []
    stack = [root]
    position, item_allowed = 0, True
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise ValueError(f"'{text[position : position + 20]}' is not a list of numbers and words")
        kind, token, position = match.lastgroup, match[match.lastgroup], match.end()
        if kind == "comma":
            if item_allowed:
                raise ValueError("a list has an empty item")
            item_allowed = True
        elif kind == "close":
            if len(stack) == 1:
                raise ValueError("a list is closed that was never opened")
            stack.pop()
            item_allowed = False
        elif not item_allowed:
            raise ValueError(f"a comma is missing before '{token[:20]}'")
        elif kind == "open":
            if len(stack) > _MAX_DEPTH:
                raise ValueError(f"lists are nested deeper than {_MAX_DEPTH}")
            inner: list[Literal] = []
            stack[-1].append(inner)
            stack.append(inner)
        else:
            stack[-1].append(int(token) if kind == "int" else float(token) if kind == "real" else token)
            item_allowed = False
    if len(stack) > 1 or len(root) != 1:
        raise ValueError("a list is not closed" if len(stack) > 1 else "is not one list")
    return root[0]
