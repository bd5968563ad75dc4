"""What replicas exchange: the parameters of each block on one chip, and the time to reduce and to gather them."""

from __future__ import annotations

from dataclasses import dataclass

from archsim.mapping.task import TaskBlock
from archsim.network import Collective, Fabric, Group, run_collective
from archsim.network.request import Kind
from archsim.trace import Graph
from archsim.training.plan import TrainPlan

__all__ = ["Exchanges", "Parameters", "parameters"]


@dataclass(frozen=True)
class Parameters:
    """Weights of one repeat of a block on one chip: in number and in bytes; those of experts apart.

    Experts are replicated over fewer chips than the rest.
    """

    dense: float
    experts: float
    nbytes: float

    @property
    def count(self) -> float:
        return self.dense + self.experts


def parameters(graph: Graph, block: TaskBlock, plan: TrainPlan) -> Parameters:
    """The weights that the tasks of a forward pass read."""
    dense: dict[int, float] = {}
    experts: dict[int, float] = {}
    nbytes: dict[int, float] = {}
    for task in block.tasks:
        for operand in task.inputs:
            if operand.role != "weight":
                continue
            share = float(block.shares.get(operand.tensor, 1))
            kind = experts if task.kind == "grouped_matmul" and plan.ep > 1 else dense
            kind[operand.tensor] = graph.tensors[operand.tensor].numel / share
            nbytes[operand.tensor] = graph.tensors[operand.tensor].nbytes / share
    return Parameters(sum(dense.values()), sum(experts.values()), sum(nbytes.values()))


class Exchanges:
    """Times of collectives over the replicas of a plan; equal ones are simulated once."""

    def __init__(self, plan: TrainPlan, network: Fabric | None) -> None:
        self.plan, self.network = plan, network
        self._known: dict[Collective, int] = {}

    def reduce_ps(self, weights: Parameters, gradient_bytes: float) -> int:
        """Gradients to every replica (ZeRO-0), or to the one that updates them."""
        kind: Kind = "reduce_scatter" if self.plan.zero else "all_reduce"
        return self._both(kind, weights, gradient_bytes)

    def gather_ps(self, weights: Parameters) -> int:
        """Weights from the replicas that have updated their share, or that keep it."""
        if not self.plan.zero or not weights.count:
            return 0
        return self._both("all_gather", weights, weights.nbytes / weights.count)

    def send_ps(self, nbytes: float) -> int:
        """Activations to the next stage."""
        stride = self.plan.tp * self.plan.cp * self.plan.dp
        return self._run("send_recv", nbytes, Group(self.plan.pp, stride)) if self.plan.pp > 1 else 0

    def _both(self, kind: Kind, weights: Parameters, width: float) -> int:
        plan = self.plan
        dense = Group(plan.dp * plan.cp, plan.tp)
        experts = Group(plan.tp * plan.cp * plan.dp // plan.ep, plan.ep)
        return self._run(kind, weights.dense * width, dense) + self._run(kind, weights.experts * width, experts)

    def _run(self, kind: Kind, nbytes: float, group: Group) -> int:
        if self.network is None or group.size == 1 or nbytes < 1:
            return 0
        request = Collective(kind, int(nbytes), group)
        if request not in self._known:
            self._known[request] = run_collective(self.network, request).time_ps
        return self._known[request]
