"""Views of results: text, HTML, figures, the Perfetto timeline, comparisons."""

from __future__ import annotations

import builtins
import gzip
import json
import re
from decimal import Decimal
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from result_samples import CHIP_YAML, llama_decode, meta, row

from archsim.errors import ArchsimError
from archsim.report.breakdown import operators, top_operators
from archsim.report.comparison import comparison_fragment, comparison_text
from archsim.report.html import fragment, page
from archsim.report.perfetto import write_perfetto
from archsim.report.text import result_text
from archsim.results import OpTable, Slice, compare

HOSTILE = "<script>alert('x')</script>&\""


def hostile():
    rows = [row(HOSTILE, HOSTILE, 2.0, block=HOSTILE), row("[red]b[/red]", "norm", 1.0)]
    return llama_decode(
        op_table=OpTable.from_rows(rows),
        meta=meta(chip=HOSTILE, workload=HOSTILE, notes=[HOSTILE], command=HOSTILE, chip_yaml=f"name: {HOSTILE}\n"),
        units={HOSTILE: 0.5},
        memory=((HOSTILE, 3),),
        timeline=(Slice(HOSTILE, HOSTILE, 0, 5),),
    )


def test_an_operator_is_summed_over_blocks_and_repeats():
    rows = [row("a", "matmul", 2.0, repeat=3), row("a", "matmul", 9.0, repeat=1, block="tail", bound="compute")]
    (part,) = operators(llama_decode(op_table=OpTable.from_rows(rows)))
    assert (part.calls, part.time_ps, part.share, part.bound) == (4, 15_000_000, 1.0, "compute")


def test_the_rest_of_the_operators_is_one_part():
    parts = top_operators(llama_decode(), 3)
    assert [part.name for part in parts[:2]] == ["self_attn.attention", "mlp.gate_up_proj"]
    assert parts[3].name == "(7 others)"
    assert sum(part.share for part in parts) == pytest.approx(1.0)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_text_fits_and_answers_the_question(width):
    text = result_text(llama_decode(), width=width)
    assert max(map(len, text.splitlines())) <= width
    for part in ("10.2 ms", "step (TPOT)", "tokens/s", "bound by memory", "self_attn.attention", "kv cache", "note:"):
        assert part in text
    assert "\x1b" not in text
    assert "…" not in text


def test_markup_in_names_is_only_text():
    assert "[red]b[/red]" in result_text(hostile())


def test_an_estimated_chip_says_so():
    assert "h800 (estimate)" in result_text(llama_decode(meta=meta(chip_estimated=True)))


