"""What each source of measured operator times did: whose gaps its figures hold, and which operands were in the cache.

The rules are data, one line a source, each with its reason; what was chosen by rows says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf

from archsim.mapping.attention_kernel import ANY_KERNEL, AttentionKernel
from archsim.mapping.known_kernels import FLASH_3, KNOWN, PAGED, TENSORRT_LLM, UNSPLIT
from archsim.models.vector import NarrowLoads
from archsim.validation.op.dtypes import Format

__all__ = [
    "BLACKWELL", "DEVICES", "HOPPER", "INFORMED", "SOURCES", "Source", "experts_source", "product_source", "source_of",
]  # fmt: skip

#: chip presets by the name that a reference file gives its device, where that is not theirs
DEVICES = {
    "A100": "a100",
    "A100-80GB": "a100",
    "A100_80G_SXM": "a100",
    "A40": "a40",
    "A6000": "a6000",
    "NVIDIA A100-SXM4-80GB": "a100",
    "H100": "h100",
    "H100_SXM": "h100",
    "NVIDIA H100 80GB HBM3": "h100",
    "H200": "h200",
    "NVIDIA H200": "h200",
    "H800_SXM": "h800",
    "B200": "b200",
    "NVIDIA B200": "b200",
    "SM100 (B200)": "b200",
    "NVIDIA GB200": "gb200",
    "NVIDIA L40S": "l40s",
    "MI210": "mi210",
    "RTX3090": "rtx-3090",
    "RTX4090": "rtx-4090",
    "RTXPRO6000": "rtx-pro-6000",
    "Ascend_910B2": "ascend-910b",
    "Ascend_910C": "ascend-910c",
    "Ascend_910C_die": "ascend-910b",  # the same die
    "TPU-v6e-1": "tpu-v6e",
}

#: chips whose rows set a number of their preset, or of the model
INFORMED = frozenset({"a100", "a40", "a6000", "b200", "h100", "rtx-4090"})
HOPPER = frozenset({"h100", "h200", "h800"})
#: share of a kernel's start-up (blocks placed, barriers and descriptors set up) that programmatic dependent launch lets
#: pass before the kernel before has ended: one constant, from half of the B200's products of less than 8 us
EARLY = 0.3
#: chips on which a product of cuBLAS begins while the one before ends (programmatic dependent launch), so that the
#: period of a loop holds no gap: inferred, as the smallest take 2.6 us on the B200 and 3.4 us on the H100
BLACKWELL = frozenset({"b200", "gb200", "b300", "gb300"})


@dataclass(frozen=True)
class Source:
    """How one source measured.

    attention, decode: how its attention kernels are written; decode as prefill where nothing is said.
    shared_context: the tokens that its decode rows name are those of the whole batch, and on GPUs its rows name all the
    keys, of which none is masked (the times depend on nothing else). cold_cache: keys and values were
    last read long ago. unfused: on chips without tensor cores its attention is what a compiler makes of a framework's.
    vllm: its attention is called by vLLM (`build.attention_vllm`).
    first_gap: its times hold the launch gap before the (first) kernel. summed: they are those of the kernels added up;
    otherwise gaps between the kernels of one case count. early: share of a kernel's start-up that passes while the one
    before still runs. weight_copies: how many copies of the weights its loop goes round; they are read from
    memory when all together exceed the cache.
    flushed: everything comes from memory. tiles: of the only products that its library has for a chip, where they are
    known. loads: vector kernels with narrow loads. host_us: what the host spends on a
    call, by chip and operator or operator and type, where the times hold it. full: chips whose vector
    operators ran in fp32.
    """

    name: str
    pattern: str
    first_gap: bool
    reason: str
    early: float = 0.0
    weight_copies: float = 1
    flushed: bool = False
    tiles: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    loads: Mapping[str, NarrowLoads] = field(default_factory=dict)
    host_us: Mapping[str, float] = field(default_factory=dict)
    full: frozenset[str] = frozenset()
    attention: AttentionKernel = ANY_KERNEL
    decode: AttentionKernel | None = None
    shared_context: bool = False
    cold_cache: bool = False
    unfused: bool = False
    vllm: bool = False
    summed: bool = False


#: Vidur's FlashAttention-2 walks over all keys whatever the mask hides
WHOLE = replace(PAGED, whole=True)

#: PyTorch's ``index_select`` (Indexing.cu): an element of 2 B a thread, behind the index and an integer division;
#: eight blocks of 128 threads a core, at most, go over the parts of all rows. Of few rows a block gathers its columns
#: of each in turn, without the division. Waits of a pass: one of five, by half of the rows of A40, A100 and H100
INDEXED = NarrowLoads(threads=128, per_pass=2.0, most=8, cold=True)
FEW_INDEXED = replace(INDEXED, per_pass=1.25)

#: the kernels of vLLM 0.2 and 0.3, which Vidur profiles: activation_kernels.cu, layernorm_kernels.cu and
#: pos_encoding_kernels.cu load one element of 2 B a thread, a block for each row; a block of the rotation reads a
#: position and the table, and goes over queries and keys in turn
NARROW = {
    "activation": NarrowLoads(threads=1024),
    "norm": NarrowLoads(threads=1024, per_row=1),
    "rotary": NarrowLoads(threads=512, width=2, per_pass=1.5, per_row=1),
    "embedding": INDEXED,
    "few embeddings": FEW_INDEXED,
}

#: PyTorch's softmax of rows longer than 1,024: blocks of up to 1024 threads with loads of 16 B find the maximum, sum,
#: and write; two reductions
SOFTMAX = NarrowLoads(threads=1024, width=8, per_pass=3, per_row=2, passes=3)

#: layer norms of PyTorch and its compiler: loads of 16 B sum, and normalise what is read again; one reduction
NORM = NarrowLoads(threads=256, width=8, per_pass=2, per_row=2, passes=2)

#: rows and columns of the tiles of cuBLAS for Hopper before its nvjet kernels, CUDA 12.1 for one, with which vLLM 0.2
#: came (forums.developer.nvidia.com/t/348958 has both): the sizes in the names ``sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_
#: tilesize64x256x64_...`` of public profiles of models in fp16 on an H100, of which the first counts columns here
CUBLAS_12_1 = ((64, 64), (128, 64), (256, 64), (64, 128), (128, 128), (256, 128), (128, 256))

GRAPHS = Source(
    "aiconfigurator GEMM", r"/gemm/", True,
    "period of a loop of CUDA graph replays, so the device's gap between kernels is in it; the loop goes round up to "
    "five copies of the weights",
    weight_copies=5,
)  # fmt: skip

SOURCES = (
    Source(
        "LLMCompass", r"LLMCompass|^ae/", False,
        "wall time of a torch call in a loop over the same operands: its authors add 12 to 45 us for the launch, by "
        "chip and operator (hardware_model/compute_module.py of their repository); what fits the cache is warm; "
        "its authors compare vector operators on the MI210 with fp32 (VectorUnit of the same file), and two bytes an "
        "element would be 0.6 TB/s",
        full=frozenset({"mi210"}),
        host_us={
            "a100 gemm": 21, "a100 softmax": 12, "a100 norm": 45, "a100 activation": 45,
            "mi210 gemm": 34, "mi210 softmax": 22, "mi210 norm": 28, "mi210 activation": 21,
        },
        loads={"softmax": SOFTMAX, "norm": NORM},
    ),
    Source(
        "Vidur", r"Vidur", False,
        "kernel time by Kineto while a whole layer runs: no gap; activations just written, weights long evicted",
        weight_copies=inf,
        attention=WHOLE,
        loads=NARROW,
        tiles={"h100": CUBLAS_12_1},
        summed=True,
    ),
    Source(
        "LLMServingSim v0", r"LLMServingSim v0", False,
        "kernel time by a profiler while a whole model runs: no gap; activations just written, weights long evicted; "
        "on TPUs Hugging Face's code runs through torch-xla (llm_profiler_tpu.ipynb)",
        weight_copies=inf,
        loads={"embedding": INDEXED, "few embeddings": FEW_INDEXED},
        attention=UNSPLIT,
        shared_context=True,
        unfused=True,
        summed=True,
    ),
    Source(
        "LLMServingSim", r"LLMServingSim", False,
        "kernel time by a profiler while a whole model runs in vLLM 0.19: no gap; activations just written, weights, "
        "keys and values long evicted; PyTorch gathers more than 16 rows by wide loads, and dummy tokens are all "
        "the same row; activations load 16 B a thread, and the rotation has more than a pass under way (chosen among "
        "three by half of its rows)",
        weight_copies=inf,
        loads={
            "few embeddings": replace(FEW_INDEXED, cold=False), "activation": NarrowLoads(threads=1024, width=8),
            "rotary": NarrowLoads(threads=512, width=2, per_pass=0.75),
        },
        attention=replace(PAGED, split=False),
        decode=PAGED,
        cold_cache=True,
        vllm=True,
        summed=True,
    ),
    replace(
        GRAPHS, pattern=r"/gemm/trtllm/1\.0\.0/", host_us={"gemm int8_wo": 6, "gemm int4_wo": 6},
        reason=GRAPHS.reason + ". Times of weight-only products are multiples of 1.024 us: each call lay between two "
        "events, which cost the 6 us by which the smallest products exceed their kernels (half of 26 rows)",
    ),
    GRAPHS,
    Source(
        "aiconfigurator with vLLM", r"/attention/vllm/", True,
        "as with TensorRT-LLM, but vLLM 0.14 calls FlashAttention-2 where the chip is no Hopper",
        attention=replace(PAGED, split=False),
        decode=PAGED,
        vllm=True,
    ),
    Source(
        "aiconfigurator", r"/(attention|mla|moe)/", True,
        "period of a loop of CUDA graph replays over the same operands: the device's gap between kernels is in it, and "
        "what fits the cache is warm",
        attention=replace(TENSORRT_LLM, split=False),
        decode=KNOWN["tensorrt-llm"][True],
    ),
    Source(
        "DeepGEMM", r"DeepGEMM", False,
        "kernel time by Kineto with the cache flushed before every run",
        flushed=True,
        summed=True,
    ),
    Source(
        "CANN", r"pto-isa", True,
        "profiler's time of a task, averaged over a loop on the same operands; the smallest take 20 us, so what starts "
        "a kernel is in it",
    ),
    Source(
        "FlashMLA", r"FlashMLA", True,
        "period of a loop of calls over the same operands, queued ahead, so the device's gap is in it",
    ),
    Source(
        "FlashAttention", r"flash-attention", True,
        "period of a loop of calls over the same operands, queued ahead, so the device's gap is in it",
        attention=replace(FLASH_3, split=False),
        decode=KNOWN["flash-attention-3"][True],
    ),
)  # fmt: skip


def experts_source(source: Source, chip: str) -> Source:
    """The rule for a layer of experts: from version 1.1 on, and compute capability 9 on, kernels of TensorRT-LLM are
    launched before the one before has ended (``getEnvEnablePDL``)."""
    return replace(source, early=EARLY) if chip in HOPPER | BLACKWELL else source


def product_source(source: Source, chip: str, form: Format) -> Source:
    """The rule for one product, which a kernel that quantises may come before: TensorRT-LLM launches that of fp4 before
    the kernel before has ended as well."""
    early = chip in BLACKWELL and (not form.quantised or form.dtype == "fp4")
    return replace(source, first_gap=False, early=EARLY) if early else source


def source_of(text: str) -> Source | None:
    """The source that a row's text names.

    >>> source_of("h100_sxm/gemm/trtllm/1.3.0rc20/gemm_perf.parquet").weight_copies
    5
    """
    return next((source for source in SOURCES if re.search(source.pattern, text)), None)
