"""Does a trace survive its file, and is every faulty file one clear sentence?"""

from __future__ import annotations

import doctest
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from archsim._h5file import open_h5, write_h5
from archsim.errors import InputError
from archsim.trace import BlockSpec, OpSpec, TensorSpec, Trace, list_workloads, load_trace, load_workload, quantised
from archsim.trace.expr import Expr
from archsim.trace.hdf5 import FORMAT_VERSION
from archsim.trace.trace import PHASES


def size(text: str) -> Expr:
    return Expr.parse(text)


def linear(**changes: Any) -> OpSpec:
    dims = {"b": size("1"), "m": size("batch*seq"), "n": size("6"), "k": size("4")}
    op = OpSpec("proj", "matmul", dims, {}, (0, 1), (2,), "bf16")
    return replace(op, **changes)


def small(op: OpSpec | None = None, **changes: Any) -> Trace:
    tensors = (
        TensorSpec("x", (size("batch"), size("seq"), size("4")), "bf16", "constant"),
        TensorSpec("proj.weight", (size("6"), size("4")), "bf16", "weight"),
        TensorSpec("proj", (size("batch"), size("seq"), size("6")), "bf16", "activation"),
    )
    trace = {
        "name": "small",
        "phase": "prefill",
        "config": {"model_type": "small", "layers": [1, 2]},
        "tensors": tensors,
        "blocks": (BlockSpec("layer", 3, (op or linear(),)),),
        "producer": {"archsim": "0"},
    }
    return Trace(**{**trace, **changes})


