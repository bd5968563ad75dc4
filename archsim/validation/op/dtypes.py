"""The number formats that the reference files name, as the widths and the extra kernel that they mean."""

from __future__ import annotations

from dataclasses import dataclass

from archsim.trace.graph import DTYPE_BITS

__all__ = ["FORMATS", "Format", "format_of", "width"]


@dataclass(frozen=True)
class Format:
    """What is multiplied, the bytes of an activation and of a weight with their scales, and who quantises.

    block_scaled: a scale for each block of the reduction.

    quantised: activations arrive as bf16, and a kernel before the product turns them into ``dtype``. dynamic: with one
    scale for all of them, found by a kernel of its own and converted by another one.
    b_padded: of weights that the matrix unit itself multiplies with wider activations, bytes of one in the scratchpad.
    """

    dtype: str
    a_bytes: float
    b_bytes: float
    block_scaled: bool = False
    quantised: bool = False
    dynamic: bool = False
    b_padded: float | None = None

    @property
    def unpacks(self) -> bool:
        """Whether weights are widened within the kernel before they are multiplied."""
        return self.b_padded is None and self.b_bytes < DTYPE_BITS[self.dtype] / 8


#: formats by the name in the files; text instead: why rows of it are left out
FORMATS: dict[str, Format | str] = {
    "fp16": Format("fp16", 2, 2),
    "bf16": Format("bf16", 2, 2),
    "bfloat16": Format("bf16", 2, 2),
    # the benchmark gives no scale for the activations, and TensorRT-LLM then finds one (cudaFp8Utils.cu): zero it,
    # maximum, quantise, cast of it
    "fp8": Format("fp8", 1, 1, quantised=True, dynamic=True),
    # one fp32 scale for 128 activations, and for 128 x 128 weights
    "fp8_block": Format("fp8", 1 + 4 / 128, 1 + 4 / 128**2, block_scaled=True, quantised=True),
    "fp8xfp8->bf16": Format("fp8", 1 + 4 / 128, 1 + 4 / 128**2, block_scaled=True),
    # one 8-bit scale for 16 values
    "nvfp4": Format("fp4", 0.5 + 1 / 16, 0.5 + 1 / 16, block_scaled=True, quantised=True),
    # weights alone are quantised, and unpacked in the kernel: a scale for each column, or for 128 values of it
    "int8_wo": Format("fp16", 2, 1),
    "int4_wo": Format("fp16", 2, 0.5 + 2 / 128),
    # one 8-bit scale for 32 values; with activations in MXFP8 the tensor cores of Blackwell multiply both at the rate
    # of fp8, and every 4-bit value takes 8 bits in shared memory (PTX ISA, tcgen05.mma kind::mxf8f6f4)
    "w4a16_mxfp4": Format("bf16", 2, 0.5 + 1 / 32),
    "w4a8_mxfp4_mxfp8": Format(
        "fp8", 1 + 1 / 32, 0.5 + 1 / 32, block_scaled=True, quantised=True, b_padded=1 + 1 / 32
    ),
    "sq": "SmoothQuant: which kernels the timed plugin runs is not documented",
}


def format_of(name: str, offered: frozenset[str]) -> Format | str:
    """The format, or why a chip that multiplies the types ``offered`` cannot be compared in it."""
    found = FORMATS.get(name, f"the format '{name}' is not known")
    if isinstance(found, Format) and found.dtype not in offered:
        return f"the chip multiplies no {found.dtype}: the rows are of an emulation that is not modelled"
    if isinstance(found, Format) and found.b_padded and "fp4" not in offered:
        return "the chip multiplies no operands of two formats: the rows are of an emulation that is not modelled"
    return found


def width(name: str) -> float:
    """Bytes of an element of a cache held as ``name``.

    >>> width("bfloat16"), width("fp8")
    (2.0, 1.0)
    """
    return DTYPE_BITS[name.replace("bfloat16", "bf16")] / 8
