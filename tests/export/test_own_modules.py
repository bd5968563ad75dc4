"""`archsim.trace.capture` of a torch module of one's own."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exporting needs torch (pip install archsim[export])")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import archsim  # noqa: E402
from archsim.errors import InputError  # noqa: E402
from archsim.trace import capture, load_trace  # noqa: E402


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        batch, seq, width = x.shape
        parts = self.qkv(self.norm_1(x)).view(batch, seq, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, width))
        return x + self.down(F.relu(self.up(self.norm_2(x))))


class Language(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(300, 64)
        self.layers = nn.ModuleList(Layer(64, 4) for _ in range(3))
        self.head = nn.Linear(64, 300, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens: Any) -> Any:
        x = self.words(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


TOKENS, AXES = (torch.zeros(2, 8, dtype=torch.long),), [{0: "batch", 1: "seq"}]


@pytest.mark.parametrize("phase", ["prefill", "train"])
def test_a_language_model(phase: str, tmp_path: Any) -> None:
    model = Language()
    trace = capture(model, TOKENS, axes=AXES, phase=phase)
    assert [(b.name, b.repeat) for b in trace.blocks[:3]] == [("prologue", 1), ("layer", 3), ("epilogue", 1)]
    graph = trace.at(batch=3, seq=50)
    assert graph.n_params == sum(parameter.numel() for parameter in model.parameters())  # the shared one once
    tokens = torch.zeros(3, 50, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        out = model(tokens)
        if phase == "train":
            F.cross_entropy(out.flatten(0, 1), tokens.flatten()).backward()
    counts = counter.get_flop_counts()["Global"]
    linear = sum(counts.get(op, 0) for op in (torch.ops.aten.mm, torch.ops.aten.addmm))
    assert sum(op.flops * b.repeat for b in graph.blocks for op in b.ops if op.kind == "matmul") == linear
    trace.save(tmp_path / "own.h5")
    assert load_trace(tmp_path / "own.h5") == trace


def test_it_runs_and_the_module_is_as_it_was() -> None:
    model = Language().train()
    trace = capture(model, TOKENS, axes=AXES, name="mine")
    assert model.training
    assert model(TOKENS[0]).shape == (2, 8, 300)
    assert not any("forward" in vars(part) for part in model.modules())
    step = archsim.simulate("h800", trace, phase="prefill", batch=4, seq=64)
    assert (step.tokens, step.meta["workload"]) == (4 * 64, "mine")


def test_an_image_model() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1024, 10)
    )
    trace = capture(model, (torch.zeros(2, 3, 32, 32),), axes=[{0: "batch"}])
    assert (trace.symbols, trace.fixed) == (("batch",), {"seq": 1, "ctx": 0})
    first = trace.at(batch=5).blocks[0].ops[0]
    assert first.dims == {"b": 1, "m": 5 * 16 * 16, "n": 16, "k": 27}


def test_sizes_of_the_example_are_kept() -> None:
    trace = capture(nn.Linear(8, 4), (torch.zeros(6, 8),))
    assert trace.symbols == ()
    assert trace.at().blocks[0].ops[0].dims["m"] == 6


class Sorts(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.sort().values


@pytest.mark.parametrize(
    ("model", "inputs", "axes", "what"),
    [
        (Sorts(), (torch.zeros(4, 4),), (), "no rule for 'sort'"),
        (nn.Linear(8, 4), (), (), "example_inputs holds no tensor"),
        (nn.Linear(8, 4), (torch.zeros(6, 8),), [{0: "batsh"}], "'batsh' is not batch or seq"),
        (nn.Linear(8, 4), (torch.zeros(6, 8),), [{2: "batch"}], "it has no axis 2"),
        (nn.Linear(8, 4), (torch.zeros(6, 8),), [{}, {}], "axes describes 2 inputs"),
        ("gpt2", (), (), "a torch module or a Hugging Face configuration is needed"),
        (nn.Identity(), (torch.zeros(6, 8),), (), "it computes nothing"),
    ],
)
def test_what_it_cannot_export_is_said(model: Any, inputs: Any, axes: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        capture(model, inputs, axes=axes)
