"""The networks of a chip description inside a step: links, routes, dies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import archsim
from archsim.engine import CompiledInterpreter
from archsim.errors import InputError
from archsim.hardware import load_chip
from archsim.mapping import MatmulShape, Target, make_target, score_tilings
from archsim.mapping.lowering.product import ProductOperands, lower_product
from archsim.mapping.pin import pinned

pytestmark = pytest.mark.unit

LINKS = {"noc.link_bytes_per_cycle": 64, "noc.hop_latency": "2 ns", "noc.memory_ports": 4}
KINDS: dict[str, tuple[dict[str, Any], int]] = {
    "mesh": ({"noc.link_bytes_per_cycle": 64}, 48),
    "torus": ({**LINKS, "noc.kind": "torus", "noc.rows": 4, "noc.cols": 4}, 64),
    "concentrated mesh": ({**LINKS, "noc.kind": "mesh", "noc.rows": 2, "noc.cols": 2, "noc.concentration": 4}, 8),
    "ring": ({**LINKS, "noc.kind": "ring"}, 32),
    "clusters": ({**LINKS, "noc.kind": "clusters", "noc.clusters": 4}, 8),
    "graph": (
        {**LINKS, "noc.kind": "graph", "noc.routers": 4, "noc.links": [[0, 1], [1, 2], [2, 3]],
         "noc.core_routers": [i // 4 for i in range(16)], "noc.memory_routers": [0, 0, 3, 3]}, 6,
    ),
}  # fmt: skip


def target(overrides: dict[str, Any]) -> Target:
    return make_target(load_chip("custom-npu", overrides))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_links_on_the_way_of_every_read_and_write(kind: str) -> None:
    overrides, links = KINDS[kind]
    made = target(overrides)
    assert sum(resource.group == "noc" for resource in made.machine) == links
    crossed = np.zeros(len(made.machine), bool)
    for routes in (made.read_routes, made.write_routes):
        for route in routes.ravel():
            crossed[made.routes.resources[made.routes.start[route] : made.routes.start[route + 1]]] = True
    assert crossed[made.groups["noc"]].mean() > 0.5  # ports at the ends of a line leave one direction idle


def load_of(made: Target) -> float:
    """Sum of the busy time of the network's links for one product by one tiling."""
    shape = MatmulShape((2048,), 1024, 1024, "bf16", 2.0, 2.0, 2.0)
    best = score_tilings(target({}), shape, keep=1)[0]
    tiling = pinned(made, shape, {"tm": best.tm, "tn": best.tn, "tk": best.tk, "group_m": best.group_m}, "gemm")
    lowered = lower_product(made, "gemm", shape, tiling, ProductOperands(0, 1, 2, b_each=False), exact=True)
    run = CompiledInterpreter(made.machine).run(lowered.program, bases=[i << 36 for i in range(len(lowered.tensors))])
    return float(run.busy_ps[made.groups["noc"]].sum())


def test_what_neighbours_share_crosses_the_mesh_once() -> None:
    narrow = {"noc.link_bytes_per_cycle": 64}
    alone, pairs, fours = (load_of(target(narrow | {"noc.multicast": cores})) for cores in (1, 2, 4))
    assert fours < pairs < 0.9 * alone


def test_dies_behind_a_crossbar_share_the_traffic_by_address() -> None:
    free = archsim.simulate("h100", "llama-3.1-8b", phase="decode", batch=8, ctx=256)
    dies = {"dies.count": 2, "dies.bandwidth": "10 TB/s", "dies.latency": "0 ns"}
    wide = archsim.simulate("h100", "llama-3.1-8b", phase="decode", batch=8, ctx=256, set=dies)
    assert wide.time_s == pytest.approx(free.time_s, rel=0.01)
    narrow = archsim.simulate(
        "h100", "llama-3.1-8b", phase="decode", batch=8, ctx=256, set=dies | {"dies.bandwidth": "400 GB/s"}
    )
    # 16 GB of weights, a half of them from the other die, a half of those each way: 10 ms at the least
    assert narrow.time_s > 16e9 / 4 / 400e9
    assert narrow.units["die"] > 0.4


