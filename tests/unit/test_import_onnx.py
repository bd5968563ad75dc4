"""Do ONNX models come in with the parameters, FLOPs and shapes that their authors published?"""

from __future__ import annotations

import functools
import math
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import archsim
from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.trace import Op, Trace, load_trace
from archsim.trace.importers import import_onnx
from archsim.trace.importers.sizes import POINTS, Size, fit, product

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402
from onnx_samples import Model, gpt2, resnet50  # noqa: E402


def imported(model: onnx.ModelProto, folder: Path, **options: object) -> Trace:
    onnx.save(model, folder / "model.onnx")
    return import_onnx(folder / "model.onnx", **options)  # type: ignore[arg-type]


def ops(trace: Trace, **point: int) -> list[Op]:
    return [op for block in trace.at(**{"batch": 1, "seq": 1, **point}).blocks for op in block.ops]


# whole models ---------------------------------------------------------------------------------------------------


def test_gpt2(tmp_path: Path) -> None:
    trace = imported(gpt2(), tmp_path)
    assert [(block.name, block.repeat) for block in trace.blocks] == [("prologue", 1), ("layer", 12), ("epilogue", 1)]
    batch, seq, width = 3, 100, 768
    graph = trace.at(batch=batch, seq=seq)
    assert graph.n_params == 124_439_808  # Radford et al. 2019, the small model
    products = [op for op in graph.blocks[1].ops if op.kind == "matmul"]
    assert sum(op.flops for op in products) == 2 * 12 * width**2 * batch * seq
    (attention,) = [op for op in graph.blocks[1].ops if op.kind == "attention"]
    assert attention.attrs == {"causal": True, "window": None}
    assert attention.flops == 2 * batch * width * 2 * (seq * (seq + 1) // 2)
    assert attention.bytes_read == 3 * 4 * batch * seq * width
    head = graph.blocks[2].ops[-1]
    assert head.flops == 2 * batch * seq * width * 50257
    assert head.inputs[1] == graph.blocks[0].ops[0].inputs[0]  # tied to the embedding
    assert graph.blocks[1].ops[1].name == "attn.c_attn"


@pytest.mark.parametrize("point", [(1, 17), (4, 64)])
def test_symbols_agree_with_the_model_exported_at_that_point(point: tuple[int, int], tmp_path: Path) -> None:
    model = gpt2(layers=2, width=64, heads=4, vocabulary=100, context=128)
    symbolic = imported(model, tmp_path).at(batch=point[0], seq=point[1])
    for axis, number in zip(model.graph.input[0].type.tensor_type.shape.dim, point, strict=True):
        axis.dim_value = number
    fixed = imported(model, tmp_path).at()
    assert fixed.tokens == point[0] * point[1]  # those that the first embedding looks up
    assert symbolic.blocks == fixed.blocks
    assert symbolic.tensors == fixed.tensors


def test_resnet50(tmp_path: Path) -> None:
    trace = imported(resnet50(), tmp_path)
    graph = trace.at(batch=2, seq=1)
    # 25,557,032 published (torchvision); a folded batch norm leaves one bias for its gamma and beta
    assert graph.n_params == 25_557_032 - 26_560
    products = [op for block in graph.blocks for op in block.ops * block.repeat if op.kind == "matmul"]
    assert len(products) == 54
    assert sum(op.flops for op in products) / 2 / 2 == pytest.approx(4.09e9, rel=0.005)  # published: 4.09 GMAC
    assert [block.repeat for block in graph.blocks if block.repeat > 1] == [2, 3, 5, 2]
    first = graph.blocks[0].ops[0]
    assert first.dims == {"b": 1, "m": 2 * 112 * 112, "n": 64, "k": 3 * 7 * 7}
    expected = {"onnx": "Conv", "kernel": "7x7", "strides": "2x2", "pads": "3x3x3x3", "pixels": "112x112"}
    assert first.attrs == expected
    assert first.input_bytes == (4 * 2 * 3 * 224 * 224, 4 * 64 * 147, 4 * 64)  # each pixel once, not 49 times
    pool = graph.blocks[0].ops[2]
    assert pool.attrs["onnx"] == "MaxPool"
    assert pool.flops == 9 * 2 * 64 * 56 * 56
    assert (pool.bytes_read, pool.bytes_written) == (4 * 2 * 64 * 112 * 112, 4 * 2 * 64 * 56 * 56)


@pytest.mark.parametrize("name", ["gpt2", "resnet"])
def test_simulated_end_to_end(name: str, tmp_path: Path) -> None:
    model = gpt2(layers=3) if name == "gpt2" else resnet50(blocks=(2, 2, 2, 2))
    trace = imported(model, tmp_path, dtype="bf16")
    trace.save(tmp_path / "model.h5")
    loaded = load_trace(tmp_path / "model.h5")
    assert loaded.content_hash == trace.content_hash
    sizes = {"seq": 128} if name == "gpt2" else {"batch": 4}
    bound = archsim.simulate("h800", loaded, phase="prefill", fidelity="roofline", **sizes)
    step = archsim.simulate("h800", loaded, phase="prefill", **sizes)
    assert 0 < bound.time_s < step.time_s < 0.01
    assert step.tokens == (128 if name == "gpt2" else 4)  # an image has no tokens: it counts as one
    if name == "resnet":
        with pytest.raises(InputError, match="seq=128 has no meaning here"):
            archsim.simulate("h800", loaded, phase="prefill", seq=128)


# single operators -----------------------------------------------------------------------------------------------


def one(op: str, shapes: list[list[int]], out: str = "y", weights: int = 0, **attributes: object) -> onnx.ModelProto:
    """A model of one node; the last `weights` inputs are weights."""
    m = Model()
    names = [f"x{i}" for i in range(len(shapes))]
    live = len(shapes) - weights
    inputs = [helper.make_tensor_value_info(names[i], TensorProto.FLOAT, shapes[i]) for i in range(live)]
    for i in range(live, len(shapes)):
        m.weight(names[i], *shapes[i])
    m(op, "node", *names, outputs=[out], **attributes)
    return m.build(inputs, out, opset=24)


@pytest.mark.parametrize(
    ("op", "shapes", "attributes", "kind", "dims"),
    [
        ("MatMul", [[2, 5, 8], [8, 3]], {}, "matmul", {"b": 1, "m": 10, "n": 3, "k": 8}),
        ("MatMul", [[2, 5, 8], [2, 8, 3]], {}, "matmul", {"b": 2, "m": 5, "n": 3, "k": 8}),
        ("MatMul", [[8], [8, 3]], {}, "matmul", {"b": 1, "m": 1, "n": 3, "k": 8}),
        ("Gemm", [[8, 5], [3, 8]], {"transA": 1, "transB": 1}, "matmul", {"b": 1, "m": 5, "n": 3, "k": 8}),
        (
            "Einsum", [[2, 4, 5, 8], [2, 4, 7, 8]], {"equation": "bhqd,bhkd->bhqk"}, "matmul",
            {"b": 8, "m": 5, "n": 7, "k": 8},
        ),
        (
            "Conv", [[2, 8, 10, 10], [16, 1, 3, 3]], {"group": 8, "kernel_shape": [3, 3]}, "matmul",
            {"b": 8, "m": 128, "n": 2, "k": 9},
        ),
        (
            "ConvTranspose", [[2, 8, 5, 5], [8, 4, 2, 2]], {"strides": [2, 2]}, "matmul",
            {"b": 1, "m": 50, "n": 16, "k": 8},
        ),
        (
            "Attention", [[2, 8, 5, 64], [2, 4, 7, 64], [2, 4, 7, 32]], {"is_causal": 1}, "attention",
            {"batch": 2, "q_len": 5, "kv_len": 7, "heads": 8, "kv_heads": 4, "d_qk": 64, "d_v": 32},
        ),
        ("LayerNormalization", [[2, 5, 8], [8]], {}, "norm", {"rows": 10, "cols": 8}),
        ("RMSNormalization", [[2, 5, 8], [8]], {}, "norm", {"rows": 10, "cols": 8}),
        ("Softmax", [[2, 5, 8]], {"axis": 1}, "norm", {"rows": 16, "cols": 5}),
        ("Gelu", [[2, 5, 8]], {}, "elementwise", {"rows": 10, "cols": 8}),
        ("Relu", [[2, 5, 8]], {}, "elementwise", {"rows": 10, "cols": 8}),
        ("Mul", [[2, 5, 8], [8]], {}, "elementwise", {"rows": 10, "cols": 8}),
        ("Concat", [[2, 5], [2, 3]], {"axis": 1}, "elementwise", {"rows": 2, "cols": 8, "cols_0": 5, "cols_1": 3}),
        (
            "AveragePool", [[1, 4, 8, 8]], {"kernel_shape": [2, 2], "strides": [2, 2]}, "elementwise",
            {"rows": 64, "cols": 4},
        ),
        ("GlobalAveragePool", [[1, 4, 8, 8]], {}, "elementwise", {"rows": 32, "cols": 8}),
    ],
)  # fmt: skip
def test_operator(
    op: str, shapes: list[list[int]], attributes: dict[str, object], kind: str, dims: dict[str, int], tmp_path: Path
) -> None:
    (only,) = ops(imported(one(op, shapes, **attributes), tmp_path))
    assert (only.kind, only.dims) == (kind, dims)


def test_a_bias_behind_a_product_is_part_of_it(tmp_path: Path) -> None:
    m = Model()
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])
    m("MatMul", "up", "x", m.weight("w", 8, 4), outputs=["h"])
    m("Add", "bias", m.weight("b", 4), "h", outputs=["y"])
    (only,) = ops(imported(m.build([x], "y"), tmp_path), batch=5)
    assert only.input_bytes == (4 * 40, 4 * 32, 4 * 4)
    assert only.dims["m"] == 5


