"""Fusion: which tasks become one kernel, hence one launch, with intermediate results that never leave the core.

Two rules, those that inference engines apply everywhere, and each of which a mapping can turn off (`Fusion`):

* products that read the same activation are merged into one with their columns side by side (q, k and v; gate
  and up);
* a run of vector operators becomes one kernel: it reads its outer inputs, writes its outer outputs, and what
  only its members see stays in registers (residual add + norm; rotary + KV append; the router's chain).

Flash attention is one operator already, and MLA absorption is in the trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from archsim.errors import InputError, did_you_mean
from archsim.mapping.task import Operand, Task, TaskBlock

__all__ = ["COLLECTIVES", "VECTOR_KINDS", "Fusion", "Kernel", "KernelBlock", "Saving", "fuse", "savings"]

VECTOR_KINDS = {
    "norm",
    "rotary",
    "elementwise",
    "router",
    "kv_append",
    "embedding",
    "sample",
    "moe_dispatch",
    "moe_combine",
}
#: all_to_all: of tokens to experts and back; head_exchange: of tokens of all heads for heads of all tokens, or back
COLLECTIVES = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "head_exchange"}
#: the kinds of kernels, by operator, but of vector operators and collectives
KERNELS = {
    "matmul": "product", "grouped_matmul": "grouped", "grouped_matmul_wgrad": "grouped", "attention": "attention",
    "attention_backward": "attention", "expert_post": "handover", "expert_receive": "handover",
}  # fmt: skip
#: gathers and scatters are kernels of their own: their neighbours work on other rows; so is what works along both axes
ALONE = {"embedding", "moe_dispatch", "moe_combine", "sample", "amax", "quantise_twice"}


@dataclass(frozen=True)
class Fusion:
    """Which rules are applied.

    products: those of one input are merged. vectors: runs of vector operators are one kernel. apart:
    operators, by name, that become kernels of their own all the same.
    """

    products: bool = True
    vectors: bool = True
    apart: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Mapping[str, Any], place: Callable[[str], str] = lambda key: "--mapping: fusion") -> Fusion:
        """The rules that a mapping states; ``place`` says where a key stands."""
        for key, value in given.items():
            known = cls.__dataclass_fields__
            if key not in known:
                raise InputError(
                    f"{place(key)}: {key}: unknown key{did_you_mean(key, known)}; legal are {', '.join(known)}"
                )
            if key != "apart" and not isinstance(value, bool):
                raise InputError(f"{place(key)}: {key} is {value}, but must be true or false")
            if key == "apart" and not (isinstance(value, list | tuple) and all(isinstance(x, str) for x in value)):
                raise InputError(f"{place(key)}: apart is {value}, but must be a list of operators' names")
        return cls(given.get("products", True), given.get("vectors", True), tuple(given.get("apart", ())))


@dataclass(frozen=True)
class Kernel:
    """Tasks that run as one launch. kind: "product", "grouped", "attention", "vector", "collective" or "handover".

    A handover holds the cores for the ``seconds`` of its task, while they hand messages over to network cards.

    pin: the sizes of its tiling where the user states them, by name. known: that of its attention kernel, if stated.
    """

    kind: str
    tasks: tuple[Task, ...]
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    pin: tuple[tuple[str, int], ...] = ()
    known: str = ""

    @property
    def name(self) -> str:
        """The members' names, their common path written once: ``self_attn.q_proj + k_proj + v_proj``."""
        names = [task.name for task in self.tasks]
        if len(names) == 1:
            return names[0]
        stem = names[0].rpartition(".")[0] + "."
        short = [name.removeprefix(stem) if stem != "." else name for name in names[1:]]
        text = " + ".join([names[0], *short])
        return text if len(names) <= 3 else f"{names[0]} + {len(names) - 1} more"

    @property
    def op_kind(self) -> str:
        """The kind of operator that a reader would call it by: that of its first member."""
        return self.tasks[0].kind

    @property
    def exchanges(self) -> bool:
        """Whether it is messages, or what handing them over takes: it has no tiles, and starts up with nothing."""
        return self.kind in ("collective", "handover")

    @property
    def flops(self) -> int:
        return sum(task.flops for task in self.tasks)

    @property
    def nbytes(self) -> int:
        """Unique bytes that cross the kernel's boundary."""
        return sum(operand.nbytes for operand in (*self.inputs, *self.outputs))


@dataclass(frozen=True)
class KernelBlock:
    """The kernels of one block, in launch order.

    repeat: how often each runs: once a layer and micro-batch. micro_batches: that take turns on the chip.
    """

    name: str
    repeat: int
    kernels: tuple[Kernel, ...]
    micro_batches: int = 1

    def communicates(self, kernel: Kernel) -> bool:
        """Whether a kernel is in the stream of communication.

        Where micro-batches take turns only what goes to experts and back is. The collectives of attention are launched
        in order with its kernels: DeepSeek, SGLang and CANN hide dispatch and combine alone.
        """
        return kernel.kind == "collective" and (self.micro_batches == 1 or kernel.op_kind == "all_to_all")

    @property
    def layers(self) -> int:
        return self.repeat // self.micro_batches


