"""Results: the numbers derived from them, and their files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from result_samples import llama_decode, meta, physical, row

from archsim import InputError, load_result
from archsim._h5file import open_h5, write_h5
from archsim.results import OpTable, Result, Slice, run_meta
from archsim.results.hdf5 import VERSION
from archsim.results.op_table import BOUNDS, ENERGIES

SUMMARY_KEYS = [
    *("workload", "phase", "batch", "seq", "ctx", "quant", "chip", "chip_estimated", "system", "chips", "plan"),
    *("fidelity", "engine", "exact", "time_s", "ttft_s", "tpot_s", "tokens", "tokens_per_s", "tokens_per_s_per_chip"),
    *("flops", "flop_per_s", "bytes", "dram_bytes", "dram_bytes_per_s", "activates", "row_hit_rate"),
    *("launch_s", "energy_j", "energy_by_unit_j", "dram_energy_j", "power_w", "joules_per_token", "physical"),
    *("bound_by", "bound_share"),
    *("kind_share", "busy", "busiest_link", "memory_bytes", "memory_used_bytes", "memory_capacity_bytes", "notes"),
]


def test_summary_keys_are_stable():
    assert list(llama_decode().summary()) == SUMMARY_KEYS


def test_summary_adds_up_repeats_by_hand():
    rows = [row("a", "matmul", 2.0, repeat=3), row("b", "norm", 4.0, repeat=1, bound="vector", flops=5)]
    result = llama_decode(op_table=OpTable.from_rows(rows), time_ps=10_000_000, tokens=32)
    summary = result.summary()
    assert summary["flops"] == 3 * 10**9 + 5
    assert summary["bound_share"] == {"memory": 0.6, "vector": 0.4}
    assert summary["bound_by"] == "memory"
    assert summary["tokens_per_s"] == pytest.approx(3.2e6)
    assert (summary["tpot_s"], summary["ttft_s"]) == (pytest.approx(1e-5), None)


def test_energy_adds_up_by_hand():
    rows = [row("a", "matmul", 2.0, repeat=3, matrix_pj=10**9, static_pj=2 * 10**9), row("b", "norm", 4.0, repeat=1)]
    result = llama_decode(
        op_table=OpTable.from_rows(rows), time_ps=10_000_000, physical=physical(idle_j=1e-3), meta=meta(chips=2)
    )
    assert result.energy_by_unit["matrix"] == pytest.approx(3e-3)
    assert result.energy_by_unit["static"] == pytest.approx(6e-3)
    assert result.energy_j == pytest.approx(10e-3)
    assert result.power_w == pytest.approx(1000)
    assert result.joules_per_token == pytest.approx(2 * 10e-3 / 32)


def test_without_a_technology_there_is_no_energy():
    summary = llama_decode().summary()
    assert {summary[key] for key in ("energy_j", "power_w", "joules_per_token", "physical")} == {None}


def test_totals_do_not_overflow():
    table = OpTable.from_rows([row("a", "matmul", 1.0, flops=2**62, repeat=100)])
    assert table.total("flops") == 100 * 2**62


def test_json_is_a_summary_with_meta_and_operators():
    document = json.loads(json.dumps(llama_decode().to_dict(), allow_nan=False))
    assert list(document) == [*SUMMARY_KEYS, "meta", "links", "ops"]
    assert document["ops"][2]["name"] == "self_attn.qkv_proj"
    assert document["ops"][2]["time_ps"] == 17_400_000


def test_operators_are_a_data_frame():
    ops = llama_decode().ops
    assert ops["time_ps"].dtype == np.int64
    assert (ops["time_ps"] * ops["repeat"]).sum() == llama_decode().time_ps


def test_a_prefill_has_a_time_to_first_token():
    result = llama_decode(meta=meta(phase="prefill", seq=2048, ctx=0))
    assert result.ttft_s == result.time_s
    assert result.tpot_s is None


def test_created_and_source_date_epoch_fix_the_time(monkeypatch):
    assert run_meta(created="then")["created"] == "then"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert run_meta()["created"] == "1970-01-02T00:00:00+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH=soon"):
        run_meta()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_ps": 0}, "must be positive"),
        ({"units": {"matrix": 1.5}}, "unit matrix"),
        ({"meta": {}}, "lacks"),
        ({"meta": meta(batch="many")}, "batch"),
        ({"meta": meta(phase="training")}, "training"),
    ],
)
def test_impossible_results_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        llama_decode(**changes)


def test_impossible_tables_are_refused():
    columns = llama_decode().op_table.columns()
    with pytest.raises(ValueError, match="flops has shape"):
        OpTable(**{**columns, "flops": [1]})
    with pytest.raises(ValueError, match="negative"):
        OpTable(**{**columns, "flops": -columns["flops"]})
    with pytest.raises(ValueError, match="'magic'"):
        OpTable(**{**columns, "bound": ["magic"] * len(columns["bound"])})


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
count = st.integers(0, 2**63 - 1)
share = st.floats(0, 1)
ops = st.lists(
    st.fixed_dictionaries(
        {
            **dict.fromkeys(("block", "name", "kind"), text),
            **dict.fromkeys(("repeat", "start_ps", "time_ps", "launch_ps", "flops", "bytes", "dram_bytes"), count),
            **dict.fromkeys(("matrix_busy", "vector_busy", "memory_busy"), share),
            "bound": st.sampled_from(BOUNDS),
        }
    ),
    max_size=80,
)
results = st.builds(
    Result,
    meta=st.builds(meta, notes=st.lists(text, max_size=3), chip=text, command=text),
    time_ps=st.integers(1, 2**63 - 1),
    tokens=st.integers(1, 2**63 - 1),
    op_table=ops.map(OpTable.from_rows),
    units=st.dictionaries(text, share, max_size=6),
    memory=st.lists(st.tuples(text, count), max_size=5).map(tuple),
    memory_capacity=count,
    timeline=st.lists(st.builds(Slice, text, text, count, count), max_size=100).map(tuple),
    physical=st.none() | st.dictionaries(text, st.none() | share | text, max_size=4),
)


@settings(max_examples=25, deadline=None)
@given(result=results)
def test_any_result_comes_back_from_its_file(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("h5") / "r.h5"
    result.to_hdf5(path)
    assert load_result(path) == result


def test_the_same_result_gives_the_same_bytes(tmp_path):
    llama_decode().to_hdf5(tmp_path / "a.h5")
    llama_decode().to_hdf5(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_plain_h5py_reads_the_file(tmp_path):
    llama_decode().to_hdf5(tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5") as file:
        assert file.attrs["format"] == "archsim result"
        assert json.loads(file["meta"].asstr()[()])["chip"] == "h800"
        assert file["strings"].asstr()[:][file["ops/name"][2]] == "self_attn.qkv_proj"


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("stored") / "r.h5"
    llama_decode().to_hdf5(path)
    return path.read_bytes()


def expect_fault(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_result(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_a_file_cut_short_is_refused_wherever_it_ends(stored, tmp_path):
    for length in [*range(0, len(stored), 97), len(stored) - 1]:
        expect_fault(tmp_path / "r.h5", stored[:length])


def test_a_flipped_bit_is_found_wherever_it_is(stored, tmp_path):
    for position in [*range(160), *range(160, len(stored), 83)]:
        damaged = bytearray(stored)
        damaged[position] ^= 1 << position % 8
        expect_fault(tmp_path / "r.h5", bytes(damaged))


def test_foreign_files_are_refused(stored, tmp_path):
    assert "not an archsim file" in expect_fault(tmp_path / "r.h5", b"PK\3\4" * 400)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["x"] = 1
    assert "archsim did not write" in expect_fault(tmp_path / "r.h5", buffer.getvalue())
    assert "cut short or added to" in expect_fault(tmp_path / "r.h5", stored + b"\0")
    with pytest.raises(InputError, match="no such file"):
        load_result(tmp_path / "none.h5")
    with pytest.raises(InputError, match="is not a file"):
        load_result(tmp_path)


def test_a_file_of_version_1_is_read_without_energies(stored, tmp_path):
    def fill(file: h5py.File) -> None:
        with h5py.File(io.BytesIO(stored)) as good:
            for name in good:
                if name != "physical":
                    good.copy(name, file)
            for attribute in ("time_ps", "tokens", "memory_capacity"):
                file.attrs[attribute] = good.attrs[attribute]
        for column in ENERGIES:
            del file[f"ops/{column}"]

    path = tmp_path / "old.h5"
    write_h5(path, "result", 1, fill)
    assert load_result(path) == llama_decode()


def test_other_kinds_and_newer_versions_are_refused(tmp_path):
    path = tmp_path / "r.h5"
    write_h5(path, "trace", 1, lambda file: None)
    with pytest.raises(InputError, match="holds an archsim trace, expected a result"):
        load_result(path)
    write_h5(path, "result", 7, lambda file: None)
    with pytest.raises(InputError, match="version 7, newer"):
        load_result(path)
    with pytest.raises(InputError, match="larger than 100 bytes"), open_h5(path, "result", 7, max_bytes=100):
        pass


def replaced(name, value):
    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    "change",
    [
        replaced("meta", None),
        replaced("meta", "[" * 100_000),
        replaced("meta", "[]"),
        replaced("meta", '{"chip": NaN}'),
        replaced("meta", 3),
        replaced("strings", [1, 2]),
        replaced("strings", np.array(["a"], dtype=object)),
        replaced("ops/flops", np.arange(3)),
        replaced("ops/flops", np.arange(10.0)),
        replaced("ops/flops", np.full(10, -1)),
        replaced("ops/name", np.full(10, 1000, np.uint32)),
        replaced("ops/matrix_busy", np.full(10, np.nan)),
        replaced("ops", np.arange(3)),
        replaced("timeline/lane", None),
        replaced("timeline/lane", h5py.SoftLink("/nowhere")),
        replaced("units/busy", np.ones((2, 2))),
        replaced("memory/bytes", h5py.ExternalLink("other.h5", "/x")),
        replaced("physical", None),
        replaced("physical", "[]"),
        replaced("physical", '{"idle_j": NaN}'),
        attribute("time_ps", "long"),
        attribute("time_ps", [1, 2]),
        attribute("tokens", -1),
        lambda file: file.attrs.__delitem__("tokens"),
    ],
)
def test_a_sealed_file_with_wrong_content_is_refused(change, stored, tmp_path):
    def fill(file: h5py.File) -> None:
        with h5py.File(io.BytesIO(stored)) as good:
            for name in good:
                good.copy(name, file)
            file.attrs.update(good.attrs)
        change(file)

    path = tmp_path / "r.h5"
    write_h5(path, "result", VERSION, fill)
    with pytest.raises(InputError, match="is not a valid archsim result"):
        load_result(path)


def test_a_result_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        llama_decode().to_hdf5(tmp_path / "none" / "r.h5")
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        llama_decode().to_hdf5(tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
