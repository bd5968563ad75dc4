"""Which described system each measured one is, and what its rows hold besides the fabric."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from archsim.errors import InputError
from archsim.hardware import SystemSpec, load_chip, load_system
from archsim.network import Fabric

__all__ = ["Machine", "fabric", "machine_of"]

NO_DESCRIPTION = "archsim describes no such system ({})"


@dataclass(frozen=True)
class Machine:
    """A system preset by the name that a reference file gives it; `refused` says why its rows cannot be compared.

    rack: one fabric joins the chips of many nodes, whatever the row says of nodes.
    """

    pattern: str
    system: str = ""
    label: str = ""
    refused: str = ""
    rack: bool = False


VIDUR = "Vidur's times hold host gaps: neighbouring sizes differ by up to four times on one machine"
PCIE = "the PCIe tree of that host is unknown: four and eight of its cards reach 1/4 and 1/16 of the bandwidth of two"
MACHINES = (
    Machine(r"^(H100-SXM 80GB HGX|H100 80GB HBM3 HGX|NVIDIA H100 80GB HBM3)$", "hgx-h100", "H100"),
    Machine(r"^(A100-SXM4 HGX|NVIDIA A100-SXM4-80GB)$", "hgx-a100", "A100"),
    Machine(r"^A100-SXM4-80GB$", "a100-x16", "A100 (public logs)"),
    Machine(r"^(B200-SXM HGX|NVIDIA B200)$", "hgx-b200", "B200"),
    Machine(r"^B200 \(GCP", "a4-x16", "B200 (Google a4)"),
    Machine(r"^AWS p5", "p5-x16", "H100 (AWS p5)"),
    Machine(r"^H800", "h800-x32", "H800"),
    Machine(r"^4xA100-80GB", "a100-mesh-x4", "4 A100 in a mesh"),
    Machine(r"\bGB200\b", "gb200-nvl72", "GB200", rack=True),
    Machine(r"\bH200\b", "hgx-h200", "H200"),
    Machine(r"\bH20\b", "hgx-h20", "H20"),
    Machine(r"\bA800\b", "hgx-a800", "A800"),
    Machine(r"\bMI300X\b", "mi300x-x8", "MI300X"),
    Machine(r"\bMI210\b", "mi210-x4", "MI210"),
    Machine(r"\bGaudi ?3\b", "gaudi3-x8", "Gaudi 3"),
    Machine(r"CloudMatrix384|\b910C\b", "cloudmatrix384", "Ascend 910C", rack=True),
    Machine(r"\b910B", "atlas-910b-x8", "Ascend 910B"),
    Machine(r"\bS5000\b", "mtt-s5000-x8", "MTT S5000"),
    Machine(r"\bS4000\b", "mtt-s4000-x8", "MTT S4000"),
    Machine(r"\bBW1000\b", "hygon-bw1000-x8", "BW1000"),
    Machine(r"\bK100\b", "hygon-k100-ai-x8", "K100 AI"),
    Machine(r"^(a100|h100|a40)_", refused=VIDUR),
    Machine(r"\bL40S\b", refused=PCIE),
)


def machine_of(name: str) -> Machine:
    """The machine of a row."""
    found = next((machine for machine in MACHINES if re.search(machine.pattern, name)), None)
    return found or Machine("", refused=NO_DESCRIPTION.format(name[:60]))


@lru_cache(maxsize=64)
def fabric(system: str, chips: int, per_node: int) -> Fabric:
    """The fabric of a preset with other numbers of chips."""
    spec = load_system(system)
    sizes = {"chips": chips, "chips_per_node": per_node, "dims": ()}
    try:
        return Fabric.of(SystemSpec.model_validate(spec.model_dump() | sizes), load_chip(spec.chip))
    except ValueError as error:
        raise InputError(f"{chips} chips of '{system}', {per_node} in a node: {error}") from None
