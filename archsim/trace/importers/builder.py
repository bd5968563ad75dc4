"""What both importers build: a flat list of operators over a table of tensors, folded into blocks at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from archsim._version import __version__
from archsim.errors import InputError
from archsim.trace.expr import Expr
from archsim.trace.graph import Attr
from archsim.trace.importers.fold import fold
from archsim.trace.trace import BlockSpec, OpSpec, TensorSpec, Trace

__all__ = ["Builder", "read_bounded"]

_MAX_OPS = 20_000


class Builder:
    """Collects tensors and operators in execution order; sizes are anything whose text is an expression."""

    def __init__(self) -> None:
        self.tensors: list[TensorSpec] = []
        self.ops: list[OpSpec] = []
        self.weights: set[int] = set()  # tensors that are weights unless some operator writes them
        self._names: dict[str, int] = {}
        self._written: set[int] = set()

    def tensor(
        self, name: str, shape: Sequence[object], dtype: str, role: str, scale_block: tuple[int, int] | None = None,
        scale_dtype: str = "fp32",
    ) -> int:  # fmt: skip
        """Add a tensor and return its index."""
        sizes = tuple(Expr.parse(str(axis)) for axis in shape)
        self.tensors.append(TensorSpec(name, sizes, dtype, role, scale_block, scale_dtype))
        return len(self.tensors) - 1

    def op(
        self, name: str, kind: str, dims: Mapping[str, object], attrs: Mapping[str, Attr], inputs: Sequence[int],
        outputs: Sequence[int], dtype: str,
    ) -> None:  # fmt: skip
        """Add an operator; a name that was used before gets a number."""
        if len(self.ops) == _MAX_OPS:
            raise InputError(f"has more than {_MAX_OPS:,} operators")
        sizes = {key: Expr.parse(str(size)) for key, size in dims.items()}
        self.ops.append(OpSpec(self._unique(name), kind, sizes, dict(attrs), tuple(inputs), tuple(outputs), dtype))
        self._written.update(outputs)

    def trace(
        self, name: str, config: dict[str, Any], producer: Mapping[str, str], phase: str, fixed: Mapping[str, int]
    ) -> Trace:
        """The trace of what was added; what no operator writes and is no weight came from outside."""
        if not self.ops:
            raise InputError("has no operator that archsim simulates")
        tensors = [self._with_role(i, tensor) for i, tensor in enumerate(self.tensors)]
        kept, blocks = fold(tensors, self.ops)
        if phase == "train":  # its backward pass meets the layers' weights in reverse, which one block cannot say
            kept, blocks = tuple(tensors), (BlockSpec("step", 1, tuple(self.ops)),)
        return Trace(name, phase, config, kept, blocks, {"archsim": __version__, **producer}, dict(fixed))

    def _with_role(self, index: int, tensor: TensorSpec) -> TensorSpec:
        if tensor.role != "activation" or index in self._written:
            return tensor
        return replace(tensor, role="weight" if index in self.weights else "constant")

    def _unique(self, name: str) -> str:
        unique = name
        while unique in self._names:
            self._names[name] += 1
            unique = f"{name}.{self._names[name]}"
        self._names[unique] = 0
        return unique


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file of at most `most` bytes."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
        size = path.stat().st_size
        if size > most:
            raise InputError(f"{path}: is larger than {most:,} bytes")
        with path.open("rb") as handle:
            return handle.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
