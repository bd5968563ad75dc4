"""Records what a model computes, as operators over tensors with symbolic shapes.

Tensors are told apart by their storage, so every view of a tensor is the tensor. A function with a rule in
`functions.py` becomes an operator; one that only touches untracked tensors (positions, cos/sin tables) is a constant
and costs nothing; anything else stops the export, so that no work is lost in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-not-found, import-untyped, unused-ignore]
import torch
from torch.overrides import TorchFunctionMode

from archsim.errors import InputError
from archsim.trace.expr import Expr
from archsim.trace.graph import Attr
from archsim.trace.trace import OpSpec, TensorSpec

__all__ = ["Handler", "RecordedOp", "Recorder", "numel", "product"]

_DTYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "int32",
    torch.int32: "int32",
}

_IN_PLACE = ("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__")

Handler = Callable[["Recorder", Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclass
class _RecordedTensor:
    name: str
    shape: tuple[Any, ...]
    dtype: str
    role: str


@dataclass
class RecordedOp:
    """An operator while it is being recorded: later functions may still widen or absorb it."""

    name: str
    kind: str
    dims: dict[str, Any]
    attrs: dict[str, Attr]
    inputs: list[int]
    outputs: list[int]
    dtype: str


class Recorder(TorchFunctionMode):  # type: ignore[misc, unused-ignore]
    """The torch function mode that records.

    `batch`, `seq`: sequences and new tokens of each; `held`: tokens of each that attention sees, cached ones included.
    """

    def __init__(self, handlers: dict[str, Handler], batch: Any, seq: Any, held: Any) -> None:
        super().__init__()
        self.handlers = handlers
        self.batch, self.seq, self.held = batch, seq, held
        self.tokens = product((batch, seq))
        self.ops: list[RecordedOp] = []
        self.tensors: list[_RecordedTensor] = []
        self.block = ""
        self.scope: list[str] = [""]
        self.silent = False
        self._by_storage: dict[int, int] = {}
        self._allocated: dict[int, Any] = {}
        self._times: Counter[tuple[str, str]] = Counter()
        self._kept: list[Any] = []  # storages stay alive, so that an address is never reused

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.silent or not self.tracked((args, kwargs)):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        handler = self.handlers.get(name.strip("_"))
        if handler is not None:
            return handler(self, func, args, kwargs)
        out = func(*args, **kwargs)
        # Only a view may pass: a result in storage of its own is work, and so is a change in place.
        in_place = name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))
        if in_place or len(self.tracked(out)) < len(_tensors(out)):
            where = self.scope[-1] or "model"
            raise InputError(f"the exporter has no rule for '{name.strip('_')}' in module '{where}'")
        return out

    @contextmanager
    def within(self, scope: str) -> Iterator[None]:
        """Operators recorded inside belong to the module path `scope`."""
        self.scope.append(scope)
        try:
            yield
        finally:
            self.scope.pop()

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Functions inside are not recorded: the caller records one operator for all of them."""
        before, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = before

    def find(self, tensor: Any) -> int | None:
        """Index of the recorded tensor that `tensor` is, or is a view of."""
        return self._by_storage.get(tensor.untyped_storage()._cdata)

    def tracked(self, arguments: Any) -> list[Any]:
        """The recorded tensors among `arguments` (nested tuples, lists and dictionaries)."""
        return [tensor for tensor in _tensors(arguments) if self.find(tensor) is not None]

    def index(self, tensor: Any) -> int:
        """Like `find`, for an operand that must have been recorded."""
        found = self.find(tensor)
        if found is None:
            raise InputError(f"the exporter lost track of an operand in module '{self.scope[-1] or 'model'}'")
        return found

    def role(self, tensor: Any) -> str:
        """The role of the recorded tensor that `tensor` is."""
        return self.tensors[self.index(tensor)].role

    def alias(self, tensor: Any, index: int) -> None:
        """From now on `tensor` (and its views) is the recorded tensor `index`."""
        storage = tensor.untyped_storage()
        self._kept.append(storage)
        self._by_storage[storage._cdata] = index

    def add_tensor(self, tensor: Any, name: str, role: str = "activation") -> int:
        """Record `tensor` as a new one of the current block."""
        full_name = ".".join(part for part in (self.block, name) if part)
        self.tensors.append(_RecordedTensor(full_name, tuple(tensor.shape), _DTYPES[tensor.dtype], role))
        self.alias(tensor, len(self.tensors) - 1)
        return len(self.tensors) - 1

    def allocate(self, tensor: Any) -> Any:
        """Note an empty tensor: it becomes a recorded one when something is first written to it."""
        self._allocated[tensor.untyped_storage()._cdata] = tensor
        return tensor

    def allocated(self, view: Any) -> Any:
        """The whole empty tensor that `view` is part of."""
        return self._allocated[view.untyped_storage()._cdata]

    def record(
        self,
        kind: str,
        dims: dict[str, Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        label: str = "",
        dtype: str | None = None,
        **attrs: Attr,
    ) -> RecordedOp:
        """Append an operator named after the current module (and `label`); outputs not yet known become activations."""
        name = ".".join(part for part in (self.scope[-1], label) if part)
        sources = [self.index(tensor) for tensor in inputs]
        results = []
        for i, tensor in enumerate(outputs):
            found = self.find(tensor)
            results.append(self.add_tensor(tensor, name + (f".{i}" if i else "")) if found is None else found)
        compute = dtype or self.tensors[sources[0]].dtype
        self._times[self.block, name] += 1
        if times := self._times[self.block, name] - 1:  # a module may add twice
            name = f"{name}.{times}"
        self.ops.append(RecordedOp(name, kind, dims, attrs, sources, results, compute))
        return self.ops[-1]

    def shrink(self, caches: Sequence[Any], window: int) -> None:
        """Caches that a sliding window bounds hold the window before the new tokens, and these (as vLLM sizes them)."""
        for index in {self.index(cache) for cache in caches}:
            tensor = self.tensors[index]
            if tensor.role == "kv_cache":
                batch, heads, held, width = tensor.shape
                most = _sympy(self.seq) + window - 1
                least = sympy.Min(_sympy(held), most, evaluate=isinstance(held, int))
                tensor.shape = (batch, heads, least, width)

    def producer(self, tensor: Any) -> RecordedOp | None:
        """The last operator that wrote `tensor`."""
        index = self.find(tensor)
        return next((op for op in reversed(self.ops) if index in op.outputs), None)

    def rows_cols(self, tensor: Any) -> dict[str, Any]:
        """A tensor of the residual stream or its projections as tokens x features; of the cache: as held tokens."""
        cached = any(_sympy(axis) == _sympy(self.held) for axis in tensor.shape)
        rows = product((self.batch, self.held)) if cached else self.tokens
        cols = sympy.cancel(numel(tensor) / rows)
        if sympy.fraction(cols)[1] != 1:  # not of the tokens at all (positions, pixels)
            rows, cols = product(tensor.shape[:-1]), _sympy(tensor.shape[-1]) if tensor.shape else 1
        return {"rows": rows, "cols": cols}

    def specs(self, sizes: dict[str, Any]) -> tuple[list[TensorSpec], list[OpSpec]]:
        """The record, with the symbolic sizes in `sizes` written as symbols of these names."""
        names = {_sympy(n): sympy.Symbol(name) for name, n in sizes.items() if isinstance(n, torch.SymInt)}

        def text(value: Any) -> Expr:
            expression = _sympy(value)
            if isinstance(expression, sympy.Min):
                return Expr.parse(f"min({','.join(str(text(part)) for part in expression.args)})")
            return Expr.parse(str(sympy.expand(sympy.cancel(expression.subs(names)))))

        tensors = [TensorSpec(t.name, tuple(text(n) for n in t.shape), t.dtype, t.role) for t in self.tensors]
        ops = [
            OpSpec(
                op.name,
                op.kind,
                {name: text(n) for name, n in op.dims.items()},
                op.attrs,
                tuple(op.inputs),
                tuple(op.outputs),
                op.dtype,
            )
            for op in self.ops
        ]
        return tensors, ops


def numel(tensor: Any) -> Any:
    """Elements of `tensor` as a sympy expression."""
    return product(tensor.shape)


def product(sizes: Iterable[Any]) -> Any:
    """Product of sizes as a sympy expression (1 when there are none)."""
    return sympy.Mul(*[_sympy(n) for n in sizes])


def _sympy(value: Any) -> Any:
    return value.node.expr if isinstance(value, torch.SymInt) else sympy.sympify(value)


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, (tuple, list)) else []
