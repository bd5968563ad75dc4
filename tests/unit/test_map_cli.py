"""`archsim map`: what it prints, pinned tilings, and one sentence for what is illegal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archsim import simulate
from archsim.cli.main import cli
from archsim.errors import InputError


def archsim(*args: object) -> Result:
    return CliRunner().invoke(cli, [str(arg) for arg in args])


def test_the_fastest_candidate_is_taken_and_the_others_are_shown() -> None:
    found = json.loads(archsim("map", "h100", "--gemm", "64,2112,7168", "--json").stdout)
    timed = [row["simulated_us"] for row in (found["chosen"], *found["runners_up"]) if row["probed"]]
    assert len(timed) > 1
    assert timed == sorted(timed)
    assert found["chosen"]["parts_us"]["matrix"] > 0
    assert "waves of 132 cores" in archsim("map", "h100", "--gemm", "64,2112,7168").stdout


def test_a_product_too_large_to_probe_is_shown_with_its_simulated_time() -> None:
    found = json.loads(archsim("map", "a100", "--gemm", "4096,12288,12288", "--top", "1", "--json").stdout)
    assert not found["chosen"]["probed"]
    assert found["chosen"]["simulated_us"] == pytest.approx(4590, rel=0.01)


def test_a_value_of_the_chip_can_be_changed() -> None:
    ask = ("map", "h100", "--gemm", "512,4096,4096", "--top", "1", "--json")
    found = [json.loads(archsim(*ask, *more).stdout)["chosen"] for more in ((), ("--set", "noc.multicast=4"))]
    assert [row["cluster_m"] * row["cluster_n"] for row in found] == [2, 4]
    wrong = archsim(*ask, "--set", "noc.multicst=4")
    assert wrong.exit_code == 2
    assert "did you mean 'multicast'" in wrong.stderr


def test_the_picture_is_written(tmp_path: Path) -> None:
    path = tmp_path / "tiles.png"
    assert archsim("map", "custom-npu", "--gemm", "300,500,128", "--figure", path).exit_code == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_pinned_tiling_is_the_one_that_is_timed(tmp_path: Path) -> None:
    pin = tmp_path / "pin.yaml"
    pin.write_text("tm: 64\ntn: 64\ntk: 64\n")
    found = json.loads(archsim("map", "h100", "--gemm", "256,256,256", "--mapping", pin, "--json").stdout)
    assert found["pinned"]
    assert (found["chosen"]["tm"], found["chosen"]["tn"], found["runners_up"]) == (64, 64, [])
    assert found["chosen"]["simulated_us"] > 0


def test_a_layout_is_shown_and_changes_the_time(tmp_path: Path) -> None:
    times = {}
    for layout in ("tiled", "row_major"):
        mapping = tmp_path / f"{layout}.yaml"
        mapping.write_text(f"tm: 64\ntn: 64\ntk: 32\nlayout: {{weights: {layout}, activations: {layout}}}\n")
        found = json.loads(archsim("map", "rtx-4090", "--gemm", "64,4096,4096", "--mapping", mapping, "--json").stdout)
        assert found["layout"]["weights"] == layout
        times[layout] = found["chosen"]["simulated_us"]
    assert times["row_major"] > 2 * times["tiled"]  # runs of 64 B


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tm: 512\ntn: 512\ntk: 64\n", "gemm 64 x 64 x 64: the pinned tiling 512 x 512 x 64 needs 1,048,576 B"),
        ("tm: 128\ntn: 128\ntk: 4096\n", "needs 2 x 2,097,152 B of scratchpad, but a core of h100 has 233,472 B"),
        ("tm: 64\ntn: 64\n", "tk is missing"),
        ("tm: 64\ntn: 64\ntk: 0\n", "tk is 0, but must be a whole number, at least 1"),
        ("tm: 64\ntn: 64\ntk: 64\nslot: 2\n", "slot: unknown key (did you mean 'slots'?)"),
        ("tm: 64\ntn: 64\ntk: 64\npair: 2\n", "pairs 2 cores, but an instruction of h100 spans at most 1"),
        ("tm: 64\ntn: 64\ntk: 64\nsplit_k: 2\n", "splits k 2 ways, but there are 1 chunks"),
        ("tm: 64\ntn: 64\ntk: 64\ncluster_m: 2\ncluster_n: 2\n", "2 x 2 cores, but h100 has 1 x 1, 2 x 1, 1 x 2"),
        ("tm: 64\ntn: 64\ntk: 64\nstream_k: 2\n", "stream_k is 2, but must be true or false"),
        ("tm: 64\ntn: 64\ntk: 64\nstream_k: true\n", "has 1 chunks, too few for stream-K to give each of 132 cores"),
    ],
)
def test_an_illegal_pin_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    pin = tmp_path / "pin.yaml"
    pin.write_text(text)
    outcome = archsim("map", "h100", "--gemm", "64,64,64", "--mapping", pin)
    assert outcome.exit_code == 2
    assert message in outcome.stderr


def test_a_product_larger_than_the_memory_is_one_sentence() -> None:
    outcome = archsim("map", "a100", "--gemm", "9999999,9999999,9999999")
    assert outcome.exit_code == 2
    assert "need 599,999,880,000,006 B of memory, but a100 has 84,987,084,800 B" in outcome.stderr


def test_a_tile_that_fits_no_buffer_names_operator_buffer_and_bytes() -> None:
    step = ["run", "custom-npu", "llama-3.1-8b", "--phase", "decode", "--set", "core.scratchpad.capacity=8KiB"]
    outcome = archsim(*step)
    assert outcome.exit_code == 2
    assert "operator self_attn.q_proj + k_proj + v_proj: no tile of a bf16 product fits custom-npu" in outcome.stderr
    assert "need 73,728 B of scratchpad (8,192 B)" in outcome.stderr


@pytest.mark.parametrize("sizes", ["64,64", "0,64,64", "a,b,c", "64,64,-1"])
def test_bad_sizes_are_one_sentence(sizes: str) -> None:
    outcome = archsim("map", "h100", "--gemm", sizes)
    assert outcome.exit_code == 2
    assert "must be three whole numbers" in outcome.stderr


def test_a_type_that_the_unit_lacks_and_cannot_widen_is_named() -> None:
    outcome = archsim("map", "h100", "--gemm", "64,64,64", "--dtype", "bf17")
    assert outcome.exit_code == 2
    assert "--dtype bf17: must be one of" in outcome.stderr


def run_pinned(tmp_path: Path, text: str) -> Result:
    """A decode step with these pinned tilings."""
    pins = tmp_path / "pins.yaml"
    pins.write_text(text)
    step = ["run", "h800", "llama-3.1-8b", "--phase", "decode", "--batch", 4, "--ctx", 64, "--mapping", pins]
    return archsim(*step, "--json", "--top", 100)


def test_fusion_is_shown_and_changed_by_the_mapping(tmp_path: Path) -> None:
    mapping = tmp_path / "apart.yaml"
    mapping.write_text("fusion:\n  products: false\n")
    step = ["fusion", "h100", "llama-3.1-8b", "--phase", "decode"]
    usual, apart = (json.loads(archsim(*step, *more, "--json").stdout) for more in ((), ("--mapping", mapping)))
    assert apart["kernels"] - usual["kernels"] == usual["launches_saved"] - apart["launches_saved"] == 96
    assert usual["bytes_saved"] > apart["bytes_saved"] > 0
    assert "fusion saves 192 launches" in archsim(*step).stdout


def test_a_pinned_operator_takes_its_tiling_and_the_others_stay(tmp_path: Path) -> None:
    def times(text: str) -> dict[str, int]:
        return {row["name"]: row["time_ps"] for row in json.loads(run_pinned(tmp_path, text).stdout)["ops"]}

    free, pinned = times("{}\n"), times("self_attn.k_proj: {tm: 64, tn: 32, tk: 32}\n")
    slower = {name for name in free if pinned[name] > 1.2 * free[name]}
    assert slower == {"self_attn.q_proj + k_proj + v_proj"}


def test_attention_may_be_done_by_a_kernel_that_is_known() -> None:
    """On a long prompt FlashAttention-2 multiplies by mma.sync, at 0.63 of the rate of wgmma; FlashAttention-3 is near
    the best."""

    def attention_ps(pins: dict[str, dict[str, str]]) -> float:
        step = simulate("h100", "llama-3.1-8b", phase="prefill", batch=1, seq=8192, mapping=pins)
        return float(step.op_table.time_ps[[name == "self_attn.attention" for name in step.op_table.name]].sum())

    second, third = (attention_ps({"self_attn.attention": {"kernel": f"flash-attention-{n}"}}) for n in (2, 3))
    best = attention_ps({})
    assert best < third < 1.2 * best
    assert 1.3 * third < second


def test_a_kernel_of_decode_computes_no_prompt() -> None:
    pins = {"self_attn.attention": {"kernel": "masked-multi-head"}}
    with pytest.raises(InputError, match=r"^operator self_attn\.attention: masked-multi-head is a kernel of decode"):
        simulate("h100", "llama-3.1-8b", phase="prefill", batch=1, seq=512, mapping=pins)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mlp.down_prj: {tm: 64, tn: 64, tk: 64}\n", "(did you mean 'mlp.down_proj'?); there are self_attn.q_proj"),
        ("mlp.down_proj: {tm: 512, tn: 512, tk: 64}\n", "mlp.down_proj: the pinned tiling 512 x 512 x 64 needs 1,048"),
        ("mlp.down_proj: {tm: 64, tn: 64}\n", "pins.yaml:1:1: mlp.down_proj.tk is missing"),
        ("tm: 64\n", "tm: expected an operator with its tm, tn and tk, or the kernel of attention, below it"),
        ("self_attn.attention: {kernel: flash}\n", "pins.yaml:1:23: kernel is flash: unknown; legal are flash-at"),
        ("self_attn.attention: {kernel: [a, b]}\n", "pins.yaml:1:23: kernel is ['a', 'b']: unknown; legal are flash"),
        ("self_attn.attention: {kernel: tensorrt-llm, tm: 64}\n", "pins.yaml:1:45: tm: of attention only its kern"),
        ("self_attn.attention: {tm: 64, tn: 64, tk: 64}\n", "self_attn.attention: attention has its kernel pinned ("),
        ("mlp.down_proj: {kernel: tensorrt-llm}\n", "mlp.down_proj: a product has its tiling pinned (tm, tn"),
        ("layout: {weight: tiled}\n", "pins.yaml:1:10: weight: unknown key (did you mean 'weights'?)"),
        ("layout:\n  weights: column\n", "pins.yaml:2:3: weights is column, but must be row_major or tiled"),
        ("layout: {page_size: 0}\n", "page_size is 0, but must be whole tokens, 1 to 1,048,576"),
        ("layout: {kv_cache: contiguous, page_size: 16}\n", "but a contiguous kv_cache has no pages"),
        ("layout: tiled\n", "layout: expected weights, activations, kv_cache, page_size or experts below it"),
    ],
)
def test_an_illegal_pin_of_a_step_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    outcome = run_pinned(tmp_path, text)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
