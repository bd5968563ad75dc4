"""Is the backward pass what PyTorch's own autograd computes?"""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="exporting needs torch (pip install archsim[export])")
transformers = pytest.importorskip("transformers", reason="exporting needs transformers (pip install archsim[export])")

from test_export import CONFIGS, DEEPSEEK  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from archsim.trace import capture  # noqa: E402

DENSE = {**DEEPSEEK, "first_k_dense_replace": DEEPSEEK["num_hidden_layers"]}  # torch does not count grouped matmuls


def torch_backward(config: dict[str, Any], batch: int, seq: int) -> tuple[int, set[str]]:
    """FLOPs of all linear layers, forward and backward, and the parameters that got a gradient."""
    with FakeTensorMode():
        settings = transformers.AutoConfig.for_model(**config)
        model = transformers.AutoModelForCausalLM.from_config(
            settings, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        tokens = torch.zeros((batch, seq), dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    counts = counter.get_flop_counts()["Global"]
    linear = counts.get(torch.ops.aten.mm, 0) + counts.get(torch.ops.aten.addmm, 0)
    return linear, {name for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("config", [CONFIGS["llama"], CONFIGS["qwen3"], CONFIGS["gpt2"], DENSE], ids=str)
def test_linear_layers_cost_what_torch_counts(config: dict[str, Any]) -> None:
    counted, _ = torch_backward(config, 2, 33)
    graph = capture(config, phase="train").at(batch=2, seq=33)
    products = [(op, b.repeat) for b in graph.blocks for op in b.ops if op.kind == "matmul"]
    assert sum(op.flops * repeat for op, repeat in products) == counted


@pytest.mark.parametrize("family", ["llama", "gpt2", "deepseek", "qwen3_moe"])
def test_the_same_parameters_get_a_gradient(family: str) -> None:
    _, with_gradient = torch_backward(CONFIGS[family], 2, 33)
    trace = capture(CONFIGS[family], phase="train", collapse=False)
    trained = {t.name.removesuffix(".grad") for t in trace.tensors if t.role == "gradient"}
    assert len(trained) == len(with_gradient)


def test_whole_operators_survive_in_backward() -> None:
    graph = capture(DEEPSEEK, phase="train", mtp=False).at(batch=2, seq=40)
    moe = next(block for block in graph.blocks if block.name == "moe.backward")
    kinds = [op.kind for op in moe.ops]
    assert (kinds.count("attention_backward"), kinds.count("grouped_matmul_wgrad")) == (1, 2)
    forward = {op.name: op for op in graph.blocks[2].ops}
    attention = next(op for op in moe.ops if op.kind == "attention_backward")
    mine = forward[attention.attrs["of"]]
    assert attention.dims == mine.dims
    assert attention.flops * (16 + 8 + 12) == mine.flops * (3 * (16 + 8) + 2 * 12)
    for op in moe.ops:
        if op.kind == "grouped_matmul_wgrad":
            weight = graph.tensors[forward[op.attrs["of"]].inputs[1]]
            gradient = graph.tensors[op.outputs[0]]
            assert (gradient.shape, gradient.role) == (weight.shape, "gradient")


def test_training_with_multi_token_prediction_has_two_losses() -> None:
    trace = capture({**DEEPSEEK, "num_nextn_predict_layers": 1}, phase="train", mtp=True)
    losses = [(b.name, op.name) for b in trace.blocks for op in b.ops if op.attrs.get("fn") == "cross_entropy"]
    assert losses == [("epilogue", "loss"), ("mtp", "loss")]
    named = {tensor.name for tensor in trace.tensors if tensor.role == "gradient"}
    assert {"mtp.eh_proj.weight.grad", "lm_head.weight.grad"} <= named
