"""What the software around the chip costs: assumptions per serving stack, the same for every model, batch and chip.

======================  ===========================================================================================
quantity                meaning
======================  ===========================================================================================
``gap_s``               time between the last kernel of an iteration and the first of the next: sampling, batching
``sequence_s``          the same for each sequence: its sampling, its place in the next batch, its answer
``launch_s``            host time of one kernel in an iteration with prompts, whose launches are not in a graph: the
                        device waits for the host where ``kernels x launch_s`` exceeds what the kernels take
``setup_s``             of a fixed batch, once: its buffers set up, its answers gathered and copied
``prompts``             kernel by which the attention of prompts is done (`archsim.mapping.known_kernels`), on chips
                        whose tensor cores share a core with the vector unit; none: what the mapper finds
``answers``             the same of decode. The masked multi-head attention of TensorRT-LLM before the XQA kernels of
                        January 2024, whose notes state 2.4 times the throughput of Llama-70B, works on query heads one
                        by one, also on those that share keys and values, and multiplies on the vector unit
``graphs``              numbers of sequences for which a graph of a decode step was captured: others are filled up
                        to the next one with sequences that have no cache; none: a graph for every number
``fp4_tile``            rows, columns, terms of a chunk and chunks in flight of the kernel that all its products in fp4
                        run, other than those of experts; none: the best tile for each
``fp4_row_s``           what a row of an expert takes in fp4 beside the simulated kernels: CUTLASS's, the default of
                        TensorRT-LLM 1.0, expand and quantise rows in a kernel that is far from the bandwidth
``process_bytes``       what a process takes of a chip's memory beside weights, activations and cache: the driver's
                        context, code, buffers of collectives and sampling, workspaces, graphs
``kv_share``            share of the memory beside all these that the KV cache gets
``chunk``               tokens that one iteration takes at most, of prompts and one for each sequence under way; of
                        chips that share sequences each
``most``                sequences that one engine holds at most
======================  ===========================================================================================

The values are assumptions ("estimate" in every output): the defaults that the projects document (`kv_share`, `chunk`,
`most`, `graphs`: perf-overview.md of TensorRT-LLM 1.0, of whose figures "many" have a `kv_share` of 0.95) and host
times of the order that their profiles show. PyTorch outside of graphs gets 20 us a kernel; more than 38 is ruled out by
rows of Qwen3-235B with long prompts, which take 61 ms an iteration of 1,603 kernels (TR1-109 of the suite `model`);
that its scheduler overlaps host and device is not modelled: with host times beside the device the rows at most load
come within 6.3 instead of 6.8 % on H100, but within 20 instead of 16 on B200 (Qwen3-235B -12 to -25 instead of -28 to
-36 %, Qwen3-30B up to +59 instead of +27).

Chosen with rows in view: `sequence_s` of TensorRT-LLM three of 384 to 2,048 short sequences (TR6-005, TR6-021,
TR1-011), the host times of DeepSeek's engine its published decode rows, `setup_s` two of six first tokens (TR5-003,
TR5-011), `gap_s` of NIM, 3 ms longer than that of the engine inside it, two of 17 (NIM-008, NIM-026).

`process_bytes`: what logs leave when weights and the activations simulated here are taken off. On an H100: TensorRT-LLM
0.20 with PyTorch 2.9 GiB (Llama-3.1-8B, issue 6294: 79.11 GiB, of which 0.8 x 65.64 are cache, weights 8.46, of 23,552
tokens 2.07), its engines 1.0 GiB at a small most of sequences (memory.md) and 8.6 at 4,096 (benchmarks/Suite.md), vLLM
1.8 on one chip and 3.6 on two (pull request 10511); SGLang on eight H200s 3.9 (pull requests 11716 and 11830). NVIDIA's
aiconfigurator takes 3.5 GiB and 0.3 to 0.4 for NCCL. Here 3.5 GB, nearly their median, and 1 GB with one fixed batch.

`fp4_tile`: the PyTorch backend is what the measured products in nvfp4 were timed in (aiconfigurator, B200). Those of
few rows take as long for 2,560 columns as for 10,240, twice as long once there are more tiles of 128 x 256 than cores,
and 0.49 us for 256 terms, the time in which a core's scratchpad takes in and gives out that tile's operands.

`fp4_row_s`: measured layers (aiconfigurator, B200, nvfp4) of which both kernels stand in the table. Qwen3-30B, 131,072
rows: 1.44 to 1.62 ms by CUTLASS, 0.33 by the other at a quarter and half of the inner size; Qwen3-235B: 323 and 161 us.
"""

