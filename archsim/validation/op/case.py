"""One measured operator as kernels that the mapping can lower, and the simulated time of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from archsim.engine import Launch, Session
from archsim.errors import InputError
from archsim.hardware import load_chip
from archsim.mapping import Lowered, Target, choose_tiling, make_target
from archsim.mapping.attention_kernel import AttentionShape
from archsim.mapping.lowering.attention import lower_attention
from archsim.mapping.lowering.attention_backward import lower_attention_backward
from archsim.mapping.lowering.attention_cut import packed_rows
from archsim.mapping.lowering.product import ProductOperands
from archsim.mapping.lowering.rows import Stream, lower_rows
from archsim.mapping.machine import ps
from archsim.mapping.search import lowered_product
from archsim.mapping.tiling import MatmulShape, Tiling, score_tiling
from archsim.models.vector import NarrowLoads, VectorCost
from archsim.validation.op.sources import Source

__all__ = ["Attention", "Case", "Gradients", "Kernel", "Product", "Vector", "simulate_us", "target_of", "too_fast"]

#: a measured time below this share of what the chip's peaks allow is no time of this operator on this chip; the room
#: is for clocks above the one that the peak is quoted at (1.98 GHz on an H100 of 1.83 GHz)
POSSIBLE = 0.9


@dataclass(frozen=True)
class Product:
    """``C = A B``, one or a group of them; operands are the case's tensors (a, b, c).

    tuned: the rows of each product for which an auto-tuner chose the tiles, where others come. tile: of a kernel that
    is built for one alone: rows, columns, terms of a chunk and chunks in flight; blocks go down the columns.
    """

    shape: MatmulShape
    operands: tuple[int, int, int]
    tuned: tuple[int, ...] | None = None
    tile: tuple[int, int, int, int] | None = None

    def lower(self, target: Target) -> Lowered:
        if self.tile:
            tiling = score_tiling(target, self.shape, Tiling(*self.tile, 1, 1, 1, 0.0, ""))
            tiling = replace(tiling, group_m=-(-max(self.shape.m) // tiling.tm))
        else:
            tiling = choose_tiling(target, replace(self.shape, m=self.tuned or self.shape.m))
        if self.tuned:
            tiling = score_tiling(target, self.shape, tiling)
        a, b, c = self.operands
        return lowered_product(target, "product", self.shape, tiling, ProductOperands(a, b, c, len(self.shape.m) > 1))

    @property
    def flops(self) -> float:
        return 2.0 * sum(self.shape.m) * self.shape.n * self.shape.k

    @property
    def weight_bytes(self) -> float:
        """Bytes of B that are multiplied."""
        return sum(m > 0 for m in self.shape.m) * self.shape.n * self.shape.k * self.shape.b_bytes

    @property
    def nbytes(self) -> float:
        """Unique bytes that cross the kernel's boundary."""
        s = self.shape
        return self.weight_bytes + sum(s.m) * (s.k * s.a_bytes + s.n * s.c_bytes)

    @property
    def dtype(self) -> str:
        return self.shape.dtype


