"""Do Chakra traces come in with the work they say, and do ours come back as they went out?"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import archsim
from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.trace import Graph, Trace, load_trace, load_workload, quantised
from archsim.trace.importers import export_chakra, import_chakra
from archsim.trace.importers.chakra_file import (
    AttrValue,
    Collective,
    Node,
    NodeType,
    Operands,
    read_messages,
    write_messages,
)
from archsim.trace.importers.chakra_ops import work_of_size
from archsim.trace.importers.literal import parse_literal


def totals(graph: Graph) -> tuple[int, ...]:
    read = sum(block.repeat * op.bytes_read for block in graph.blocks for op in block.ops)
    written = sum(block.repeat * op.bytes_written for block in graph.blocks for op in block.ops)
    return graph.flops, read, written, graph.n_params, graph.weight_bytes, graph.kv_bytes


@functools.cache
def small_file() -> bytes:
    """The prologue and three layers of Llama in Chakra's form."""
    graph = load_workload("llama-3.1-8b", "decode").at(batch=2, ctx=64)
    layer = next(block for block in graph.blocks if block.repeat > 1)
    blocks = (graph.blocks[0], type(layer)(layer.name, 3, layer.ops), graph.blocks[-1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.et"
        export_chakra(Graph(graph.name, graph.phase, 2, 1, 64, blocks, graph.tensors), path)
        return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "phase", "point", "quant"),
    [
        ("llama-3.1-8b", "prefill", {"batch": 2, "seq": 300}, None),
        ("deepseek-v3", "decode", {"batch": 16, "ctx": 1000}, None),
        ("deepseek-v3", "decode", {"batch": 16, "ctx": 1000}, "fp8-kv"),
        ("llama-3.1-8b", "decode", {"batch": 2, "ctx": 300}, "fp4"),
        ("llama-3.1-8b", "prefill", {"batch": 2, "seq": 30, "ctx": 500}, None),
        ("llama-3.1-8b", "train", {"batch": 2, "seq": 100}, None),
    ],
)
def test_there_and_back(name: str, phase: str, point: dict[str, int], quant: str | None, tmp_path: Path) -> None:
    trace = load_workload(name, phase)
    graph = (quantised(trace, quant) if quant else trace).at(**point)
    export_chakra(graph, tmp_path / "step.et")
    back = import_chakra(tmp_path / "step.et")
    assert (back.name, back.phase) == (name, phase)
    assert totals(back.at(**point)) == totals(back.at()) == totals(graph)
    assert back.at().tokens == graph.tokens
    with pytest.raises(InputError, match="batch=7 has no meaning here"):
        back.at(batch=7)
    if phase != "train":
        longest = max(block.repeat for block in graph.blocks)
        assert max(block.repeat for block in back.blocks) == longest  # the layers were found again
    back.save(tmp_path / "step.h5")
    assert load_trace(tmp_path / "step.h5").content_hash == back.content_hash


def test_the_command_line_writes_what_it_reads(tmp_path: Path) -> None:
    """`trace export --format chakra` of a shipped model needs no torch, and `trace import` reads the file."""

    def archsim_trace(*args: object) -> None:
        outcome = CliRunner().invoke(cli, ["trace", *map(str, args)])
        assert outcome.exit_code == 0, outcome.stderr

    step, back = tmp_path / "step.0.et", tmp_path / "back.h5"
    point = ("--at", "batch=2,ctx=300")
    archsim_trace("export", "llama-3.1-8b", "--phase", "decode", "--format", "chakra", *point, "--out", step)
    archsim_trace("import", step, "--format", "chakra", "--out", back)
    graph = load_workload("llama-3.1-8b", "decode").at(batch=2, ctx=300)
    assert totals(load_trace(back).at()) == totals(graph)
    load_workload("deepseek-v3", "decode").save(tmp_path / "mine.h5")
    archsim_trace("export", tmp_path / "mine.h5", "--mtp", "--format", "chakra", *point, "--out", step)
    names = [node.name for node in read_messages(step.read_bytes())[1]]
    assert names[-1] == "mtp.shared_head.lm_head"