def test_a_transfer_takes_the_shortest_way_over_a_grid_of_dies() -> None:
    dies = {"dies.count": 4, "dies.columns": 2, "dies.bandwidth": "1 TB/s", "dies.latency": "10 ns"}
    made = make_target(load_chip("h100", dies))
    start, resources = made.routes.start, made.routes.resources

    def between_dies(route: int) -> int:
        return sum(made.machine[r].group == "die" for r in resources[start[route] : start[route + 1]])

    hops = [[between_dies(route) for route in made.read_routes[core]] for core in (0, 131)]
    assert hops == [[0, 1, 1, 2], [2, 1, 1, 0]]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({**LINKS, "noc.kind": "ring", "noc.memory_routers": [0, 1, 2, 16]}, "the highest that is named is 16"),
        ({**LINKS, "noc.kind": "clusters", "noc.clusters": 3}, "16 cores in 3 clusters"),
        ({**KINDS["graph"][0], "noc.core_routers": [0, 1]}, "2 routers listed for 16 cores"),
        ({**KINDS["graph"][0], "noc.links": [[0, 1], [2, 3]]}, "is not connected"),
        ({"dies.count": 3, "dies.bandwidth": "1 TB/s", "dies.latency": "1 ns"}, "4 columns on 3 dies"),
        (
            {"dies.count": 1, "dies.bandwidth": "1 TB/s", "dies.latency": "1 ns"},
            "greater than or equal to 2|at least 2",
        ),
        ({"dies.count": 2, "dies.bandwidth": "0 TB/s", "dies.latency": "1 ns"}, "bandwidth"),
        ({"noc.link_bytes_per_cycle": 0}, "link_bytes_per_cycle"),
    ],
)
def test_a_network_that_cannot_be_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        target(overrides)


def test_a_run_reports_its_links_and_warns_where_transfers_wait_for_each_other(tmp_path: Any) -> None:
    def step(width: int) -> archsim.Result:
        return archsim.simulate(
            "custom-npu", "llama-3.1-8b", phase="decode", batch=32, ctx=1024, set={"noc.link_bytes_per_cycle": width}
        )

    narrow, wide = step(32), step(1024)
    assert len(narrow.links) == 48
    assert narrow.busiest_link is not None
    name, busy = narrow.busiest_link
    assert name.startswith("noc ")
    assert narrow.summary()["busiest_link"]["bound_s"] == pytest.approx(busy * narrow.time_s)
    assert busy > narrow.units["noc"]  # that of all links in the mean
    path = tmp_path / "narrow.h5"
    narrow.to_hdf5(path)
    assert archsim.load_result(path).links == narrow.links
    warned = [any("busiest link needs" in note for note in each.meta["notes"]) for each in (narrow, wide)]
    assert warned == [True, False]
    assert archsim.simulate("h100", "llama-3.1-8b", phase="decode").busiest_link is None


def test_crossing_dies_takes_the_energy_of_their_interface() -> None:
    """A bit more for a bit: of half of what is read, and of what is written, between two dies."""

    def step(interface: str, bandwidth: str = "5 TB/s") -> archsim.Result:
        settings = {"dies.interface": interface, "dies.bandwidth": bandwidth}
        return archsim.simulate("b200", "llama-3.1-8b", phase="decode", batch=8, ctx=256, set=settings)

    standard, advanced = step("ucie_standard"), step("ucie_advanced")
    more = standard.energy_by_unit["noc"] - advanced.energy_by_unit["noc"]
    crossed = more / (0.25e-12 * 8)
    assert crossed == pytest.approx(8e9, rel=0.1)  # of the 16 GB of weights
    assert not any("of an edge" in note or "an edge of a die" in note for note in advanced.meta["notes"])
    assert any("takes 44.6 mm of ucie_standard" in note for note in standard.meta["notes"])
    with pytest.raises(InputError, match=r"the parts know ucie_standard, ucie_advanced \(did you mean 'ucie_standard'"):
        step("ucie_standrd")
