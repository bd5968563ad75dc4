"""Attention kernels that are known by name: how published libraries write them, as far as times of theirs tell.

A mapping names one for an operator (``kernel: flash-attention-2``), a serving stack those that its prompts and its
answers run in; measured rows are compared with the kernels they were measured in. What is not named is left to the
mapper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from archsim.errors import InputError
from archsim.mapping.attention_kernel import AttentionKernel
from archsim.mapping.target import Target

__all__ = [
    "FLASH_3", "KNOWN", "MASKED", "PAGED", "TENSORRT_LLM", "UNSPLIT", "known_kernel", "tensorrt_llm_for",
    "unsplit_for",
]  # fmt: skip

#: cycles of a block of threads outside its loop over keys: one constant for all chips and kernels, from prefills of one
#: block of keys on H100, B200 and A6000 (1,500 to 2,700; half of the rows)
OUTSIDE = 2000
#: the same where the lanes multiply, without fragments and descriptors: of 0, 500, 1,000, 1,500 and 2,000 the rows of
#: four chips tell no two of the last three apart, and those of whole steps prefer the least of them
LANES_OUTSIDE = 1000
#: operations that widen an element of fp8 where kernels for the A100's instructions do it in integers, field by field:
#: chosen by half of the L40S's rows, which take 16 ns a key and core whatever the load
EMULATED = 15.0
#: its Hopper and Blackwell kernels run at the rate of taking turns; XQA and its successors pack up to 32 query heads;
#: only those of decode split keys, as in FlashAttention (``num_splits`` is 1 unless a cache is given)
TENSORRT_LLM = AttentionKernel(overlap=False, pack=32, fixed=True, persistent=False, read_ahead=False, outside=OUTSIDE)
#: its kernel of decode, and that from before XQA: head by head, on the lanes, two blocks of threads a core
TENSORRT_LLM_DECODE = replace(TENSORRT_LLM, fixed=False, merge="last")
MASKED = replace(TENSORRT_LLM_DECODE, lanes=True, pack=1, resident=2, outside=LANES_OUTSIDE)
#: FlashAttention-2: one query is padded to a whole tile as well
FLASH_2 = AttentionKernel(
    overlap=False, fixed=True, persistent=False, read_ahead=False, synchronous=True, outside=OUTSIDE
)  # fmt: skip
#: its function without a cache neither splits keys nor packs heads, and has tiles of 128 x 64 (x 32 where shared memory
#: is short), of 128 x 128 for heads up to 64 wide (flash_fwd_launch_template.h)
UNSPLIT = replace(FLASH_2, split=False, pack=1, rows=128)
NARROW_HEAD, KEYS_OF_NARROW = 64, 128
#: its function for a cache in pages, as vLLM calls it
PAGED = replace(FLASH_2, keys=128)
#: persistent: the next block's loads are under way, but the warps that multiply also end a block and begin the next
FLASH_3 = AttentionKernel(fixed=True, outside=OUTSIDE)

#: the kernel of many queries, whose keys are not split, and that of few
KNOWN: Mapping[str, tuple[AttentionKernel | None, AttentionKernel]] = {
    "flash-attention-2": (UNSPLIT, PAGED),
    "flash-attention-3": (replace(FLASH_3, split=False), replace(FLASH_3, fixed=False)),
    "tensorrt-llm": (replace(TENSORRT_LLM, split=False), TENSORRT_LLM_DECODE),
    "masked-multi-head": (None, MASKED),
}


def known_kernel(name: str, target: Target, d: int, *, few: bool) -> AttentionKernel:
    """The kernel of a name, for heads of ``d`` and few queries of a sequence or many; InputError where it has none."""
    kernel = KNOWN[name][few]
    if kernel is None:
        raise InputError(f"{name} is a kernel of decode, for few queries of a sequence")
    if kernel == UNSPLIT:
        return unsplit_for(d)
    return tensorrt_llm_for(target, kernel) if name in ("tensorrt-llm", "masked-multi-head") else kernel


def unsplit_for(d: int) -> AttentionKernel:
    """FlashAttention-2 without a cache, for heads of ``d``."""
    return replace(UNSPLIT, keys=KEYS_OF_NARROW) if d <= NARROW_HEAD else UNSPLIT


def tensorrt_llm_for(target: Target, kernel: AttentionKernel) -> AttentionKernel:
    """A kernel of TensorRT-LLM as it is written for a matrix unit.

    Those for units with a tensor memory are persistent (from memory; half of the B200's prefill rows agree); those for
    synchronous units widen fp8 in integers.
    """
    persistent = kernel.persistent or target.tensor_memory
    return replace(kernel, persistent=persistent, widen=kernel.widen if target.asynchronous else EMULATED)