def test_a_training_step_depends_on_what_each_layer_saved(tmp_path: Path) -> None:
    """The backward pass of the last layer comes first, and reads what the forward pass of that layer made."""
    graph = load_workload("llama-3.1-8b", "train").at(batch=1, seq=64)
    export_chakra(graph, tmp_path / "step.et")
    nodes = read_messages((tmp_path / "step.et").read_bytes())[1]
    by_id, named = {node.id: node for node in nodes}, {node.name: node for node in nodes}
    for layer in (31, 0):
        behind = named[f"layer.backward.{layer}.self_attn.attention.backward"]
        before = {by_id[i].name for i in behind.data_deps}
        assert f"layer.{layer}.self_attn.attention" in before
        update = named[f"layer.optimizer.{layer}.self_attn.o_proj.weight.adamw"]
        assert {by_id[i].name for i in update.data_deps} == {f"layer.backward.{layer}.self_attn.o_proj.wgrad"}
    order = [node.name for node in nodes]
    last, first = (f"layer.backward.{layer}.input_layernorm.backward" for layer in (31, 0))
    assert order.index(last) < order.index(first)


def test_a_round_trip_takes_the_same_time(tmp_path: Path) -> None:
    trace = load_workload("llama-3.1-8b", "prefill")
    export_chakra(trace.at(batch=1, seq=512), tmp_path / "step.et")
    both = [
        archsim.simulate("h800", each, phase="prefill", batch=1, seq=512)
        for each in (trace, import_chakra(tmp_path / "step.et"))
    ]
    assert both[0].time_s == pytest.approx(both[1].time_s, rel=0.01)


def test_others_can_read_it(tmp_path: Path) -> None:
    """Google's protobuf with the published schema reads what archsim writes."""
    pytest.importorskip("google.protobuf")
    node_class = published_node()
    data, at, seen = small_file(), 0, []
    while at < len(data):
        size = shift = 0
        while True:
            size |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                break
        seen.append(data[at : at + size])
        at += size
    nodes = [node_class.FromString(message) for message in seen[1:]]
    _, ours = read_messages(data)
    assert [(node.id, node.name, node.type, list(node.data_deps)) for node in nodes] == [
        (node.id, node.name, node.type, node.data_deps) for node in ours
    ]
    for node, own in zip(nodes, ours, strict=True):
        attrs = {attr.name: attr for attr in node.attr}
        assert attrs["num_ops"].int64_val == own.attrs["num_ops"]
        assert attrs["tensor_size"].uint64_val == own.attrs["tensor_size"]
        assert attrs["is_cpu_op"].HasField("bool_val")
        assert not attrs["is_cpu_op"].bool_val
        assert node.inputs.shapes == own.inputs.shapes