def fuse(blocks: Sequence[TaskBlock], rules: Fusion = Fusion()) -> tuple[KernelBlock, ...]:
    """Group the tasks of every block into kernels."""
    names = {task.name for block in blocks for task in block.tasks}
    for name in rules.apart:
        if name not in names:
            raise InputError(f"--mapping: fusion.apart: no operator is called '{name}'{did_you_mean(name, names)}")
    readers = _readers(blocks)
    return tuple(KernelBlock(b.name, b.repeat, tuple(_kernels(b.tasks, readers, rules))) for b in blocks)


@dataclass(frozen=True)
class Saving:
    """What the fusion of ``operators`` into the kernel ``name`` saves a step: launches, and bytes moved."""

    name: str
    operators: tuple[str, ...]
    launches: int
    nbytes: int


def savings(tasks: Sequence[TaskBlock], blocks: Sequence[KernelBlock]) -> list[Saving]:
    """Of every kernel of more than one operator: against each of them on its own, reading and writing its operands."""
    readers = _readers(tasks)
    found = []
    for block in blocks:
        for kernel in block.kernels:
            if len(kernel.tasks) > 1:
                apart = sum(_kernel([task], readers).nbytes for task in kernel.tasks)
                operators = tuple(task.name for task in kernel.tasks)
                launches, nbytes = len(operators) - 1, apart - kernel.nbytes
                found.append(Saving(kernel.name, operators, block.repeat * launches, block.repeat * nbytes))
    return found


def _readers(blocks: Sequence[TaskBlock]) -> Counter[int]:
    """How many operands every tensor is."""
    return Counter(o.tensor for block in blocks for task in block.tasks for o in task.inputs)


def _kernels(tasks: Sequence[Task], readers: Counter[int], rules: Fusion) -> list[Kernel]:
    groups: list[list[Task]] = []
    merged: dict[tuple[object, ...], list[Task]] = {}  # products by what they read
    for task in tasks:
        if task.name in rules.apart:
            groups.append([task])
        elif task.kind == "matmul" and task.dims["b"] == 1 and rules.products:
            module = task.name.rpartition(".")[0]
            x, weight = task.inputs[:2]
            key = (module, x.tensor, task.dims["m"], task.dims["k"], task.dtype, weight.element_bytes,
                   task.attrs.get("sparsity"))  # fmt: skip
            if key in merged:
                merged[key].append(task)
                continue
            merged[key] = [task]
            groups.append(merged[key])
        elif rules.vectors and _chains(task) and groups and all(_chains(x, rules) for x in groups[-1]):
            groups[-1].append(task)
        else:
            groups.append([task])
    return [_kernel(group, readers) for group in groups]


def _chains(task: Task, rules: Fusion = Fusion()) -> bool:
    fits = task.kind in VECTOR_KINDS and task.kind not in ALONE and task.attrs.get("fn") not in ALONE
    return fits and task.name not in rules.apart and not task.attrs.get("eager")


def _kernel(group: list[Task], readers: Counter[int]) -> Kernel:
    kind = KERNELS.get(group[0].kind)
    if kind is None:
        kind = "collective" if group[0].kind in COLLECTIVES else "vector"
    if kind == "product":
        weights = tuple(o for task in group for o in task.inputs[1:])
        return Kernel(kind, tuple(group), (group[0].inputs[0], *weights), tuple(o for t in group for o in t.outputs))
    if kind in ("attention", "grouped", "collective", "handover"):
        return Kernel(kind, tuple(group), group[0].inputs, group[0].outputs)
    made = {o.tensor for task in group for o in task.outputs}
    inside = Counter(o.tensor for task in group for o in task.inputs if o.tensor in made)
    inputs: dict[int, Operand] = {}
    outputs: dict[int, Operand] = {}
    for task in group:
        for tensor, operand in _by_tensor(task).items():
            if tensor not in made and (tensor not in inputs or inputs[tensor].nbytes < operand.nbytes):
                inputs[tensor] = operand
        for operand in task.outputs:
            leaves = readers[operand.tensor] == 0 or readers[operand.tensor] > inside[operand.tensor]
            if leaves or operand.role != "activation":
                outputs[operand.tensor] = operand
    return Kernel(kind, tuple(group), _moved(inputs), _moved(outputs))


def _by_tensor(task: Task) -> dict[int, Operand]:
    """The inputs of a task, one per tensor: two parts of one tensor (gate and up) count together."""
    whole: dict[int, Operand] = {}
    for operand in task.inputs:
        held = whole.get(operand.tensor)
        whole[operand.tensor] = operand if held is None else replace(held, nbytes=held.nbytes + operand.nbytes)
    return whole


def _moved(operands: dict[int, Operand]) -> tuple[Operand, ...]:
    return tuple(operand for operand in operands.values() if operand.nbytes > 0)
