"""Presets and files: find, inherit, override, validate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from archsim._data import data_path
from archsim.errors import InputError, did_you_mean, whole_number
from archsim.hardware.chip import ChipSpec
from archsim.hardware.document import Document, read_document
from archsim.hardware.memory import MemoryStandard
from archsim.hardware.merge import inherit, override
from archsim.hardware.messages import input_error
from archsim.hardware.parts import PartsSpec
from archsim.hardware.rules import ExportRules
from archsim.hardware.spec import Spec
from archsim.hardware.system import SystemSpec
from archsim.hardware.technology import TechnologySpec
from archsim.units import FROM_FILE

__all__ = [
    "ChipFamily",
    "SystemFamily",
    "list_chips",
    "list_memory_standards",
    "list_systems",
    "list_technologies",
    "load_chip",
    "load_memory_standard",
    "load_parts",
    "load_rules",
    "load_system",
    "load_technology",
    "own_tables",
]

_FOLDERS = {
    "chip": "chips", "system": "systems", "memory standard": "memory", "technology": "technology",
    "parts list": "parts", "set of rules": "rules",
}  # fmt: skip
_SpecT = TypeVar("_SpecT", bound=Spec)


def list_chips() -> list[str]:
    """Names of the chip presets."""
    return _list("chip")


def list_systems() -> list[str]:
    """Names of the system presets."""
    return _list("system")


def list_memory_standards() -> list[str]:
    """Names of the memory standards."""
    return _list("memory standard")


def load_chip(name: str | Path, overrides: Mapping[str, Any] | None = None) -> ChipSpec:
    """Load a preset (``"h100"``) or a file (``"my/chip.yaml"``) and lay ``{"core.matrix.rows": "256"}`` over it."""
    return ChipFamily.of(name).variant(overrides or {})


def load_system(name: str | Path, overrides: Mapping[str, Any] | None = None) -> SystemSpec:
    """Load a system preset or file, or ``CHIP-xN``: N chips of a preset or file, with the links of the chip.

    >>> load_system("h200-x16").nodes
    2
    """
    return SystemFamily.of(name).variant(overrides or {})


@dataclass(frozen=True)
class ChipFamily:
    """A chip description, read once, of which variants are made without reading it again."""

    document: Document

    @staticmethod
    def of(name: str | Path) -> ChipFamily:
        """The family of a preset or file."""
        return ChipFamily(_with_standard(_resolve("chip", name)))

    def variant(self, overrides: Mapping[str, Any]) -> ChipSpec:
        """The chip with ``{"core.matrix.rows": "256"}`` laid over it."""
        document, layers = self.document, dict(overrides)
        if "memory.standard" in layers:  # before overrides that reach into it
            document = _with_standard(override(document, {"memory.standard": layers.pop("memory.standard")}))
        return _validate(ChipSpec, _with_technology(override(document, layers)))


@dataclass(frozen=True)
class SystemFamily:
    """A system description, read once."""

    document: Document

    @staticmethod
    def of(name: str | Path) -> SystemFamily:
        """The family of a preset, a file, or ``CHIP-xN``."""
        return SystemFamily(_plain_system(str(name)) or _resolve("system", name))

    def variant(self, overrides: Mapping[str, Any]) -> SystemSpec:
        """The system with overrides laid over it."""
        return _validate(SystemSpec, override(self.document, overrides))


def load_memory_standard(name: str | Path) -> MemoryStandard:
    """Load a memory standard."""
    return _validate(MemoryStandard, _resolve("memory standard", name))


def list_technologies() -> list[str]:
    """Names of the technology tables."""
    return _list("technology")


def load_technology(name: str | Path) -> TechnologySpec:
    """Load the table of a process node."""
    return _validate(TechnologySpec, _resolve("technology", name))


def own_tables(nodes: Iterable[object]) -> list[dict[str, Any]]:
    """The content of those technologies that are files of the user's; one that ships is told by its name."""
    own = [Path(str(name)) for name in nodes if str(name).endswith((".yaml", ".yml"))]
    found = [load_technology(path) for path in own if path.expanduser().is_file()]  # who reads a missing one says so
    return [node.model_dump(mode="json", exclude={"title", "provenance"}) for node in found]


def load_parts(name: str | Path = "default") -> PartsSpec:
    """Load a list of parts and prices."""
    return _validate(PartsSpec, _resolve("parts list", name))


def load_rules(name: str | Path = "us-export") -> ExportRules:
    """Load a set of export rules."""
    return _validate(ExportRules, _resolve("set of rules", name))


