"""`archsim serve`: what a system yields as a server, in a steady state."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archsim.cli._common import (
    console,
    cp_by_option,
    emit_json,
    headed,
    json_option,
    progress,
    refuse,
    shared_experts_option,
)
from archsim.cli._results import figure_file, ranges_json, show_ranges, wrote
from archsim.errors import InputError

if TYPE_CHECKING:
    from archsim.serving import Deployment, Online, Operating, Pools, Request

__all__ = ["serve"]

#: in place of a rate: the largest one
MOST = "most"
#: requests that arrive for each sequence that fits, so that most of them meet a steady state
ROUNDS = 10


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    from archsim import units

    return None if value is None else units.parse(value, "time")


def _rate(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    from archsim import units

    return None if value is None else units.parse(value, "bandwidth")


def _arriving(ctx: click.Context, param: click.Parameter, value: str | None) -> float | str | None:
    """Requests a second, or `MOST`."""
    try:
        return value if value is None or value == MOST else float(value)
    except ValueError:
        raise InputError(f"--rate {value}: must be requests a second, or {MOST}") from None


@click.command()
@click.argument("system")
@click.argument("workload")
@click.option("--input", "input_tokens", type=int, help="Prompt tokens of a request.  [required without --arrivals]")
@click.option("--output", "output_tokens", type=int, help="Answer tokens of a request.  [required without --arrivals]")
@click.option("--batch", type=click.IntRange(1), help="Sequences over the whole system.  [default: see below]")
@click.option("--tpot", callback=_duration, metavar="TIME", help="The most sequences with a token at least so often.")
@click.option("--static", is_flag=True, help="One batch from prompts to last tokens, none in flight.")
@click.option("--requests", type=click.IntRange(1), help="So many requests at once, until all of them are answered.")
@click.option("--rate", callback=_arriving, metavar="R|most",
              help="Requests a second that arrive at random times; most: until less than 99 % keep --ttft or --tpot.")
@click.option("--arrivals", metavar="FILE", help="Requests of a public trace (Azure, Mooncake).")
@click.option("--users", type=click.IntRange(1), help="So many users, each of whom asks again when answered.")
@click.option("--ttft", callback=_duration, metavar="TIME", help="To the first token, of requests over time.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the arrivals of --rate.")
@click.option("--curve", type=click.IntRange(2, 20), help="So many points from few sequences to as many as fit.")
@click.option("--prefix-hit", type=float, default=0.0, show_default=True, help="Share of a prompt found in the cache.")
@click.option("--mtp-acceptance", type=float, help="Share of the draft tokens that are right; switches MTP on.")
@click.option("--draft", type=click.IntRange(1, 8), default=1, show_default=True, help="Draft tokens a step with MTP.")
@click.option("--quant", default="none", show_default=True, help="As `archsim run`; fp8-kv, fp4-kv: KV cache in fp8.")
@click.option("--sparsity", metavar="N:M", default="none", show_default=True, help="Of weights, as `archsim run`.")
@click.option("--tp", type=int, help="Tensor-parallel degree.  [default: all chips of a node, 1 with experts]")
@click.option("--cp", type=click.IntRange(1), default=1, show_default=True, help="Chips that share each sequence.")
@cp_by_option
@click.option("--pp", type=click.IntRange(1), default=1, show_default=True, help="Stages of a pipeline.")
@click.option("--redundant", type=int, default=0, show_default=True, help="Copies of experts that relieve busy chips.")
@shared_experts_option
@click.option("--routing", help="As `archsim run`.")
@click.option("--stack", default="ideal", show_default=True, help="Serving stack whose overhead is assumed.")
@click.option("--prefill-system", metavar="NAME", help="Prompts are computed there, and their caches sent over.")
@click.option("--prompts", type=click.IntRange(1), help="Prompts at a time there.  [default: one a chip]")
@click.option("--kv-link", callback=_rate, metavar="RATE", help="Between them, per chip.  [default: scale-out link]")
@figure_file("--figure", "Draw throughput against interactivity")
@click.option("--uncertainty", is_flag=True, help="Figures as intervals too, over the doubtful values of the chip.")
@json_option
def serve(
    system: str, workload: str, input_tokens: int | None, output_tokens: int | None, batch: int | None,
    tpot: float | None, static: bool, requests: int | None, rate: float | str | None, arrivals: str | None,
    users: int | None, ttft: float | None, seed: int,
    curve: int | None, prefix_hit: float, mtp_acceptance: float | None, draft: int,
    quant: str, sparsity: str, tp: int | None, cp: int, cp_by: str, pp: int, redundant: int, shared_experts: str,
    routing: str | None, stack: str,
    prefill_system: str | None, prompts: int | None, kv_link: float | None, figure: Path | None, uncertainty: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """What SYSTEM yields when it serves WORKLOAD to requests that are all alike and always waiting.

    Without --batch, --tpot, --requests or --curve: as many sequences as fit. Over time come requests (1,000, or
    --requests) at random (--rate), of a file (--arrivals; then each with its own prompt and answer), or of users who
    ask again when they are answered (--users); they queue, and goodput are those that keep --ttft and --tpot.
    --rate most finds the largest rate; ten requests then come for each sequence that fits, or 1,000. SYSTEM is a
    preset or file of a system, or a chip. PATH as the WORKLOAD stands for the files PATH.prefill.h5 and PATH.decode.h5.

    \b
    Examples:
      archsim serve hgx-h100 llama-3.1-70b --input 2048 --output 256 --quant fp8-kv --stack tensorrt-llm
      archsim serve h100 llama-3.1-8b --input 1000 --output 1000 --quant fp8-kv --tpot 20ms
      archsim serve h100 llama-3.1-8b --input 128 --output 128 --batch 64 --static
      archsim serve h100 llama-3.1-8b --input 128 --output 2048 --quant fp8-kv --requests 3000
      archsim serve h100-x16 llama-3.1-405b --input 2048 --output 256 --quant fp8-kv --tp 8 --pp 2
      archsim serve h100 llama-3.1-8b --input 512 --output 128 --quant fp8-kv --rate 20 --ttft 200ms --tpot 15ms
      archsim serve h100 llama-3.1-8b --input 512 --output 128 --quant fp8-kv --rate most --ttft 200ms --tpot 15ms
      archsim serve h100 llama-3.1-8b --input 512 --output 128 --quant fp8-kv --users 64
      archsim serve h100 llama-3.1-8b --arrivals azure.csv --requests 2000 --quant fp8-kv --stack vllm --ttft 1s
      archsim serve hgx-h200 deepseek-v3 --input 2000 --output 500 --quant fp8 --mtp-acceptance 0.7 --curve 6
      archsim serve h800-x144 deepseek-v3 --input 4000 --output 1000 --quant fp8 --redundant 32 --tpot 50ms \\
        --prefill-system h800-x32 --prefix-hit 0.5
    """
    from archsim import serving

    if arrivals is None and (input_tokens is None or output_tokens is None):
        raise InputError(f"--{'in' if input_tokens is None else 'out'}put: is needed without --arrivals")
    request = serving.Request(1 if input_tokens is None else input_tokens, output_tokens or 1, prefix_hit)
    over_time = {"--rate": rate, "--arrivals": arrivals, "--users": users}
    way = next((flag for flag, given in over_time.items() if given is not None), None)
    if tpot is not None and tpot <= 0:
        raise InputError("--tpot: must be more than 0 s")
    _refuse_unused(way, curve, tpot, requests, prefill_system, mtp_acceptance)
    drafts = draft if mtp_acceptance is not None else 0
    options: dict[str, Any] = {
        "quant": quant, "sparsity": sparsity, "redundant": redundant, "shared_experts": shared_experts,
        "routing": routing, "cp": cp, "cp_by": cp_by, "pp": pp,
    }  # fmt: skip
    shared = prefill_system is None

    if way is not None:
        server = _deployment(system, workload, options | {"set": {}}, tp, stack, drafts, mtp_acceptance or 0.0)
        if isinstance(rate, str):
            if ttft is None and tpot is None:
                raise InputError(f"--rate {MOST}: needs --ttft, --tpot or both, which the requests keep")
            run = _most_rate(server, request, requests, ttft, tpot, seed)
        else:
            run = _over_time(server, request, rate, arrivals, users, requests, seed)
        _show_online(server, run, ttft, tpot, as_json=as_json)
        return

    def answer(overrides: Mapping[str, str]) -> tuple[Deployment, list[Operating]]:
        own = options | {"set": overrides}
        server = _deployment(system, workload, own, tp, stack, drafts, mtp_acceptance or 0.0)
        if curve is not None:
            return server, serving.curve(server, request, curve, heard=heard)
        if tpot is not None:
            return server, [serving.largest_batch(server, request, tpot, heard=heard, shared=shared)]
        if requests is not None:
            return server, [serving.answer_all(server, request, [request.output_tokens] * requests)]
        both_tokens = request.input_tokens + request.output_tokens
        most = server.capacity(both_tokens)
        if batch is not None:
            if batch > most:
                tokens = f"{both_tokens:,} tokens"
                raise InputError(f"--batch {batch}: at most {most:,} sequences of {tokens} fit {server.where()}")
            most = batch
        if static:
            return server, [serving.fixed_batch(server, request, most)]
        return server, [(serving.at_batch if shared else serving.decode_pool)(server, request, most)]

    both: Pools | None = None
    ranges = None
    with progress("serving") as update:
        heard_of = itertools.count(1)

        def heard(state: Operating) -> None:
            update(next(heard_of))

        server, found = answer({})
        if prefill_system is not None:
            first = _deployment(prefill_system, workload, options | {"overlap": "auto"}, tp, stack, 0, 0.0)
            both = serving.pools(first, server, request, prompts or first.chips, found[-1].batch, kv_link)
        if uncertainty:
            from archsim.simulation.uncertainty import intervals

            ranges = intervals(server.chip, lambda values: _figures(answer(values)[1]))
    if figure is not None:
        from archsim._figure import save_figure
        from archsim.report.serving import interactivity

        save_figure(interactivity(found, f"{workload} on {system}"), figure)
        wrote(figure)
    if as_json:
        emit_json(_json(server, request, found, both) | ({"uncertainty": ranges_json(ranges)} if ranges else {}))
        return
    _show(server, request, found, both)
    if ranges is not None:
        show_ranges(ranges)


def _refuse_unused(
    over_time: str | None, curve: int | None, tpot: float | None, requests: int | None, prefill_system: str | None,
    mtp_acceptance: float | None,
) -> None:  # fmt: skip
    """Options that say nothing beside the others are mistakes."""
    if over_time != "--rate":
        refuse("is of requests that arrive at random (--rate)", "seed")
    if over_time is None:
        refuse("is of requests over time (--rate, --arrivals, --users)", "ttft")
        for flag, given, others in (
            ("--curve", curve, ("batch", "static", "tpot", "requests", "prefill_system")),
            ("--tpot", tpot, ("batch", "static", "requests")),
            ("--requests", requests, ("batch", "static", "prefill_system")),
        ):
            if given is not None:
                refuse(f"does not go with {flag}, which is another way to load the server", *others)
    else:
        ways = ["batch", "static", "curve", "prefill_system", "uncertainty", "figure"]
        ways += [way for way in ("rate", "arrivals", "users") if f"--{way}" != over_time]
        if over_time == "--arrivals":
            ways += ["input_tokens", "output_tokens"]
        refuse(f"does not go with {over_time}, which takes --requests, --ttft and --tpot", *ways)
    if prefill_system is None:
        refuse("is of prompts on another system (--prefill-system)", "prompts", "kv_link")
    else:
        refuse("needs the prompts on the same system, without --prefill-system", "static")
    if mtp_acceptance is None:
        refuse("needs --mtp-acceptance, the share of its tokens that are right", "draft")


def _over_time(
    server: Deployment, request: Request, rate: float | None, arrivals: str | None, users: int | None,
    requests: int | None, seed: int,
) -> Online:  # fmt: skip
    """The run over requests that arrive at a rate or as a file says, or of users who ask again."""
    from archsim import serving

    if arrivals is not None:
        table = serving.read_arrivals(arrivals).requests[:requests]
        prompts, outputs = (tokens.clip(1).tolist() for tokens in (table["input_tokens"], table["output_tokens"]))
        return serving.serve_arrivals(server, request, table["arrival_s"], outputs, prompts)
    outputs = [request.output_tokens] * (requests or 1000)
    if users is not None:
        return serving.serve_users(server, request, users, outputs)
    assert rate is not None
    return serving.serve_arrivals(server, request, serving.poisson(rate, len(outputs), seed), outputs)


def _most_rate(
    server: Deployment, request: Request, requests: int | None, ttft_s: float | None, tpot_s: float | None, seed: int
) -> Online:
    """The run at the largest rate of which 99 % keep the limits."""
    from archsim import serving

    fit = server.capacity(request.input_tokens + request.output_tokens)
    outputs = [request.output_tokens] * (requests or max(1000, ROUNDS * fit))
    with progress("serving", 1 + serving.HALVINGS) as update:
        heard_of = itertools.count(2)
        update(1)
        return serving.most_rate(
            server, request, outputs, ttft_s=ttft_s, tpot_s=tpot_s, seed=seed,
            heard=lambda run: update(next(heard_of)),
        )  # fmt: skip


def _figures(found: Sequence[Operating]) -> dict[str, float]:
    """Figures of the states by name; of several, each with its place."""
    return {
        name + (f"[{place}]" if len(found) > 1 else ""): value
        for place, state in enumerate(found)
        for name, value in (
            ("batch", state.batch), ("tpot_s", state.tpot_s), ("ttft_s", state.ttft_s),
            ("output_per_s", state.output_per_s), ("output_per_s_per_chip", state.per_chip),
        )
    }  # fmt: skip


def _show_online(
    server: Deployment, run: Online, ttft_s: float | None, tpot_s: float | None, *, as_json: bool
) -> None:
    """Percentiles over the requests that arrived."""
    import numpy as np

    from archsim.report.numbers import si
    from archsim.report.table import table

    shares = (50, 90, 99)
    timed = {"ttft_s": run.ttft_s, "tpot_s": run.tpot_s, "latency_s": run.latency_s}
    percentiles = {name: np.percentile(values, shares).tolist() for name, values in timed.items()}
    good = run.goodput(ttft_s, tpot_s)
    if as_json:
        emit_json({
            "workload": server.workload, "where": server.where(), "chips": server.chips, "requests": len(run.ttft_s),
            "rate": run.rate, "seconds": run.seconds, "output_per_s": run.output_per_s, "most_under_way": run.most,
            **{
                name: {f"p{share}": value for share, value in zip(shares, values, strict=True)}
                for name, values in percentiles.items()
            },
            "ttft_limit_s": ttft_s, "tpot_limit_s": tpot_s, "goodput_per_s": good, "stack": server.stack.describe(),
        })  # fmt: skip
        return
    out = console()
    out.print(
        headed(
            f"{server.workload} on {server.where()}",
            f"  {len(run.ttft_s):,} requests, {run.rate:.3g} a second: {run.output_per_s:,.0f} output tokens/s, "
            f"{run.most:,} sequences under way at most",
        )
    )
    titles = ("TTFT", "TPOT", "until the last token")
    rows = [(title, *(si(v, "s") for v in values)) for title, values in zip(titles, percentiles.values(), strict=True)]
    out.print(table(["", *(f">p{share}" for share in shares)], rows, out.width))
    if ttft_s is not None or tpot_s is not None:
        out.print(f"{run.within(ttft_s, tpot_s):.1%} keep the limits: {good:.3g} requests a second")
    out.print(f"stack {server.stack.describe()}", style="dim", soft_wrap=True)


def _deployment(
    system: str, workload: str, options: dict[str, Any], tp: int | None, stack: str, draft: int, acceptance: float
) -> Deployment:
    from archsim.hardware import list_chips, load_system
    from archsim.serving import Deployment, stack_of
    from archsim.trace import load_workload

    trace = load_workload(workload, "decode")
    experts = any(op.kind == "grouped_matmul" for block in trace.blocks for op in block.ops)
    if system in list_chips():
        if tp not in (None, 1):
            raise InputError(f"--tp {tp}: {system} is one chip; --tp {tp} takes a system such as {system}-x{tp}")
        return Deployment(system, workload, None, options, stack_of(stack), draft, acceptance)
    where = load_system(system)
    left, of = where.chips, system
    for flag in ("pp", "cp"):
        if left % options[flag]:
            raise InputError(f"--{flag} {options[flag]}: must divide the {left} chips of {of}")
        if options[flag] > 1:
            left, of = left // options[flag], f"{of} at {flag.upper()}{options[flag]}"
    degree = tp or (1 if experts else min(where.chips_per_node, left))
    if left % degree:
        raise InputError(f"--tp {degree}: must divide the {left} chips of {of}")
    return Deployment(where.chip, workload, where, options | {"tp": degree}, stack_of(stack), draft, acceptance)


def _json(server: Deployment, request: Request, found: list[Operating], both: Pools | None) -> dict[str, Any]:
    states = [
        {
            "batch": s.batch, "chips": s.chips, "tpot_s": s.tpot_s, "ttft_s": s.ttft_s, "output_per_s": s.output_per_s,
            "input_per_s": s.input_per_s, "output_per_s_per_chip": s.per_chip, "output_per_s_per_user": s.interactivity,
        }
        for s in found
    ]  # fmt: skip
    answer: dict[str, Any] = {
        "workload": server.workload, "where": server.where(), "chip": server.chip, "input_tokens": request.input_tokens,
        "output_tokens": request.output_tokens, "prefix_hit": request.prefix_hit,
        "tokens_per_step": server.tokens_per_step, "stack": server.stack.describe(), "states": states,
    }  # fmt: skip
    if both is not None:
        answer["pools"] = {
            "prefill_input_per_s": both.prefill_per_s, "prefill_systems_per_decode_system": both.prefill_share,
            "kv_bytes_per_request": both.kv_bytes, "kv_transfer_s": both.transfer_s, "ttft_s": both.ttft_s,
            "output_per_s_per_chip": both.output_per_chip,
        }  # fmt: skip
    return answer


def _show(server: Deployment, request: Request, found: list[Operating], both: Pools | None) -> None:
    from archsim.report.numbers import count, si
    from archsim.report.table import table

    out = console()
    hit = f", {request.prefix_hit:.0%} of the prompt in the cache" if request.prefix_hit else ""
    out.print(
        headed(
            f"{server.workload} on {server.where()}",
            f"  {request.input_tokens:,} tokens in, {request.output_tokens:,} out{hit}",
        )
    )
    unknown = both or not all(s.ttft_s for s in found)
    rows = [
        (
            count(s.batch), si(s.tpot_s, "s"), "-" if unknown else si(s.ttft_s, "s"), f"{s.interactivity:.3g}",
            count(s.output_per_s), count(s.input_per_s), count(s.per_chip),
        )
        for s in found
    ]  # fmt: skip
    columns = [">batch", ">TPOT", ">TTFT", ">tok/s/user", ">output/s", ">input/s", ">output/s/chip"]
    out.print(table(columns, rows, out.width))
    if both is not None:
        out.print(
            f"prefill: {both.prefill_per_s:,.0f} prompt tokens/s of one system; {both.prefill_share:.2f} such systems "
            f"for this one; {both.kv_bytes / 1e6:,.0f} MB of cache take {si(both.transfer_s, 's')}; first token after "
            f"{si(both.ttft_s, 's')}; {both.output_per_chip:,.0f} output tokens/s for each chip of both",
            soft_wrap=True,
        )
    if server.draft:
        out.print(f"{server.draft} draft tokens: {server.tokens_per_step:.2f} tokens a step", style="dim")
    out.print(f"stack {server.stack.describe()}", style="dim", soft_wrap=True)
