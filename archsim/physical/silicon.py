"""A chip's technology tables and counts, resolved once: what the models of this package start from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil

from archsim.errors import InputError
from archsim.hardware import ChipSpec, Dtype, PartsSpec, TechnologySpec, list_technologies, load_parts, load_technology

__all__ = ["STACK_BITS", "Silicon", "silicon", "sizing_dtype"]

STACK_BITS = 1024
"""Interface of one HBM stack up to HBM3E; wider stacks count as several."""
DEVICE_BITS = 32


@dataclass(frozen=True, eq=False)
class Silicon:
    """The chip with its tables, and the counts of `physical.layout` with their defaults filled in."""

    chip: ChipSpec
    node: TechnologySpec
    io_node: TechnologySpec
    """That of the I/O dies; `node` where the chip has none."""
    parts: PartsSpec

    @property
    def dies(self) -> int:
        """Compute dies."""
        return self.chip.physical.dies

    @property
    def io_dies(self) -> int:
        """Dies for cache, memory and links; 0 where these lie on the compute dies."""
        return self.chip.physical.io_dies.count if self.chip.physical.io_dies else 0

    @property
    def cores(self) -> int:
        """Cores on all dies, spares included."""
        return max(self.chip.physical.layout.cores or 0, self.chip.cores)

    @property
    def core_sram_bytes(self) -> int:
        """All memory of one core."""
        core = self.chip.core
        return self.chip.physical.layout.core_sram or int(core.scratchpad.capacity) + int(core.accumulator.capacity)

    @property
    def lanes(self) -> int:
        """SIMD lanes of one core."""
        return self.chip.physical.layout.lanes or self.chip.core.vector.lanes

    @property
    def cache_bytes(self) -> int:
        """Shared cache on all dies, spares included."""
        used = int(self.chip.cache.capacity) if self.chip.cache else 0
        return max(self.chip.physical.layout.cache or 0, used)

    @property
    def cache_bytes_per_cycle(self) -> float:
        """Width of the ports of the whole cache; spare slices bring their ports."""
        if self.chip.cache is None:
            return 0.0
        return self.chip.cache.bandwidth / self.chip.clock * self.cache_bytes / int(self.chip.cache.capacity)

    @property
    def stacked(self) -> bool:
        """Whether the memory is stacked on the package (HBM)."""
        standard = self.chip.memory.standard
        return standard.channels_per_stack * standard.channel_width_bits >= STACK_BITS

    @property
    def memory_phys(self) -> int:
        """PHYs of `STACK_BITS` (stacked memory) or of 32 bits."""
        stated = self.chip.physical.layout.memory_phys
        memory = self.chip.memory
        bits = memory.channels * memory.standard.channel_width_bits
        return stated if stated is not None else ceil(bits / (STACK_BITS if self.stacked else DEVICE_BITS))

    @property
    def link_lanes(self) -> int:
        """SerDes lanes of the scale-up fabric."""
        stated, link = self.chip.physical.layout.link_lanes, self.chip.scale_up
        if stated is not None or link is None:
            return stated or 0
        return ceil(link.bandwidth / self.io_node.serdes_rate)

    @property
    def dtype(self) -> Dtype:
        """The type that the matrix units are sized by."""
        return sizing_dtype(self.chip)


def sizing_dtype(chip: ChipSpec) -> Dtype:
    """The 16-bit type that matrix units are sized by, or the first that they offer."""
    sixteen: tuple[Dtype, ...] = ("bf16", "fp16")
    return next((dtype for dtype in sixteen if dtype in chip.dtypes), chip.dtypes[0])


def silicon(chip: ChipSpec, parts: PartsSpec | None = None) -> Silicon:
    """Resolve the tables of `chip`; InputError where it names no technology."""
    physical = chip.physical
    if physical.technology is None:
        raise InputError(
            f"{chip.name}: states no physical.technology (see configs/technology), which area, power and cost need"
        )
    node = _node(physical.technology)
    io_node = _node(physical.io_dies.technology) if physical.io_dies else node
    return Silicon(chip, node, io_node, parts or _default_parts())


def _node(name: str) -> TechnologySpec:
    """A table; the shipped ones are read once, a file of the user's every time, for it may change."""
    return _shipped_node(name) if name in list_technologies() else load_technology(name)


_shipped_node = cache(load_technology)
_default_parts = cache(load_parts)
