"""Published inference figures as cases: TensorRT-LLM, NIM and MLPerf tables.

Requests are those of the table; what the table does not say is an assumption that stands beside the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from archsim.errors import InputError
from archsim.hardware import load_chip
from archsim.serving import (
    STACKS,
    Deployment,
    Online,
    Request,
    Stack,
    answer_all,
    first_token_s,
    fixed_batch,
    most_rate,
    serve_users,
    spread_lengths,
)
from archsim.validation.model.case import Case
from archsim.validation.model.deepseek import read_deepseek
from archsim.validation.model.names import CHIPS, FORMATS, MODELS, chip_of, system_of, tensor_degree
from archsim.validation.model.tuning import bench_limits
from archsim.validation.table import Record

__all__ = ["read_inference"]


@dataclass(frozen=True)
class Mix:
    """A data set: mean prompt and answer in tokens, the longest answer, questions."""

    title: str
    input_tokens: int
    output_tokens: int
    longest: int
    questions: int


#: data sets of MLPerf inference; means as the harness (`tokens_per_sample`) and its papers state them, from memory. Of
#: Mixtral's three, a third of its questions each, GSM8K asks with worked examples: 662 tokens in the prompt that
#: hf_eval_all.py of mlcommons/inference shows; MBXP's 200 are an assumption
DATASETS = {
    "Llama-2-70B": Mix("OpenOrca", 294, 294, 1024, 24576),
    "Mixtral-8x7B": Mix("OpenOrca, GSM8K, MBXP", 385, 145, 1024, 15000),
    "Llama-3.1-405B": Mix("LongBench, RULER, GovReport", 9400, 680, 20000, 8313),
    "Llama-3.1-8B": Mix("CNN/DailyMail", 778, 73, 128, 13368),
    "DeepSeek-R1": Mix("five sets of questions", 800, 3880, 20000, 4388),
}  # fmt: skip
#: seconds that LoadGen has a run take at least, and those for which it draws the questions of an offline one
LEAST_S, DRAWN_S = 600, 660
#: questions of each user
ROUNDS = 10
#: (prompt, answer) -> requests of a run at most load (perf-overview.md of TensorRT-LLM 1.0, "Preparing a dataset")
REQUESTS = {
    (128, 128): 30000, (128, 2048): 3000, (128, 4096): 1500, (500, 2000): 3000, (1000, 1000): 3000, (1000, 2000): 1500,
    (2048, 128): 3000, (2048, 2048): 1500, (5000, 500): 1500, (20000, 2000): 1000,
}  # fmt: skip
#: a replica has the fewest chips, a power of two, that hold the caches of so many mean requests beside the weights:
#: those of NVIDIA's configurations (Llama-2-70B: H100 2, H200 and B200 1; Mixtral: 1; Llama-3.1-405B: H200 8)
HELD = 150
#: tokens of an iteration at least, in runs with a limit on the time of a token
LEAST_CHUNK = 2048


def read_inference(record: Record) -> Case | str:
    """The case of a row, or why it has none."""
    model, system, value = (record.text(name) for name in ("model", "system", "value"))
    number = re.fullmatch(r"[0-9.]+(e[0-9]+)?", value)
    if number is None:
        return "a range, a list or a bound of a vendor, not a value"
    if record.text("source").startswith("public pages citing") or system.startswith(("Cerebras", "Groq")):
        return "a service on a chip without a preset (Cerebras WSE-3, Groq LPU)"
    special = read_deepseek(record)
    if special is not None:
        return special
    if model not in MODELS:
        return f"no workload of {model} is shipped"
    chip = chip_of(system)
    if chip is None:
        return f"no preset of the chip of {re.sub(r'^[0-9x-]+', '', system).split('-')[0].split('_')[0]}"
    if record.text("id").startswith("MLP"):
        return _mlperf(record, chip)
    return _table(record, chip)


def _table(record: Record, chip: str) -> Case | str:
    """Rows of TensorRT-LLM and NIM."""
    name, metric, source = record.text("id"), record.text("metric"), record.text("source")
    chips = int((re.search(r"x(\d+)$", record.text("system")) or ["", "1"])[1])
    degree = tensor_degree(record.text("parallelism"))
    dtype = record.text("dtype")
    if degree is None or dtype not in FORMATS:
        return f"the cell '{record.text('parallelism') if degree is None else dtype}' is not understood"
    in_flight = name.startswith(("TR1", "NIM"))
    quant = "fp8-kv" if in_flight and dtype == "FP8" else FORMATS[dtype]
    stack = {"TR1": "tensorrt-llm-pytorch", "NIM": "nim"}.get(name[:3], "tensorrt-llm-static")
    model = MODELS[record.text("model")]
    server = _server(chip, model, chips, degree, quant, STACKS[stack])
    request = Request(record.integer("input_len"), record.integer("output_len"))
    assumption = f"{quant}, TP{degree}, stack {stack}"
    expected = record.number("value")
    if metric == "time to first token":
        batch = record.integer("batch_concurrency")
        return Case(name, f"TensorRT-LLM first token, {chip}", expected,
                    lambda: 1e3 * first_token_s(server, request, batch), assumption)  # fmt: skip
    if name.startswith("TR1"):
        count = REQUESTS[request.input_tokens, request.output_tokens]
        return Case(name, f"TensorRT-LLM 1.0 at most load, {chip}", expected,
                    lambda: answer_all(_tuned(server, request), request, [request.output_tokens] * count).output_per_s,
                    f"{assumption}, {count:,} requests, limits of trtllm-bench")  # fmt: skip
    batch = record.integer("batch_concurrency")
    if name.startswith("NIM"):
        return _nim(name, metric, expected, server, request, batch, assumption)
    share = chips if "per GPU" in metric else 1
    group = f"TensorRT-LLM fixed batch, {chip}"
    if model == "llama-2-70b":  # its attention works on query heads one by one
        group = "TensorRT-LLM fixed batch, grouped queries"
    return Case(name, group, expected,
                lambda: fixed_batch(server, request, batch).output_per_s / share, f"{assumption}: {source[-22:]}"
                if share == 1 else assumption)  # fmt: skip


def _tuned(server: Deployment, request: Request) -> Deployment:
    """With the most sequences and tokens of an iteration that trtllm-bench chooses."""
    fit = 1 / server.share(request.input_tokens + request.output_tokens)
    most, chunk = bench_limits(fit, request.input_tokens, request.output_tokens)
    graphs = (*(size for size in server.stack.graphs if size < most), most)
    return replace(server, stack=replace(server.stack, most=most, chunk=chunk, graphs=graphs))


def _nim(
    name: str, metric: str, expected: float, server: Deployment, request: Request, users: int, assumption: str
) -> Case | str:
    """A fixed number of users, each of whom asks again when answered; the first question of each is a warm-up."""
    figures: Mapping[str, Callable[[], float]] = {
        "TTFT": lambda: 1e3 * float(_users(server, request, users).ttft_s[users:].mean()),
        "ITL": lambda: 1e3 * float(_users(server, request, users).tpot_s[users:].mean()),
        "output throughput": lambda: _users(server, request, users).output_per_s,
    }
    if metric not in figures:
        return f"the metric '{metric}' is not one of a steady state"
    return Case(name, "NIM (TensorRT-LLM) by users", expected, figures[metric], f"{assumption}, {users} users")


def _users(server: Deployment, request: Request, users: int) -> Online:
    return serve_users(server, request, users, [request.output_tokens] * (ROUNDS * users))


def _mlperf(record: Record, chip: str) -> Case | str:
    """Replicas of equal size side by side, each with its share of all questions: at once (Offline), or as they arrive
    at random at the largest rate at which 99 % keep the limits that stand in the notes (Server, Interactive)."""
    scenario, model, notes = record.text("batch_concurrency"), record.text("model"), record.text("notes")
    if record.text("id") == "MLP-053":
        return "below the same submitter's Server row: contradicts itself"
    limits = [re.search(rf"{name} limit ms ([0-9.]+)", notes) for name in ("TTFT", "TPOT")]
    if scenario != "Offline" and not all(limits):
        return f"the scenario '{scenario}' without limits of the time to the first and to further tokens"
    of_amd = chip.startswith("MI")  # AMD and its partners submit vLLM
    count = re.search(r"^(\d+)x" if of_amd else r"(?:x|NVL)(\d+)(?:-[A-Za-z]+)?_TRT$", record.text("system"))
    chips = int(count[1]) if count else 1
    experts = model.startswith("DeepSeek")  # attention by data, experts over all chips; attention stays in bf16
    fp4 = "fp4" in load_chip(CHIPS[chip][0]).core.matrix.rates
    quant = ("fp4-mlp-kv" if experts else "fp4-kv") if fp4 else "fp8-kv"
    workload, mix = MODELS[model], DATASETS[model]
    online = scenario != "Offline"
    stack = STACKS["vllm" if of_amd else "nim" if online else "tensorrt-llm"]
    degree = chips if experts else _fewest(chip, workload, chips, quant, stack, mix.input_tokens + mix.output_tokens)
    server = _server(chip, workload, degree, 1 if experts else degree, quant, stack)
    copies = 1 if experts else chips // degree
    ttft_s, tpot_s = (1e-3 * float(limit[1]) if limit else 0.0 for limit in limits)
    return Case(
        record.text("id"), f"MLPerf {scenario.lower()}, {chip}", record.number("value"),
        lambda: copies * (
            _online(server, model, copies, ttft_s, tpot_s) if online else _offline(server, model, copies)
        ),
        f"{mix.title}: mean {mix.input_tokens} in, {mix.output_tokens} out, lengths spread exponentially; {quant}, "
        f"{copies} x {'DP' if experts else 'TP'}{degree}"
        + (f"; 99 % within {ttft_s:g} s and {tpot_s * 1e3:g} ms" if online else "")
        + f", stack {stack.name}",
        heavy=experts or online,
    )  # fmt: skip


def _online(server: Deployment, model: str, copies: int, ttft_s: float, tpot_s: float) -> float:
    """Output tokens a second of one of ``copies`` replicas at the largest rate that keeps the limits.

    As LoadGen counts them: all tokens over the time until the request that came last, here one like the mean, is
    answered (`final_query_all_samples_done_time`); that others take longer does not count.
    """
    mix, server = DATASETS[model], _chunked(server, tpot_s)
    outputs = spread_lengths(mix.output_tokens, mix.questions // copies, mix.longest)
    request = Request(mix.input_tokens, mix.output_tokens)
    run = most_rate(server, request, outputs, ttft_s=ttft_s, tpot_s=tpot_s, least_s=LEAST_S)
    return run.output_tokens / (run.arrivals_s + float(run.latency_s.mean()))


def _chunked(server: Deployment, tpot_s: float) -> Deployment:
    """With as many tokens of an iteration, halved, as prompts alone take no longer than a token may, which is what a
    submitter chooses; with all of them where not even the least do."""
    chunk = server.stack.chunk
    while chunk >= LEAST_CHUNK and server.prefill_s(server.groups(), chunk) > tpot_s:
        chunk //= 2
    return replace(server, stack=replace(server.stack, chunk=chunk)) if chunk >= LEAST_CHUNK else server


def _offline(server: Deployment, model: str, copies: int) -> float:
    """Output tokens a second of one of ``copies`` replicas, over a run that is long enough for LoadGen."""
    mix = DATASETS[model]
    request, count = Request(mix.input_tokens, mix.output_tokens), mix.questions // copies
    outputs = spread_lengths(mix.output_tokens, count, mix.longest)
    rate = answer_all(server, request, outputs).output_per_s
    if sum(outputs) / rate < LEAST_S:
        more = round(rate * DRAWN_S / mix.output_tokens)
        rate = answer_all(server, request, spread_lengths(mix.output_tokens, more, mix.longest)).output_per_s
    return rate


@cache
def _fewest(chip: str, workload: str, chips: int, quant: str, stack: Stack, tokens: int) -> int:
    """Chips of a replica, of so many; all of them if fewer do not hold enough requests."""
    degree = 1
    while 2 * degree <= chips:
        try:
            if _server(chip, workload, degree, degree, quant, stack).share(tokens) * HELD <= 1:
                break
        except InputError:  # not even the weights fit
            pass
        degree *= 2
    return degree


@cache
def _server(chip: str, workload: str, chips: int, tp: int, quant: str, stack: Stack) -> Deployment:
    options: dict[str, Any] = {"quant": quant, "tp": tp, "overlap": "none"}  # no two micro-batches
    if tp == 1 and workload == "deepseek-v3":
        options["redundant"] = -256 % chips  # so that all chips hold equally many experts
    return Deployment(CHIPS[chip][0], workload, system_of(chip, chips), options, stack)