def published_node() -> type:
    """The message class of et_def.proto's Node, as far as the fields that archsim writes."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="et_def.proto", package="ChakraProtoMsg", syntax="proto3")

    def message(name: str, *rows: tuple[str, int, int, bool, str]) -> None:
        entry = file.message_type.add(name=name)
        for title, number, kind, many, of in rows:
            label = field.LABEL_REPEATED if many else field.LABEL_OPTIONAL
            entry.field.add(name=title, number=number, type=kind, label=label, type_name=of or None)

    text, u64, i32 = field.TYPE_STRING, field.TYPE_UINT64, field.TYPE_INT32
    message("IOInfo", ("values", 1, text, False, ""), ("shapes", 2, text, False, ""), ("types", 3, text, False, ""))
    message(
        "AttributeProto",
        ("name", 1, text, False, ""), ("int64_val", 9, field.TYPE_INT64, False, ""), ("uint64_val", 13, u64, False, ""),
        ("bool_val", 27, field.TYPE_BOOL, False, ""), ("string_val", 29, text, False, ""),
    )  # fmt: skip
    entry = file.message_type[-1]
    entry.oneof_decl.add(name="value")
    for each in list(entry.field)[1:]:
        each.oneof_index = 0
    message(
        "Node",
        ("id", 1, u64, False, ""), ("name", 2, text, False, ""), ("type", 3, i32, False, ""),
        ("ctrl_deps", 4, u64, True, ""), ("data_deps", 5, u64, True, ""),
        ("inputs", 8, field.TYPE_MESSAGE, False, ".ChakraProtoMsg.IOInfo"),
        ("outputs", 9, field.TYPE_MESSAGE, False, ".ChakraProtoMsg.IOInfo"),
        ("attr", 10, field.TYPE_MESSAGE, True, ".ChakraProtoMsg.AttributeProto"),
    )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    node: type = message_factory.GetMessageClass(pool.FindMessageTypeByName("ChakraProtoMsg.Node"))
    return node


def torch_node(
    number: int, name: str, inputs: list[tuple[int, list[int]]], output: tuple[int, list[int]], **more: object
) -> Node:
    """A node as PyTorch's observer and Chakra's converter write it."""

    def operands(tensors: list[tuple[int, list[int]]]) -> Operands:
        values = [[i, 100 + i, 0, 1, 2, "cuda:0"] for i, _ in tensors]
        kinds = ["Tensor(c10::BFloat16)"] * len(tensors)
        return Operands(str(values), str([shape for _, shape in tensors]), str(kinds))

    return Node(number, name, NodeType.COMP, inputs=operands(inputs), outputs=operands([output]), **more)  # type: ignore[arg-type]


def imported(tmp_path: Path, *nodes: Node) -> Trace:
    (tmp_path / "other.et").write_bytes(write_messages({}, nodes))
    return import_chakra(tmp_path / "other.et")


def test_torch_operators_count_once(tmp_path: Path) -> None:
    """aten::linear calls aten::mm: one product. Its weight is a weight, its input comes from outside."""
    trace = imported(
        tmp_path,
        torch_node(1, "aten::linear", [(1, [4, 16, 32]), (2, [64, 32]), (3, [64])], (4, [4, 16, 64])),
        torch_node(2, "aten::mm", [(1, [64, 32]), (2, [32, 64])], (4, [64, 64]), ctrl_deps=[1]),
        torch_node(3, "aten::gelu", [(4, [4, 16, 64])], (5, [4, 16, 64]), data_deps=[1]),
        torch_node(4, "aten::layer_norm", [(5, [4, 16, 64])], (6, [4, 16, 64]), data_deps=[3]),
        Node(5, "aten::view", NodeType.COMP, data_deps=[4]),
        Node(
            6,
            "nccl:all_reduce",
            NodeType.COMM_COLL,
            attrs={"comm_type": Collective.ALL_REDUCE.value, "comm_size": 8192},
        ),
    )
    graph = trace.at(batch=1, seq=1)
    (block,) = graph.blocks
    assert [(op.kind, op.dims) for op in block.ops] == [
        ("matmul", {"b": 1, "m": 64, "n": 64, "k": 32}),
        ("elementwise", {"rows": 64, "cols": 64}),
        ("norm", {"rows": 64, "cols": 64}),
    ]
    assert graph.n_params == 64 * 32 + 64
    assert block.ops[1].inputs == block.ops[0].outputs
    assert block.ops[0].dtype == "bf16"
    assert trace.config["collectives"] == {"ALL_REDUCE": {"count": 1, "bytes": 8192}}
    assert trace.config["left_out"] == {"aten::view": 1}


@pytest.mark.parametrize(
    ("name", "inputs", "output", "dims"),
    [
        ("aten::mm", [[8, 32], [32, 16]], [8, 16], {"b": 1, "m": 8, "n": 16, "k": 32}),
        ("aten::addmm", [[16], [8, 32], [32, 16]], [8, 16], {"b": 1, "m": 8, "n": 16, "k": 32}),
        ("aten::bmm", [[4, 8, 32], [4, 32, 16]], [4, 8, 16], {"b": 4, "m": 8, "n": 16, "k": 32}),
        ("aten::matmul", [[2, 8, 32], [32, 16]], [2, 8, 16], {"b": 1, "m": 16, "n": 16, "k": 32}),
        ("aten::conv2d", [[2, 8, 10, 10], [16, 8, 3, 3]], [2, 16, 8, 8], {"b": 1, "m": 128, "n": 16, "k": 72}),
        (
            "aten::scaled_dot_product_attention", [[2, 8, 5, 64], [2, 4, 7, 64], [2, 4, 7, 32]], [2, 8, 5, 32],
            {"batch": 2, "q_len": 5, "kv_len": 7, "heads": 8, "kv_heads": 4, "d_qk": 64, "d_v": 32},
        ),
        ("aten::embedding", [[1000, 32], [2, 5]], [2, 5, 32], {"rows": 10, "cols": 32}),
    ],
)  # fmt: skip
def test_torch_shapes(
    name: str, inputs: list[list[int]], output: list[int], dims: dict[str, int], tmp_path: Path
) -> None:
    operands = [(i + 1, shape) for i, shape in enumerate(inputs)]
    graph = imported(tmp_path, torch_node(1, name, operands, (9, output))).at(batch=1, seq=1)
    assert graph.blocks[0].ops[0].dims == dims


@pytest.mark.parametrize(("flops", "nbytes"), [(2 * 4096**3, 6 * 4096**2), (10**12, 10**9), (10**9, 10**3)])
def test_work_of_which_only_the_size_is_known(flops: int, nbytes: int, tmp_path: Path) -> None:
    work = work_of_size(flops, nbytes)
    d = work.dims
    assert 2 * d["m"] * d["n"] * d["k"] == pytest.approx(flops, rel=0.02)
    possible = nbytes >= 6 * (flops / 2) ** (2 / 3)
    if possible:
        assert 2 * (d["m"] * d["k"] + d["k"] * d["n"] + d["m"] * d["n"]) == pytest.approx(nbytes, rel=0.02)
    size: dict[str, AttrValue] = {"num_ops": flops, "tensor_size": nbytes}
    nodes = [Node(i, f"COMP_{i}", NodeType.COMP, data_deps=[i - 1] if i else [], attrs=size) for i in range(3)]
    trace = imported(tmp_path, *reversed(nodes))
    assert trace.at(batch=1, seq=1).flops == pytest.approx(3 * flops, rel=0.02)
    assert archsim.simulate("h800", trace, phase="prefill", seq=1, fidelity="roofline").time_s > 0


def test_command_line(tmp_path: Path) -> None:
    node = torch_node(1, "aten::mm", [(1, [64, 32]), (2, [32, 64])], (4, [64, 64]))
    collective = Node(2, "nccl:all_reduce", NodeType.COMM_COLL, attrs={"comm_type": 0, "comm_size": 64})
    (tmp_path / "a.et").write_bytes(write_messages({}, [node, collective]))
    run = ["trace", "import", str(tmp_path / "a.et"), "--format", "chakra", "--out", str(tmp_path / "a.h5")]
    result = CliRunner().invoke(cli, run)
    assert result.exit_code == 0
    assert 'collectives: {"ALL_REDUCE": {"count": 1, "bytes": 64}}' in result.stderr
    assert load_trace(tmp_path / "a.h5").at(batch=1, seq=1).flops == 2 * 64 * 64 * 32
    result = CliRunner().invoke(cli, [*run, "--dtype", "bf16"])
    assert result.exit_code == 2
    assert "are for ONNX files" in result.stderr


@pytest.mark.parametrize(
    ("nodes", "what"),
    [
        ([Node(1, "a", NodeType.COMP), Node(1, "b", NodeType.COMP)], "two nodes have the same id"),
        ([Node(1, "a", 4, data_deps=[2]), Node(2, "b", 4, data_deps=[1])], "depend on one another in a circle"),
        ([Node(1, "a", NodeType.COMP)], "has no operator that archsim simulates"),
        ([Node(1, "aten::mm", 4, inputs=Operands("[", "[", "["))], "a list is not closed"),
        ([Node(1, "a", 4, attrs={"num_ops": -1})], "num_ops is -1"),
        ([Node(1, "a", 4, attrs={"archsim.kind": "matmul"})], "its attributes are not what archsim writes"),
    ],
)
def test_faults_name_the_file(nodes: list[Node], what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what) as caught:
        imported(tmp_path, *nodes)
    assert str(caught.value).startswith(str(tmp_path / "other.et"))


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        import_chakra(tmp_path / "none.et")
    for content in (b"", b"hello", b"\x89HDF\r\n\x1a\n", bytes(100)):
        (tmp_path / "x.et").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.et"):
            import_chakra(tmp_path / "x.et")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_are_input_errors(data: st.DataObject) -> None:
    whole = bytearray(small_file())
    if data.draw(st.booleans()):
        damaged = bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        damaged = bytes(whole)
    check_only_input_errors(damaged)


@given(st.binary(max_size=200))
def test_noise_is_an_input_error(noise: bytes) -> None:
    check_only_input_errors(noise)


def check_only_input_errors(content: bytes) -> None:
    """Either a trace or an InputError that names the file; a flipped bit in a name harms nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.et"
        path.write_bytes(content)
        try:
            fault, ops = "", len(import_chakra(path).blocks[0].ops)
        except InputError as error:
            fault, ops = str(error), 0
        assert ops or fault.startswith(f"{path}: ")


@given(
    st.recursive(
        st.integers(-(10**18), 10**18) | st.text("abcXYZ_ (),[]<>:", max_size=9),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=20,
    )
)
def test_lists_are_read_as_python_wrote_them(value: object) -> None:
    assert parse_literal(str([value])) == [value]


@pytest.mark.parametrize(
    "text", ["", "[", "]", "[1 2]", "[,]", "1, 2", "[__import__('os')]", "[1]" * 9, "[" * 100 + "]" * 100, "{}"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_literal(text)
