"""The least time that kernels take at the ``tile`` fidelity, known before anything is simulated: what prunes a sweep.

The roofline holds for any mapping. This bound knows the programs: how well the tiles fill arrays and cores, what the
caches, ports and links have to carry, and what comes before and after (`archsim.kernels.least`)::

    t = launch + start-up + max(busiest resource, longest path, cold bytes / (bandwidth x share without refresh) + ends)

of the best tiling among those that the search chooses from. Cold bytes are those of the roofline, and what a kernel
reads beyond the capacity of the cache.

Assumptions: nothing queues behind anything else. What a window of a long kernel carries forward may fall short of the
work that it stands for by ``SAMPLING``. A kernel may run beside a collective, on fewer cores: the less of both counts.
"""

from __future__ import annotations

from dataclasses import replace

from archsim.kernels.least import least_of
from archsim.mapping import Bounds, Kernel, Lowered, Target, lower
from archsim.mapping.lowering import product_shape
from archsim.mapping.lowering.product import ProductOperands, lower_product
from archsim.mapping.search import contenders
from archsim.simulation.collectives import narrowed
from archsim.simulation.job import Job

__all__ = ["least_bounds"]

#: by how much a kernel may fall short of the work that its window stands for
SAMPLING = 0.02


def least_bounds(job: Job) -> tuple[Bounds, ...]:
    """Lower bounds of the kernels of each block like `Job.bounds`; what is found beyond those counts as start-up."""
    found = []
    for block, bounds in zip(job.blocks, job.bounds, strict=True):
        targets = {job.target, narrowed(job.target, job.network, filter(block.communicates, block.kernels))}
        least = bounds.seconds.copy()
        for i, (kernel, memory_s) in enumerate(zip(block.kernels, bounds.memory.tolist(), strict=True)):
            if not kernel.exchanges:
                least[i] = max(least[i], min(least_s(kernel, target, memory_s) for target in targets))
        found.append(replace(bounds, startup=bounds.startup + least - bounds.seconds))
    return tuple(found)


def least_s(kernel: Kernel, target: Target, memory_s: float) -> float:
    """Seconds of one kernel; memory_s: of its cold bytes, at the bandwidth of the memory."""
    launch = target.launch_s(vector=kernel.kind == "vector") + target.chip.launch.startup
    read = sum(operand.nbytes for operand in kernel.inputs)
    if not target.cache_bytes:  # writes are cold as well, but may still wait when the kernel ends
        memory_s *= read / max(kernel.nbytes, 1)
    if kernel.kind != "attention":  # whose masks and windows hide some of its operands
        memory_s = max(memory_s, (read - target.cache_bytes) / target.dram_bytes_per_s)
    memory_s /= target.memory.dram.awake
    return launch + min(_program_s(lowered, memory_s) for lowered in _programs(kernel, target))


def _programs(kernel: Kernel, target: Target) -> list[Lowered]:
    """Those of which the kernel will be one."""
    if kernel.kind not in ("product", "grouped") or kernel.pin:
        return [lower(kernel, target)]
    shape = product_shape(kernel, target)
    operands = ProductOperands(0, 1, 2, len(shape.m) > 1)
    return [lower_product(target, kernel.name, shape, tiling, operands) for tiling in contenders(target, shape)]


def _program_s(lowered: Lowered, memory_s: float) -> float:
    least = least_of(lowered.program)
    busiest = least.busiest_ps - SAMPLING * least.carried_ps
    sampled = SAMPLING if least.carried_ps else 0.0
    ends = least.read_head_ps + least.read_tail_ps if memory_s else 0
    return max(busiest * 1e-12, least.path_ps * 1e-12, (1 - sampled) * memory_s + ends * 1e-12)