def test_round_trip(tmp_path: Path) -> None:
    trace = small()
    trace.save(tmp_path / "a.h5")
    again = load_trace(tmp_path / "a.h5")
    assert again == trace
    assert again.content_hash == trace.content_hash
    again.save(tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3"])
@pytest.mark.parametrize("phase", PHASES)
def test_shipped_traces_survive_and_are_small(name: str, phase: str, tmp_path: Path) -> None:
    trace = load_workload(name, phase)
    trace.save(tmp_path / "again.h5")
    assert load_trace(tmp_path / "again.h5") == trace
    assert (tmp_path / "again.h5").stat().st_size < 100_000


def test_a_quantised_trace_survives(tmp_path: Path) -> None:
    trace = quantised(load_workload("llama-3.1-8b", "decode"), "fp8")
    trace.save(tmp_path / "fp8.h5")
    assert load_trace(tmp_path / "fp8.h5") == trace


def test_plain_h5py_reads_it(tmp_path: Path) -> None:
    small().save(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["format"] == "archsim trace"
        assert file.attrs["version"] == FORMAT_VERSION
        assert json.loads(file.attrs["config"])["model_type"] == "small"
        assert file["ops"]["dims"][0] == b"b=1, m=batch*seq, n=6, k=4"
        assert file["tensors"].dtype.hasobject is False


def test_the_hash_sees_everything_but_the_producer() -> None:
    trace = small()
    assert replace(trace, producer={"archsim": "9"}).content_hash == trace.content_hash
    for other in (
        small(linear(dtype="fp8")),
        small(blocks=(BlockSpec("layer", 4, (linear(),)),)),
        small(config={}),
        small(name="other"),
    ):
        assert other.content_hash != trace.content_hash


def test_truncated_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    small().save(path)
    data = path.read_bytes()
    for length in [0, 1, 8, 511, 512, 513, *range(600, len(data), 701), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="a\\.h5: "):
            load_trace(path)


def test_bits_flipped_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    small().save(path)
    data = path.read_bytes()
    generator = random.Random(0)
    for _ in range(400):
        damaged = bytearray(data)
        damaged[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="a\\.h5: "):
            load_trace(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + b"\0" * 600, b"\0" * 4096])
def test_foreign_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.h5"
    path.write_bytes(content)
    with pytest.raises(InputError, match="foreign\\.h5: "):
        load_trace(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.h5"):
        with pytest.raises(InputError, match=path.name):
            load_trace(path)


def test_another_kind_and_a_newer_version(tmp_path: Path) -> None:
    write_h5(tmp_path / "r.h5", "result", 1, lambda file: None)
    with pytest.raises(InputError, match="holds an archsim result, expected a trace"):
        load_trace(tmp_path / "r.h5")
    write_h5(tmp_path / "new.h5", "trace", FORMAT_VERSION + 1, lambda file: None)
    with pytest.raises(InputError, match="newer than the version"):
        load_trace(tmp_path / "new.h5")


def rewritten(tmp_path: Path, change: Callable[[h5py.File], None]) -> Path:
    """A properly sealed file whose content `change` has spoilt."""
    source, target = tmp_path / "a.h5", tmp_path / "spoilt.h5"
    small().save(source)

    def fill(file: h5py.File) -> None:
        with open_h5(source, "trace", FORMAT_VERSION) as original:
            for key, value in original.attrs.items():
                file.attrs[key] = value
            for key in original:
                original.copy(key, file)
        change(file)

    write_h5(target, "trace", FORMAT_VERSION, fill)
    return target


def cell(table: str, column: str, text: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        rows = file[table][()]
        fields = [(name, f"S{max(len(text), 64)}") for name in rows.dtype.names]
        wide = np.array([tuple(row) for row in rows], dtype=fields)
        wide[column][0] = text.encode()
        del file[table]
        file[table] = wide

    return change


def drop(*keys: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for key in keys:
            if key in file:
                del file[key]
            else:
                del file.attrs[key]

    return change


def objects(file: h5py.File) -> None:
    del file["ops"]
    file["ops"] = np.array([("x",)], dtype=[("name", h5py.string_dtype())])


def long_table(file: h5py.File) -> None:
    fields = file["tensors"].dtype
    del file["tensors"]
    file.create_dataset("tensors", shape=(10**9,), dtype=fields, chunks=(4096,), compression="gzip")


def wide_table(file: h5py.File) -> None:
    del file["ops"]
    fields = [(name, "S8192") for name in ("block", "name", "kind", "dtype", "dims", "attrs", "inputs", "outputs")]
    file.create_dataset("ops", shape=(2**16,), dtype=fields, chunks=(64,), compression="gzip")


def linked_table(file: h5py.File) -> None:
    del file["blocks"]
    file["blocks"] = h5py.ExternalLink("trace.h5", "blocks")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (drop("ops"), "the table 'ops' is missing"),
        (drop("config"), "the text attribute 'config' is missing"),
        (objects, "must have the text columns"),
        (long_table, "'tensors' claims .* bytes, more than"),
        (wide_table, "'ops' claims 4,294,967,296 bytes, more than"),
        (linked_table, "not a valid archsim trace|'blocks' is missing"),
        (lambda file: file.attrs.modify("config", "[1]"), "config: not a JSON object"),
        (lambda file: file.attrs.modify("config", "{"), "not a valid archsim trace"),
        (lambda file: file.attrs.modify("name", "other"), "does not match its content hash"),
        (lambda file: file.attrs.modify("phase", "training"), "phase 'training' is not one of"),
        (cell("ops", "dims", "m"), "'m' is not a 'name=expression'"),
        (cell("ops", "dims", "m=__import__('os')"), "unexpected"),
        (cell("ops", "kind", "matmull"), "unknown kind 'matmull' \\(did you mean 'matmul'\\?\\)"),
        (cell("ops", "inputs", "0 -1"), "not in the tensor table"),
        (cell("ops", "inputs", "0 x"), "not a valid archsim trace"),
        (cell("ops", "attrs", "[]"), "not a JSON object"),
        (cell("ops", "block", "ghost"), "block 'ghost', which the block table does not list"),
        (cell("blocks", "repeat", "0"), "repeat 0 is below 1"),
        (cell("tensors", "dtype", "bf61"), "unknown dtype 'bf61'"),
        (cell("tensors", "shape", "batch, tokens"), "unknown symbols \\['tokens'\\]"),
        (cell("tensors", "scale_block", "1 2 3"), "tensor .*: bad scale block"),
        (cell("tensors", "scale_block", "1"), "not a valid archsim trace"),
        (cell("tensors", "name", "renamed"), "does not match its content hash"),
    ],
)
def test_sealed_but_wrong(change: Callable[[h5py.File], None], what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what) as caught:
        load_trace(rewritten(tmp_path, change))
    assert "spoilt.h5: " in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"blocks": ()}, "has no blocks"),
        ({"blocks": (BlockSpec("a", 1, ()), BlockSpec("a", 1, ()))}, "two blocks have the same name"),
        ({"op": linear(inputs=(2, 1))}, "nothing before it writes its inputs \\['proj'\\]"),
        ({"op": linear(dtype="bf15")}, "unknown dtype 'bf15'"),
        ({"op": linear(dims={"m": size("1")})}, "dims \\['b', 'n', 'k'\\] are missing"),
        ({"op": linear(dims={**linear().dims, "m": size("batch - 9")})}, "its dims are"),
        ({"op": linear(dims={**linear().dims, "m": size("tokens")})}, "unknown symbols \\['tokens'\\] in its dims"),
        ({"op": linear(kind="attention")}, "are missing"),
        ({"op": linear(outputs=())}, "attributes or operands do not fit"),
        ({"op": linear(kind="norm", dims={"rows": size("1"), "cols": size("1")})}, "attributes or operands do not fit"),
        ({"fixed": {"tokens": 1}}, "fixed sizes \\['tokens'\\] are not among \\['batch', 'ctx', 'seq'\\]"),
        ({"fixed": {"batch": 0}}, "out of range"),
        ({"tensors": (TensorSpec("w", (size("seq"),), "bf16", "weight"),)}, "weight must be of integers"),
        ({"tensors": (TensorSpec("w", (size("2"),), "bf16", "wait"),)}, "unknown role 'wait'"),
        ({"tensors": (TensorSpec("w", (size("2"),), "fp8", "weight", (128, 128)),)}, "bad scale block"),
        ({"tensors": (TensorSpec("w", (size("0"),), "bf16", "weight"),)}, "its shape is"),
    ],
)
def test_a_trace_checks_itself(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        small(**changes)


@pytest.mark.parametrize(
    ("point", "what"),
    [
        ({"batch": 1}, "a value for seq is missing"),
        ({"batch": 1, "seq": 0}, "seq=0 must be an integer from 1 to 1,000,000,000"),
        ({"batch": 10**10, "seq": 1}, "must be an integer from 1"),
        ({"batch": 1, "seq": 2.5}, "must be an integer"),
        ({"batch": True, "seq": 2}, "must be an integer"),
    ],
)
def test_points_that_make_no_sense(point: dict[str, Any], what: str) -> None:
    with pytest.raises(InputError, match=what):
        small().at(**point)


def test_fixed_sizes(tmp_path: Path) -> None:
    """A trace with fixed sizes is evaluated there and nowhere else."""
    trace = small(fixed={"batch": 8, "seq": 3, "ctx": 0})
    assert (trace.symbols, trace.at().tokens, trace.at(batch=8, ctx=0)) == ((), 24, trace.at())
    assert trace.content_hash != small().content_hash
    trace.save(tmp_path / "fixed.h5")
    assert load_trace(tmp_path / "fixed.h5") == trace
    for name, value in (("batch", 2), ("seq", 4), ("ctx", 5)):
        with pytest.raises(InputError, match=f"{name}={value} has no meaning here"):
            trace.at(**{name: value})


@pytest.mark.parametrize(("phase", "fixed"), [("prefill", {"ctx": 0}), ("decode", {"seq": 1})])
def test_the_first_files_of_version_1(phase: str, fixed: dict[str, int], tmp_path: Path) -> None:
    """They have no attribute `fixed`: a prefill had an empty cache, a decode step one new token."""
    dims = {**linear().dims, "m": size("batch")}
    tensors = tuple(replace(t, shape=(size("2"), size("4"))) for t in small().tensors)
    trace = small(linear(dims=dims), phase=phase, tensors=tensors, fixed=fixed)
    write_h5(tmp_path / "first.h5", "trace", 1, lambda file: first_version(file, trace))
    again = load_trace(tmp_path / "first.h5")
    assert again == trace
    assert again.symbols == tuple(name for name in ("batch", "seq", "ctx") if name not in fixed)


def first_version(file: h5py.File, trace: Trace) -> None:
    """What the first writer wrote: everything but `fixed`."""
    with tempfile.TemporaryDirectory() as folder:
        trace.save(Path(folder) / "now.h5")
        with h5py.File(Path(folder) / "now.h5") as now:
            for name in now:
                now.copy(name, file)
            for key, value in now.attrs.items():
                if key not in ("fixed", "format", "version"):
                    file.attrs[key] = value


def test_at() -> None:
    graph = small().at(batch=2, seq=3, ctx=0)
    assert (graph.batch, graph.seq, graph.ctx, graph.tokens) == (2, 3, 0, 6)
    assert graph.flops == 3 * 2 * 6 * 6 * 4
    assert graph.n_params == 3 * 24
    op = graph.blocks[0].ops[0]
    assert (op.bytes_read, op.bytes_written) == ((6 * 4 + 24) * 2, 6 * 6 * 2)


def test_a_model_under_another_name() -> None:
    """R1 is V3 with other weights: the same blocks, under its own name."""
    same, original = load_workload("deepseek-r1", "decode"), load_workload("deepseek-v3", "decode")
    assert (same.name, original.name) == ("deepseek-r1", "deepseek-v3")
    assert (same.blocks, same.tensors, same.config) == (original.blocks, original.tensors, original.config)


def test_workloads_by_name() -> None:
    assert {"deepseek-v3", "llama-3.1-8b"} <= set(list_workloads())
    assert list(list_workloads()) == sorted(list_workloads())
    assert "deepseek-r1" in list_workloads()
    with pytest.raises(InputError, match=r"did you mean 'llama-3\.1-8b'"):
        load_workload("llama-3.1-8", "decode")
    with pytest.raises(InputError, match="did you mean 'decode'"):
        load_workload("llama-3.1-8b", "decoding")


def test_workloads_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.h5"
    small().save(path)
    assert load_workload(str(path), "prefill") == small()
    with pytest.raises(InputError, match="holds the prefill phase, not decode"):
        load_workload(str(path), "decode")
    small().save(tmp_path / "all.prefill.h5")
    assert load_workload(str(tmp_path / "all"), "prefill") == small()
    with pytest.raises(InputError, match=r"there is no file .*all\.decode\.h5"):
        load_workload(str(tmp_path / "all"), "decode")


def test_the_documented_examples_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = Path(__file__).parents[2]
    monkeypatch.chdir(checkout)
    outcome = doctest.testfile(str(checkout / "docs" / "trace-format.md"), module_relative=False)
    assert (outcome.failed, outcome.attempted > 5) == (0, True)
