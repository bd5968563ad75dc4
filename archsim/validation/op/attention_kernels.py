"""How the attention kernels of measured rows are written, chip by chip: TensorRT-LLM's for decode and MLA above all.

Which kernel is taken, in how many blocks of threads and ranges of keys, is the rule of its source; what was chosen by
rows says so.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, sqrt

from archsim.mapping.attention_kernel import ANY_KERNEL, AttentionKernel, Merge
from archsim.mapping.known_kernels import MASKED, TENSORRT_LLM
from archsim.validation.op.sources import BLACKWELL, HOPPER, Source

__all__ = ["decode_kernel", "masked_blocks", "mla_kernel", "packs", "phase_kernel", "written", "xqa_ranges"]

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


def written(kernel: AttentionKernel, phase: str, chip: str) -> AttentionKernel:
    """The kernel as its source writes it for a chip: in decode, TensorRT-LLM's for Blackwell overlap what lies outside
    the loop (half of the rows of the B200 leave no room for it)."""
    return replace(kernel, outside=0) if phase == "decode" and chip in BLACKWELL else kernel


def decode_kernel(
    kernel: AttentionKernel, chip: str, groups: int, heads: int, keys: int, cores: int, held: float
) -> AttentionKernel:
    """TensorRT-LLM's for decode: XQA, one of its own for Blackwell, or the older one (masked multi-head attention).

    groups: heads of keys in all sequences, each with so many query heads. held: bytes of an element of the cache.

    XQA multiplies a cache of 16 bits by mma.sync, and one of 8 bits on Hopper by wgmma. It is not taken where it would
    have a block of threads for fewer than every fourth core (``mayHavePerfGain``); rows of an fp8 cache on Hopper show
    no step there. The older kernel multiplies on the lanes, head by head; it is all there is on Blackwell as well for
    more heads than the others pack. Of 8 bits its times on the L40S ask for more, and the matrix unit does it here.
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
