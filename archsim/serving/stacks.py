"""What the software around the chip costs: assumptions per serving stack, the same for every model, batch and chip.

======================  ===========================================================================================
quantity                meaning
======================  ===========================================================================================
``gap_s``               time between the last kernel of an iteration and the first of the next: sampling, batching
``sequence_s``          the same for each sequence: its sampling, its place in the next batch, its answer
``launch_s``            host time of one kernel in an iteration with prompts, whose launches are not in a graph: the
                        device waits for the host where ``kernels x launch_s`` exceeds what the kernels take
``setup_s``             of a fixed batch, once: its buffers set up, its answers gathered and copied
``heads_apart``         decode attention works on query heads one by one, also on those that share keys and values, so
                        that each reads the cache, and multiplies on the vector unit (TensorRT-LLM before the XQA
                        kernels of January 2024, whose notes state 2.4 times the throughput of Llama-70B)
``graphs``              numbers of sequences for which a graph of a decode step was captured: others are filled up
                        to the next one with sequences that have no cache; none: a graph for every number
``fp4_row_s``           what a row of an expert takes in fp4 beside the simulated kernels: CUTLASS's, the default of
                        TensorRT-LLM 1.0, expand and quantise rows in a kernel that is far from the bandwidth
``kv_share``            share of the memory beside weights and activations that the KV cache gets
``chunk``               tokens that one iteration takes at most, of prompts and one for each sequence under way
``most``                sequences that one engine holds at most
======================  ===========================================================================================

The values are assumptions ("estimate" in every output): the defaults that the projects document (`kv_share`, `chunk`,
`most`, `graphs`: perf-overview.md of TensorRT-LLM 1.0) and host times of the order that their profiles show. PyTorch
outside of graphs gets 20 us a kernel; more than 38 is ruled out by rows of Qwen3-235B with long prompts, which take 61
ms an iteration of 1,603 kernels (TR1-109 of the suite `model`); that its scheduler overlaps host and device is not
modelled: with host times beside the device a row of Llama-3.1-8B came out 16 % too fast instead of 2 (TR1-011).

Chosen with rows in view: `sequence_s` of TensorRT-LLM three of 384 to 2,048 short sequences (TR6-005, TR6-021,
TR1-011), the host times of DeepSeek's engine its published decode rows, `setup_s` two of six first tokens (TR5-003,
TR5-011), `gap_s` of NIM, 3 ms longer than that of the engine inside it, two of 17 (NIM-008, NIM-026).

`fp4_row_s`: measured layers (aiconfigurator, B200, nvfp4) of which both kernels stand in the table. Qwen3-30B, 131,072
rows: 1.44 to 1.62 ms by CUTLASS, 0.33 by the other at a quarter and half of the inner size; Qwen3-235B: 323 and 161 us.
"""

from __future__ import annotations

from dataclasses import dataclass

from archsim.errors import InputError, did_you_mean

__all__ = ["STACKS", "Stack", "stack_of"]


@dataclass(frozen=True)
class Stack:
    """Assumptions about a serving stack; see the module."""

    name: str
    title: str
    gap_s: float = 0.0
    sequence_s: float = 0.0
    launch_s: float = 0.0
    kv_share: float = 1.0
    chunk: int = 8192
    most: int = 2**20
    graphs: tuple[int, ...] = ()
    heads_apart: bool = False
    setup_s: float = 0.0
    fp4_row_s: float = 0.0

    def describe(self) -> str:
        """The assumption in one line."""
        setup = f", {self.setup_s * 1e3:g} ms once for a batch" if self.setup_s else ""
        return (
            f"{self.name}: {self.gap_s * 1e3:g} ms of host between iterations and "
            f"{self.sequence_s * 1e6:g} us for each sequence, {self.launch_s * 1e6:g} us for each launch of an "
            f"iteration with prompts{setup}, {self.kv_share:.0%} of the free memory for the KV cache (assumptions)"
        )

    def captured(self, sequences: int) -> int:
        """Sequences of the graph that so many run in."""
        return next((size for size in self.graphs if size >= sequences), sequences)


STACKS: dict[str, Stack] = {
    stack.name: stack
    for stack in (
        Stack("ideal", "no software at all"),
        Stack("tensorrt-llm-static", "TensorRT-LLM 0.5 and 0.6, one fixed batch", 0.3e-3, 4e-6, 10e-6, 0.95,
              heads_apart=True, setup_s=2.5e-3),
        Stack("tensorrt-llm", "TensorRT-LLM 1.0, batches in flight", 0.5e-3, 4e-6, 5e-6, 0.9, 8192, 2048),
        Stack("nim", "TensorRT-LLM behind NIM's server, which streams tokens", 3.5e-3, 4e-6, 5e-6, 0.9, 8192, 2048),
        Stack("tensorrt-llm-pytorch", "TensorRT-LLM 1.0 with its PyTorch backend", 0.5e-3, 4e-6, 20e-6, 0.9, 8192, 2048,
              (1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512, 1024, 2048, 4096, 8192), fp4_row_s=10e-9),
        Stack("deepseek", "DeepSeek's own engine, whose host works beside the chip", 0.2e-3, 1e-6, 0.0, 0.9, 16384),
        Stack("sglang", "SGLang with its overlapping scheduler", 0.5e-3, 4e-6, 5e-6, 0.9, 16384),
        Stack("cloudmatrix", "Huawei's xDeepServe on CloudMatrix384", 0.5e-3, 4e-6, 0.0, 0.9, 16384),
        Stack("vllm", "vLLM, engine and API in one process", 2e-3, 10e-6, 8e-6, 0.9, 8192, 1024),
    )
}


def stack_of(name: str) -> Stack:
    """The stack of a name; InputError with the known ones."""
    if name not in STACKS:
        raise InputError(f"--stack {name}: unknown{did_you_mean(name, STACKS)}; there are {', '.join(STACKS)}")
    return STACKS[name]
