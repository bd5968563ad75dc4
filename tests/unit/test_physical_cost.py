"""Yield, bill of materials, ownership, heat, export figures, floorplans: by hand, and what must hold for any chip."""

from __future__ import annotations

from pathlib import Path

import pytest

from archsim.errors import InputError
from archsim.hardware import list_chips, load_chip, load_parts, load_rules
from archsim.physical import (
    YIELD_MODELS,
    bill,
    chip_area,
    export_figures,
    floorplan,
    heat_warning,
    hot_mm2,
    hour_cost,
    junction_celsius,
    over_reticle,
    silicon,
)
from archsim.physical.drawing import write_floorplan
from archsim.physical.money import without_spares

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", YIELD_MODELS)
def test_a_yield_model_falls_from_one(name: str) -> None:
    model = YIELD_MODELS[name]
    shares = [model(defects / 4, 3.0) for defects in range(12)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] > 0


def test_the_models_order_as_their_spread_of_defects() -> None:
    poisson, murphy, seeds, negative = (model(0.8, 3.0) for model in YIELD_MODELS.values())
    assert poisson < murphy < negative < seeds


def test_spares_raise_the_yield_and_a_poor_node_lowers_it() -> None:
    with_spares = bill(silicon(load_chip("h100")))
    without = bill(silicon(load_chip("h100", {"physical.layout.cores": "132"})))
    poor = bill(silicon(load_chip("a100", {"physical.technology": "n7-duv"})))
    assert with_spares.dies[0].good > without.dies[0].good
    assert poor.dies[0].good < bill(silicon(load_chip("a100"))).dies[0].good
    assert poor.silicon > bill(silicon(load_chip("a100"))).silicon


def test_the_items_of_an_h100_by_hand() -> None:
    found = bill(silicon(load_chip("h100")), volume=10**6)
    assert found.memory == pytest.approx(80 * 17)
    assert found.package == pytest.approx(0.4 * 1.15 * (814 + 5 * 121))
    assert found.yield_loss == pytest.approx((0.99**-6 - 1) * (found.silicon + found.memory + found.package))
    assert found.engineering == pytest.approx((18.1e6 + 542e6) / 1e6)
    assert found.parts == pytest.approx(sum(found.items().values()) - found.engineering)


def test_compute_dies_on_others_take_no_interposer() -> None:
    found = bill(silicon(load_chip("mi300x")))
    assert [die.count for die in found.dies] == [8, 4]
    assert found.package == pytest.approx(0.4 * 1.15 * (4 * 370 + 8 * 121))
    bonds = (0.998**-2 - 1) * found.silicon  # two on each I/O die; then those and eight stacks on the interposer
    attached = (0.998**-12 - 1) * (found.silicon + bonds + found.package + found.memory)
    assert found.yield_loss == pytest.approx(bonds + attached)