def test_keys_expanded_over_their_group_are_read_once(tmp_path: Path) -> None:
    m = Model()
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, h, 6, 16]) for n, h in (("q", 8), ("k", 2), ("v", 2))
    ]

    def expanded(name: str) -> str:
        wide = m("Unsqueeze", f"{name}.u", name, m.ints(2))
        wide = m("Expand", f"{name}.e", wide, m.ints(2, 2, 4, 6, 16))
        return m("Reshape", f"{name}.r", wide, m.ints(2, 8, 6, 16))

    keys = m("Transpose", "kt", expanded("k"), perm=[0, 1, 3, 2])
    scores = m("Softmax", "softmax", m("MatMul", "qk", "q", keys), axis=-1)
    y = m("MatMul", "pv", scores, expanded("v"))
    (only,) = ops(imported(m.build(inputs, y), tmp_path))
    assert only.kind == "attention"
    assert (only.dims["heads"], only.dims["kv_heads"]) == (8, 2)
    assert only.attrs["causal"] is False
    assert only.input_bytes == (4 * 2 * 8 * 6 * 16, *[4 * 2 * 2 * 6 * 16] * 2)


def test_a_padding_mask_is_not_causal(tmp_path: Path) -> None:
    m = Model()
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2, 4, 6, 16]) for n in "qkv"]
    inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [2, 1, 1, 6]))
    keys = m("Transpose", "kt", "k", perm=[0, 1, 3, 2])
    masked = m("Add", "masked", m("MatMul", "qk", "q", keys), "mask")
    y = m("MatMul", "pv", m("Softmax", "softmax", masked, axis=-1), "v")
    (only,) = ops(imported(m.build(inputs, y), tmp_path))
    assert (only.kind, only.attrs["causal"]) == ("attention", False)


