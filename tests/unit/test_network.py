"""Fabrics and collectives: closed forms on small cases, groups, choices, bad input."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from archsim.cli.main import cli
from archsim.errors import InputError
from archsim.hardware import LinkSpec, SystemSpec, list_systems, load_chip, load_system
from archsim.hardware.link import TransportSpec
from archsim.network import (
    Collective,
    Dim,
    Fabric,
    FabricSession,
    Group,
    candidates,
    occupied_cores,
    run_collective,
)
from archsim.network.request import Algorithm, Kind

pytestmark = pytest.mark.unit

RATE, LATENCY = 100e9, 1e-6


def make(topology: str, chips: int, *, dims: tuple[int, ...] = (), **link: Any) -> Fabric:
    """A fabric of plain links: 100 GB/s in all for each chip and direction, 1 us."""
    spec = LinkSpec(
        name=topology, bandwidth=RATE, latency=LATENCY, topology=topology, domain=chips, efficiency=1.0, **link
    )
    system = SystemSpec(
        name="test", title="", chip="custom-npu", chips=chips, chips_per_node=chips, dims=dims, scale_up=spec
    )
    return Fabric.of(system, load_chip("custom-npu"))


def time_us(
    fabric: Fabric, kind: Kind, nbytes: int, algorithm: Algorithm = "auto", group: Group | None = None
) -> float:
    return (
        run_collective(fabric, Collective(kind, nbytes, group or Group(fabric.chips), algorithm, chunks=1)).time_ps
        / 1e6
    )


def test_ring_in_a_switch_takes_its_closed_form() -> None:
    assert time_us(make("switch", 8), "all_reduce", 8_000_000, "ring") == pytest.approx(14 * (1 + 10), rel=1e-6)
    assert time_us(make("switch", 8), "all_gather", 8_000_000, "ring") == pytest.approx(7 * (1 + 10), rel=1e-6)


def test_halving_doubling_has_log2_steps() -> None:
    got = time_us(make("switch", 8), "all_reduce", 8_000_000, "halving_doubling")
    assert got == pytest.approx(2 * (3 * 1 + 70), rel=1e-6)
    got = time_us(make("switch", 6), "all_reduce", 6_000_000, "halving_doubling")  # 3, 1 and 1 of 6 blocks, and back
    assert got == pytest.approx(2 * (3 * 1 + 50), rel=1e-6)


def test_one_shot_and_two_shot_serialise_at_the_card() -> None:
    assert time_us(make("switch", 8), "all_reduce", 1_000_000, "one_shot") == pytest.approx(1 + 70, rel=1e-6)
    assert time_us(make("switch", 8), "all_reduce", 8_000_000, "two_shot") == pytest.approx(2 * (1 + 70), rel=1e-6)


def test_a_mesh_has_a_link_to_each_peer() -> None:
    assert time_us(make("full_mesh", 8), "all_to_all", 8_000_000) == pytest.approx(1 + 70, rel=1e-6)


def test_a_broadcast_over_a_mesh_is_scattered_and_gathered() -> None:
    assert time_us(make("full_mesh", 8), "broadcast", 8_000_000, "two_shot") == pytest.approx(2 * (1 + 70), rel=1e-6)
    chain, best = (time_us(make("full_mesh", 8), "broadcast", 8_000_000, name) for name in ("chain", "auto"))
    assert best < chain


def test_a_torus_uses_all_its_links_at_once() -> None:
    fabric = make("torus", 64, dims=(4, 4, 4))
    got = run_collective(fabric, Collective("all_reduce", 2**28, Group(64)))
    ideal_us = 2 * 63 / 64 * 2**28 / RATE * 1e6
    assert ideal_us <= got.time_ps / 1e6 <= 1.06 * ideal_us


def test_a_tree_halves_the_steps_of_small_messages() -> None:
    fabric = make("switch", 64)
    assert time_us(fabric, "all_reduce", 1024, "tree") < time_us(fabric, "all_reduce", 1024, "ring") / 5


def test_an_uplink_is_shared_as_its_oversubscription_says() -> None:
    plain, shared = make("fat_tree", 8), make("fat_tree", 8, oversubscription=2.0)
    assert time_us(shared, "all_to_all", 2**26) == pytest.approx(2 * time_us(plain, "all_to_all", 2**26), rel=0.01)


def test_planes_carry_different_messages() -> None:
    one, two = (
        run_collective(make("switch", 8, planes=n), Collective("all_reduce", 2**26, Group(8), "ring")) for n in (1, 2)
    )
    assert two.time_ps == pytest.approx(one.time_ps, rel=0.02)


def test_each_message_may_cost_its_port_time() -> None:
    slow = make("switch", 8, message_overhead=2e-6)
    assert time_us(slow, "all_to_all", 800) == pytest.approx(
        time_us(make("switch", 8), "all_to_all", 800) + 14, rel=0.01
    )


def test_a_core_sends_its_share_alone_and_others_join_in() -> None:
    """10 GB/s a core, 8 KiB each, behind a port of 100 GB/s: seven times 819 ns of one core or of eight."""
    spec = TransportSpec(launch=0.0, latency=0.0, efficiency=1.0, cores=8, core_bandwidth=10e9, core_share=8192)
    fabric = make("switch", 8, transports={"direct": spec})
    for kib, cores, share in ((4, 1, 4), (8, 1, 8), (64, 8, 8), (128, 8, 16)):
        got = time_us(fabric, "all_reduce", kib * 1024, "one_shot")
        assert got == pytest.approx(7 * share * 0.1024 + 0.001, abs=0.002), cores
    with pytest.raises(ValueError, match="go together"):
        TransportSpec(launch=0.0, latency=0.0, efficiency=1.0, core_bandwidth=10e9)


def test_rows_are_sent_one_by_one_beside_the_wire() -> None:
    """80 rows, ten to each of eight chips: 70 of 1 us each for the cores, of 80 MB 700 us for the wire."""
    spec = TransportSpec(launch=0.0, latency=0.0, efficiency=1.0, row_overhead=1e-6)
    fabric = make("switch", 8, transports={"expert": spec})

    def rows_us(nbytes: int, rows: int) -> float:
        request = Collective("dispatch", nbytes, Group(8), "direct", rows=rows, transport="expert")
        return run_collective(fabric, request).time_ps / 1e6

    assert rows_us(800, 80) == pytest.approx(70, abs=0.1)
    assert rows_us(8_000_000, 80) == pytest.approx(70, abs=0.1)
    assert rows_us(80_000_000, 80) == pytest.approx(700, abs=0.1)
    assert rows_us(800, 0) < 1
    with pytest.raises(InputError, match="dispatch of -1 rows"):
        Collective("dispatch", 8, Group(8), rows=-1)


def test_a_second_level_of_switches_delays_what_leaves_the_leaf() -> None:
    fabric = make("switch", 16, leaf=4, spine_latency=2e-6)
    assert time_us(fabric, "all_reduce", 1, "halving_doubling") == pytest.approx(2 * (4 * 1 + 2 * 2), abs=0.01)
    assert time_us(fabric, "all_reduce", 1, "halving_doubling", Group(4)) == pytest.approx(2 * 2 * 1, abs=0.01)
    # a block that goes round leaves a leaf every fourth time; the farthest partner is always elsewhere
    assert time_us(fabric, "all_reduce", 1, "ring") == pytest.approx(30 * (1 + 2 / 4), abs=0.01)
    assert time_us(fabric, "all_to_all", 1) == pytest.approx(1 + 2, abs=0.01)
    with pytest.raises(ValueError, match="a ring has no switches"):
        make("ring", 16, leaf=4)


def test_part_of_a_ring_is_a_line() -> None:
    fabric = make("ring", 8)
    whole, half = time_us(fabric, "all_gather", 2**22), time_us(fabric, "all_gather", 2**22, group=Group(4))
    run = run_collective(fabric, Collective("all_gather", 2**22, Group(4)))
    assert not run.folded
    assert half > whole / 2


@pytest.mark.parametrize(
    ("size", "stride", "parts"), [(8, 1, [8]), (32, 1, [8, 4]), (4, 8, [4]), (2, 4, [2]), (16, 2, [4, 4])]
)
def test_groups_lie_along_dimensions(size: int, stride: int, parts: list[int]) -> None:
    fabric = Fabric.of(load_system("h800-x32"), load_chip("h800"))
    assert [part.size for part in fabric.parts(Group(size, stride))] == parts


def test_the_slowest_chip_holds_back_a_ring() -> None:
    system = load_system("hgx-h100", {"faults": [{"chip": 3, "network": "scale_up", "rate": 0.5}]})
    slow = run_collective(Fabric.of(system, load_chip("h100")), Collective("all_reduce", 2**28, Group(8), "ring"))
    sound = run_collective(
        Fabric.of(load_system("hgx-h100"), load_chip("h100")), Collective("all_reduce", 2**28, Group(8), "ring")
    )
    assert 1.8 * sound.time_ps < slow.time_ps < 2.1 * sound.time_ps


def test_h800_differs_from_h100_by_its_nvlink_only() -> None:
    times = {}
    for name in ("h100", "h800"):
        fabric = Fabric.of(load_system(f"hgx-{name}"), load_chip(name))
        dispatch = Collective("dispatch", round(128 * 8 * 7168 * (1 + 4 / 128)), Group(8))
        times[name] = run_collective(fabric, dispatch).time_ps / 1e6
    assert times["h100"] == pytest.approx(39.8, rel=0.05)
    assert times["h800"] == pytest.approx(77, rel=0.05)


def test_small_and_large_messages_take_different_protocols() -> None:
    fabric = Fabric.of(load_system("hgx-h100"), load_chip("h100"))
    chosen = [
        run_collective(fabric, Collective("all_reduce", n, Group(8))).choice for n in (2**12, 2**18, 2**22, 2**28)
    ]
    assert [choice[1] for choice in chosen] == ["ll", "ll128", "simple", "in_switch"]


def test_node_limited_routing_sends_a_token_to_a_node_once() -> None:
    fabric = Fabric.of(load_system("h800-x32"), load_chip("h800"))
    free = run_collective(fabric, Collective("dispatch", 2**28, Group(32), "direct"))
    limited = run_collective(fabric, Collective("dispatch", 2**28, Group(32), "hierarchical", top_k=8, node_limit=2))
    assert limited.time_ps < free.time_ps


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (lambda: Collective("all_reduce", 0, Group(8)), "at least 1 byte"),
        (lambda: Collective("all_reduce", 1, Group(0)), "at least one chip"),
        (lambda: Collective("reduce", 1, Group(8)), "must be one of all_reduce"),  # type: ignore[arg-type]
        (lambda: Collective("all_to_all", 1, Group(8), imbalance=0.5), "below the mean"),
        (lambda: Collective("all_reduce", 1, Group(8), chunks=10**6), "at most 1024 chunks"),
    ],
)
def test_a_request_that_means_nothing_is_refused(request_: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        request_()


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (12, 1), (64, 1), (8, 3), (16, 16)])
def test_a_group_that_does_not_divide_the_system_is_refused(size: int, stride: int) -> None:
    fabric = Fabric.of(load_system("h800-x32"), load_chip("h800"))
    with pytest.raises(InputError, match=r"h800-x32"):
        fabric.parts(Group(size, stride))


def test_a_fabric_with_a_link_down_is_disconnected() -> None:
    system = load_system("hgx-h100", {"faults": [{"chip": 3, "network": "scale_up", "rate": 0}]})
    with pytest.raises(InputError, match="chip 3 has no scale_up link left"):
        Fabric.of(system, load_chip("h100"))


def test_algorithms_that_do_not_fit_are_refused() -> None:
    fabric = make("ring", 6)
    with pytest.raises(InputError, match="no switch"):
        run_collective(fabric, Collective("all_reduce", 1, Group(6), "in_switch"))


def test_a_group_of_one_has_nothing_to_do() -> None:
    assert run_collective(make("switch", 8), Collective("all_reduce", 2**20, Group(1))).time_ps == 0
    assert candidates(make("switch", 8), Collective("all_reduce", 1, Group(1)))


def test_dimensions_may_be_put_together_by_hand() -> None:
    link = LinkSpec(name="x", bandwidth=RATE, latency=0.0, topology="switch", domain=4, efficiency=1.0)
    fabric = Fabric(
        "two switches", 16, (Dim("scale_up", "switch", 4, 1, link, RATE), Dim("scale_up", "switch", 4, 4, link, RATE))
    )
    assert run_collective(fabric, Collective("all_reduce", 2**20, Group(16))).time_ps > 0


def test_bench_prints_the_table_of_nccl_tests() -> None:
    result = CliRunner().invoke(cli, ["network", "bench", "hgx-h100", "--bytes", "1MiB:4MiB"])
    assert result.exit_code == 0
    assert "busbw (GB/s)" in result.output
    assert "1048576" in result.output
    assert "ring ll128" in result.output


def test_bench_as_json_with_a_figure(tmp_path: Any) -> None:
    args = ["network", "bench", "tpu-v4-x64", "--bytes", "1MiB", "--json", "--plot", str(tmp_path / "x.svg")]
    result = CliRunner().invoke(cli, args)
    row = json.loads(result.stdout)["rows"][0]
    assert row["busbw_GBps"] == pytest.approx(row["algbw_GBps"] * 2 * 63 / 64)
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["hgx-h100", "--chips", "3"], "does not divide the 8 chips"),
        (["hgx-h100", "--bytes", "4MiB:1KiB"], "from the smaller to the larger"),
        (["hgx-h100", "--bytes", "many"], "not a quantity"),
        (["hgx-h100", "--set", "scale_up.bandwidth=0 GB/s"], "scale_up.bandwidth: must be more than 0"),
        (["hgx-h100", "--plot", "x.doc", "--bytes", "1KiB"], "must end in .png"),
        (["hgx-h100", "--set", "dims=[2, 2]"], "a node has 8 chips"),
        (["hgx-h100", "--set", "dims=[-4, -2]"], "dims.0: must be at least 1, found -4"),
        (["h100"], "'h100' is a chip: h100-x8 is a system of eight"),
    ],
)
def test_bench_refuses_in_one_sentence(args: list[str], text: str) -> None:
    result = CliRunner().invoke(cli, ["network", "bench", *args])
    assert result.exit_code == 2
    assert text in result.output


def test_collectives_at_once_share_the_links_and_other_dimensions_are_free() -> None:
    fabric = Fabric.of(load_system("h800-x32"), load_chip("h800"))
    inside, across = (
        Collective("all_gather", 2**28, Group(8), "ring"),
        Collective("all_gather", 2**26, Group(4, 8), "ring"),
    )

    def ends(*requests: Collective) -> list[int]:
        session = FabricSession(fabric)
        processes = [session.start(request) for request in requests]
        session.env.run(session.env.all_of(processes))
        return [process.value.elapsed_ps for process in processes]

    assert ends(inside, across) == [*ends(inside), *ends(across)]
    assert max(ends(inside, inside)) > 1.7 * ends(inside)[0]


def test_a_session_refuses_chips_that_differ_when_one_stands_for_all() -> None:
    session = FabricSession(make("switch", 8))
    process = session.start(Collective("broadcast", 2**20, Group(8)))
    with pytest.raises(InputError, match="folded=False"):
        session.env.run(process)
    everyone = FabricSession(make("switch", 8), folded=False, engine="simpy")
    assert everyone.env.run(everyone.start(Collective("broadcast", 2**20, Group(8)))).elapsed_ps > 0


def test_a_named_transport_is_taken_and_an_unknown_one_refused() -> None:
    fabric = Fabric.of(load_system("hgx-h100"), load_chip("h100"))
    pull, push = (
        run_collective(fabric, Collective("all_reduce", 65536, Group(8), "one_shot", transport=name))
        for name in ("pull", "direct")
    )
    assert (pull.choice[1], push.choice[1]) == ("pull", "direct")
    assert pull.time_ps > push.time_ps + 1_000_000  # a barrier more
    with pytest.raises(InputError, match=r"transport 'expert': NVLink3 has ll, ll128"):
        run_collective(
            Fabric.of(load_system("hgx-a100"), load_chip("a100")),
            Collective("all_reduce", 64, Group(8), transport="expert"),
        )
    with pytest.raises(InputError, match=r"transport 'pul': must be one of .*did you mean 'pull'"):
        Collective("all_reduce", 64, Group(8), transport="pul")  # type: ignore[arg-type]


def test_multicast_in_the_switch_lifts_the_send_side_of_an_all_gather() -> None:
    link = {"transports": {"in_switch": TransportSpec(launch=0, latency=0, efficiency=1.0)}}
    fabric = make("switch", 8, **link)
    got = time_us(fabric, "all_gather", 80_000_000, "in_switch")
    assert 800 <= got <= 830  # each chip receives all of it, its own block as well, but sends an eighth
    assert time_us(fabric, "reduce_scatter", 80_000_000, "in_switch") == pytest.approx(got, rel=0.05)


def test_cores_of_a_collective_are_those_of_its_transport() -> None:
    h800 = Fabric.of(load_system("h800-x32"), load_chip("h800"))
    assert occupied_cores(h800, Collective("dispatch", 2**22, Group(8))) == 20
    nvls = occupied_cores(h800, Collective("all_reduce", 2**30, Group(8), "in_switch"))
    assert 0 < nvls < 20
    tpu = Fabric.of(load_system("tpu-v4-x64"), load_chip("tpu-v4"))
    assert occupied_cores(tpu, Collective("all_reduce", 2**22, Group(64))) == 0


def test_every_system_serves_small_and_large_collectives() -> None:
    """Small ones take microseconds, large ones a plain share of the line rate, whatever the library."""
    for name in list_systems():
        system = load_system(name)
        chip = load_chip(system.chip)
        fabric, group = Fabric.of(system, chip), Group(system.chips_per_node)
        if group.size == 1:
            continue
        small, large = (run_collective(fabric, Collective("all_reduce", n, group)) for n in (1024, 2**30))
        link = system.links(chip)[0]
        assert link is not None
        assert small.time_ps < 150e6, name
        assert 0.3 < large.busbw / link.bandwidth < 1.1, name
