"""A given number of requests, all there at the beginning: from the first prompt to the last token.

Benchmarks of throughput send so many requests at once and divide by the time until all are answered. Where that is a
few times what the server holds, the beginning, the end and a last wave that is not full count::

    time = sum over iterations of  t(n, c, a)      n sequences under way with c cached tokens each, a prompts taken in

Each iteration takes in as many prompts as there is room for in the cache and tokens in a chunk. Between events (a
prompt comes, an answer ends) iterations differ by the growing cache alone, and the one in the middle stands for all.
A step is linear in the cache that it reads, so two lengths of it are simulated for a number of sequences: those
that the stack has graphs for, else halves of the most; between them steps are linear too.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, exp, floor, gcd, log, log2

from archsim.errors import InputError
from archsim.serving.deployment import Deployment
from archsim.serving.load import Operating, Request, prompt_s

__all__ = ["Run", "answer_all", "spread_lengths"]

#: halvings of the most sequences at which a step is simulated; with fewer it is taken to last as with the fewest
HALVINGS = 4

#: cached tokens below which a step is not simulated
SHORTEST = 64


def answer_all(server: Deployment, request: Request, outputs: Sequence[int]) -> Operating:
    """Throughput over the whole run of ``len(outputs)`` requests with so many output tokens each.

    request: their prompt, and the answer that room is kept for.
    """
    if not outputs or min(outputs) < 1:
        raise InputError("a run needs at least one request, each of at least one output token")
    most = min(server.capacity(request.input_tokens + request.output_tokens), len(outputs))
    run = Run(server, request, most)
    waiting = 0
    while waiting < len(outputs) or run.ends:
        taken = min(run.at_once, most - len(run.ends), len(outputs) - waiting)
        run.iterate(outputs[waiting : waiting + taken])
        waiting += taken
        if run.ends and (waiting == len(outputs) or len(run.ends) == most):  # nothing changes until an answer ends
            run.repeat(run.ends[0][0] - run.iteration - 1)
    rate = sum(outputs) / run.time_s
    return Operating(most, server.chips, most / rate, 0.0, rate, len(outputs) * request.input_tokens / run.time_s)


def spread_lengths(mean: int, count: int, most: int) -> list[int]:
    """``count`` lengths with this mean, exponentially distributed and cut off at ``most``, in an order without a trend.

    Quantiles of the distribution, ``-s log(1 - q)`` with ``mean = s (1 - exp(-most / s))``, stand for draws; every k-th
    is taken, k prime to their number, so that long ones come at all times.

    >>> lengths = spread_lengths(100, 1000, 300)
    >>> round(sum(lengths) / 1000), min(lengths), max(lengths)
    (100, 1, 300)
    """
    low, high = float(mean), 1000.0 * most  # nearly all at `most`, where the mean is no less
    for _ in range(60):
        scale = (low + high) / 2
        low, high = (scale, high) if scale * (1 - exp(-most / scale)) < mean else (low, scale)
    quantiles = [min(max(round(-low * log(1 - (i + 0.5) / count)), 1), most) for i in range(count)]
    stride = next(k for k in range(max(round(0.618 * count), 1), 2 * count + 1) if gcd(k, count) == 1)
    return [quantiles[i * stride % count] for i in range(count)]


@dataclass
class Run:
    """The server during a run. ends: (iteration of the last token, iteration of the first one, number of the request)
    of those under way. firsts: when the first token of each request came, in the order in which they were taken in.
    lasts: when the last one did, by number."""

    server: Deployment
    request: Request
    most: int
    halvings: int = HALVINGS
    time_s: float = 0.0
    iteration: int = 0
    ends: list[tuple[int, int, int]] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    lasts: dict[int, float] = field(default_factory=dict)
    begun: int = 0  # the sum of the second of each

    def __post_init__(self) -> None:
        stack, groups = self.server.stack, self.server.groups()
        self.at_once = max(stack.chunk // self.request.computed, 1) * groups
        device = replace(self.server, stack=replace(stack, gap_s=0.0, sequence_s=0.0, launch_s=0.0))
        self.prompt_s = prompt_s(device, self.request)
        each = ceil(self.most / groups)
        sizes = stack.graphs or [each // 2**k for k in range(self.halvings + 1)]
        last = self.request.input_tokens + self.request.output_tokens
        self.held = self.server.capacity(last) * last  # tokens that surely fit
        fewest = each // 2**self.halvings
        self.sizes = sorted({max(n, 1) for n in sizes if fewest <= n < each} | {stack.captured(each)})

    def iterate(self, outputs: Sequence[int]) -> None:
        """One iteration that computes so many prompts, which brings their first tokens."""
        sequences = len(self.ends)
        if outputs:
            prompts_s = len(outputs) * self.prompt_s
            self.time_s += self.server.mixed_s(self._step_s(sequences, graph=False), prompts_s, sequences)
        else:
            self.time_s += self.decode_s()
        self.iteration += 1
        while self.ends and self.ends[0][0] <= self.iteration:
            _, begun, number = heapq.heappop(self.ends)
            self.begun -= begun
            self.lasts[number] = self.time_s
        for tokens in outputs:
            number = len(self.firsts)
            self.firsts.append(self.time_s)
            if tokens > 1:
                steps = ceil((tokens - 1) / self.server.tokens_per_step)
                heapq.heappush(self.ends, (self.iteration + steps, self.iteration, number))
                self.begun += self.iteration
            else:
                self.lasts[number] = self.time_s

    def repeat(self, iterations: int) -> None:
        """So many iterations of decoding alone."""
        self.time_s += iterations * self.decode_s(iterations // 2)
        self.iteration += iterations

    def decode_s(self, later: int = 0) -> float:
        """An iteration of decoding alone, so many iterations from now."""
        sequences = len(self.ends)
        return self._step_s(sequences, graph=True, later=later) + self.server.host_s(sequences)

    def _step_s(self, sequences: int, *, graph: bool, later: int = 0) -> float:
        """Seconds of the device for a decode step, so many iterations from now."""
        if not sequences:
            return 0.0
        answered = (self.iteration + later - self.begun / sequences) * self.server.tokens_per_step
        ctx, each = self.request.input_tokens + answered, sequences / self.server.groups()
        above = min(bisect_left(self.sizes, each), len(self.sizes) - 1)
        high = self.sizes[above]
        if graph and self.server.stack.graphs:
            return self._simulated_s(high, ctx * each / high)
        if above == 0 or each == high:
            return self._simulated_s(high, ctx)
        low = self.sizes[above - 1]
        share = (each - low) / (high - low)
        return (1 - share) * self._simulated_s(low, ctx) + share * self._simulated_s(high, ctx)

    def _simulated_s(self, size: int, ctx: float) -> float:
        """Of ``size`` sequences a group; from two powers of two of cached tokens that fit, which other runs share."""
        batch = size * self.server.groups()
        low = 1 << floor(log2(max(ctx, SHORTEST)))
        while 2 * low * batch > self.held and low > 1:
            low //= 2
        first, second = (self.server.decode_step(batch, n).time_s for n in (low, 2 * low))
        return float(max(first + (second - first) * (ctx - low) / low, 0.0))
