"""A compute core: matrix unit, vector unit, scratchpad, accumulator and its port into the on-chip network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from archsim.hardware.spec import Count, Dtype, Rate, Spec
from archsim.sparsity import Sparsity
from archsim.units import Size, Time

__all__ = ["CoreSpec", "LocalMemory", "MatrixUnit", "Port", "SystolicArray", "TensorCore", "VectorUnit"]

Pattern = Annotated[str, AfterValidator(lambda text: str(Sparsity.of(text)))]
"""N of every M weights, such as 2:4."""


class SystolicArray(Spec):
    """`count` grids of rows x cols processing elements; operands flow in from the edges.

    The reduction runs along the rows when weights or inputs are stationary.
    """

    kind: Literal["systolic"]
    rows: Count
    cols: Count
    count: Count = 1
    """Identical arrays in one core."""
    dataflow: Literal["weight_stationary", "output_stationary", "input_stationary"]
    dtypes: dict[Dtype, Rate] = Field(min_length=1)
    """Rate of each operand type relative to one multiply-accumulate per element and cycle."""
    min_stream_cycles: Count = 1
    """Shortest stream that one instruction can send, where writes to an accumulator row must lie that far apart."""
    load_bubble_cycles: float = Field(default=0.0, ge=0.0, le=1e6)
    """Cycles lost, on average, whenever the stationary operand changes, beyond loading it behind the stream."""
    sparsity: dict[Pattern, tuple[Dtype, ...]] = Field(default_factory=dict)
    """Patterns of zeros among the weights that the unit skips, ``"2:4": [bf16, fp8]``: N of every M weights along the
    reduction are kept, and products of these types take N / M of the time. Without it zeros are multiplied."""

    @property
    def rates(self) -> dict[Dtype, float]:
        """Multiply-accumulates per cycle of one core, for each data type."""
        return {dtype: self.rows * self.cols * self.count * rate for dtype, rate in self.dtypes.items()}


class TensorCore(Spec):
    """The tensor cores of one core, taken together: an m x n x k step with a latency, several in flight."""

    kind: Literal["tensor_core"]
    m: Count
    n: Count
    k: Count
    """Smallest instruction tile for 2-byte operands; k grows as the operands shrink (16 for bf16 means 32 for fp8)."""
    macs_per_cycle: dict[Dtype, Rate] = Field(min_length=1)
    """Dense multiply-accumulates per cycle of one core, for each data type."""
    pair: Count = 1
    """Neighbouring cores that can run one step together, each holding its share of the second operand (tcgen05)."""
    reuse_m: Count | None = None
    reuse_n: Count | None = None
    """Rows and columns of output for which operands are read from the scratchpad once: a warp's tile held in registers,
    or one asynchronous instruction. Without them the scratchpad never holds the unit up."""
    promotion: dict[Dtype, Count] = Field(default_factory=dict)
    """Where operands carry a scale for each block, the vector unit scales and adds up the partial sums after so many
    terms of the reduction; types that are not named are scaled within the unit."""
    latency_cycles: Count
    """From the issue of one step to its result being usable by the next one."""
    synchronous: bool = False
    """The issuing threads load operands into registers and wait for the result (mma.sync, MFMA). Otherwise the unit
    reads the scratchpad itself and runs beside the vector unit (wgmma, tcgen05)."""
    through_registers: bool = False
    """Where it is synchronous: nothing is copied to the scratchpad asynchronously. The threads that multiply load what
    arrives into registers, one chunk ahead, and write it to the scratchpad, which they read, in turn with products."""
    synchronous_share: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the rate that older kernels reach on an asynchronous unit, whose instructions are synchronous ones."""
    sparsity: dict[Pattern, tuple[Dtype, ...]] = Field(default_factory=dict)
    """Patterns of zeros among the weights that the unit skips, ``"2:4": [bf16, fp8]``: N of every M weights along the
    reduction are kept, and products of these types take N / M of the time. Without it zeros are multiplied."""

    @property
    def rates(self) -> dict[Dtype, float]:
        """Multiply-accumulates per cycle of one core, for each data type."""
        return dict(self.macs_per_cycle)


MatrixUnit = Annotated[SystolicArray | TensorCore, Field(discriminator="kind")]


class VectorUnit(Spec):
    """The SIMD lanes of one core, at the chip's clock."""

    lanes: Count
    """fp32 fused multiply-adds per cycle."""
    special_lanes: Count
    """Special functions (exp, rsqrt, reciprocal, ...) per cycle."""
    issue: Count | None = None
    """Operations of all kinds that are issued per cycle, where integer lanes stand beside those for floats; without it
    as many as `lanes`."""
    threads: Count | None = None
    """Threads that a core keeps in flight; together with `round_trip` what kernels with narrow loads are bound by."""
    round_trip: Time | None = None
    """From a load to the next of the same thread that waits for it, with all threads at it."""


class LocalMemory(Spec):
    """A memory private to one core."""

    capacity: Size
    read_bytes_per_cycle: Rate | None = None
    """What it can feed to the units; no limit where it is not stated."""


class Port(Spec):
    """One core's port into the on-chip network."""

    read_bytes_per_cycle: Rate
    write_bytes_per_cycle: Rate
    outstanding: Size | None = None
    """Bytes of reads that the core's DMA engine has under way at once (requests x their size); without it the
    scratchpad's buffers are the limit."""


class CoreSpec(Spec):
    """One of the chip's identical cores."""

    matrix: MatrixUnit
    vector: VectorUnit
    scratchpad: LocalMemory
    """Operand tiles live here: shared memory, L1, VMEM, SBUF."""
    accumulator: LocalMemory
    """Partial sums live here: register file, L0C, PSUM, matrix result buffer."""
    apart: Annotated[bool, Field(strict=True)] = False
    """Whether matrix and vector units are cores of their own, which in attention hand scores, probabilities and outputs
    to each other through the shared cache."""
    port: Port
