"""The state of one memory, shared with the interpreter so that an access costs one C call."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t


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


cdef struct Session:  # a row that has been closed for another one
    int64_t row, opened, next_column, closed


cdef struct Queue:  # of a channel's controller, in blocks of bursts
    int64_t bursts          # of the present block so far
    int64_t gate            # when there was room for the present block
    int64_t[8] left         # for each block in it, the sum over its bursts of when they leave
    int present


cdef struct Bus:  # of a lane: free from then on, and in idle times before that
    int64_t free, latest    # the latest end of a hole
    int64_t[8] begin
    int64_t[8] end
    int next                # the hole to be forgotten


cdef struct Memory:
    # organisation and timings: archsim.program.machine.Dram; lanes are pseudo-channels, over all channels
    int64_t channels, lanes, lanes_per_channel, interleave_bytes, run_bytes, banks, row_bytes, burst_bytes, burst_ps
    int64_t cl_ps, rcd_ps, rcd_write_ps, rp_ps, rc_ps, rtp_ps, wr_ps, act_ps, ccd_ps, turn_ps
    int64_t groups, block_bursts, block_shift, drain_bursts
    int64_t live_ps, rfc_ps, refi_bank_ps, rfc_bank_ps  # live: between two all-bank refreshes (0: none)
    int burst_shift         # of a mapped address; tables NULL: rows go round the banks
    const uint64_t *tables
    # the cache: archsim.program.machine.Cache (capacity 0: none)
    int64_t capacity_blocks, block_bytes, cache_as_per_byte, hit_latency_ps
    # one entry a lane, then one a bank group and one a bank of each lane (lanes side by side)
    int64_t *act_free
    int64_t *written        # bursts written since the last read, at most drain_bursts
    Bus *buses
    int64_t *group_free
    int64_t *open_row
    int64_t *opened         # when the open row was activated
    int64_t *next_column    # of the open row
    int64_t *next_act
    Session *sessions       # SESSIONS a bank and lane: rows that were open before, the latest one first
    Queue *queues           # one a channel
    int64_t closed_before   # rows opened before this (live) time have been closed by a refresh
    # cached blocks: slots in a doubly linked list (most recent first), found through an open-addressing table
    int64_t cache_free
    int64_t *block_id
    int64_t *block_ready
    uint8_t *block_dirty
    int32_t *block_room     # how many blocks it takes the room of
    int32_t *newer
    int32_t *older
    int32_t newest, oldest, blocks, spare  # slots ever taken; a list of those that are free again
    int64_t held            # the room that is taken
    int32_t *table
    int64_t table_mask
    int table_shift


cdef void memory_access(
    Memory *memory, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write, int64_t weight, int64_t room,
    int64_t *head, int64_t *done,
) noexcept nogil


cdef class MemoryKernel:
    cdef Memory memory
    cdef const uint64_t[:, ::1] tables  # keeps alive what memory.tables points to
    cdef Counters counters
