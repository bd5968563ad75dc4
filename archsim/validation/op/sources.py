"""What each source of measured operator times did: whose gaps its figures hold, and which operands were in the cache.

The rules are data, one line a source, each with its reason; nothing here is fitted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import ceil, inf, sqrt

from archsim.mapping.attention_kernel import ANY_KERNEL, AttentionKernel, Merge
from archsim.mapping.known_kernels import FLASH_3, KNOWN, MASKED, PAGED, TENSORRT_LLM, UNSPLIT
from archsim.models.vector import NarrowLoads
from archsim.validation.op.dtypes import Format

__all__ = [
    "BLACKWELL", "DEVICES", "HOPPER", "INFORMED", "SOURCES", "XQA_KEYS", "Source",
    "decode_kernel", "experts_source", "mla_kernel", "packs", "phase_kernel", "product_source", "source_of", "written",
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


#: heads of a tile of TensorRT-LLM's MLA decode for Blackwell where they are less than 64: there they are the columns of
#: its instructions. 32 heads take what 16 take of twice the sequences, prologue included
COLUMN_HEADS, ROW_HEADS = 16, 64
#: keys of a range of XQA at least (``kMinHistoryTokensPerBlock``), where it splits them, and cycles of its blocks of
#: mma.sync outside their loop: one constant for H100 and L40S, of 2,000, 4,000 and 5,000, by 42 rows of either half
XQA_KEYS, XQA_OUTSIDE = 128, 4000
#: blocks of threads for each core beyond which XQA splits keys no further (``kTargetWaveFactor``)
XQA_WAVES = 8
#: cycles outside the loop for each query head of a block of XQA's kernel for Hopper, whose columns they are: sums over
#: the warps of 64 keys, and the output. Blocks of 128 keys take 6.1 us with four heads, 6.5 with eight, 7.6 with 16 and
#: 10 with 32; one constant, of 150, 200, 250 and 300, by half of the H100's rows
XQA_HEAD = 200
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


def written(kernel: AttentionKernel, phase: str, chip: str) -> AttentionKernel:
    """The kernel as its source writes it for a chip: in decode, TensorRT-LLM's for Blackwell overlap what lies outside
    the loop (half of the rows of the B200 leave no room for it)."""
    return replace(kernel, outside=0) if phase == "decode" and chip in BLACKWELL else kernel


def decode_kernel(
    kernel: AttentionKernel, chip: str, groups: int, heads: int, keys: int, cores: int, held: float
) -> AttentionKernel:
    """TensorRT-LLM's for decode: XQA, one of its own for Blackwell, or the older one (masked multi-head attention).

    groups: heads of keys in all sequences, each with so many query heads. held: bytes of an element of the cache.

    XQA splits keys by a rule of its own, multiplies a cache of 16 bits by mma.sync, and one of 8 bits on Hopper by
    wgmma. It is not taken where it would have a block of threads for fewer than
    every fourth core (``mayHavePerfGain``); rows of an fp8 cache on Hopper show no step there. The older kernel
    multiplies on the lanes, head by head; it is all there is on Blackwell as well for more heads than the others pack.
    Of 8 bits its times on the L40S ask for more, and the matrix unit does it here.
    """
    if chip in BLACKWELL and heads <= TENSORRT_LLM.pack:
        return kernel
    warpgroups = chip in HOPPER and held == 1
    enough = 4 * groups * max(keys // XQA_KEYS, 1) >= cores
    if packs(heads) and (enough or warpgroups):
        ranges = xqa_ranges(keys, groups, cores)
        if held == 1:
            return replace(kernel, ranges=ranges, outside=XQA_HEAD * heads if warpgroups else kernel.outside)
        return replace(kernel, ranges=ranges, outside=XQA_OUTSIDE, synchronous=chip in HOPPER)
    if held == 1 and chip not in HOPPER | BLACKWELL:
        return kernel
    resident, ranges = masked_blocks(keys, groups * heads, cores)
    return replace(MASKED, resident=resident, ranges=ranges)


def xqa_ranges(keys: int, groups: int, cores: int) -> int:
    """Ranges that XQA splits keys into: of ``XQA_KEYS`` or more, at most sqrt(8 n) of n, so that merging does not
    dominate, and no more than give every core `XQA_WAVES` blocks (``computeMultiBlockCount`` of TensorRT-LLM).

    >>> xqa_ranges(1024, 64, 132), xqa_ranges(16384, 8, 132), xqa_ranges(512, 1024, 132)
    (8, 32, 1)
    """
    most = keys // XQA_KEYS
    ranges = max(min(most, round(sqrt(8 * most))), 1)
    return max(min(ranges, int(ranges / max(groups * ranges / cores / XQA_WAVES, 1.0))), 1)


def masked_blocks(keys: int, heads: int, cores: int) -> tuple[int, int]:
    """Blocks of threads of the older decode kernel that share a core, and the ranges that it splits keys into.

    The registers are for 1,024 threads a core: in one block, two, or four of them, the fewer the less ``heads`` of all
    sequences there are. As many ranges as fill the cores, rounded up, so that some of them come in a second wave; but
    a turn of eight keys for every 16 threads in each (decoderMaskedMultiheadAttentionLaunch.h, for heads of 128).

    >>> [masked_blocks(keys, heads, 132) for keys, heads in ((1024, 64), (32768, 8), (512, 256), (64, 9999))]
    [(1, 3), (1, 17), (2, 2), (4, 1)]
    """
    factor = min(ceil(4 * cores / heads), 4)
    threads = 256 if factor == 1 else 512 if factor < 4 else 1024
    resident = 1024 // threads
    return resident, min(ceil(cores * resident / heads), ceil((keys + 1) / (threads // 2)))


def packs(group: int) -> bool:
    """Whether TensorRT-LLM has a decode kernel (XQA) for query heads that share keys in groups so large.

    Others are left to its older kernel, whose times do not fall with the width of the cache.
    """
    return 1 < group <= TENSORRT_LLM.pack


def phase_kernel(source: Source, phase: str, *, gpu: bool) -> AttentionKernel:
    """The kernel of a phase, nothing special on what is no GPU."""
    if not gpu:
        return ANY_KERNEL
    return source.decode or source.attention if phase == "decode" else source.attention


def mla_kernel(source: Source, chip: str, heads: int, *, asynchronous: bool) -> AttentionKernel:
    """The kernel for absorbed MLA: FlashMLA and its kin always write partial results, which a second kernel merges;
    those of TensorRT-LLM for Blackwell reduce within a cluster (its kernel sources are closed; from the names of its
    modes, unverified).

    There is none for matrix units that are synchronous: there a kernel for prefill, which splits no keys, runs instead,
    and half of its rows on the L40S leave no room for what lies outside its loop.
    """
    within = chip in BLACKWELL and source.name == "aiconfigurator"
    kernel = replace(source.attention, pack=AttentionKernel.pack, persistent=False)
    if asynchronous:
        most = COLUMN_HEADS if within and heads < ROW_HEADS else kernel.most
        merge: Merge = "cluster" if within else "kernel"
        return replace(kernel, fixed=False, split=True, partials=not within, most=most, merge=merge)
    return replace(kernel, fixed=True, split=False, pieces=2, outside=0)


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
