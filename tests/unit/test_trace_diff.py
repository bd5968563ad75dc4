"""Do `archsim trace diff` and `archsim trace graph` show what is there, all of it and nothing else?"""

from __future__ import annotations

import builtins
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from archsim.cli._trace_graph import block_nodes, find_block
from archsim.cli.main import cli
from archsim.report.trace_graph import Box, Line, Node, Side, Text, draw, write
from archsim.trace import Trace, list_workloads, load_workload, quantised
from archsim.trace.diff import diff_graphs
from archsim.trace.expr import Expr


def archsim(*args: str) -> Result:
    return CliRunner().invoke(cli, ["trace", *args], env={"COLUMNS": "200"})


LLAMA = load_workload("llama-3.1-8b", "decode")
POINT = {"batch": 2, "ctx": 100}


def changed(trace: Trace) -> Trace:
    """`trace` with one operator renamed, a wider MLP in one and another number of layers."""
    layer = trace.blocks[1]
    ops = list(layer.ops)
    ops[4] = replace(ops[4], name="self_attn.rope_q")
    ops[-1] = replace(ops[-1], dims={**ops[-1].dims, "cols": Expr.parse("2048")})
    return replace(trace, blocks=(trace.blocks[0], replace(layer, repeat=40, ops=tuple(ops)), trace.blocks[2]))


# diff


@pytest.mark.parametrize("name", list_workloads()[:4])
def test_a_trace_does_not_differ_from_itself(name: str) -> None:
    graph = load_workload(name, "decode").at(**POINT)
    assert not diff_graphs(graph, graph)


def test_added_removed_and_changed() -> None:
    before, after = LLAMA.at(**POINT), changed(LLAMA).at(**POINT)
    diff = diff_graphs(before, after)
    assert [(block, op.name) for block, op in diff.removed] == [("layer", "self_attn.rotary_q")]
    assert [(block, op.name) for block, op in diff.added] == [("layer", "self_attn.rope_q")]
    (only,) = diff.changed
    assert (only.block, only.name) == ("layer", "mlp.residual")
    assert only.fields == {
        "cols": (4096, 2048), "flops": (8192, 4096), "bytes_read": (32768, 16384), "bytes_written": (16384, 8192),
    }  # fmt: skip
    assert diff.repeats == {"layer": (32, 40)}
    assert diff.totals["flops"] == (before.flops, after.flops)


def test_the_other_way_round_swaps_everything() -> None:
    there = diff_graphs(LLAMA.at(**POINT), changed(LLAMA).at(**POINT))
    back = diff_graphs(changed(LLAMA).at(**POINT), LLAMA.at(**POINT))
    assert (there.added, there.removed) == (back.removed, back.added)
    assert [{k: v[::-1] for k, v in c.fields.items()} for c in there.changed] == [c.fields for c in back.changed]


def test_diff_on_the_command_line(tmp_path: Path) -> None:
    quantised(LLAMA, "fp8").save(tmp_path / "b.h5")
    LLAMA.save(tmp_path / "a.h5")
    args = ("diff", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "--at", "batch=2,ctx=100")
    shown = archsim(*args).stdout
    for text in ("at batch=2, seq=1, ctx=100", "16.1 GB to 9.08 GB", "+  layer/mlp.down_proj.quantise", "bf16 to fp8"):
        assert text in shown
    told = json.loads(archsim(*args, "--json").stdout)
    assert [op["name"] for op in told["added"]] == [
        f"{name}.quantise" for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj")
    ]
    assert told["removed"] == []
    assert len(told["changed"]) == 7
    assert told["changed"][0]["fields"]["dtype"] == {"a": "bf16", "b": "fp8"}
    assert told["at"] == {"batch": 2, "seq": 1, "ctx": 100}
    assert "no operator differs" in archsim("diff", "llama-3.1-8b", "llama-3.1-8b", "--phase", "decode").stdout


# graph


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("name", list_workloads())
def test_every_operator_weight_and_edge_is_drawn(name: str, phase: str) -> None:
    trace = load_workload(name, phase)
    for block in trace.blocks:
        nodes = block_nodes(trace, block)
        inside = [node for node in nodes if node.family != "outside"]
        assert [node.title for node in inside] == [op.name for op in block.ops]
        for op, node in zip(block.ops, inside, strict=True):
            read = {i for i in op.inputs if trace.tensors[i].role == "activation"}
            sources = [set(block.ops[n - at].outputs) for n in node.inputs if nodes[n].family != "outside"
                       for at in [nodes.index(inside[0])]]  # fmt: skip
            external = [n for n in node.inputs if nodes[n].family == "outside"]
            assert len(read) <= len(external) + sum(len(read & made) for made in sources)
            held = {i for i in op.inputs if trace.tensors[i].role != "activation"}
            assert len([s for s in node.sides if not s.written]) == len(held)
        assert all(source < at for at, node in enumerate(nodes) for source in node.inputs)


