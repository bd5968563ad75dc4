"""The state of one memory, shared with the interpreter so that an access costs one C call."""

from libc.stdint cimport int32_t, int64_t, uint8_t


cdef struct Counters:
    int64_t bytes_requested
    int64_t bytes_read
    int64_t bytes_written
    int64_t block_hits
    int64_t block_misses
    int64_t row_hits
    int64_t row_misses
    int64_t cache_busy_ps
    int64_t dram_busy_ps


cdef struct Memory:
    # organisation and timings: archsim.program.machine.Dram
    int64_t channels, interleave_bytes, banks, row_bytes, burst_bytes, burst_ps
    int64_t cl_ps, rcd_ps, rp_ps, rc_ps, act_ps, refi_ps, rfc_ps, turn_ps
    # the cache: archsim.program.machine.Cache (capacity 0: none)
    int64_t capacity_blocks, block_bytes, cache_as_per_byte, hit_latency_ps
    # one entry a channel, then one entry a bank of each channel
    int64_t *bus_free
    int64_t *act_free
    uint8_t *last_write
    int64_t *open_row
    int64_t *open_ready
    int64_t *bank_next_act
    # cached blocks: slots in a doubly linked list (most recent first), found through an open-addressing table
    int64_t cache_free
    int64_t *block_id
    int64_t *block_ready
    uint8_t *block_dirty
    int32_t *newer
    int32_t *older
    int32_t newest, oldest, blocks
    int32_t *table
    int64_t table_mask
    int table_shift


cdef void memory_access(
    Memory *memory, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write,
    int64_t *head, int64_t *done,
) noexcept nogil


cdef class MemoryKernel:
    cdef Memory memory
    cdef Counters counters
