"""Requests that arrive over time: queues, batches in flight, and when each answer begins and ends.

Requests come at given times (a Poisson process of a rate: independent, exponentially distributed gaps) and wait until
an iteration takes them in, in order. Iterations are those of `finite.py`, interpolated between simulated steps: each
decodes all sequences under way and computes as many waiting prompts as there is room for in the cache and tokens in a
chunk. ::

    TTFT = end of the iteration that computed the prompt - arrival
    TPOT = (last token - first token) / (tokens - 1)

They arrive at one queue for all data-parallel groups, which share them evenly. A closed loop of users has no times: a
request comes when the answer before it has ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from math import inf

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError
from archsim.serving.deployment import Deployment
from archsim.serving.finite import Run, answer_all
from archsim.serving.load import Request

__all__ = ["HALVINGS", "Online", "most_rate", "poisson", "serve_arrivals", "serve_users"]

#: halvings of the span of rates
HALVINGS = 8


@dataclass(frozen=True, eq=False)
class Online:
    """A run. ttft_s, tpot_s, latency_s: of each request, in the order of arrival: to its first token, for each further
    one (0 where the answer is one token), to its last token.

    rate: requests a second that arrived. arrivals_s, seconds: from the first arrival to the last one, and to the last
    token. most: sequences under way.
    """

    rate: float
    arrivals_s: float
    seconds: float
    most: int
    output_tokens: int
    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]

    @property
    def output_per_s(self) -> float:
        return self.output_tokens / self.seconds

    def within(self, ttft_s: float | None, tpot_s: float | None) -> float:
        """Share of the requests that kept the limits."""
        kept = np.ones(len(self.ttft_s), dtype=bool)
        for limit, values in ((ttft_s, self.ttft_s), (tpot_s, self.tpot_s)):
            if limit is not None:
                kept &= values <= limit
        return float(kept.mean())

    def goodput(self, ttft_s: float | None, tpot_s: float | None) -> float:
        """Requests a second that kept the limits."""
        return self.within(ttft_s, tpot_s) * len(self.ttft_s) / self.seconds


def poisson(rate: float, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Seconds at which ``count`` requests arrive, ``rate`` of them a second in the mean; the first one at 0.

    >>> round(float(poisson(2.0, 10_001)[-1])) in range(4850, 5150)
    True
    """
    if not 0 < rate < inf:
        raise InputError(f"--rate {rate:g}: must be requests a second, more than 0")
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    times: NDArray[np.float64] = np.cumsum(gaps) - gaps[0]
    return times


def serve_arrivals(
    server: Deployment, request: Request, arrivals_s: Sequence[float] | NDArray[np.float64], outputs: Sequence[int],
    prompts: Sequence[int] = (),
) -> Online:  # fmt: skip
    """Serve a request at each of these times (ascending) with so many output tokens.

    request: their prompt, and the answer that room is kept for; with prompts, their lengths, and room for the answers.
    """
    if len(outputs) != len(arrivals_s):
        raise InputError("a run needs at least one request, each with a time and at least one output token")
    return _serve(Run(server, request, outputs, prompts, few=True), [float(at) for at in arrivals_s], closed=False)


def serve_users(
    server: Deployment, request: Request, users: int, outputs: Sequence[int], prompts: Sequence[int] = ()
) -> Online:
    """A fixed number of users, each of whom asks again as soon as the answer has ended."""
    if users < 1:
        raise InputError(f"--users {users}: must be at least 1")
    return _serve(Run(server, request, outputs, prompts, few=True), [0.0] * min(users, len(outputs)), closed=True)


def _serve(run: Run, times: list[float], *, closed: bool) -> Online:
    """times: of the arrivals; closed: of the first ones, and every answer that ends brings one more."""
    count = len(run.outputs)
    run.time_s = times[0]
    busiest = 0
    while run.taken < count or run.ends:
        if not run.ends:
            run.time_s = max(run.time_s, times[run.taken])
        answered = len(run.lasts)
        run.iterate(run.admitted(bisect_right(times, run.time_s, lo=run.taken)))
        if closed:
            times += [run.time_s] * min(len(run.lasts) - answered, count - len(times))
        busiest = max(busiest, len(run.ends))
        if run.ends and not run.admitted(bisect_right(times, run.time_s, lo=run.taken)):  # until one arrives or ends
            until = run.ends[0][0] - run.iteration - 1
            if run.taken < len(times) and times[run.taken] > run.time_s:
                until = min(until, int((times[run.taken] - run.time_s) / run.decode_s()))
            if until > 0:
                run.repeat(until)
    firsts, lasts = np.array(run.firsts), np.array([run.lasts[n] for n in range(count)])
    gaps = np.maximum(np.array(run.outputs) - 1, 1)
    seconds, arrivals_s, arrived = run.time_s - times[0], times[-1] - times[0], np.array(times)
    rate = (count - 1) / arrivals_s if arrivals_s else count / seconds
    return Online(
        rate, arrivals_s, seconds, busiest, sum(run.outputs), firsts - arrived, (lasts - firsts) / gaps, lasts - arrived
    )


def most_rate(
    server: Deployment, request: Request, outputs: Sequence[int], *, ttft_s: float | None, tpot_s: float | None,
    least_s: float = 0.0, percentile: float = 99.0, seed: int = 0, heard: Callable[[Online], None] = lambda run: None,
) -> Online:  # fmt: skip
    """The run at the largest Poisson rate at which this percentile of the requests keeps each limit.

    least_s: requests come for so long at least, and ask for these outputs again and again. A run ends with its last
    token: where few requests come for longer than an answer takes, it holds fewer at once than a steady state.
    Found by halving from the rate of requests that are all there at once; the gaps are those of one draw, stretched.
    """

    def asked(rate: float) -> list[int]:
        return list(islice(cycle(outputs), max(len(outputs), round(rate * least_s))))

    def at_once(outputs: Sequence[int]) -> float:
        return answer_all(server, request, outputs).output_per_s * len(outputs) / sum(outputs)

    low, high = 0.0, at_once(outputs)
    if least_s:
        high = at_once(asked(high))
    best = None
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        outputs_now = asked(rate)
        run = serve_arrivals(server, request, poisson(rate, len(outputs_now), seed), outputs_now)
        heard(run)
        limits = (ttft_s, run.ttft_s), (tpot_s, run.tpot_s)
        if all(limit is None or np.percentile(values, percentile) <= limit for limit, values in limits):
            low, best = rate, replace(run, rate=rate)
        else:
            high = rate
    if best is None:
        kept = [] if ttft_s is None else [f"{ttft_s:g} s to the first token"]
        kept += [] if tpot_s is None else [f"{tpot_s * 1e3:g} ms a token"]
        raise InputError(
            f"{server.workload} on {server.where()}: not even {high:.3g} requests a second keep {' and '.join(kept)}"
        )
    return best