def test_boxes_and_lanes_do_not_overlap() -> None:
    for name in ("llama-3.1-8b", "deepseek-v3"):
        trace = load_workload(name, "decode")
        drawing = draw("t", "s", block_nodes(trace, trace.blocks[-2]))
        boxes = [shape for shape in drawing.shapes if isinstance(shape, Box)]
        for a, b in combinations(boxes, 2):
            apart = (a.x + a.width <= b.x, b.x + b.width <= a.x, a.y + a.height <= b.y, b.y + b.height <= a.y)
            assert any(apart), (a, b)
        for line in (shape for shape in drawing.shapes if isinstance(shape, Line)):
            assert all(0 < x < drawing.width and 0 < y < drawing.height for x, y in line.points)
        # two outputs never share a stretch of a lane
        ends: dict[tuple[float, float, float], float] = {}  # (lane, start) of an output -> where its last branch leaves
        for line in drawing.shapes:
            if isinstance(line, Line) and len(line.points) == 4 and line.points[1][0] < line.points[0][0]:
                run = (line.points[1][0], *line.points[0])
                ends[run] = max(ends.get(run, 0.0), line.points[2][1])
        assert ends
        for ((lane1, _, top1), end1), ((lane2, _, top2), end2) in combinations(ends.items(), 2):
            assert lane1 != lane2 or end1 < top2 or end2 < top1


def test_layers_are_counted_over_the_model() -> None:
    trace = load_workload("deepseek-v3", "decode")
    assert find_block(trace, "0")[0].name == find_block(trace, "2")[0].name == "dense"
    assert find_block(trace, "3") == (trace.blocks[2], "layers 3 to 60")
    assert find_block(trace, None)[0].name == "moe"
    assert find_block(trace, "epilogue") == (trace.blocks[3], "once")


def test_svg(tmp_path: Path) -> None:
    out = tmp_path / "layer.svg"
    assert archsim("graph", "deepseek-v3", "--phase", "decode", "--layer", "3", "--out", str(out)).exit_code == 0
    root = ET.parse(out).getroot()
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{space}text")]
    for text in ("deepseek-v3 decode", "block moe: layers 3 to 60; shapes in batch, seq, ctx", "mlp.experts.down_proj",
                 "weight  256 × 7168 × 2048 bf16", "kv_cache  batch × 1 ×…ctx + seq) × 576 bf16",
                 "8·batch·seq × 7168 bf16"):  # fmt: skip
        assert text in texts
    assert len(list(root.iter(f"{space}polygon"))) == len(list(root.iter(f"{space}polyline")))


def test_names_are_text_in_every_format(tmp_path: Path) -> None:
    nodes = [Node("<a> & $b$", ("x" * 200,), "vector", (), (Side("]]>", "weight"),)), Node("end", (), "outside", (0,))]
    drawing = draw("<t>", "&", nodes)
    long = next(shape.text for shape in drawing.shapes if isinstance(shape, Text) and "…" in shape.text)
    assert len(long) < 60
    write(drawing, tmp_path / "x.svg")
    assert "<a> & $b$" in [text.text for text in ET.parse(tmp_path / "x.svg").getroot().iter() if text.text]
    pytest.importorskip("matplotlib")
    write(drawing, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


DECODE = ("deepseek-v3", "--phase", "decode")


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("graph", *DECODE, "--layer", "61", "--out", "x.svg"), "has 61 layers, the first is 0"),
        (("graph", *DECODE, "--layer", "mo", "--out", "x.svg"), "there are prologue, dense, moe"),
        (("graph", *DECODE, "--out", "x.pdf"), "x.pdf: drawings are written as .svg or .png"),
        (("graph", *DECODE, "--out", "no/x.svg"), "the directory no does not exist"),
        (("diff", "llama-3.1-8b", "deepseek-v3"), "say which phase"),
    ],
)
def test_mistakes_are_one_sentence(args: tuple[str, ...], what: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = archsim(*args)
    assert result.exit_code == 2
    assert what in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_png_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", refuse)
    result = archsim("graph", "llama-3.1-8b", "--phase", "decode", "--out", str(tmp_path / "x.png"))
    assert result.exit_code == 2
    assert "a PNG needs matplotlib: pip install archsim[plot], or write an .svg" in result.stderr
    assert list(tmp_path.iterdir()) == []
