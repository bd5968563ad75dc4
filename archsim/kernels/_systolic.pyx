"""Fold by fold through one or several systolic arrays; `archsim.kernels.systolic` documents the model."""

from libc.stdint cimport int64_t


cdef inline int64_t transfer(int64_t words, int64_t words_per_cycle) noexcept nogil:
    """Cycles of a transfer; 0 words per cycle are no limit."""
    return 0 if words_per_cycle == 0 else (words + words_per_cycle - 1) // words_per_cycle


def walk_folds(
    int64_t down, int64_t across, int64_t last_high, int64_t last_wide, int64_t rows, int64_t cols,
    int64_t words, int64_t stream, int64_t shift, bint outputs_stay, bint overlap, bint drains,
    int64_t down_rate, int64_t across_rate, int64_t out_rate,
    int64_t[::1] loaded, int64_t[::1] begun, int64_t[::1] ended, int64_t[::1] drained, int64_t[:, ::1] timeline,
):
    """Cycle in which the last result is out. The four state arrays have one entry, zero, for each systolic array."""
    cdef int64_t last
    with nogil:
        last = _walk(
            down, across, last_high, last_wide, rows, cols, words, stream, shift, outputs_stay, overlap, drains,
            down_rate, across_rate, out_rate, loaded, begun, ended, drained, timeline,
        )
    return last


cdef int64_t _walk(
    int64_t down, int64_t across, int64_t last_high, int64_t last_wide, int64_t rows, int64_t cols,
    int64_t words, int64_t stream, int64_t shift, bint outputs_stay, bint overlap, bint drains,
    int64_t down_rate, int64_t across_rate, int64_t out_rate,
    int64_t[::1] loaded, int64_t[::1] begun, int64_t[::1] ended, int64_t[::1] drained, int64_t[:, ::1] timeline,
) noexcept nogil:
    cdef int64_t i, j, a, fold = 0, high, wide, begin, start, length, end, out, skew = rows + cols - 2, last = 0
    cdef int64_t arrays = loaded.shape[0]
    cdef bint keep = timeline.shape[0] > 0
    for j in range(across):
        wide = last_wide if j == across - 1 else cols
        for i in range(down):
            high = last_high if i == down - 1 else rows
            a = fold % arrays
            if outputs_stay:
                begin = ended[a] if overlap else out_of(ended, drained, a, skew)
                start = begin
                length = max(stream, max(transfer(words * high, down_rate), transfer(words * wide, across_rate)))
                end = max(start + length, drained[a])  # the registers that results leave through are free again
                out = end + (max(shift, transfer(high * wide, out_rate)) if drains else 0)
            else:
                begin = max(loaded[a], begun[a]) if overlap else out_of(ended, drained, a, skew)
                loaded[a] = begin + max(shift, transfer(high * wide, across_rate))
                start = max(loaded[a], ended[a])
                length = max(stream, transfer(words * high, down_rate))
                # sums of the folds above come back to be added to
                length = max(length, transfer(words * wide * (2 if i else 1), out_rate))
                end = out = start + length
            begun[a], ended[a], drained[a] = start, end, out
            last = max(last, out + skew)
            if keep:
                timeline[fold, 0], timeline[fold, 1], timeline[fold, 2], timeline[fold, 3] = a, begin, start, end
                timeline[fold, 4] = out + skew
            fold += 1
    return last


cdef inline int64_t out_of(int64_t[::1] ended, int64_t[::1] drained, int64_t a, int64_t skew) noexcept nogil:
    """When the last result of an array's last fold was out; 0 before its first fold."""
    return max(ended[a], drained[a]) + skew if ended[a] else 0