def test_a_large_die_without_spares_on_a_poor_node_is_named() -> None:
    poor = {"physical.technology": "n7-duv", "physical.layout.cores": "108"}
    made = silicon(load_chip("a100", poor))
    assert without_spares(made, bill(made))[0].startswith("a100: states no spare cores (physical.layout.cores)")
    for changes in ({}, {"physical.layout.cores": "108"}, {"physical.technology": "n7-duv"}):
        made = silicon(load_chip("a100", changes))
        assert without_spares(made, bill(made)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [({"yield_model": "magic"}, "--yield magic: must be one of poisson"), ({"volume": 0}, "--volume 0: must be at")],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bill(silicon(load_chip("h100")), **options)  # type: ignore[arg-type]


def test_a_die_beyond_the_reticle_or_without_a_good_one_is_named() -> None:
    large = silicon(load_chip("h100", {"physical.die_area": "900 mm2"}))
    assert over_reticle(large) == ["h100: its die of 900 mm2 (stated) exceeds the reticle of 858 mm2"]
    assert over_reticle(silicon(load_chip("h100"))) == []
    with pytest.raises(InputError, match=r"h100: a die of 80000 mm2 gives no good die on a wafer of 300 mm"):
        bill(silicon(load_chip("h100", {"physical.die_area": "80000 mm2"})))


def test_an_unknown_package_is_named() -> None:
    with pytest.raises(InputError, match=r"physical\.package 'glue' is none of organic"):
        bill(silicon(load_chip("h100", {"physical.package": "glue"})))


def test_prices_come_from_the_list_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: default\nmemory: {hbm3: {usd_per_gb: 34}}\n")
    assert bill(silicon(load_chip("h100"), load_parts(path))).memory == pytest.approx(2 * 80 * 17)
    path.write_text("base: default\nmemory: {hbm3: {usd_per_gb: -1}}\n")
    with pytest.raises(InputError, match=r"mine\.yaml:2.*usd_per_gb: must be more than 0, found -1"):
        load_parts(path)


def test_a_given_price_replaces_the_margin() -> None:
    terms = load_parts().ownership
    assert hour_cost(3000, 700, terms).chip_usd == pytest.approx(3000 / (1 - terms.gross_margin))
    assert hour_cost(3000, 700, terms, price_usd=0).capital == 0
    with pytest.raises(InputError, match="--price -1: must be USD, 0 or more"):
        hour_cost(3000, 700, terms, price_usd=-1)


def test_heat_settles_and_is_refused_beyond_the_cooler() -> None:
    coolers = load_parts().cooling
    air = coolers["air"]
    temperatures = [junction_celsius(600, 800, air, seconds=s) for s in (0, 1, 10, 100, 1000)]
    assert temperatures[0] == air.coolant_celsius
    assert temperatures == sorted(temperatures)
    assert temperatures[-1] == pytest.approx(junction_celsius(600, 800, air))
    assert heat_warning(700, 814, coolers) is None
    chip = load_chip("mi355x")
    assert hot_mm2(silicon(chip), chip_area(silicon(chip))) == 8 * 110  # as stated
    for cooler in coolers.values():  # a limit is what takes the junctions to theirs
        assert junction_celsius(cooler.limit_w_per_mm2, 1, cooler) == pytest.approx(cooler.junction_celsius, abs=0.5)
    assert "liquid cooling is needed" in str(heat_warning(1400, 1000, coolers))
    assert "more than liquid cooling removes" in str(heat_warning(3000, 1000, coolers))


@pytest.mark.parametrize(
    ("name", "met"),
    [
        ("a100", {"3A090 of October 2022", "3A090.a"}),
        ("a800", {"3A090.a"}),
        ("h100", {"3A090 of October 2022", "3A090.a"}),
        ("h800", {"3A090.a"}),
        ("h20", set()),
        ("b200", {"3A090 of October 2022", "3A090.a", "beyond case-by-case review of January 2026"}),
    ],
)
def test_the_published_rules_tell_the_variants_apart(name: str, met: set[str]) -> None:
    found = export_figures(load_chip(name), load_rules())
    assert {rule.name for rule in found.met if rule.confidence != "low"} == met


def test_a_rule_without_a_real_date_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    rule = "{name: x, since: '2023-02-31', effect: y, citation: z, tests: [{tpp: 1}]}"
    path.write_text(f"base: us-export\nrules: [{rule}]\n")
    with pytest.raises(InputError, match="'2023-02-31' is no date"):
        load_rules(path)


@pytest.mark.parametrize("name", list_chips())
def test_a_floorplan_covers_its_die_without_overlap(name: str) -> None:
    for die in chip_area(silicon(load_chip(name))).dies:
        tiles = floorplan(die)
        assert sum(t.mm2 for t in tiles) == pytest.approx(die.mm2)
        for block in die.blocks:
            assert sum(t.mm2 for t in tiles if t.name == block.name) == pytest.approx(block.mm2)
        edge = sorted(tiles, key=lambda t: (t.x, t.y))[:80]
        for i, a in enumerate(edge):
            for b in edge[i + 1 :]:
                wide = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
                tall = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
                assert min(wide, tall) < 1e-6, (a, b)


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_a_floorplan_is_written_with_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    made = silicon(load_chip("mi300x"))
    first, second = (tmp_path / f"{name}{suffix}" for name in ("a", "b"))
    write_floorplan(made, first)
    write_floorplan(made, second)
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(InputError, match=r"must end in \.png, \.svg or \.pdf"):
        write_floorplan(made, tmp_path / "plan.txt")
