"""YAML as plain data plus the place of every value: events in, dicts out.

The document is built from libyaml's parse events (through PyYAML) rather than by constructors: no tag is ever resolved,
so a file cannot run code; anchors and aliases are refused and size and depth are bounded, so a file cannot blow up
either.
Scalars follow the YAML 1.2 core schema (``no`` and ``12:30`` are text, ``1e9`` is a number).
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from archsim.errors import InputError

__all__ = ["Document", "Path_", "parse_scalar_text", "read_document", "to_yaml"]

MAX_BYTES = 64 * 1024
MAX_DEPTH = 24
MAX_NUMBER_LENGTH = 40

Path_ = tuple[str | int, ...]
"""Keys and list positions from the root to a value."""

_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_BARE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+/()^-]*(?: [A-Za-z0-9_.+/()^-]+)*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class Document:
    """A map and, for every path in it, the text ``file:line:column`` of its key (or list item)."""

    data: dict[str, Any]
    marks: dict[Path_, str] = field(default_factory=dict)

    def mark(self, path: Path_) -> str:
        """The place of `path`, or of the nearest enclosing value that has one."""
        while path and path not in self.marks:
            path = path[:-1]
        return self.marks.get(path, "")


def _scalar(text: str) -> Any:
    lowered = text.lower()
    if lowered in _CONSTANTS and text in (lowered, lowered.title(), lowered.upper()):
        return _CONSTANTS[lowered]
    if len(text) <= MAX_NUMBER_LENGTH:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


class _Builder:
    """Turns parse events into nested dicts and lists, one open collection at a time."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.marks: dict[Path_, str] = {}
        self.root: Any = None
        self.documents = 0
        self.path: Path_ = ()
        self.open: list[Any] = []
        self.keys: list[str | None] = []  # of each open map, the key that waits for its value

    def place(self, event: Any) -> str:
        return f"{self.label}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"

    def feed(self, event: Any) -> None:
        kind = type(event).__name__
        if kind == "AliasEvent" or getattr(event, "anchor", None):
            raise InputError(f"{self.place(event)}: anchors and aliases are not allowed")
        if getattr(event, "tag", None) not in (None, "!"):
            raise InputError(f"{self.place(event)}: tags such as '{str(event.tag)[:40]}' are not allowed")
        if kind == "DocumentStartEvent":
            self.documents += 1
            if self.documents > 1:
                raise InputError(f"{self.place(event)}: one file holds one document")
        elif kind == "ScalarEvent":
            self.scalar(event)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            if len(self.open) >= MAX_DEPTH:
                raise InputError(f"{self.place(event)}: nested deeper than {MAX_DEPTH} levels")
            collection: Any = {} if kind == "MappingStartEvent" else []
            self.add(collection, event)
            self.open.append(collection)
            self.keys.append(None)
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self.open.pop()
            self.keys.pop()
            self.path = self.path[:-1]

    def scalar(self, event: Any) -> None:
        odd = next((c for c in event.value if not (c.isprintable() or c in "\n\t")), None)
        if odd is not None:  # an escape sequence of a terminal, or one that turns the direction of writing
            raise InputError(f"{self.place(event)}: the character U+{ord(odd):04X} is not allowed in text")
        is_key = bool(self.open) and isinstance(self.open[-1], dict) and self.keys[-1] is None
        if not is_key:
            self.add(event.value if event.style else _scalar(event.value), event)
            self.path = self.path[:-1]
            return
        key = event.value
        path = (*self.path, key)
        if key in self.open[-1]:
            first = self.marks[path].rsplit(":", 2)[1]
            raise InputError(f"{self.place(event)}: {_dotted(path)}: duplicate key, first given on line {first}")
        self.marks[path] = self.place(event)
        self.keys[-1] = key

    def add(self, value: Any, event: Any) -> None:
        """Put `value` where it belongs and descend into it."""
        if not self.open:
            self.root = value
        elif isinstance(self.open[-1], list):
            self.path = (*self.path, len(self.open[-1]))
            self.marks[self.path] = self.place(event)
            self.open[-1].append(value)
        else:
            key = self.keys[-1]
            if key is None:
                raise InputError(f"{self.place(event)}: a key must be plain text")
            self.path = (*self.path, key)
            self.open[-1][key] = value
            self.keys[-1] = None


def _dotted(path: Path_) -> str:
    return ".".join(str(part) for part in path)


def _build(text: str, label: str) -> _Builder:
    import yaml

    builder = _Builder(label)
    try:
        # where PyYAML was built without libyaml, the same events twenty times as slowly
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.feed(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{label}:{mark.line + 1}:{mark.column + 1}" if mark else label
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{place}: not valid YAML, {problem}") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{label}: not valid YAML, {error}") from None
    return builder


def read_document(path: Path, label: str) -> Document:
    """Read one YAML file that holds a map; `label` names it in messages."""
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_BYTES + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise InputError(f"{label}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{label}: is not a UTF-8 text file") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"{label}: is larger than {MAX_BYTES // 1024} KiB, which no hardware description needs")
    builder = _build(text, label)
    if not isinstance(builder.root, dict):
        raise InputError(f"{label}:1:1: expected a map of keys and values")
    return Document(builder.root, {(): f"{label}:1:1", **builder.marks})


def parse_scalar_text(text: str, label: str) -> Any:
    """Read the right-hand side of ``--set key=value`` as YAML."""
    try:
        value = _right_hand_side(text[:4096])
    except InputError as error:
        raise InputError(f"{label}: {str(error).partition(': ')[2]}") from None
    return deepcopy(value) if isinstance(value, (dict, list)) else value


@lru_cache(maxsize=4096)  # the points of a sweep set the same few values again and again
def _right_hand_side(text: str) -> Any:
    return _build(text, "").root


def to_yaml(data: dict[str, Any]) -> str:
    """Write plain data (maps, lists, text, numbers) as a YAML document in block style, keys in order.

    >>> to_yaml({"cores": 4, "core": {"clock": "2 GHz", "note": "yes: no"}, "sizes": [1, 2]})
    'cores: 4\\ncore:\\n  clock: 2 GHz\\n  note: "yes: no"\\nsizes: [1, 2]\\n'
    """
    lines: list[str] = []
    _write(data, "", lines)
    return "\n".join(lines) + "\n"


def _write(data: dict[str, Any], indent: str, lines: list[str]) -> None:
    for key, value in data.items():
        name = f"{indent}{_text(key)}:"
        if isinstance(value, dict) and value:
            lines.append(name)
            _write(value, indent + "  ", lines)
        else:
            lines.append(f"{name} {_flow(value)}")


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    """Text that reads back as itself: bare where nothing in it has a meaning in YAML, else in double quotes."""
    if _BARE.fullmatch(text) and _scalar(text) == text:
        return text
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text) + '"'