@dataclass(frozen=True)
class Attention:
    """Fused attention; operands are the case's tensors (q, k, v, out)."""

    shape: AttentionShape
    operands: tuple[int, int, int, int]

    def lower(self, target: Target) -> Lowered:
        return lower_attention(target, "attention", self.shape, self.operands)

    @property
    def flops(self) -> float:
        s = self.shape
        return 2.0 * s.batch * s.heads * s.q_len * self.mean_keys * (s.d_qk + s.d_v)

    @property
    def steps(self) -> float:
        """About how many steps lowering makes of it, in tiles of 128 queries and 64 keys."""
        s, packed = self.shape, packed_rows(self.shape)
        return 5 * (s.batch * s.heads * s.q_len // packed) * -(-packed // 128) * self.mean_keys / 64

    @property
    def mean_keys(self) -> float:
        """Keys that a query sees, on average."""
        return self.shape.kv_len - (self.shape.q_len - 1) / 2 * self.shape.causal

    @property
    def nbytes(self) -> float:
        s = self.shape
        _, keys, values, _ = self.operands
        width = s.d_qk + (0 if s.kv_shared or keys == values else s.d_v)
        rows = s.batch * s.heads * s.q_len
        return s.batch * s.kv_heads * s.kv_len * width * s.kv_bytes + rows * (s.d_qk * s.q_bytes + s.d_v * s.out_bytes)

    @property
    def dtype(self) -> str:
        return self.shape.dtype


@dataclass(frozen=True)
class Gradients:
    """Those of fused attention; operands are the case's tensors (q, k, v, out, and gradients of out, q, k, v)."""

    forward: Attention
    operands: tuple[int, ...]

    def lower(self, target: Target) -> Lowered:
        return lower_attention_backward(target, "gradients", self.forward.shape, self.operands)

    @property
    def flops(self) -> float:
        return 2.5 * self.forward.flops  # five products instead of two

    @property
    def steps(self) -> float:
        """About how many steps lowering makes of it: six a tile instead of five."""
        return 1.2 * self.forward.steps

    @property
    def nbytes(self) -> float:
        return 2 * self.forward.nbytes

    @property
    def dtype(self) -> str:
        return self.forward.dtype


@dataclass(frozen=True)
class Vector:
    """A vector kernel over rows: tensors read and written with their bytes, and (elements, cost) of its work.

    started: whether it has a start-up; setting a few bytes of memory has none (about 1 us in profiles).
    """

    rows: int
    inputs: tuple[tuple[int, float], ...]
    outputs: tuple[tuple[int, float], ...]
    work: tuple[tuple[int, VectorCost], ...] = ()
    in_turn: bool = False
    loads: NarrowLoads | None = None
    cols: int = 0
    started: bool = True

    def lower(self, target: Target) -> Lowered:
        read, written = ([Stream(t, round(n)) for t, n in side if round(n)] for side in (self.inputs, self.outputs))
        return lower_rows(
            target, "rows", self.rows, read, written, self.work, in_turn=self.in_turn, loads=self.loads,
            cols=self.cols,
        )  # fmt: skip

    @property
    def nbytes(self) -> float:
        return sum(n for _, n in (*self.inputs, *self.outputs))


Kernel = Product | Attention | Gradients | Vector


@dataclass(frozen=True)
class Case:
    """One row of a reference file: the kernels that were timed, on which chip, and their time in microseconds.

    weights: the tensors that are weights, for the rule of the source. before: kernels that ran just before, untimed,
    and left the cache as they did. dependent: the kernels from this one on begin before the one before has ended, if
    the source says so (`Source.early`).
    """

    name: str
    chip: str
    operator: str
    dtype: str
    kernels: tuple[Kernel, ...]
    expected_us: float
    source: Source
    weights: frozenset[int] = field(default=frozenset())
    before: tuple[Kernel, ...] = ()
    dependent: int = 0

    @property
    def group(self) -> str:
        """Device, operator and dtype, as the errors are reported by."""
        return f"{self.chip} {self.operator} {self.dtype}"

    @property
    def steps(self) -> float:
        """About how many steps lowering makes of the attention in it; products are cut to a bounded number."""
        return sum(kernel.steps for kernel in self.kernels if isinstance(kernel, Attention | Gradients))


@cache
def target_of(chip: str) -> Target:
    """The preset, ready to be lowered for."""
    return make_target(load_chip(chip))


def too_fast(case: Case) -> bool:
    """Whether the measured time is beyond what the peaks of the chip allow, whatever the cache held before.

    Without a cache, an operator that runs alone waits for its memory once at least.
    """
    target = target_of(case.chip)
    floor_s = 0.0 if target.cache_bytes else target.memory_latency_s
    for kernel in case.kernels:
        beyond = max(kernel.nbytes - target.cache_bytes, 0.0) / target.dram_bytes_per_s
        matrix = 0.0 if isinstance(kernel, Vector) else kernel.flops / target.peak_flops(kernel.dtype)
        floor_s += max(beyond, matrix)
    return case.expected_us * 1e-6 < POSSIBLE * floor_s


def simulate_us(case: Case) -> float:
    """Simulated time of the case in microseconds, measured as its source did.

    The kernels run one after the other on a fresh chip, twice on the same addresses: the second run, which is the one
    that counts, finds in the cache what the first one left there, as a benchmark loop does. Tensors that the source's
    rule calls cold lie elsewhere in the second run. Where kernels ran before, these take the place of the first run.
    """
    target, source = target_of(case.chip), case.source
    kernels = (*case.before, *case.kernels)
    lowered = [kernel.lower(target) for kernel in kernels]
    sizes: dict[int, int] = {}
    for each in lowered:
        for tensor, region in zip(each.tensors, each.program.regions, strict=True):
            sizes[tensor] = max(sizes.get(tensor, 0), region.nbytes)
    cold = _cold(case, sizes, target)
    warm, again, address = {}, {}, 0
    for tensor, size in sizes.items():
        room = -(-size // target.block_bytes) * target.block_bytes
        warm[tensor] = again[tensor] = address
        address += room
        if tensor in cold:
            again[tensor] = address
            address += room
    if address > target.chip.memory.capacity:
        raise InputError(f"{case.name}: its tensors of {address:,} B exceed the memory of {case.chip}")
    session = Session(target.machine)
    # without a cache the first run leaves nothing that the second could find
    for bases in (warm, again) if target.cache_bytes and not (source.flushed or case.before) else (warm,):
        records = session.run(_launches(kernels, lowered, bases, target, case))
    timed = records[len(case.before) :]
    begin = timed[0].ready_ps if source.first_gap else timed[0].start_ps
    lasted = sum(r.end_ps - r.start_ps for r in timed) if source.summed else timed[-1].end_ps - begin
    keys = (f"{case.chip} {case.operator}", f"{case.operator} {case.dtype}")
    return lasted * 1e-6 + sum(source.host_us.get(key, 0.0) for key in keys)


def _cold(case: Case, sizes: dict[int, int], target: Target) -> frozenset[int]:
    weights = case.weights & sizes.keys()
    copies = case.source.weight_copies
    if copies > 1 and copies * sum(sizes[tensor] for tensor in weights) >= target.cache_bytes:
        return weights
    return frozenset()


def _launches(
    kernels: Sequence[Kernel], lowered: Sequence[Lowered], bases: dict[int, int], target: Target, case: Case
) -> list[Launch]:
    startup_ps = ps(target.chip.launch.startup)
    launches = []
    for index, (kernel, each) in enumerate(zip(kernels, lowered, strict=True)):
        gap_ps, program = ps(target.launch_s(vector=isinstance(kernel, Vector))), each.program
        addresses = [bases[tensor] for tensor in each.tensors]
        begin_ps = startup_ps if not isinstance(kernel, Vector) or kernel.started else 0
        begin_ps = round(begin_ps * (1 - case.source.early * (index >= len(case.before) + case.dependent)))
        launches.append(
            Launch(
                program.name, "compute", (index - 1,) if index else (), gap_ps, begin_ps, program, addresses,
            )
        )  # fmt: skip
    return launches
