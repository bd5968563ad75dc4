"""ONNX models as traces: `import_onnx`.

Matrix products, convolutions (as implicit GEMM), attention, norms and the rest become archsim's operator kinds. Free
are views and layout changes (reshape, transpose, slice, split, expand), index arithmetic (whatever is of integer or
boolean type), and what depends on weights alone (constant folding). A bias, and a batch norm behind a convolution,
become part of the product, as in every inference engine. The other operators are element-wise; ``fn`` is then the
nearest cost class of `archsim.trace.costs` and ``onnx`` the operator's own name.

Not modelled: control flow, recurrent networks, operators of other domains, and the values of masks (attention is
causal if its mask is triangular or made by a comparison).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archsim.errors import InputError, did_you_mean
from archsim.trace.graph import DTYPE_BITS, Attr
from archsim.trace.importers.builder import Builder
from archsim.trace.importers.literal import parse_literal
from archsim.trace.importers.onnx_attention import Pattern, find_attention, readers_of
from archsim.trace.importers.onnx_graph import OnnxGraph, read_graph
from archsim.trace.importers.sizes import Size, product
from archsim.trace.trace import Trace

__all__ = ["import_onnx"]

_ONE = Size.of(1)
_DTYPES = {
    "FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "INT8": "int8", "UINT8": "int8", "INT4": "int4",
    "UINT4": "int4", "FLOAT4E2M1": "fp4", "FLOAT8E4M3FN": "fp8", "FLOAT8E4M3FNUZ": "fp8", "FLOAT8E5M2": "fp8",
    "FLOAT8E5M2FNUZ": "fp8",
}  # fmt: skip
_INDEX = {"BOOL", "INT16", "INT32", "INT64", "UINT16", "UINT32", "UINT64", "STRING"}
_VIEWS = {
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Transpose", "Slice", "Split", "Expand",
    "Tile",
}  # fmt: skip
# Cost class of element-wise operators: add is one simple operation an element, silu one with a special function.
_ELEMENTWISE = {
    **dict.fromkeys(
        ("Add", "Sub", "Relu", "Clip", "LeakyRelu", "PRelu", "ThresholdedRelu", "Abs", "Neg", "Sign", "Floor", "Ceil",
         "Round", "Max", "Min", "Sum", "Mean", "Where", "HardSigmoid", "Mod"),
        "add",
    ),
    **dict.fromkeys(("Mul", "Div", "Pow", "Sqrt", "Reciprocal", "HardSwish", "BatchNormalization"), "mul"),
    **dict.fromkeys(
        ("Sigmoid", "Tanh", "Exp", "Log", "Elu", "Selu", "Celu", "Softplus", "Softsign", "Swish", "Mish", "Erf", "Sin",
         "Cos"),
        "silu",
    ),
    "Gelu": "gelu",
    **dict.fromkeys(
        ("Pad", "Resize", "Upsample", "DepthToSpace", "SpaceToDepth", "GatherElements", "GatherND", "ScatterElements",
         "ScatterND", "Trilu", "Gather"),
        "copy",
    ),
    **dict.fromkeys(("Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"), "cast"),
}  # fmt: skip
_REDUCTIONS = {
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
    "GlobalAveragePool", "GlobalMaxPool", "TopK", "CumSum",
}  # fmt: skip
_POOLS = {"MaxPool", "AveragePool", "LpPool"}
_NORMS = {
    "LayerNormalization": "layer", "RMSNormalization": "rms", "SimplifiedLayerNormalization": "rms",
    "InstanceNormalization": "layer", "GroupNormalization": "layer",
}  # fmt: skip


def import_onnx(path: str | Path, *, dims: Mapping[str, str] | None = None, dtype: str | None = None) -> Trace:
    """The trace of an ONNX model, in the phase prefill: one pass over its inputs.

    Args:
        path: the file; weights in external data are not read, their shapes suffice.
        dims: what its symbolic dimensions are, ``{"past": "128", "n_tokens": "seq"}``: a number, ``batch`` or ``seq``.
            Names such as ``batch_size`` and ``sequence_length`` are understood as they are.
        dtype: run what the file has in fp32 in this type instead (most ONNX files are fp32, few chips are).

    Raises InputError, naming the file, for anything that cannot be read. Needs the extra ``[onnx]``.
    """
    path = Path(path)
    if dtype is not None and dtype not in DTYPE_BITS:
        raise InputError(f"unknown dtype '{dtype}'{did_you_mean(dtype, DTYPE_BITS)}")
    try:
        graph = read_graph(path, dims or {})
        return _Importer(graph, dtype).run()
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from None


@dataclass(frozen=True)
class _Value:
    """An array during import. `tensor`: index of the tensor that holds it, which views share.

    held: elements of that tensor that it shows, each once. live: whether it depends on the model's inputs.
    """

    tensor: int
    shape: tuple[Size, ...]
    held: Size
    dtype: str
    live: bool

    @property
    def elements(self) -> Size:
        return product(self.shape)


class _Importer:
    def __init__(self, graph: OnnxGraph, dtype: str | None) -> None:
        self.graph, self.builder = graph, Builder()
        self.dtypes = {**_DTYPES, "FLOAT": dtype or "fp32"}
        self.values: dict[str, _Value] = {}
        self.readers = readers_of(graph)
        self.patterns: dict[int, Pattern] = find_attention(graph, self.readers)
        self.skipped = {index for pattern in self.patterns.values() for index in pattern.inside}
        self.aliases: dict[str, str] = {}

    def run(self) -> Trace:
        for index, node in enumerate(self.graph.nodes):
            if index not in self.skipped:
                self.node(index, node)
        inputs = dict(self.graph.dims)
        config = {"source": "onnx", "dims": inputs, "model_type": "onnx"}
        return self.builder.trace(self.graph.name, config, {"source": self.graph.producer}, "prefill", self.fixed())

    def fixed(self) -> dict[str, int]:
        """What no size depends on: a sequence is then as long as what the first embedding looks up (an image is 1)."""
        sizes = [size for op in self.builder.ops for size in op.dims.values()]
        used = frozenset[str]().union(*(size.symbols for size in sizes))
        looked_up = (op.dims["rows"] for op in self.builder.ops if op.kind == "embedding")
        tokens = next((rows.evaluate({"batch": 1, "seq": 1}) for rows in looked_up), 1)
        return {name: n for name, n in (("batch", 1), ("seq", tokens), ("ctx", 0)) if name not in used}

    def node(self, index: int, node: Any) -> None:
        op = node.op_type
        inputs = [self.value(name) for name in node.input]
        live = any(value is not None and value.live for value in inputs)
        if index in self.patterns:
            self.attention(node, self.patterns[index])
        elif op == "Gather" and not live and self.is_table(node):
            self.embedding(node)
        elif all(self.is_index(name) for name in node.output if name) and op != "ArgMax":
            return  # index arithmetic
        elif not live or op in _VIEWS or self.is_view(node, inputs):
            self.view(node, inputs)
        elif rule := self.rule(op):
            rule(node)
        else:
            raise InputError(f"node '{node.name or node.output[0]}': the operator {op} is not supported")
        for name in node.output:  # what no rule has given a tensor: made of indices, or a second output
            if name and name not in self.values and name in self.graph.arrays and not self.is_index(name):
                self.new(name, live=live)

    def rule(self, op: str) -> Callable[[Any], None] | None:
        if op in _ELEMENTWISE:
            return self.elementwise
        if op in _REDUCTIONS or op in _POOLS:
            return self.reduction
        if op in _NORMS or op in ("Softmax", "LogSoftmax"):
            return self.norm
        rules: dict[str, Callable[[Any], None]] = {
            "MatMul": self.matmul, "Gemm": self.gemm, "Einsum": self.einsum, "Conv": self.conv,
            "ConvTranspose": self.conv_transposed, "Attention": self.fused_attention, "Concat": self.concat,
            "RotaryEmbedding": self.rotary, "ArgMax": self.sample,
        }  # fmt: skip
        return rules.get(op)

    # values -----------------------------------------------------------------------------------------------------

    def value(self, name: str) -> _Value | None:
        """The value of `name`; None for what is left out, an index, or unknown."""
        name = self.aliases.get(name, name)
        if not name or self.is_index(name):
            return None
        if name not in self.values:
            if name in self.graph.weights:
                self.new(name, live=False)
            elif name in self.graph.arrays and not self.made(name):
                self.new(name, live=True)
        return self.values.get(name)

    def made(self, name: str) -> bool:
        return name in self.readers.makers

    def need(self, node: Any, position: int) -> _Value:
        value = self.value(node.input[position]) if position < len(node.input) else None
        if value is None:
            raise InputError(f"node '{node.name or node.output[0]}': the shape of its input {position} is not known")
        return value

    def shape(self, name: str) -> tuple[Size, ...]:
        if name not in self.graph.arrays:
            raise InputError(f"the shape of '{name}' cannot be inferred")
        array = self.graph.arrays[name]
        if array.fault:
            raise InputError(array.fault)
        return array.shape

    def is_index(self, name: str) -> bool:
        return name in self.graph.arrays and self.graph.arrays[name].element in _INDEX

    def new(self, name: str, *, live: bool) -> _Value:
        shape = self.shape(name)
        element = self.graph.arrays[name].element
        if element not in self.dtypes:
            raise InputError(f"'{name}' is of type {element}, which archsim does not simulate")
        fixed = all(axis.number for axis in shape)
        role = "activation" if live else "weight" if fixed and name in self.graph.weights else "constant"
        index = self.builder.tensor(name, shape, self.dtypes[element], role)
        elements = product(shape)
        self.values[name] = _Value(index, shape, elements, self.dtypes[element], live)
        return self.values[name]

    def out(self, node: Any) -> _Value:
        """The tensor of the first output, which is that of the operator fused behind this one if there is one."""
        name = node.output[0]
        return self.new(self.aliases.get(name, name), live=True)

    # rules ------------------------------------------------------------------------------------------------------

    def emit(
        self, node: Any, kind: str, dims: Mapping[str, object], inputs: Sequence[_Value], output: _Value,
        attrs: Mapping[str, Attr] | None = None,
    ) -> None:  # fmt: skip
        tensors = [value.tensor for value in inputs]
        dtype = inputs[0].dtype if inputs else output.dtype
        self.builder.op(_name(node), kind, dims, attrs or {}, tensors, [output.tensor], dtype)

    def is_view(self, node: Any, inputs: Sequence[_Value | None]) -> bool:
        """Casts between equal types, and the gather of one position (the last token)."""
        out = self.graph.arrays.get(node.output[0])
        if node.op_type in ("Cast", "CastLike"):
            return out is not None and inputs[0] is not None and self.dtypes.get(out.element) == inputs[0].dtype
        if node.op_type == "Gather":
            return product(self.shape(node.input[1])).number == 1
        return False

    def view(self, node: Any, inputs: Sequence[_Value | None]) -> None:
        """Outputs share the tensor of the first input that is no index."""
        source = next((value for value in inputs if value is not None), None)
        for name in node.output:
            if not name or source is None or self.is_index(name) or name not in self.graph.arrays:
                continue
            shape = self.shape(name)
            elements = product(shape)
            keeps = node.op_type in ("Expand", "Tile") or elements == source.elements
            self.values[name] = _Value(
                source.tensor, shape, source.held if keeps else elements, source.dtype, source.live
            )

    def is_table(self, node: Any) -> bool:
        table = self.value(node.input[0])
        return table is not None and len(table.shape) == 2 and _attribute(node, "axis", 0) == 0

    def embedding(self, node: Any) -> None:
        table = self.need(node, 0)
        rows = product(self.shape(node.input[1]))
        if node.input[1] in self.graph.weights or rows.number == 1:  # a row or a slice of a constant
            return self.view(node, [table])
        return self.emit(node, "embedding", {"rows": rows, "cols": table.shape[1]}, [table], self.out(node))

    def matmul(self, node: Any) -> None:
        a, b = self.need(node, 0), self.need(node, 1)
        left = a.shape if len(a.shape) > 1 else (_ONE, *a.shape)
        right = b.shape if len(b.shape) > 1 else (*b.shape, _ONE)
        if not left[:-1] or not right[:-1]:
            raise InputError(f"node '{node.name or node.output[0]}': a product needs matrices")
        n, k = right[-1], left[-1]
        batch = product(_broadcast(left[:-2], right[:-2]))
        if all(axis == _ONE for axis in right[:-2]):  # one matrix for all: the batch is more rows
            self.product(node, _ONE, batch * left[-2], n, k, a, b)
        else:
            self.product(node, batch, left[-2], n, k, a, b)

    def gemm(self, node: Any) -> None:
        a, b = self.need(node, 0), self.need(node, 1)
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise InputError(f"node '{node.name or node.output[0]}': Gemm needs matrices")
        m, k = a.shape[::-1] if _attribute(node, "transA", 0) else a.shape
        n = b.shape[0 if _attribute(node, "transB", 0) else 1]
        bias = self.value(node.input[2]) if len(node.input) > 2 else None
        self.product(node, _ONE, m, n, k, a, b, bias)

    def einsum(self, node: Any) -> None:
        equation = _attribute(node, "equation", b"").decode("ascii", "replace").replace(" ", "")
        terms, _, result = equation.partition("->")
        letters = terms.split(",")
        if len(letters) != 2 or not result or not (terms + result).replace(",", "").isalpha():
            raise InputError(f"node '{node.name or node.output[0]}': the einsum '{equation[:40]}' is not supported")
        a, b = self.need(node, 0), self.need(node, 1)
        if (len(letters[0]), len(letters[1])) != (len(a.shape), len(b.shape)):
            raise InputError(
                f"node '{node.name or node.output[0]}': the einsum '{equation[:40]}' does not fit its inputs"
            )
        sizes = {**dict(zip(letters[0], a.shape, strict=True)), **dict(zip(letters[1], b.shape, strict=True))}
        sides = {letter: (letter in letters[0], letter in letters[1], letter in result) for letter in sizes}

        def of(*side: bool) -> Size:
            return product(sizes[letter] for letter, where in sides.items() if where == side)

        self.product(
            node, of(True, True, True), of(True, False, True), of(False, True, True), of(True, True, False), a, b
        )

    def conv(self, node: Any) -> None:
        x, w = self.need(node, 0), self.need(node, 1)
        shape, group = self.shape(node.output[0]), _attribute(node, "group", 1)
        n = (
            w.shape[0].over(Size.of(group))
            if len(x.shape) >= 3 and len(w.shape) == len(x.shape) == len(shape)
            else None
        )
        if n is None:
            raise InputError(f"node '{node.name or node.output[0]}': a convolution of impossible shape")
        bias = self.value(node.input[2]) if len(node.input) > 2 else None
        rows = product((shape[0], *shape[2:]))
        attrs = _conv_attrs(node, w) | {"pixels": "x".join(str(size) for size in shape[2:])}
        self.product(node, Size.of(group), rows, n, product(w.shape[1:]), x, w, bias, attrs)

    def conv_transposed(self, node: Any) -> None:
        x, w = self.need(node, 0), self.need(node, 1)
        group = _attribute(node, "group", 1)
        k = w.shape[0].over(Size.of(group)) if len(x.shape) >= 3 and len(w.shape) == len(x.shape) else None
        if k is None:
            raise InputError(f"node '{node.name or node.output[0]}': a convolution of impossible shape")
        bias = self.value(node.input[2]) if len(node.input) > 2 else None
        rows = product((x.shape[0], *x.shape[2:]))
        self.product(node, Size.of(group), rows, product(w.shape[1:]), k, x, w, bias, _conv_attrs(node, w))

    def product(
        self, node: Any, b: Size, m: Size, n: Size, k: Size, x: _Value, w: _Value, bias: _Value | None = None,
        attrs: Mapping[str, Attr] | None = None,
    ) -> None:  # fmt: skip
        """A matmul with its bias, which may be an operator of its own behind it."""
        if bias is None and (fused := self.bias_behind(node)):
            behind, position = fused
            bias = self.value(behind.input[position])
            self.aliases[node.output[0]] = behind.output[0]
            self.skipped.add(self.readers.makers[behind.output[0]])
        inputs = [x, w] if bias is None else [x, w, bias]
        self.emit(node, "matmul", {"b": b, "m": m, "n": n, "k": k}, inputs, self.out(node), attrs)

    def bias_behind(self, node: Any) -> tuple[Any, int] | None:
        """The Add of a weight, or the batch norm, that alone reads this product; and which input is the bias."""
        behind = self.readers.only(node.output[0])
        if behind is None:
            return None
        if behind.op_type == "BatchNormalization" and node.op_type == "Conv" and len(behind.input) > 2:
            return behind, 2
        if behind.op_type != "Add" or len(behind.input) != 2:
            return None
        position = 1 if behind.input[0] == node.output[0] else 0
        other = self.graph.arrays.get(behind.input[position])
        width = self.shape(node.output[0])[-1:]
        if behind.input[position] not in self.graph.weights or other is None or node.op_type == "Conv":
            return None
        return (behind, position) if other.shape[-1:] == width and product(other.shape[:-1]) == _ONE else None

    def attention(self, node: Any, pattern: Pattern) -> None:
        q, k, v = (self.value(name) for name in (pattern.q, pattern.k, pattern.v))
        if q is None or k is None or v is None:
            raise InputError(f"node '{node.name or node.output[0]}': the operands of this attention are not known")
        *lead, q_len, d_qk = q.shape
        self.emit_attention(node, lead, q_len, v.shape[-2], d_qk, v.shape[-1], (q, k, v), pattern.causal)

    def fused_attention(self, node: Any) -> None:
        q, k, v = (self.need(node, i) for i in range(3))
        if len(node.input) > 4 and (node.input[4] or node.input[-1]):
            raise InputError(f"node '{node.name or node.output[0]}': Attention with a cache is not supported")
        shapes = []
        for value, heads in ((q, "q_num_heads"), (k, "kv_num_heads"), (v, "kv_num_heads")):
            shape = value.shape
            count = Size.of(_attribute(node, heads, 0))
            if len(shape) == 3 and count.number:
                width = shape[2].over(count)
                shape = (shape[0], count, shape[1], width) if width is not None else ()
            if len(shape) != 4:
                raise InputError(f"node '{node.name or node.output[0]}': Attention of impossible shape")
            shapes.append(shape)
        causal = bool(_attribute(node, "is_causal", 0))
        (batch, heads_q, q_len, d_qk), (_, heads_kv, kv_len, _), (*_, d_v) = shapes
        self.emit_attention(node, (batch, heads_q), q_len, kv_len, d_qk, d_v, (q, k, v), causal, heads_kv)

    def emit_attention(
        self, node: Any, lead: Sequence[Size], q_len: Size, kv_len: Size, d_qk: Size, d_v: Size,
        operands: tuple[_Value, _Value, _Value], causal: bool, kv_heads: Size | None = None,
    ) -> None:  # fmt: skip
        heads = lead[-1] if lead else _ONE
        k = operands[1]
        repeated = (k.elements.over(k.held) if k.held != k.elements else None) or _ONE  # keys expanded over their group
        dims = {
            "batch": product(lead[:-1]), "q_len": q_len, "kv_len": kv_len, "heads": heads,
            "kv_heads": kv_heads or heads.over(repeated) or heads, "d_qk": d_qk, "d_v": d_v,
        }  # fmt: skip
        self.emit(node, "attention", dims, operands, self.out(node), {"causal": causal, "window": None})

    def norm(self, node: Any) -> None:
        x, op = self.need(node, 0), node.op_type
        fn = _NORMS.get(op, "softmax")
        axis = _attribute(node, "axis", -1)
        if op in ("InstanceNormalization", "GroupNormalization"):
            axis = 2  # over the pixels of a channel (of a group of channels: the same work)
        axis = axis % len(x.shape) if -len(x.shape) <= axis < len(x.shape) else len(x.shape)
        cols = x.shape[axis : axis + 1] if fn == "softmax" else x.shape[axis:]
        rows = [size for i, size in enumerate(x.shape) if not axis <= i < axis + len(cols)]
        weights = [value for value in (self.value(name) for name in node.input[1:]) if value is not None]
        self.emit(
            node, "norm", {"rows": product(rows), "cols": product(cols)}, [x, *weights], self.out(node), {"fn": fn}
        )

    def rotary(self, node: Any) -> None:
        x = self.need(node, 0)
        self.emit(node, "rotary", _rows(x.shape), [x], self.out(node), {"part": "q"})

    def sample(self, node: Any) -> None:
        x = self.need(node, 0)
        index = self.builder.tensor(node.output[0], self.shape(node.output[0]), "int32", "activation")
        self.builder.op(_name(node), "sample", _rows(x.shape), {}, [x.tensor], [index], x.dtype)

    def concat(self, node: Any) -> None:
        axis = _attribute(node, "axis", 0)
        out = self.out(node)
        axis = min(axis % max(len(out.shape), 1), len(out.shape))
        parts = [value for value in (self.value(name) for name in node.input) if value is not None]
        dims = {"rows": product(out.shape[:axis]), "cols": product(out.shape[axis:])}
        dims |= {f"cols_{i}": product(part.shape[axis:]) for i, part in enumerate(parts)}
        self.emit(node, "elementwise", dims, parts, out, {"fn": "concat"})

    def elementwise(self, node: Any) -> None:
        inputs = [value for value in (self.value(name) for name in node.input) if value is not None]
        inputs = [value for value in inputs if value.elements != _ONE] or inputs[:1]
        attrs: dict[str, Attr] = {"fn": _ELEMENTWISE[node.op_type], "onnx": node.op_type}
        out = self.out(node)
        self.emit(node, "elementwise", _rows(out.shape), inputs, out, attrs)

    def reduction(self, node: Any) -> None:
        """One operation for each element that is read; where windows overlap, for each element of each window."""
        x, out = self.need(node, 0), self.out(node)
        attrs: dict[str, Attr] = {"fn": "add", "onnx": node.op_type}
        dims = _rows(x.shape)
        if node.op_type in _POOLS:
            window = [Size.of(int(n)) for n in _attribute(node, "kernel_shape", [1])]
            dims = {"rows": out.elements, "cols": product(window)}
        self.emit(node, "elementwise", dims, [x], out, attrs)


def _rows(shape: Sequence[Size]) -> dict[str, Size]:
    return {"rows": product(shape[:-1]), "cols": product(shape[-1:])}


def _broadcast(left: Sequence[Size], right: Sequence[Size]) -> list[Size]:
    rank = max(len(left), len(right))
    left, right = [_ONE] * (rank - len(left)) + [*left], [_ONE] * (rank - len(right)) + [*right]
    return [b if a == _ONE else a for a, b in zip(left, right, strict=True)]


def _conv_attrs(node: Any, w: _Value) -> dict[str, Attr]:
    """What the dims of the implicit GEMM no longer tell."""
    attrs: dict[str, Attr] = {"onnx": node.op_type, "kernel": "x".join(str(size) for size in w.shape[2:])}
    for key in ("strides", "pads", "dilations"):
        values = _attribute(node, key, [])
        if values:
            attrs[key] = "x".join(str(n) for n in values[:8])
    return attrs


def _attribute(node: Any, name: str, default: Any) -> Any:
    """The attribute `name` if it has the type of `default`."""
    kinds = {int: "i", bytes: "s", list: "ints"}
    for attribute in node.attribute:
        if attribute.name == name:
            value = getattr(attribute, kinds[type(default)])
            return list(value) if isinstance(default, list) else value
    return default


def _name(node: Any) -> str:
    """A dotted module path: what torch wrote down as scopes, or the node's name without its operator."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = parse_literal(entry.value)
            except ValueError:
                continue
            paths = [scope for scope in scopes[:-1] if isinstance(scope, str)] if isinstance(scopes, list) else []
            if paths and paths[-1]:
                return paths[-1][:200]
    parts = [part for part in (node.name or node.output[0]).replace("/", ".").split(".") if part]
    if len(parts) > 1 and parts[-1] == node.op_type:
        parts.pop()
    return ".".join(parts)[:200] or node.op_type
