"""Heads, work and tails of the resources of a program; `archsim.kernels.least` documents what they mean."""

from libc.stdint cimport INT64_MAX, int8_t, int32_t, int64_t, uint8_t

cdef int64_t AS_PER_PS = 1000000

cdef enum:  # archsim.program.machine.Kind
    UNIT = 0
    MEMORY = 2
    WINDOW = 3


def walk_program(
    const int8_t[::1] kind, const int64_t[::1] latency_ps, const int64_t[::1] hit_ps, const int64_t[::1] as_per_byte,
    const int32_t[::1] route_start, const int32_t[::1] route_resources, const int32_t[::1] route,
    const int64_t[::1] work_ps, const int64_t[::1] nbytes, const uint8_t[::1] write, const int32_t[::1] weight,
    const int64_t[::1] pred_start, const int32_t[::1] preds,
    int64_t[::1] ready, int64_t[::1] finish, int64_t[::1] after, int64_t[::1] head, int64_t[::1] work,
    int64_t[::1] more, int64_t[::1] tail,
):
    """Fill the arrays; return the longest path. The last entry of those of resources is of what memories are read for."""
    cdef int64_t steps = route.shape[0], reads = kind.shape[0], longest = 0
    cdef int64_t step, edge, arrival, done, service, rest, at
    cdef int32_t number
    with nogil:
        for step in range(steps):
            arrival = 0
            for edge in range(pred_start[step], pred_start[step + 1]):
                arrival = max(arrival, finish[preds[edge]])
            ready[step] = done = arrival
            for at in range(route_start[route[step]], route_start[route[step] + 1]):
                number = route_resources[at]
                head[number] = min(head[number], arrival)
                if kind[number] == MEMORY and not write[step]:
                    head[reads] = min(head[reads], arrival)
                if kind[number] == UNIT:
                    service = work_ps[step]
                elif kind[number] == WINDOW:
                    service = 0
                else:
                    service = max(<int64_t>1, (nbytes[step] * as_per_byte[number] + AS_PER_PS - 1) // AS_PER_PS)
                work[number] += service
                more[number] += (weight[step] - 1) * service
                done = max(arrival + hit_ps[number] + service, done) + latency_ps[number]
                arrival = max(arrival + hit_ps[number] + latency_ps[number], arrival + 1)
            finish[step] = max(done, arrival) if route_start[route[step]] < route_start[route[step] + 1] else ready[step]
            longest = max(longest, finish[step])
        for step in range(steps - 1, -1, -1):
            rest = after[step]
            for at in range(route_start[route[step] + 1] - 1, route_start[route[step]] - 1, -1):
                number = route_resources[at]
                rest += hit_ps[number] + latency_ps[number]
                tail[number] = min(tail[number], rest)
                if kind[number] == MEMORY and not write[step]:
                    tail[reads] = min(tail[reads], rest)
            rest = after[step] + finish[step] - ready[step]
            for edge in range(pred_start[step], pred_start[step + 1]):
                after[preds[edge]] = max(after[preds[edge]], rest)
    return longest
