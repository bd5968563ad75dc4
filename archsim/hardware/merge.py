"""Inheritance (`base:`) and overrides (`--set`): two ways to lay one document over another.

Maps merge deeply, everything else is replaced, and a map whose `kind` changes is replaced as a whole. A layer that
changes what the quoted peaks rest on without quoting its own drops them, one that lowers the clock to where load no
longer limits it drops that limit, one that states no clock under load drops those of single types too, and a changed
value does not keep the source of the value it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archsim.errors import InputError
from archsim.hardware.document import Document, Path_, parse_scalar_text
from archsim.units import UnitError, parse

__all__ = ["inherit", "override"]

_PEAK_RESTS_ON = (("clock",), ("cores",), ("core", "matrix"))
_NOT_VALUES = {"name", "title", "status", "base", "provenance", "estimated"}


def _merge(base: Any, child: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(child, dict)):
        return child
    if "kind" in base and "kind" in child and base["kind"] != child["kind"]:
        return child
    return {
        **base,
        **{key: _merge(base[key], value) if key in base else value for key, value in child.items()},
    }


def _leaves(tree: Any, path: Path_ = ()) -> list[Path_]:
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, value in tree.items() for leaf in _leaves(value, (*path, key))]


def _has(tree: Any, path: Path_) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return tree is not None


def _lay_over(base: dict[str, Any], child: dict[str, Any], source: str) -> dict[str, Any]:
    """Merge `child` over `base`, then drop stale peaks and give every unsourced change the source `source`."""
    result: dict[str, Any] = _merge(base, child)
    if any(_has(child, path) for path in _PEAK_RESTS_ON):
        result["peak"] = child.get("peak", {})
    if "clock" in child and "clock_under_load" not in child and not _limits(result):
        result.pop("clock_under_load", None)
    if "clock_under_load" in child and child["clock_under_load"] is None and "load_clocks" not in child:
        result.pop("load_clocks", None)
    inherited, own = base.get("provenance"), child.get("provenance", {})
    if not (isinstance(inherited, dict) and isinstance(own, dict)):
        return result
    changed = {key: value for key, value in child.items() if key not in _NOT_VALUES}
    guess = {"source": source, "confidence": "low", "estimated": True}
    added = {}
    for leaf in _leaves(changed):
        mine, theirs = _longest_prefix(leaf, own), _longest_prefix(leaf, inherited)
        if not mine:
            added[_dotted(leaf)] = guess
        elif len(theirs) > len(mine):
            added[_dotted(leaf)] = own[mine]
    entries = {**inherited, **added, **own}
    kept = {path: entry for path, entry in entries.items() if path in own or _has(result, tuple(path.split(".")))}
    return {**result, "provenance": kept}


def _limits(data: dict[str, Any]) -> bool:
    """True unless the clock under load is known to be no lower than the clock."""
    try:
        loaded, clock = (parse(str(data.get(key)), "frequency") for key in ("clock_under_load", "clock"))
    except UnitError:
        return True
    return loaded < clock


def _dotted(path: Path_) -> str:
    return ".".join(map(str, path))


def _longest_prefix(path: Path_, entries: dict[str, Any]) -> str:
    prefixes = (_dotted(path[:n]) for n in range(len(path), 0, -1))
    return next((prefix for prefix in prefixes if prefix in entries), "")


def inherit(base: Document, child: Document, source: str) -> Document:
    """Lay `child` over the document it names as its base."""
    data = _lay_over(base.data, child.data, source)
    return Document(data, {**base.marks, **child.marks})


def override(document: Document, overrides: Mapping[str, Any]) -> Document:
    """Lay ``{"core.matrix.rows": "256"}`` over a document; text values are read as YAML."""
    layer: dict[str, Any] = {}
    data, marks = document.data, dict(document.marks)
    for dotted, value in overrides.items():
        path: Path_ = tuple(dotted.split("."))
        label = f"--set {dotted}={value!s:.60}"
        if not all(path):
            raise InputError(f"{label}: expected a dotted path such as core.matrix.rows=256")
        for depth in range(1, len(path)):
            if _has(data, path[:depth]) and not isinstance(_get(data, path[:depth]), dict):
                above, below = _dotted(path[:depth]), path[depth]
                raise InputError(f"{label}: {above} is a single value and has no '{below}'")
        _insert(layer, path, parse_scalar_text(value, label) if isinstance(value, str) else value)
        data = _without(data, path)
        marks = {place: mark for place, mark in marks.items() if place[: len(path)] != path}
        for depth in range(1, len(path) + 1):  # maps that only this override opens are its own, too
            marks.setdefault(path[:depth], label)
    return Document(_lay_over(data, layer, "set by hand (--set)"), marks) if layer else document


def _insert(tree: dict[str, Any], path: Path_, value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(tree.get(str(part)), dict):
            tree[str(part)] = {}
        tree = tree[str(part)]
    tree[str(path[-1])] = value


def _get(tree: Any, path: Path_) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _without(tree: dict[str, Any], path: Path_) -> dict[str, Any]:
    """Drop a map at `path`, so that an override replaces it instead of merging into it."""
    head, rest = str(path[0]), path[1:]
    if not isinstance(tree.get(head), dict):
        return tree
    if rest:
        return {**tree, head: _without(tree[head], rest)}
    return {key: value for key, value in tree.items() if key != head}
