"""A given number of requests, all there at the beginning: from the first prompt to the last token.

Benchmarks of throughput send so many requests at once and divide by the time until all are answered. Where that is a
few times what the server holds, the beginning, the end and a last wave that is not full count::

    time = sum over iterations of  t(n, c, a)      n sequences under way with c cached tokens each, a prompts taken in

Each iteration takes in as many prompts as there is room for in the cache and tokens in a chunk; longer ones take an
iteration for each chunk. Between events (a prompt comes, an answer ends) iterations differ by the growing cache alone,
and the one in the middle stands for all. A step is linear in the cache that it reads, so two lengths of it are
simulated for a number of sequences: those that the stack has graphs for, else halves of the most; between them steps
are linear too.
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

#: tokens that room is kept for are rounded up to, where lengths differ
PAGE = 64

#: cached tokens below which a step is not simulated
SHORTEST = 64


def answer_all(server: Deployment, request: Request, outputs: Sequence[int]) -> Operating:
    """Throughput over the whole run of ``len(outputs)`` requests with so many output tokens each.

    request: their prompt, and the answer that room is kept for.
    """
    run = Run(server, request, outputs)
    while run.taken < len(outputs) or run.ends:
        run.iterate(run.admitted(len(outputs)))
        if run.ends and not run.admitted(len(outputs)):  # nothing changes until an answer ends
            run.repeat(run.ends[0][0] - run.iteration - 1)
    rate = sum(outputs) / run.time_s
    inputs = sum(run.prompts) / run.time_s
    return Operating(run.most, server.chips, run.most / rate, 0.0, rate, inputs)


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
    """The server during a run over requests that are taken in in order.

    request: the prompt of all, and the answer that room is kept for; with prompts, their lengths one by one, and room
    is kept for each one's own answer. few: steps of few sequences are simulated too.
    taken: requests taken in so far. ends: (iteration of the last token, iteration of the first one, number) of those
    under way. firsts: when the first token of each came, in order. lasts: when the last one did, by number.
    """

    server: Deployment
    request: Request
    outputs: Sequence[int]
    prompts: Sequence[int] = ()
    few: bool = False
    time_s: float = 0.0
    iteration: int = 0
    taken: int = 0
    ends: list[tuple[int, int, int]] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    lasts: dict[int, float] = field(default_factory=dict)
    begun: int = 0  # the sum of the second of each under way
    cached: int = 0  # and of their prompts
    kept: float = 0.0  # the share of the room for caches that they take
    known_s: dict[int, float] = field(default_factory=dict)  # of prompts of a length
    shares: dict[int, float] = field(default_factory=dict)  # of the room, by length
    #: of a step of so many sequences a group: cached tokens from which on it was simulated, seconds there and per token
    lines: dict[tuple[int, int], tuple[int, float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.outputs or min(self.outputs) < 1:
            raise InputError("a run needs at least one request, each of at least one output token")
        count = len(self.outputs)
        self.alike = not self.prompts
        if self.alike:
            self.prompts = [self.request.input_tokens] * count
            lengths = [self.request.input_tokens + self.request.output_tokens] * count
        else:  # in pages
            both = zip(self.prompts, self.outputs, strict=True)
            lengths = [-(-(prompt + output) // PAGE) * PAGE for prompt, output in both]
        self.server.capacity(max(lengths))  # or no request fits
        self.most = min(self.server.capacity(min(lengths)), count)
        self.rooms = [self._share(length) for length in lengths]
        self.computed = [self._asked(prompt).computed for prompt in self.prompts]
        stack, groups = self.server.stack, self.server.groups()
        self.device = replace(self.server, stack=replace(stack, gap_s=0.0, sequence_s=0.0, launch_s=0.0))
        each = ceil(self.most / groups)
        halvings = each.bit_length() if self.few else HALVINGS
        sizes = stack.graphs or [each // 2**k for k in range(halvings + 1)]
        fewest = each // 2**halvings
        self.sizes = sorted({max(n, 1) for n in sizes if fewest <= n < each} | {stack.captured(each)})

    def admitted(self, arrived: int) -> int:
        """How many of the requests that arrived the next iteration takes in.

        As many as there is room for in the cache and, beside the tokens of those under way, in a chunk; a group takes
        one prompt at least.
        """
        groups, under_way = self.server.groups(), len(self.ends)
        free = 1 + 1e-9 - self.kept
        tokens = self.server.chunk * groups - under_way * (1 + self.server.draft)
        number = self.taken
        while number < arrived and under_way + number - self.taken < self.most:
            tokens -= self.computed[number]
            free -= self.rooms[number]
            if free < 0 or (tokens < 0 and number - self.taken >= groups):
                break
            number += 1
        return number - self.taken

    def iterate(self, prompts: int) -> None:
        """One iteration that computes so many of the prompts that wait, which brings their first tokens.

        Prompts longer than a chunk take one for each chunk.
        """
        new = range(self.taken, self.taken + prompts)
        prompts_s = sum(self._prompt_s(self.prompts[number]) for number in new)
        tokens = sum(self.computed[number] for number in new)
        chunks = ceil(tokens / (self.server.chunk * self.server.groups())) or 1
        for _ in range(chunks):
            self._pass(prompts_s / chunks)
        for number in new:
            self.firsts.append(self.time_s)
            if self.outputs[number] > 1:
                steps = ceil((self.outputs[number] - 1) / self.server.tokens_per_step)
                heapq.heappush(self.ends, (self.iteration + steps, self.iteration, number))
                self.begun += self.iteration
                self.cached += self.prompts[number]
                self.kept += self.rooms[number]
            else:
                self.lasts[number] = self.time_s
        self.taken += prompts

    def _pass(self, prompts_s: float) -> None:
        """One iteration, which decodes all sequences under way beside so many seconds of prompts."""
        sequences = len(self.ends)
        if prompts_s:
            self.time_s += self.server.mixed_s(self._step_s(sequences, graph=False), prompts_s, sequences)
        else:
            self.time_s += self.decode_s()
        self.iteration += 1
        while self.ends and self.ends[0][0] <= self.iteration:
            _, begun, number = heapq.heappop(self.ends)
            self.begun -= begun
            self.cached -= self.prompts[number]
            self.kept -= self.rooms[number]
            self.lasts[number] = self.time_s

    def repeat(self, iterations: int) -> None:
        """So many iterations of decoding alone."""
        self.time_s += iterations * self.decode_s(iterations // 2)
        self.iteration += iterations

    def decode_s(self, later: int = 0) -> float:
        """An iteration of decoding alone, so many iterations from now."""
        sequences = len(self.ends)
        return self.server.iteration_s(self._step_s(sequences, graph=True, later=later), 0, sequences)

    def _share(self, tokens: int) -> float:
        if tokens not in self.shares:
            self.shares[tokens] = self.server.share(tokens)
        return self.shares[tokens]

    def _asked(self, prompt: int) -> Request:
        return self.request if self.alike else replace(self.request, input_tokens=prompt)

    def _prompt_s(self, prompt: int) -> float:
        """Seconds of the device for a prompt; of many lengths only powers of two are simulated, linear between them."""
        if prompt not in self.known_s:
            if self.alike:
                self.known_s[prompt] = prompt_s(self.device, self.request)
            else:
                low = 1 << floor(log2(prompt))
                first, second = (prompt_s(self.device, self._asked(n)) for n in (low, 2 * low))
                self.known_s[prompt] = first + (second - first) * (prompt - low) / low
        return self.known_s[prompt]

    def _step_s(self, sequences: int, *, graph: bool, later: int = 0) -> float:
        """Seconds of the device for a decode step, so many iterations from now."""
        if not sequences:
            return 0.0
        answered = (self.iteration + later - self.begun / sequences) * self.server.tokens_per_step
        ctx, each = self.cached / sequences + answered, sequences / self.server.groups()
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
        asked = size, 1 << floor(log2(max(ctx, SHORTEST)))
        if asked not in self.lines:
            batch, low = size * self.server.groups(), asked[1]
            while low > 1 and self._share(2 * low) * batch > 1:
                low //= 2
            first, second = (self.server.decode_step(batch, n).time_s for n in (low, 2 * low))
            self.lines[asked] = low, first, (second - first) / low
        low, first, slope = self.lines[asked]
        return max(first + slope * (ctx - low), 0.0)
