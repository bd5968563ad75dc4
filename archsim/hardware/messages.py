"""One sentence for a user out of a pydantic error: where, which key, what is wrong, what was meant."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import ValidationError

from archsim.errors import InputError, did_you_mean
from archsim.hardware.document import Document, Path_
from archsim.hardware.spec import Spec

__all__ = ["input_error"]


def input_error(error: ValidationError, document: Document, model: type[Spec]) -> InputError:
    """Describe the most telling of the problems: an unknown key explains the missing one beside it."""
    problems = error.errors(include_url=False)
    problem = min(problems, key=lambda p: p["type"] != "extra_forbidden")  # min keeps the first of equals
    context = problem.get("ctx", {})
    if problem["type"] == "contradiction":
        path: Path_ = (*_untagged(problem["loc"], document.data), *_split(context["path"], document.data))
        text = context["text"]
    else:
        path = _untagged(problem["loc"], document.data)
        path, text = _describe(problem, path, document.data, model)
    return InputError(f"{document.mark(path)}: {'.'.join(map(str, path))}: {text}")


def _split(dotted: str, data: dict[str, Any]) -> Path_:
    head, _, rest = dotted.partition(".")
    # the keys of `provenance` are dotted paths themselves
    return (head, rest) if head == "provenance" else tuple(dotted.split("."))


def _untagged(loc: tuple[str | int, ...], data: Any) -> Path_:
    """Drop what pydantic adds to a path: the tag of a union and the mark of a map key."""
    path: list[str | int] = []
    for part in loc:
        is_tag = isinstance(data, dict) and part not in data and data.get("kind") == part
        if is_tag or part == "[key]":
            continue
        path.append(part)
        data = _item(data, part)
    return tuple(path)


def _item(data: Any, part: str | int) -> Any:
    """The value at a key, or at a place of a list; None where there is none."""
    if isinstance(data, list) and isinstance(part, int):
        return data[part] if part < len(data) else None
    return data.get(part) if isinstance(data, dict) else None


def _found(data: Any, path: Path_) -> str:
    for part in path:
        data = _item(data, part)
    return f"found {data!r:.60}" if data is not None else "found nothing"


def _describe(problem: Any, path: Path_, data: dict[str, Any], model: type[Spec]) -> tuple[Path_, str]:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        here = did_you_mean(str(path[-1]), _fields(model, path[:-1], data))
        return path, f"unknown key{here or did_you_mean(str(path[-1]), model.model_fields)}"
    if kind == "missing":
        return path, "missing key"
    if kind == "union_tag_not_found":
        return (*path, "kind"), f"missing key, {_one_of(_kinds(model, path))}"
    if kind in ("literal_error", "union_tag_invalid"):
        is_union = kind == "union_tag_invalid"
        options = _kinds(model, path) if is_union else _options(context["expected"])
        wrong = str(context["tag"] if is_union else problem["input"])
        where = (*path, "kind") if is_union else path
        return where, f"'{wrong:.60}' is not {_one_of(options)}{did_you_mean(wrong, options)}"
    if kind == "value_error":
        return path, str(context["error"])
    limits = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
    limits["less_than_equal"] = "at most"
    if kind in limits:
        return path, f"must be {limits[kind]} {next(iter(context.values())):g}, {_found(data, path)}"
    wanted = {"int": "a whole number", "float": "a number", "string": "text", "bool": "true or false"}
    wanted |= {
        "model": "a map of keys and values",
        "dict": "a map of keys and values",
        "finite": "a finite number",
    }
    expected = wanted.get(kind.split("_")[0])
    if kind == "string_too_short":
        expected = "text"
    if kind == "too_short":
        expected = "at least one entry"
    return path, f"expected {expected}, {_found(data, path)}" if expected else problem["msg"]


def _one_of(options: list[str]) -> str:
    return "one of " + ", ".join(f"'{option}'" for option in options)


def _options(expected: str) -> list[str]:
    return [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]


def _specs(annotation: Any) -> list[type[Spec]]:
    """Every spec class inside an annotation such as ``Annotated[Crossbar | Mesh, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [spec for inner in typing.get_args(annotation) for spec in _specs(inner)]


def _models(model: type[Spec], path: Path_) -> list[type[Spec]]:
    models = [model]
    for part in path:
        fields = [m.model_fields[str(part)] for m in models if str(part) in m.model_fields]
        models = [spec for field in fields for spec in _specs(field.annotation)] or models
    return models


def _kinds(model: type[Spec], path: Path_) -> list[str]:
    return [kind for spec in _models(model, path) for kind in typing.get_args(spec.model_fields["kind"].annotation)]


def _fields(model: type[Spec], path: Path_, data: dict[str, Any]) -> list[str]:
    """Names that are legal at `path`, given the `kind` chosen there."""
    here: Any = data
    for part in path:
        here = _item(here, part)
    models = _models(model, path)
    kind = here.get("kind") if isinstance(here, dict) else None
    if kind is not None:
        models = [m for m in models if kind in typing.get_args(m.model_fields["kind"].annotation)]
    extra = ["base"] if not path else []
    return [name for spec in models for name in spec.model_fields] + extra
