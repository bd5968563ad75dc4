"""Axes, expressions, samplers, constraints and objectives of a sweep."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archsim.errors import InputError
from archsim.explore import SAMPLERS, Sweep, front, list_sweeps, load_sweep
from archsim.explore.axis import Axis, parse_axis
from archsim.explore.expression import Expression
from archsim.explore.pareto import dominated
from archsim.explore.rules import parse_constraint, parse_objective
from archsim.explore.sensitivity import first_order, sobol, tornado
from archsim.explore.space import Space, sample
from archsim.explore.store import Record

pytestmark = pytest.mark.unit

BASE = {
    "chip": "custom-npu",
    "axes": {"core.matrix.rows": [64, 128], "core.matrix.cols": "=core.matrix.rows"},
    "workloads": [{"workload": "llama-3.1-8b", "phase": "decode", "batch": 8, "ctx": 512}],
    "objectives": ["maximize tokens_per_s"],
}


@pytest.mark.parametrize(
    ("given_", "values"),
    [
        ([1, 2, 4], [1, 2, 4]),
        ({"from": 8, "to": 32, "step": 8}, [8, 16, 24, 32]),
        ({"from": 1, "to": 8, "factor": 2}, [1, 2, 4, 8]),
        ({"from": 1, "to": 100, "count": 3, "scale": "log"}, [1, 10, 100]),
        ({"from": "1 TB/s", "to": "2 TB/s", "count": 3}, ["1 TB/s", "1.5 TB/s", "2 TB/s"]),
        ({"from": 1, "to": 4, "count": 9}, [1, 2, 3, 4]),  # rounding makes neighbours equal
        ("fp8", ["fp8"]),
    ],
)
def test_an_axis_is_a_list_or_a_range(given_: object, values: list[object]) -> None:
    axis = parse_axis("x", given_, "s.yaml:1:1")
    assert isinstance(axis, Axis)
    assert [value for (value,) in axis.values] == values


@pytest.mark.parametrize(
    ("given_", "complaint"),
    [
        ([], "s.yaml:1:1: axes.x: the list of values is empty"),
        ([1, 1], "the value 1 is given twice"),
        ([None], "None is no number or text"),
        ({"from": 1}, "a range needs 'from' and 'to'"),
        ({"from": 1, "to": 2}, "exactly one of 'step', 'factor' and 'count'"),
        ({"from": 1, "to": 2, "stp": 1}, "unknown key 'stp' (did you mean 'step'?)"),
        ({"from": "1 TB/s", "to": "2 GHz", "count": 2}, "must have the same unit, found 'TB/s' and 'GHz'"),
        ({"from": 4, "to": 2, "count": 2}, "'from' (4) is more than 'to' (2)"),
        ({"from": 0, "to": 8, "count": 2, "scale": "log"}, "must start above 0"),
        ({"from": 1, "to": 10**9, "step": 1}, "1,000,000,000 values are more than the 100,000"),
        ({"from": 1, "to": 9, "step": "1 GHz"}, "must be a positive number, found 1 GHz"),
        ("=1 +", "is not arithmetic between axes"),
        ("=__import__('os').system('true')", "is not arithmetic between axes"),
        ("=exec(1)", "unknown function 'exec'"),
    ],
)
def test_a_bad_axis_is_one_sentence(given_: object, complaint: str) -> None:
    with pytest.raises(InputError) as error:
        parse_axis("x", given_, "s.yaml:1:1")
    assert complaint in str(error.value)


def test_expressions_tie_axes_together() -> None:
    assert Expression.parse("=max(a.b, 2) ** 2 // 3").evaluate({"a.b": 4}) == 5
    assert Expression.parse("=a * 0.8 TB/s").evaluate({"a": 6}) == "4.8 TB/s"
    with pytest.raises(InputError, match="no value here"):
        Expression.parse("=9 ** 9 ** 9").evaluate({})
    with pytest.raises(InputError, match="depends on itself"):
        Space((), (("a", Expression.parse("=b")), ("b", Expression.parse("=a"))))


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(max_examples=30)
def test_points_are_numbered_without_gaps(lengths: list[int]) -> None:
    axes = tuple(Axis((f"a{i}",), tuple((v,) for v in range(length))) for i, length in enumerate(lengths))
    space = Space(axes)
    points = [space.point(number) for number in range(space.size)]
    assert space.size == math.prod(lengths)
    assert len({tuple(point.values()) for point in points}) == space.size
    assert all(space.number([int(v) for v in point.values()]) == n for n, point in enumerate(points))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_repeats_itself_and_no_point(sampler: str) -> None:
    space = Space(tuple(Axis((f"a{i}",), tuple((v,) for v in range(50))) for i in range(3)))
    base = 8 if sampler == "saltelli" else 64  # which draws five times as many here
    drawn = [list(sample(space, sampler, base, seed)) for seed in (0, 0, 1)]  # type: ignore[arg-type]
    assert drawn[0] == drawn[1]
    assert (drawn[0] != drawn[2]) == (sampler != "grid")
    assert len(set(drawn[0])) == len(drawn[0]) <= 64
    assert all(0 <= number < space.size for number in drawn[0])


def test_a_latin_hypercube_uses_each_slice_of_each_axis_once() -> None:
    space = Space(tuple(Axis((f"a{i}",), tuple((v,) for v in range(20))) for i in range(2)))
    points = [space.point(number) for number in sample(space, "latin_hypercube", 20, 3)]
    assert all(sorted(point[path] for point in points) == list(range(20)) for path in ("a0", "a1"))


def test_a_space_may_be_larger_than_any_machine_word() -> None:
    space = Space(tuple(Axis((f"a{i}",), tuple((v,) for v in range(1000))) for i in range(10)))
    assert len(set(sample(space, "random", 10, 0))) == 10


@given(values=st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=40))
def test_the_front_is_what_no_point_dominates(values: list[tuple[int, int, int]]) -> None:
    rows = np.array(values, dtype=float)
    beaten = [any((other >= row).all() and (other > row).any() for other in rows) for row in rows]
    assert front(rows).tolist() == [not b for b in beaten]
    assert dominated(rows, rows).tolist() == beaten


def test_rules_read_units_and_know_their_metrics() -> None:
    limit = parse_constraint("decode.tpot <= 50 ms", ["decode"], "s")
    assert limit.broken_by({"decode.tpot": 0.06}, ["decode"])
    assert not limit.broken_by({"decode.tpot": 0.05}, ["decode"])
    assert parse_objective("minimize tpot", [], "s").sign == -1
    for text, complaint in (
        ("tpot <= 50 GHz", "is a frequency, expected a time"),
        ("tpoot <= 50 ms", "unknown metric 'tpoot' (did you mean 'tpot'?)"),
        ("prefill.tpot <= 50 ms", "there is no workload 'prefill'"),
        ("tpot = 50 ms", "is no constraint such as"),
        ("decode.peak_flops <= 1 TFLOP/s", "belongs to the chip, not to a workload"),
    ):
        with pytest.raises(InputError) as error:
            parse_constraint(text, ["decode"], "s")
        assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"axes": {}}, "axes: expected at least one entry"),
        ({"axis": {}}, "axis: unknown key (did you mean 'axes'?)"),
        ({"objectives": ["fast"]}, "unknown metric 'fast'"),
        ({"axes": {"system.chips": [1, 2]}}, "the sweep names no 'system'"),
        ({"axes": {"run.batches": [1, 2]}}, "unknown option 'batches' (did you mean 'batch'?)"),
        ({"linked": [{"cores": [1, 2], "clock": ["1 GHz"]}]}, "lists of one length, found cores 2, clock 1"),
        ({"linked": [{"core.matrix.rows": [1, 2]}]}, "'core.matrix.rows' is set twice"),
        ({"workloads": [*BASE["workloads"], *BASE["workloads"]]}, "two are called 'llama-3_1-8b-decode'"),
    ],
)
def test_a_bad_sweep_is_one_sentence(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError) as error:
        Sweep.of(BASE | change)
    assert complaint in str(error.value)


def test_linked_axes_move_together() -> None:
    linked = [{"memory.stacks": [4, 6], "memory.bandwidth": ["4 TB/s", "6 TB/s"]}]
    space = Sweep.of(BASE | {"linked": linked}).space
    assert space.size == 4
    assert {(p["memory.stacks"], p["memory.bandwidth"]) for p in map(space.point, range(4))} == {
        (4, "4 TB/s"), (6, "6 TB/s"),
    }  # fmt: skip


@pytest.mark.parametrize("name", list_sweeps())
def test_a_shipped_sweep_loads(name: str) -> None:
    assert load_sweep(name).space.size > 1


def _record(number: int, metric: float, **params: int) -> Record:
    return Record(str(number), number, dict(params), "done", {"m": metric})


def test_sensitivity_of_a_sum_is_known_in_closed_form() -> None:
    # m = 3a + b with a, b uniform on {0..9}: Var(3a) : Var(b) = 9 : 1
    records = [_record(10 * a + b, 3 * a + b, a=a, b=b) for a in range(10) for b in range(10)]
    indices = first_order(records, "m", ["a", "b"])
    assert list(indices) == ["a", "b"]
    assert indices["a"] == pytest.approx(0.9, abs=0.02)
    assert indices["b"] == pytest.approx(0.1, abs=0.1)
    swings = tornado(records, records[55], "m", ["a", "b"])
    assert [(swing.path, swing.low[1], swing.high[1]) for swing in swings] == [("a", 5, 32), ("b", 15, 24)]


def test_sobol_indices_of_a_function_that_is_known() -> None:
    """y = a + 2 b + 8 [a > 3][b > 3], a and b uniform on 0..7: the shares of the variance follow by summation."""
    sweep = Sweep.of({
        "chip": "custom-npu",
        "axes": {"cores": list(range(1, 9)), "clock": list(range(1, 9)), "core.matrix.count": [4]},
        "workloads": [{"workload": "llama-3.1-8b", "phase": "decode"}], "objectives": ["tokens_per_s"],
        "sampler": {"kind": "saltelli", "points": 1024},
    })  # fmt: skip

    def value(a: Any, b: Any) -> Any:
        return a + 2 * b + 8 * ((a > 3) & (b > 3))

    records = []
    for number in sweep.numbers():
        point = sweep.space.point(number)
        found = float(value(point["cores"] - 1, point["clock"] - 1))
        records.append(Record(str(number), number, point, "done", {"tokens_per_s": found}))
    grid = value(*np.meshgrid(np.arange(8), np.arange(8), indexing="ij"))
    variance = grid.var()
    first = {"cores": grid.mean(axis=1).var() / variance, "clock": grid.mean(axis=0).var() / variance}
    indices = sobol(sweep, records, "tokens_per_s")
    assert list(indices) == ["clock", "cores"]
    for path, other in (("cores", "clock"), ("clock", "cores")):
        assert indices[path].first == pytest.approx(first[path], abs=0.05)
        assert indices[path].total == pytest.approx(1 - first[other], abs=0.05)
    with pytest.raises(InputError, match="need every point of the sample, and 1 of them"):
        sobol(sweep, records[1:], "tokens_per_s")
