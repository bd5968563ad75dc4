"""MLCommons Chakra execution traces in and out: `import_chakra`, `export_chakra`.

What archsim writes carries its own attributes (``archsim.kind``, ``archsim.dims``, ...) beside the standard ones that
ASTRA-sim reads (``num_ops``, ``tensor_size``, ``is_cpu_op``), so it comes back with the same FLOPs and bytes. Of
other tools' files archsim reads PyTorch operators with their shapes (``aten::linear``, ...; an operator called by
another one that is known counts once), and nodes with ``num_ops`` and ``tensor_size``. Communication is not part of a
trace: the plan of a simulation brings its own collectives, so those of the file are only counted
(``config["collectives"]``), as are the nodes that were left out (``config["left_out"]``).
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from archsim.errors import InputError, write_atomically
from archsim.trace.graph import DTYPE_BITS, Attr, Graph, Op, Tensor
from archsim.trace.importers.builder import Builder, read_bounded
from archsim.trace.importers.chakra_file import (
    AttrValue,
    Collective,
    Node,
    NodeType,
    Operands,
    read_messages,
    write_messages,
)
from archsim.trace.importers.chakra_ops import Argument, Work, arguments, torch_work, work_of_size
from archsim.trace.trace import PHASES, Trace

__all__ = ["export_chakra", "import_chakra"]

_MAX_FILE_BYTES = 2**30
_MAX_NUMBER = 2**60
_HELD = ("weight", "kv_cache", "gradient", "optimizer")  # one array for each repeat of a block
_TORCH_NAMES = {
    "fp32": "float", "fp16": "c10::Half", "bf16": "c10::BFloat16", "fp8": "c10::Float8_e4m3fn", "int8": "signed char",
    "int32": "int",
}  # fmt: skip


# writing --------------------------------------------------------------------------------------------------------


def export_chakra(graph: Graph, path: str | Path) -> None:
    """Write one evaluated step as a Chakra trace: one COMP node an operator, repeated blocks written out."""
    metadata: dict[str, AttrValue] = {
        "archsim.name": graph.name, "archsim.phase": graph.phase, "archsim.batch": graph.batch,
        "archsim.seq": graph.seq, "archsim.ctx": graph.ctx,
    }  # fmt: skip
    data = write_messages(metadata, _Unrolled(graph).nodes)

    def write(beside: Path) -> None:
        beside.write_bytes(data)

    write_atomically(Path(path), write)


class _Unrolled:
    """The nodes of a graph.

    ids: the number in the file of each tensor, one a repeat for what a block holds or makes.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes = graph, list[Node]()
        self.ids: dict[tuple[int, int], int] = {}
        self.latest: dict[int, int] = {}  # of each tensor: the number that later readers see
        self.writer: dict[int, int] = {}
        for block in graph.blocks:
            made = {i for op in block.ops for i in op.outputs}
            held = {i for i in block.tensors if graph.tensors[i].role in _HELD}
            back = block.name.endswith(".backward")  # from the last repeat to the first, each over what it saved
            for step in range(block.repeat):
                repeat = block.repeat - 1 - step if back else step
                if back:
                    self.latest.update({i: self.number(i, repeat) for i in block.tensors if i in graph.saved})
                if step:
                    outside = block.tensors - made - held - graph.saved.keys()
                    self.carry(outside, [i for op in block.ops for i in op.outputs])
                for i in held if block.repeat > 1 else ():
                    self.latest[i] = self.number(i, repeat)
                for op in block.ops:
                    name = f"{block.name}.{repeat}.{op.name}" if block.repeat > 1 else f"{block.name}.{op.name}"
                    inputs = [self.latest.setdefault(i, self.number(i, 0)) for i in op.inputs]
                    for i in op.outputs:
                        if i not in held:
                            self.latest[i] = self.number(i, repeat)
                    outputs = [self.latest.setdefault(i, self.number(i, 0)) for i in op.outputs]
                    self.add(name, op, inputs, outputs)

    def number(self, tensor: int, repeat: int) -> int:
        return self.ids.setdefault((tensor, repeat), len(self.ids) + 1)

    def carry(self, outside: frozenset[int], made: Sequence[int]) -> None:
        """What a repeat reads from outside is what the one before it left: the last tensor of the same shape."""
        tensors = self.graph.tensors
        for i in outside:
            like = [t for t in made if (tensors[t].shape, tensors[t].dtype) == (tensors[i].shape, tensors[i].dtype)]
            if like and tensors[i].role == "activation":
                self.latest[i] = self.latest[like[-1]]

    def add(self, name: str, op: Op, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        attrs: dict[str, AttrValue] = {
            "is_cpu_op": False, "num_ops": op.flops, "tensor_size": op.bytes_read + op.bytes_written,
            "archsim.kind": op.kind, "archsim.dtype": op.dtype, "archsim.attrs": json.dumps(op.attrs, sort_keys=True),
            "archsim.dims": ", ".join(f"{key}={size}" for key, size in op.dims.items()),
            "archsim.roles": " ".join(self.graph.tensors[i].role for i in (*op.inputs, *op.outputs)),
            "archsim.scales": " ".join(_scale_text(self.graph.tensors[i]) for i in (*op.inputs, *op.outputs)),
        }  # fmt: skip
        self.nodes.append(
            Node(
                id=len(self.nodes) + 1,
                name=name,
                type=NodeType.COMP,
                data_deps=sorted({self.writer[i] for i in inputs if i in self.writer}),
                inputs=self.operands(op.inputs, inputs),
                outputs=self.operands(op.outputs, outputs),
                attrs=attrs,
            )
        )
        self.writer.update(dict.fromkeys(outputs, len(self.nodes)))

    def operands(self, tensors: Sequence[int], numbers: Sequence[int]) -> Operands:
        used = [self.graph.tensors[i] for i in tensors]
        values = [
            [number, number, 0, t.numel, -(-DTYPE_BITS[t.dtype] // 8), "chip"]
            for number, t in zip(numbers, used, strict=True)
        ]
        names = [f"Tensor({_TORCH_NAMES.get(t.dtype, t.dtype)})" for t in used]
        return Operands(str(values), str([list(t.shape) for t in used]), str(names))


# reading --------------------------------------------------------------------------------------------------------


def import_chakra(path: str | Path) -> Trace:
    """The trace of a Chakra file, with the file's fixed sizes; InputError, naming the file, for anything else."""
    path = Path(path)
    try:
        metadata, nodes = read_messages(read_bounded(path, _MAX_FILE_BYTES))
        return _Importer(nodes).run(path.stem, metadata)
    except (InputError, ValueError, RecursionError) as error:
        text = str(error)
        raise InputError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from None


class _Importer:
    def __init__(self, nodes: list[Node]) -> None:
        self.builder = Builder()
        self.nodes = _ordered(nodes)
        self.by_id = {node.id: node for node in self.nodes}
        self.known: dict[int, Work] = {}  # by node id
        self.arguments: dict[int, tuple[list[Argument | None], list[Argument | None]]] = {}
        self.tensors: dict[object, int] = {}
        self.made_by: dict[int, int] = {}  # output tensors of nodes without operands

    def run(self, stem: str, metadata: dict[str, AttrValue]) -> Trace:
        left_out: Counter[str] = Counter()
        collectives: dict[str, dict[str, int]] = {}
        for node in self.nodes:
            if "archsim.kind" not in node.attrs and node.type == NodeType.COMP:
                self.recognise(node)
        self.by_storage = self._storages_differ()
        for node in self.nodes:
            if node.type == NodeType.COMM_COLL:
                self.count(node, collectives)
            elif "archsim.kind" in node.attrs:
                self.own(node)
            elif node.id in self.known and not self.inside_known(node):
                self.torch(node, self.known[node.id])
            elif node.type == NodeType.COMP and node.id not in self.known and _number(node, "num_ops"):
                self.sized(node)
            elif node.type != NodeType.METADATA and node.id not in self.known:
                left_out[node.name.partition("(")[0][:60]] += 1
        config = {
            "source": "chakra", "model_type": "chakra", "version": str(metadata.get("version", ""))[:60],
            "collectives": collectives, "left_out": dict(left_out.most_common(20)),
            **{key: value for key, value in metadata.items() if key in ("archsim.batch", "archsim.seq", "archsim.ctx")},
        }  # fmt: skip
        name = str(metadata.get("archsim.name", stem))[:100]
        phase = str(metadata.get("archsim.phase"))
        phase = phase if phase in PHASES else "prefill"
        fixed = {"batch": 1, "seq": 1, "ctx": 0}  # of other tools' files nobody knows: a step is one token
        stated = {name: metadata.get(f"archsim.{name}") for name in fixed}
        fixed |= {name: n for name, n in stated.items() if isinstance(n, int) and not isinstance(n, bool)}
        fixed = {name: fixed[name] for name in PHASES[phase]}
        return self.builder.trace(name, config, {"source": "chakra"}, phase, fixed)

    def recognise(self, node: Node) -> None:
        if not node.name.startswith("aten::"):
            return
        try:
            inputs, outputs = arguments(node.inputs), arguments(node.outputs)
            work = torch_work(node.name, inputs, outputs, node.inputs.values)
        except ValueError as error:
            raise InputError(f"node {node.id} ('{node.name[:60]}'): {error}") from None
        if work is not None:
            self.known[node.id], self.arguments[node.id] = work, (inputs, outputs)

    def inside_known(self, node: Node) -> bool:
        """Whether a known operator called this one (torch writes the caller as control dependency)."""
        seen: set[int] = set()
        here = node
        while here.ctrl_deps and here.ctrl_deps[0] in self.by_id and here.ctrl_deps[0] not in seen:
            here = self.by_id[here.ctrl_deps[0]]
            seen.add(here.id)
            if here.id in self.known:
                return True
        return False

    def count(self, node: Node, collectives: dict[str, dict[str, int]]) -> None:
        kind = _number(node, "comm_type")
        name = Collective(kind).name if kind in set(Collective) and "comm_type" in node.attrs else "UNKNOWN"
        entry = collectives.setdefault(name, {"count": 0, "bytes": 0})
        entry["count"] += 1
        entry["bytes"] += _number(node, "comm_size")

    def own(self, node: Node) -> None:
        """A node that archsim wrote."""
        where = f"node {node.id} ('{node.name[:60]}')"
        inputs, outputs = arguments(node.inputs), arguments(node.outputs)
        roles = str(node.attrs.get("archsim.roles", "")).split()
        scales = str(node.attrs.get("archsim.scales", "")).split()
        operands = [argument for argument in (*inputs, *outputs) if argument is not None]
        if not len(operands) == len(roles) == len(scales) == len(inputs) + len(outputs):
            raise InputError(f"{where}: its operands are not what archsim writes")
        try:
            tensors = [
                self.tensor(o, role, *_scale(scale)) for o, role, scale in zip(operands, roles, scales, strict=True)
            ]
            attrs = json.loads(str(node.attrs.get("archsim.attrs")))
            dims = {
                key: int(size)
                for key, _, size in (d.partition("=") for d in str(node.attrs["archsim.dims"]).split(", "))
            }
        except (ValueError, KeyError):
            raise InputError(f"{where}: its attributes are not what archsim writes") from None
        if not isinstance(attrs, dict) or not all(isinstance(v, str | int | float | None) for v in attrs.values()):
            raise InputError(f"{where}: its attributes are not what archsim writes")
        kind, dtype = str(node.attrs["archsim.kind"]), str(node.attrs.get("archsim.dtype"))
        self.builder.op(node.name, kind, dims, attrs, tensors[: len(inputs)], tensors[len(inputs) :], dtype)

    def torch(self, node: Node, work: Work) -> None:
        inputs, outputs = self.arguments[node.id]
        read = [(i, inputs[i]) for i in work.operands if i < len(inputs)]
        written = next((argument for argument in outputs if argument is not None), None)
        tensors = []
        for position, argument in read:
            if argument is None:
                raise InputError(f"node {node.id} ('{node.name[:60]}'): operand {position} is no tensor")
            tensors.append(self.tensor(argument, "activation"))
            if position in work.weights:
                self.builder.weights.add(tensors[-1])
        first = next((argument for _, argument in read if argument is not None), written)
        dtype = first.dtype if first is not None else "fp32"
        out = self.builder.tensor(f"t{node.id}", [max(_outputs(work), 1)], dtype, "activation")
        if written is not None:
            out = self.tensors[self.key(written)] = self.builder.tensor(
                f"t{node.id}", written.shape, written.dtype, "activation"
            )
        self.add(node, work, tensors, out, dtype)

    def sized(self, node: Node) -> None:
        """A node of which only FLOPs and bytes are known; it waits for the nodes that it depends on."""
        work = work_of_size(_number(node, "num_ops"), _number(node, "tensor_size"))
        d = work.dims
        before = [self.made_by[i] for i in node.data_deps if i in self.made_by]
        if work.kind == "matmul":
            x = before[:1] or [self.builder.tensor(f"x{node.id}", [d["m"], d["k"]], "bf16", "activation")]
            tensors = [*x, self.builder.tensor(f"w{node.id}", [d["k"], d["n"]], "bf16", "constant")]
        else:
            tensors = before[:1] or [self.builder.tensor(f"x{node.id}", [d["cols"]], "bf16", "activation")]
        out = self.builder.tensor(f"t{node.id}", [_outputs(work)], "bf16", "activation")
        self.add(node, work, tensors, out, "bf16")

    def add(self, node: Node, work: Work, inputs: Sequence[int], output: int, dtype: str) -> None:
        name = node.name.replace("::", ".").replace("/", ".")[:200] or f"node{node.id}"
        self.builder.op(name, work.kind, work.dims, work.attrs, inputs, [output], dtype)
        self.made_by[node.id] = output

    def tensor(
        self, argument: Argument, role: str, block: tuple[int, int] | None = None, scale_dtype: str = "fp32"
    ) -> int:
        key = self.key(argument)
        if key not in self.tensors:
            name = f"t{argument.key[0]}" if argument.key else f"t.{len(self.tensors)}"
            self.tensors[key] = self.builder.tensor(name, argument.shape, argument.dtype, role, block, scale_dtype)
        return self.tensors[key]

    def key(self, argument: Argument) -> object:
        """(storage, offset, elements) where storages tell tensors apart, so that views are one tensor; else its id."""
        if not argument.key:
            return object()
        if len(argument.key) >= 4 and self.by_storage:
            return argument.key[1:4]
        return (argument.key[0], argument.shape)

    def _storages_differ(self) -> bool:
        seen = {argument.key[1] for both in self.arguments.values() for side in both for argument in side
                if argument is not None and len(argument.key) >= 4}  # fmt: skip
        return len(seen) != 1  # on torch's meta device all have the same


def _scale_text(tensor: Tensor) -> str:
    return "x".join(map(str, (*tensor.scale_block, tensor.scale_dtype))) if tensor.scale_block else "-"


def _scale(text: str) -> tuple[tuple[int, int] | None, str]:
    """Block and type of the scales, as in ``128x128xfp32``."""
    if text == "-":
        return None, "fp32"
    rows, cols, dtype = text.split("x")
    return (int(rows), int(cols)), dtype


def _outputs(work: Work) -> int:
    """Elements that the work writes."""
    d: dict[str, int] = work.dims
    return d["b"] * d["m"] * d["n"] if work.kind == "matmul" else d.get("rows", 1) * d.get("cols", 1)


def _number(node: Node, name: str) -> int:
    value: Attr = node.attrs.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_NUMBER:
        raise InputError(f"node {node.id} ('{node.name[:60]}'): {name} is {str(value)[:40]}")
    return int(value)


def _ordered(nodes: list[Node]) -> list[Node]:
    """The nodes so that each comes after what it depends on, else as in the file."""
    place = {node.id: i for i, node in enumerate(nodes)}
    if len(place) != len(nodes):
        raise InputError("two nodes have the same id")
    after: dict[int, list[int]] = {}
    waits = [0] * len(nodes)
    for i, node in enumerate(nodes):
        for dep in {*node.data_deps, *node.ctrl_deps} & place.keys():
            after.setdefault(place[dep], []).append(i)
            waits[i] += 1
    ready = [i for i, count in enumerate(waits) if not count]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for other in after.get(i, ()):
            waits[other] -= 1
            if not waits[other]:
                heapq.heappush(ready, other)
    if len(order) != len(nodes):
        raise InputError("its nodes depend on one another in a circle")
    return order