class Tags(HTMLParser):
    """Collects the names of the tags and checks that they are closed in order."""

    VOID = frozenset({"meta", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("view", [fragment, page])
def test_html_escapes_every_text(view):
    tags = Tags(view(hostile()))
    assert "script" not in tags.seen
    assert tags.open == []
    assert "&lt;script&gt;" in view(hostile())


def test_a_page_needs_nothing_but_itself():
    text = page(llama_decode())
    assert text.startswith("<!DOCTYPE html>")
    assert not [word for word in ("http://", "https://", "src=", "@import") if word in text]


def test_the_bar_in_the_page_is_whole():
    svg = re.search(r"<svg.*?</svg>", fragment(llama_decode()))
    widths = [float(rect.attrib["width"]) for rect in ElementTree.fromstring(svg[0]).iter("rect")]
    assert sum(widths) == pytest.approx(100, abs=0.02)


def test_a_notebook_shows_results_and_comparisons():
    assert "<style>" in llama_decode()._repr_html_()
    assert Tags(comparison_fragment(compare(hostile(), hostile()))).open == []


def trace_events(result, path):
    write_perfetto(result, path)
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data, parse_float=Decimal)


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_the_timeline_is_chrome_trace_json(name, tmp_path):
    result = llama_decode()
    document = trace_events(result, tmp_path / name)
    events = document["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "C"}
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == len(result.timeline)
    assert slices[0]["name"] == "model.embed_tokens"
    assert (slices[0]["ts"], slices[0]["dur"]) == (Decimal("1.5"), Decimal("0.4"))
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    assert {event["tid"] for event in slices} <= named
    assert document["otherData"]["chip"] == "h800"


def test_the_same_timeline_gives_the_same_bytes(tmp_path):
    for name in ("a.json.gz", "b.json.gz"):
        write_perfetto(llama_decode(), tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


def test_picoseconds_are_kept_and_overlapping_slices_get_lanes_of_their_own(tmp_path):
    spans = [(0, 10), (3, 5), (4, 20), (12, 1_000_001), (30, 1)]
    result = llama_decode(timeline=tuple(Slice("load", "x", start, length) for start, length in spans))
    events = [e for e in trace_events(result, tmp_path / "t.json")["traceEvents"] if e["ph"] == "X"]
    lanes: dict[int, list[tuple[int, int]]] = {}
    for event in events:
        lanes.setdefault(event["tid"], []).append((int(event["ts"] * 10**6), int(event["dur"] * 10**6)))
    assert sorted(span for lane in lanes.values() for span in lane) == spans
    assert all(a + length <= b for lane in lanes.values() for (a, length), (b, _) in pairwise(lane))
    assert len(lanes) == 3


def test_hostile_names_do_not_break_the_timeline(tmp_path):
    assert any(event["name"] == HOSTILE for event in trace_events(hostile(), tmp_path / "t.json")["traceEvents"])


def faster():
    return llama_decode(time_ps=llama_decode().time_ps // 2, meta=meta(chip_yaml=CHIP_YAML.replace("3.35", "6.7")))


def test_a_comparison_names_what_changed():
    comparison = compare(llama_decode(), faster())
    assert comparison.speedup == pytest.approx(2.0)
    assert comparison.options == {"chip.memory.bandwidth": ("3.35 TB/s", "6.7 TB/s")}
    assert {change.ratio for change in comparison.ops} == {1.0}
    assert list(comparison.frame()) == ["name", "a_s", "b_s", "delta_s", "ratio"]
    assert "B is 2 times as fast as A" in str(comparison)


def test_a_comparison_holds_operators_that_only_one_result_has():
    only = llama_decode(op_table=OpTable.from_rows([row("new", "norm", 1.0)]))
    changes = {change.name: change for change in compare(llama_decode(), only).ops}
    assert changes["new"].a is None
    assert changes["lm_head"].b is None
    assert changes["new"].ratio is None
    json.dumps(compare(llama_decode(), only).to_dict(), allow_nan=False)
    assert max(map(len, comparison_text(compare(llama_decode(), only), width=80).splitlines())) <= 80


def plottable():
    return llama_decode(meta=meta(chip_yaml=CHIP_YAML + "peak:\n  bf16: 989 TFLOP/s\n  fp16: 989 TFLOP/s\n"))


@pytest.mark.parametrize("figure", ["breakdown", "roofline", "timeline"])
def test_figures_draw_on_the_axes_they_are_given(figure):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from archsim.report import plot

    fig, ax = plt.subplots()
    assert getattr(plot, figure)(plottable(), ax=ax) is ax
    assert getattr(plot, figure)(plottable()) is not ax
    fig.canvas.draw()
    plt.close("all")


def test_a_chip_without_quoted_peaks_has_a_roofline():
    pytest.importorskip("matplotlib").use("Agg")
    from archsim.report import plot

    assert len(plot.roofline(llama_decode()).lines) == 1
    assert len(plot.roofline(plottable()).lines) == 2


@pytest.mark.parametrize(("module", "use"), [("matplotlib", "figure"), ("pandas", "frame")])
def test_a_missing_extra_is_named(module, use, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == module:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    from archsim.report import plot

    with pytest.raises(ArchsimError, match=r"pip install archsim\[plot\]"):
        plot.breakdown(llama_decode()) if use == "figure" else llama_decode().ops