# dimensions -----------------------------------------------------------------------------------------------------


def test_dimensions_are_named_or_given(tmp_path: Path) -> None:
    m = Model()
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "frames", None, 8])
    m("Relu", "relu", "x", outputs=["y"])
    model = m.build([x], "y")
    with pytest.raises(InputError, match="say what its dimension 'frames' is, as in --dim 'frames=seq'"):
        imported(model, tmp_path)
    trace = imported(model, tmp_path, dims={"frames": "seq", "x:2": "5"})
    assert {key: str(size) for key, size in trace.blocks[0].ops[0].dims.items()} == {"rows": "5*batch*seq", "cols": "8"}
    with pytest.raises(InputError, match="has no symbolic dimension 'frame'"):
        imported(model, tmp_path, dims={"frame": "seq"})
    with pytest.raises(InputError, match="must be batch, seq or a number"):
        imported(model, tmp_path, dims={"frames": "ctx", "x:2": "5"})


def test_a_size_that_is_not_linear_needs_a_number(tmp_path: Path) -> None:
    m = Model()
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "seq", 8])
    m("MaxPool", "pool", "x", outputs=["y"], kernel_shape=[3, 1], strides=[3, 1])
    model = m.build([x], "y")
    with pytest.raises(InputError, match="is not linear in batch and seq: give numbers by --dim"):
        imported(model, tmp_path)
    assert ops(imported(model, tmp_path, dims={"seq": "9"}))[0].dims == {"rows": 3 * 3 * 8, "cols": 3}


sizes = st.lists(st.integers(-9, 9), min_size=4, max_size=4).map(
    lambda c: Size(tuple((p, n) for p, n in zip([(0, 0), (0, 1), (1, 0), (1, 1)], c, strict=True) if n))
)


@given(sizes, sizes, st.integers(1, 50), st.integers(1, 50))
def test_sizes(a: Size, b: Size, batch: int, seq: int) -> None:
    assert fit([a.at(*point) for point in POINTS]) == a
    assert product([a, b]).at(batch, seq) == a.at(batch, seq) * b.at(batch, seq)
    values = {"batch": batch, "seq": seq}
    assert archsim_value(str(a * b), values) == a.at(batch, seq) * b.at(batch, seq)
    half = (a * Size.of(6)).over(Size.of(3))
    assert half is not None
    assert half.at(batch, seq) == 2 * a.at(batch, seq)


def archsim_value(text: str, values: dict[str, int]) -> int:
    from archsim.trace.expr import Expr

    return Expr.parse(text).evaluate(values)


# command line ---------------------------------------------------------------------------------------------------


