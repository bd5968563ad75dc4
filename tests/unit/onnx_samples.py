"""ONNX models built on the spot: GPT-2 as torch exports it, ResNet-50. Weights are shapes without values."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper


class Model:
    """Appends nodes and names their outputs."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, *shape: int) -> str:
        """A weight whose values would be in another file, which nobody has to open."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "weights.bin"
        self.weights.append(tensor)
        return name

    def ints(self, *values: int) -> str:
        name = "ints_" + "_".join(map(str, values)).replace("-", "m")
        if all(tensor.name != name for tensor in self.weights):
            self.weights.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def scalar(self, name: str, value: float) -> str:
        self.weights.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
        return name

    def __call__(self, op: str, name: str, *inputs: str, outputs: Sequence[str] = (), **attributes: object) -> str:
        made = list(outputs) or [f"/{name}/{op}_output_0"]
        self.nodes.append(helper.make_node(op, list(inputs), made, f"/{name.replace('.', '/')}/{op}", **attributes))
        return made[0]

    def build(self, inputs: Sequence[onnx.ValueInfoProto], output: str, opset: int = 17) -> onnx.ModelProto:
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "main_graph", inputs, [out], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def gpt2(
    layers: int = 12, width: int = 768, heads: int = 12, vocabulary: int = 50257, context: int = 1024
) -> onnx.ModelProto:
    """GPT-2 with the shapes computed in the graph, products as Gemm over flattened tokens, and GELU written out."""
    m = Model()
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"])
    shape = m("Shape", "Shape", "input_ids")
    batch = m("Gather", "batch", shape, m.ints(0))
    length = m("Gather", "length", shape, m.ints(1))
    wte = m.weight("wte.weight", vocabulary, width)
    flat = m("Squeeze", "length.0", length)
    positions = m("Range", "positions", *(m("Squeeze", f"scalar.{i}", m.ints(i)) for i in (0,)), flat,
                  m("Squeeze", "scalar.1", m.ints(1)))  # fmt: skip
    embedded = m("Gather", "wte", wte, "input_ids")
    placed = m("Gather", "wpe", m.weight("wpe.weight", context, width), positions)
    x = m("Add", "embed", embedded, placed)
    bias = helper.make_tensor("mask", TensorProto.BOOL, [1, 1, context, context], [0] * context**2)
    m.weights.append(bias)
    mask = m("Slice", "mask.rows", "mask", m.ints(0), length, m.ints(2))
    mask = m("Slice", "mask.cols", mask, m.ints(0), length, m.ints(3))
    low = m.scalar("low", -3.4e38)
    for name, value in (
        ("sqrt_d", (width / heads) ** 0.5),
        ("half", 0.5),
        ("c0", 0.044715),
        ("c1", 0.79788),
        ("one", 1.0),
    ):
        m.scalar(name, value)
    m.scalar("three", 3.0)

    def norm(name: str, x: str) -> str:
        return m("LayerNormalization", name, x, m.weight(f"{name}.w", width), m.weight(f"{name}.b", width), axis=-1)

    def linear(name: str, x: str, n: int, k: int) -> str:
        tokens = m("Reshape", f"{name}.in", x, m.ints(-1, k))
        y = m("Gemm", name, tokens, m.weight(f"{name}.w", k, n), m.weight(f"{name}.b", n))
        back = m("Concat", f"{name}.shape", batch, length, m.ints(n), axis=0)
        return m("Reshape", f"{name}.out", y, back)

    for i in range(layers):
        h = f"h.{i}"
        qkv = linear(f"{h}.attn.c_attn", norm(f"{h}.ln_1", x), 3 * width, width)
        m("Split", f"{h}.attn.split", qkv, outputs=[f"{h}.{part}" for part in "qkv"], axis=2)
        split = m("Concat", f"{h}.attn.shape", batch, length, m.ints(heads), m.ints(width // heads), axis=0)
        q, k, v = (m("Reshape", f"{h}.attn.{part}", f"{h}.{part}", split) for part in "qkv")
        q = m("Transpose", f"{h}.attn.q_t", q, perm=[0, 2, 1, 3])
        k = m("Transpose", f"{h}.attn.k_t", k, perm=[0, 2, 3, 1])
        v = m("Transpose", f"{h}.attn.v_t", v, perm=[0, 2, 1, 3])
        scores = m("Div", f"{h}.attn.scale", m("MatMul", f"{h}.attn.qk", q, k), "sqrt_d")
        scores = m("Where", f"{h}.attn.where", mask, scores, low)
        context_ = m("MatMul", f"{h}.attn.pv", m("Softmax", f"{h}.attn", scores, axis=-1), v)
        merged = m("Concat", f"{h}.attn.merge", batch, length, m.ints(width), axis=0)
        context_ = m(
            "Reshape", f"{h}.attn.join", m("Transpose", f"{h}.attn.out_t", context_, perm=[0, 2, 1, 3]), merged
        )
        x = m("Add", f"{h}.add_1", linear(f"{h}.attn.c_proj", context_, width, width), x)
        up = linear(f"{h}.mlp.c_fc", norm(f"{h}.ln_2", x), 4 * width, width)
        cube = m("Mul", f"{h}.mlp.act.c0", m("Pow", f"{h}.mlp.act.pow", up, "three"), "c0")
        inner = m("Tanh", f"{h}.mlp.act", m("Mul", f"{h}.mlp.act.c1", m("Add", f"{h}.mlp.act.a", up, cube), "c1"))
        half = m("Mul", f"{h}.mlp.act.half", up, "half")
        act = m("Mul", f"{h}.mlp.act.m", half, m("Add", f"{h}.mlp.act.one", inner, "one"))
        x = m("Add", f"{h}.add_2", x, linear(f"{h}.mlp.c_proj", act, width, 4 * width))
    head = m("Transpose", "lm_head.t", wte, perm=[1, 0])
    return m.build([ids], m("MatMul", "lm_head", norm("ln_f", x), head))


def resnet50(batch: str | int = "batch", blocks: Sequence[int] = (3, 4, 6, 3)) -> onnx.ModelProto:
    """ResNet-50 (He et al. 2016, version 1.5: the stride is in the 3x3) with batch norms as operators."""
    m = Model()
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 224, 224])

    def conv(name: str, x: str, n: int, c: int, kernel: int, stride: int, relu: bool = True) -> str:
        pad = kernel // 2
        y = m("Conv", name, x, m.weight(f"{name}.w", n, c, kernel, kernel), kernel_shape=[kernel, kernel],
              strides=[stride, stride], pads=[pad] * 4)  # fmt: skip
        y = m("BatchNormalization", f"{name}.bn", y, *(m.weight(f"{name}.{part}", n) for part in ("g", "b", "m", "v")))
        return m("Relu", f"{name}.relu", y) if relu else y

    x = conv("conv1", "image", 64, 3, 7, 2)
    x = m("MaxPool", "maxpool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width_in = 64
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for i in range(count):
            name, stride = f"layer{stage + 1}.{i}", 2 if stage and not i else 1
            y = conv(f"{name}.conv1", x, width, width_in, 1, 1)
            y = conv(f"{name}.conv2", y, width, width, 3, stride)
            y = conv(f"{name}.conv3", y, 4 * width, width, 1, 1, relu=False)
            if not i:
                x = conv(f"{name}.downsample", x, 4 * width, width_in, 1, stride, relu=False)
            x = m("Relu", f"{name}.relu", m("Add", f"{name}.add", y, x))
            width_in = 4 * width
    x = m("Flatten", "flatten", m("GlobalAveragePool", "avgpool", x))
    x = m("Gemm", "fc", x, m.weight("fc.w", 1000, width_in), m.weight("fc.b", 1000), transB=1)
    return m.build([image], x)
