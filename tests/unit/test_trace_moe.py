"""Do tokens spread over experts as each routing says, and does measured routing come in?"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.trace import load_trace, load_workload, routed
from archsim.trace.moe import expert_counts
from archsim.trace.routing import describe_routing, measured_routing

KINDS = ["uniform", "balanced", "zipf:0", "zipf:0.5", "zipf:1.0", "zipf:3"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 96), st.data(), st.sampled_from(KINDS))
def test_every_token_reaches_top_k_experts(tokens: int, experts: int, data: st.DataObject, routing: str) -> None:
    top_k = data.draw(st.integers(1, experts))
    counts = expert_counts(tokens, experts, top_k, routing)
    assert counts.shape == (experts,)
    assert counts.sum() == tokens * top_k
    assert counts.min() >= 0
    assert counts.max() <= tokens


@pytest.mark.parametrize(
    ("routing", "tokens", "active", "busiest"),
    [
        ("uniform", 1, 8, 32.0),
        ("uniform", 8, 57.9, 9.0),
        ("uniform", 64, 223.1, 3.4),
        ("uniform", 256, 256, 2.2),
        ("zipf:0.5", 8, 55.1, 11.6),
        ("zipf:0.5", 64, 204.9, 7.6),
        ("zipf:0.5", 256, 255.1, 7.6),
        ("zipf:1.0", 8, 42.5, 26.4),
        ("zipf:1.0", 64, 153.9, 25.8),
        ("zipf:1.0", 256, 238.0, 25.3),
    ],
)
def test_deepseek_routing(routing: str, tokens: int, active: float, busiest: float) -> None:
    """Means of 20 draws of Gumbel top-k, 256 experts, top 8; the closed form of uniform is E(1 - (1 - k/E)^T)."""
    counts = expert_counts(tokens, 256, 8, routing)
    assert (counts > 0).sum() == pytest.approx(active, abs=2)
    assert counts.max() / counts.mean() == pytest.approx(busiest, rel=0.12)


def test_the_gaussian_limit_continues_the_exact_draw() -> None:
    exact, limit = expert_counts(1024, 256, 8), expert_counts(1025, 256, 8)
    assert np.std(limit) == pytest.approx(np.std(exact), rel=0.1)
    assert np.std(limit) == pytest.approx(np.sqrt(1025 * (8 / 256) * (1 - 8 / 256)), rel=0.1)


@pytest.mark.parametrize("routing", ["zipf:0.5", "zipf:1.0"])
def test_the_limit_continues_the_draw_for_unequal_experts(routing: str) -> None:
    exact, limit = (np.sort(expert_counts(tokens, 256, 8, routing)) for tokens in (1024, 1025))
    assert limit[-32:] == pytest.approx(exact[-32:], rel=0.06)
    assert limit[:128].mean() == pytest.approx(exact[:128].mean(), rel=0.06)


def test_deterministic_and_seeded() -> None:
    first = expert_counts(64, 256, 8, seed=1).copy()
    expert_counts.cache_clear()
    assert (expert_counts(64, 256, 8, seed=1) == first).all()
    assert (expert_counts(64, 256, 8, seed=2) != first).any()
    with pytest.raises(ValueError, match="read-only"):
        expert_counts(64, 256, 8)[0] = 1


def test_balanced() -> None:
    assert sorted(expert_counts(5, 4, 2, "balanced")) == [2, 2, 3, 3]


@pytest.mark.parametrize("bad", [(-1, 8, 2), (4, 8, 0), (4, 8, 9), (4, 10**6, 2)])
def test_impossible_routing(bad: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="impossible"):
        expert_counts(*bad)


@pytest.mark.parametrize(
    ("routing", "what"),
    [
        ("zip:1", r"unknown expert routing 'zip' \(did you mean 'zipf'\?\)"),
        ("zipf", "needs an exponent, as in zipf:0.5"),
        ("zipf:x", "needs an exponent"),
        ("zipf:nan", "must be from 0 to 10"),
        ("zipf:-1", "must be from 0 to 10"),
        ("measured:", "counts of 0 experts, the operator 8"),
        ("measured:1 2", "counts of 2 experts"),
        ("measured:1 2 3 4 5 6 7 x", "not all whole numbers"),
        ("measured:1 0 0 0 0 0 0 0", "no tokens with 2 different experts"),
        ("measured:9 1 0 0 0 0 0 0", "no tokens with 2 different experts"),
    ],
)
def test_unknown_routing(routing: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        expert_counts(4, 8, 2, routing)


# measured elsewhere


def chosen(tokens: int, layers: int, experts: int, top_k: int) -> NDArray[np.int16]:
    """Ids as vLLM returns them, of experts whose popularity falls off and differs from layer to layer."""
    generator = np.random.default_rng(7)
    ids = np.empty((tokens, layers, top_k), np.int16)
    for layer in range(layers):
        weights = generator.permutation(np.arange(1, experts + 1) ** -0.7)
        keys = generator.exponential(size=(tokens, experts)) / weights
        ids[:, layer] = np.argsort(keys, axis=1)[:, :top_k]
    return ids


IDS = chosen(tokens=3000, layers=5, experts=64, top_k=6)
COUNTS = np.array([np.bincount(IDS[:, layer].ravel(), minlength=64) for layer in range(5)])


def write(path: Path, data: NDArray[np.generic]) -> Path:
    if path.suffix == ".npy":
        np.save(path, data)
    elif path.suffix == ".csv":
        names = ",".join(f"expert {i}" for i in range(data.shape[1]))
        path.write_text(names + "\n" + "\n".join(",".join(map(str, row)) for row in data) + "\n")
    else:
        with h5py.File(path, "w") as file:
            file["routed_experts"] = data
            file["other"] = np.zeros(3)
    return path


@pytest.mark.parametrize(("name", "data"), [("r.npy", IDS), ("r.npy", COUNTS), ("r.h5", IDS), ("r.csv", COUNTS)])
def test_measured_files_give_the_mean_of_the_sorted_layers(name: str, data: NDArray[np.int64], tmp_path: Path) -> None:
    routing = measured_routing(write(tmp_path / name, data), 64, 6)
    expected = np.sort(COUNTS, axis=1)[:, ::-1].mean(axis=0)
    read = np.array(routing.removeprefix("measured:").split(), dtype=int)
    assert read.sum() == 3000 * 6
    assert np.abs(read - expected).max() <= 1


def test_measured_counts_are_used_as_they_are_and_scale_to_other_batches(tmp_path: Path) -> None:
    routing = measured_routing(write(tmp_path / "r.npy", IDS), 64, 6)
    typical = np.sort(COUNTS, axis=1).mean(axis=0)
    assert np.sort(expert_counts(3000, 64, 6, routing)) == pytest.approx(typical, abs=1)
    many = np.sort(expert_counts(30000, 64, 6, routing))
    assert many == pytest.approx(10 * typical, rel=0.05)
    # a decode batch of 32: against what 32 of the measured tokens activate, on average
    starts = range(0, 2976, 32)
    active = np.mean([len(np.unique(IDS[i : i + 32, layer])) for i in starts for layer in range(5)])
    assert (expert_counts(32, 64, 6, routing) > 0).sum() == pytest.approx(active, abs=1.5)


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("r.npy", IDS[:, :, :5], "each token chooses 5 experts, those of the model choose 6"),
        ("r.npy", IDS + 60, "names an expert that is not among 0 to 63"),
        ("r.npy", IDS * 0, "names an expert twice"),
        ("r.npy", IDS.astype(float), "float64 values, not integers"),
        ("r.npy", IDS[0, 0], "has 1 axes"),
        ("r.npy", IDS[:0], "no tokens"),
        ("r.csv", COUNTS[:, :60], "5 layers of 60 experts, the model has 64"),
        ("r.csv", -COUNTS, "no tokens with 6 different experts"),
        ("r.csv", COUNTS[:0], "is not a readable .csv file|has 1 axes"),
    ],
)
def test_measured_files_that_do_not_fit(name: str, data: NDArray[np.int64], what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what):
        measured_routing(write(tmp_path / name, data), 64, 6)


def test_pickles_links_and_damage_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    write(tmp_path / "whole.h5", IDS)
    (tmp_path / "short.h5").write_bytes((tmp_path / "whole.h5").read_bytes()[:3000])
    (tmp_path / "text.npy").write_text("no array")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["routed_experts"] = h5py.ExternalLink("whole.h5", "routed_experts")
    with h5py.File(tmp_path / "many.h5", "w") as file:
        file["a"] = file["b"] = np.zeros(3)
    for name in ("pickle.npy", "short.h5", "text.npy", "link.h5", "many.h5"):
        with pytest.raises(InputError, match=f"{name}: is not a readable"):
            measured_routing(tmp_path / name, 64, 6)
    with pytest.raises(InputError, match="cannot be read"):
        measured_routing(tmp_path / "none.npy", 64, 6)


# on a trace


def test_routing_travels_with_the_trace(tmp_path: Path) -> None:
    trace = load_workload("deepseek-v3", "decode")
    ids = chosen(tokens=200, layers=2, experts=256, top_k=8)
    measured = routed(trace, str(write(tmp_path / "ids.npy", ids)))
    measured.save(tmp_path / "trace.h5")
    assert load_trace(tmp_path / "trace.h5") == measured
    assert measured.content_hash != trace.content_hash
    read = {}
    for name, each in {"uniform": trace, "zipf": routed(trace, "zipf:1.0"), "measured": measured}.items():
        graph = each.at(batch=64, ctx=100)
        read[name] = next(op for b in graph.blocks for op in b.ops if op.kind == "grouped_matmul").input_bytes[1]
    assert read["uniform"] == 223 * 2 * 2048 * 7168 * 2
    assert read["zipf"] == pytest.approx(154 * 2 * 2048 * 7168 * 2, rel=0.02)
    assert read["zipf"] < read["measured"] < read["uniform"]


def test_routing_needs_experts_and_a_known_kind() -> None:
    with pytest.raises(InputError, match="has no experts"):
        routed(load_workload("llama-3.1-8b", "decode"), "balanced")
    with pytest.raises(InputError, match=r"did you mean 'balanced'\?.*or a file"):
        routed(load_workload("deepseek-v3", "decode"), "balance")


@pytest.mark.parametrize(
    ("routing", "what"),
    [
        ("uniform", "uniform random (seed 3)"),
        ("balanced", "perfectly balanced"),
        ("zipf:1", "Zipf, s = 1 (seed 3)"),
        ("measured:1 1", "mean over layers of the sorted counts of 2 experts"),
    ],
)
def test_notes_say_how_tokens_were_routed(routing: str, what: str) -> None:
    assert what in describe_routing(routing, 3)


def test_routing_decides_the_time_of_a_step() -> None:
    import archsim

    point = {"phase": "decode", "batch": 64, "ctx": 512, "system": "h800-x32", "quant": "fp8", "fidelity": "roofline"}
    times = {r: archsim.simulate("h800", "deepseek-v3", routing=r, **point) for r in ("balanced", "uniform", "zipf:1")}
    assert archsim.simulate("h800", "deepseek-v3", **point).time_ps == times["uniform"].time_ps
    assert len({result.time_ps for result in times.values()}) == 3
    assert any("Zipf, s = 1" in note for note in times["zipf:1"].meta["notes"])