def test_command_line(tmp_path: Path) -> None:
    path, out = tmp_path / "relu.onnx", tmp_path / "relu.h5"
    m = Model()
    m("Relu", "relu", "x", outputs=["y"])
    onnx.save(m.build([helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])], "y"), path)
    run = ["trace", "import", str(path), "--format", "onnx", "--out", str(out)]
    result = CliRunner().invoke(cli, run)
    assert result.exit_code == 2
    assert "say what its dimension 'rows' is" in result.stderr
    result = CliRunner().invoke(cli, [*run, "--dim", "rows=seq", "--dtype", "fp16"])
    assert (result.exit_code, result.stderr) == (0, f"relu prefill: wrote {out} (1 operators in 1 blocks)\n")
    graph = load_trace(out).at(batch=1, seq=10)
    assert graph.blocks[0].ops[0].bytes_read == 2 * 10 * 8


@pytest.mark.parametrize("bad", ["rows", "=3", "rows="])
def test_command_line_dimensions(bad: str, tmp_path: Path) -> None:
    run = ["trace", "import", "x.onnx", "--format", "onnx", "--out", str(tmp_path / "x.h5"), "--dim", bad]
    result = CliRunner().invoke(cli, run)
    assert result.exit_code == 2
    assert f"--dim {bad}: write it as NAME=batch" in result.stderr


# faults ---------------------------------------------------------------------------------------------------------


def with_loop() -> onnx.ModelProto:
    m = one("Relu", [[2, 3]])
    body = helper.make_graph([], "body", [], [])
    m.graph.node.append(helper.make_node("If", ["x0"], ["z"], then_branch=body, else_branch=body))
    return m


def foreign() -> onnx.ModelProto:
    m = one("Relu", [[2, 3]])
    m.graph.node[0].domain = "com.microsoft"
    return m


def huge() -> onnx.ModelProto:
    return one("MatMul", [[2, 2**40], [2**40, 2**40]], weights=1)


def endless() -> onnx.ModelProto:
    """A shape computed by a Range of 2**62 numbers."""
    m = Model()
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    bounds = [m("Squeeze", f"s{i}", m.ints(n)) for i, n in enumerate((0, 2**62, 1))]
    m("Reshape", "r", "x", m("Range", "range", *bounds), outputs=["h"])
    m("Relu", "relu", "h", outputs=["y"])
    return m.build([x], "y")


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (lambda: onnx.ModelProto(), "has no nodes"),
        (with_loop, "holds a graph"),
        (foreign, "com.microsoft.Relu is not one of ONNX's own"),
        (huge, "impossible shape"),
        (endless, "cannot be inferred"),
        (lambda: one("MatMul", [[2, 3], [4, 5]]), "its shapes cannot be inferred"),
        (lambda: one("GridSample", [[1, 1, 4, 4], [1, 2, 2, 2]]), "the operator GridSample is not supported"),
        (lambda: one("Identity", [[2, 3]]), "has no operator that archsim simulates"),
    ],
)
def test_faults_name_the_file(model: object, what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what) as caught:
        imported(model(), tmp_path)  # type: ignore[operator]
    assert str(caught.value).startswith(str(tmp_path / "model.onnx"))
    assert "\n" not in str(caught.value)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        import_onnx(tmp_path / "none.onnx")
    (tmp_path / "x.onnx").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"x\.onnx: is not an ONNX model"):
        import_onnx(tmp_path / "x.onnx")
    with pytest.raises(InputError, match=r"unknown dtype 'bf61' \(did you mean 'bf16'"):
        import_onnx(tmp_path / "x.onnx", dtype="bf61")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"needs the onnx package: pip install archsim\[onnx\]"):
        import_onnx(tmp_path / "x.onnx")


@functools.cache
def small_file() -> bytes:
    data: bytes = gpt2(layers=1, width=16, heads=2, vocabulary=10, context=32).SerializeToString()
    return data


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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.onnx"
        path.write_bytes(damaged)
        try:
            fault, count = "", math.prod(len(block.ops) for block in import_onnx(path).blocks)
        except InputError as error:
            fault, count = str(error), 0
        assert count or fault.startswith(f"{path}: ")


@pytest.mark.parametrize("chip", ["h100", "tpu-v4"])
def test_resnet50_runs_on_a_gpu_and_on_a_tpu(chip: str, tmp_path: Path) -> None:
    """Its multiplications are all there, and bound the time from below."""
    trace = imported(resnet50(), tmp_path, dtype="bf16")
    step = archsim.simulate(chip, trace, phase="prefill", batch=32)
    flops = 32 * 2 * 4.09e9
    products = step.op_table.kind == "matmul"
    table = step.op_table
    assert (table.flops * table.repeat)[products].sum() == pytest.approx(flops, rel=0.005)
    floor_s = flops / archsim.hardware.load_chip(chip).flops("bf16")
    assert floor_s < step.time_s < 30 * floor_s