def _list(what: str) -> list[str]:
    return sorted(path.stem for path in (data_path("configs") / _FOLDERS[what]).glob("*.yaml"))


def _locate(what: str, name: str | Path, folder: Path | None = None) -> tuple[Path, str]:
    """The file of a preset or of a path (relative to `folder`), and how to call it in messages."""
    text = str(name)
    if isinstance(name, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text).expanduser()
        if folder is not None and not path.is_absolute():
            path = folder / path
        if not path.is_file():
            raise InputError(f"{path}: there is no such {what} file")
        return path, str(path)
    presets = _list(what)
    if text not in presets:
        if what == "chip" and text in _list("system"):
            raise InputError(f"'{text}' is a system: name its chip, and the system with --system {text}")
        if what == "system" and text in _list("chip"):
            raise InputError(f"'{text}' is a chip: {text}-x8 is a system of eight")
        known = ", ".join(presets[:12]) + (", ..." if len(presets) > 12 else "")
        plain = "; CHIP-xN: N of a chip" if what == "system" else ""
        raise InputError(f"unknown {what} '{text[:80]}'{did_you_mean(text, presets) or f' (known: {known}{plain})'}")
    sub = _FOLDERS[what]
    return data_path("configs") / sub / f"{text}.yaml", f"configs/{sub}/{text}.yaml"


def _plain_system(name: str) -> Document | None:
    """``CHIP-xN`` where no preset has that name: nodes as large as the scale-up link of the chip reaches."""
    chip, _, count = name.rpartition("-x")
    known = chip in _list("chip") or chip.endswith((".yaml", ".yml"))
    chips = whole_number(count)
    if not known or chips is None or name in _list("system"):
        return None
    spec = load_chip(chip)
    node = min(chips, spec.scale_up.domain if spec.scale_up else 1)
    data = {
        "name": f"{spec.name}-x{chips}", "title": f"{chips} x {spec.title}", "chip": chip, "chips": chips,
        "chips_per_node": node, "source": "the links of the chip, in nodes as large as they reach", "estimated": True,
    }  # fmt: skip
    return Document(data, {(): name})


def _resolve(what: str, name: str | Path) -> Document:
    """Read a document and everything it inherits from."""
    path, label = _locate(what, name)
    layers: list[tuple[Document, str]] = []
    seen: list[Path] = []
    while True:
        document = read_document(path, label)
        layers.append((document, label))
        seen.append(path.resolve())
        base = document.data.get("base")
        if base is None:
            break
        place = document.mark(("base",))
        if not isinstance(base, str):
            raise InputError(f"{place}: base: expected the name of a {what} or a file, found {base!r:.60}")
        try:
            path, label = _locate(what, base, folder=path.parent)
        except InputError as error:
            raise InputError(f"{place}: base: {error}") from None
        if path.resolve() in seen:
            chain = " -> ".join([*(known.stem for known in seen), path.stem])
            raise InputError(f"{place}: base: inherits from itself ({chain})")
    own_name = layers[0][0].data.get("name", seen[0].stem)
    result, _ = layers.pop()
    while layers:
        child, label = layers.pop()
        result = inherit(result, child, source=f"set in {label}")
    data = {
        "name": own_name,
        **{key: value for key, value in result.data.items() if key not in ("base", "name")},
    }
    return Document(data, result.marks)


def _with_standard(document: Document) -> Document:
    """Put the memory standard that a chip names in place of its name."""
    memory = document.data.get("memory")
    if not isinstance(memory, dict) or not isinstance(memory.get("standard"), str):
        return document
    place = document.mark(("memory", "standard"))
    try:
        standard = _resolve("memory standard", memory["standard"])
    except InputError as error:
        raise InputError(f"{place}: memory.standard: {error}") from None
    data = {**document.data, "memory": {**memory, "standard": standard.data}}
    inner = {("memory", "standard", *path): mark for path, mark in standard.marks.items() if path}
    return Document(data, {**document.marks, **inner})


def _with_technology(document: Document) -> Document:
    """Refuse a process node that has no table."""
    physical: Any = document.data.get("physical")
    for path in (("technology",), ("io_dies", "technology")):
        named: Any = physical
        for part in path:
            named = named.get(part) if isinstance(named, dict) else None
        if isinstance(named, str):
            try:
                _locate("technology", named)
            except InputError as error:
                where = ("physical", *path)
                raise InputError(f"{document.mark(where)}: {'.'.join(where)}: {error}") from None
    return document


def _validate(model: type[_SpecT], document: Document) -> _SpecT:
    try:
        return model.model_validate(document.data, context=FROM_FILE)
    except ValidationError as error:
        raise input_error(error, document, model) from None