from __future__ import annotations

from dataclasses import dataclass

from archsim.errors import InputError, did_you_mean

__all__ = ["FP4_TILE", "STACKS", "Stack", "stack_of"]

#: of TensorRT-LLM's CUTLASS kernel for products in fp4
FP4_TILE = (128, 256, 256, 3)
#: what a process takes that serves many batches
PROCESS = 3.5e9


@dataclass(frozen=True)
class Stack:
    """Assumptions about a serving stack; see the module."""

    name: str
    title: str
    gap_s: float = 0.0
    sequence_s: float = 0.0
    launch_s: float = 0.0
    process_bytes: float = 0.0
    kv_share: float = 1.0
    chunk: int = 8192
    most: int = 2**20
    graphs: tuple[int, ...] = ()
    prompts: str = ""
    answers: str = ""
    setup_s: float = 0.0
    fp4_tile: tuple[int, int, int, int] | None = None
    fp4_row_s: float = 0.0

    def describe(self) -> str:
        """The assumption in one line."""
        setup = f", {self.setup_s * 1e3:g} ms once for a batch" if self.setup_s else ""
        attention = f", attention of prompts as {self.prompts} does it" if self.prompts else ""
        return (
            f"{self.name}: {self.gap_s * 1e3:g} ms of host between iterations and "
            f"{self.sequence_s * 1e6:g} us for each sequence, {self.launch_s * 1e6:g} us for each launch of an "
            f"iteration with prompts{setup}, {self.process_bytes / 1e9:g} GB of a chip for the process, "
            f"{self.kv_share:.0%} of the free memory for the KV cache{attention} (assumptions)"
        )

    def captured(self, sequences: int) -> int:
        """Sequences of the graph that so many run in."""
        return next((size for size in self.graphs if size >= sequences), sequences)


STACKS: dict[str, Stack] = {
    stack.name: stack
    for stack in (
        Stack("ideal", "no software at all"),
        Stack("tensorrt-llm-static", "TensorRT-LLM 0.5 and 0.6, one fixed batch", 0.3e-3, 4e-6, 10e-6, 1e9, 0.95,
              prompts="tensorrt-llm", answers="masked-multi-head", setup_s=2.5e-3),
        Stack("tensorrt-llm", "TensorRT-LLM 1.0, batches in flight", 0.5e-3, 4e-6, 5e-6, PROCESS, 0.9, 8192, 2048,
              prompts="tensorrt-llm"),
        Stack("nim", "TensorRT-LLM behind a server that streams tokens, as NIM's", 3.5e-3, 4e-6, 5e-6, PROCESS, 0.9,
              8192, 2048, prompts="tensorrt-llm"),
        Stack("tensorrt-llm-pytorch", "TensorRT-LLM 1.0 with its PyTorch backend", 0.5e-3, 4e-6, 20e-6, PROCESS, 0.95,
              8192, 2048, (1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512, 1024, 2048, 4096, 8192),
              prompts="tensorrt-llm", fp4_tile=FP4_TILE, fp4_row_s=10e-9),
        Stack("deepseek", "DeepSeek's own engine, whose host works beside the chip", 0.2e-3, 1e-6, 0.0, PROCESS, 0.9,
              16384),
        Stack("sglang", "SGLang with its overlapping scheduler", 0.5e-3, 4e-6, 5e-6, PROCESS, 0.9, 16384),
        Stack("cloudmatrix", "Huawei's xDeepServe on CloudMatrix384", 0.5e-3, 4e-6, 0.0, PROCESS, 0.9, 16384),
        Stack("vllm", "vLLM, engine and API in one process", 2e-3, 10e-6, 8e-6, PROCESS, 0.9, 8192, 1024),
    )
}


def stack_of(name: str) -> Stack:
    """The stack of a name; InputError with the known ones."""
    if name not in STACKS:
        raise InputError(f"--stack {name}: unknown{did_you_mean(name, STACKS)}; there are {', '.join(STACKS)}")
    return STACKS[name]
