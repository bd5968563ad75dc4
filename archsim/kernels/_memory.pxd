"""The state of one memory, shared with the interpreter so that an access costs one C call."""

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint64_t


cdef struct Counters:
    int64_t bytes_requested
    int64_t bytes_read
    int64_t bytes_written
    int64_t block_hits
    int64_t block_misses
    int64_t activates
    int64_t read_bursts
    int64_t write_bursts
    int64_t cache_busy_ps
    int64_t dram_busy_ps


cdef struct Session:  # a row of a bank: since when it is open, when it has been closed for another one
    int64_t row, opened, next_column, next_act, closed, late


cdef struct Queue:  # when the bursts in it leave, the earliest first: time << 8 | bursts
    int64_t *left           # those from head to tail; the one before head has left last
    int64_t bursts, room    # in it, and that it has room for
    int32_t head, tail
    int32_t piece           # bursts that enter and leave together, at most
    bint bounded


cdef struct Lane:  # a pseudo-channel: its data bus, and which bank group has which burst of time; begins a line of the host's cache
    int64_t end             # of what is used
    int64_t front           # the end of what did not wait for its bank
    int64_t act_free
    int64_t late_act        # the last one that waited for its bank
    int32_t posted          # bursts of writes that wait
    int32_t owed            # for changes of stacks, less than a burst
    bint solid              # nothing before the end is idle
    bint writing
    int64_t origin          # where bursts are counted from
    int64_t first           # the first burst that is remembered
    uint64_t[4] busy        # a ring of bits, one for each of BURSTS; zeros while solid
    uint8_t[256] owner      # of those that are busy, behind all else: the bank group; + WASTE: stacks change


cdef struct Place:  # a bank
    Lane *lane
    Session *rows           # SESSIONS of them, the latest one first
    int64_t *group_free     # its bank group
    int tag                 # the number of that, and one (groups that are 64 apart share one)


cdef struct Posted:  # a write that waits to be served
    Place at
    int64_t row, bursts
    int64_t ready           # when it could have its column, or its bank an activate


cdef struct Channel:        # a state, of one channel or of several that have seen the same requests
    Queue reads
    int64_t accepted        # the last request
    int64_t drained         # the last of the writes that were served together has left the queue
    int64_t row_free        # its row-command bus
    int64_t refresh_at      # the next one
    int64_t closed_before   # rows opened before this (live) time have been closed by a refresh
    int64_t posted, posted_bursts
    uint64_t history        # of its requests
    Posted *post
    Queue writes
    int64_t head, done      # of its last request: first and last columns
    int64_t activates       # for that one
    int32_t count           # channels that are in this state
    int32_t ahead           # the state of those that have had the next request already; NONE
    int64_t unused          # a channel takes three lines of the host's cache


cdef struct Block:  # of the cache: its sectors as bits
    int64_t number
    int64_t ready       # the sectors that were fetched last
    int64_t earlier     # all others
    uint64_t valid, fresh, dirty
    int32_t room        # how many blocks it takes the room of
    int32_t newer, older
    uint16_t holders    # the partitions that hold it, as bits
    int16_t copies      # how often it is held, as sum over the partitions


cdef struct Access:  # runs of equal size, one every `stride` bytes or at the places given
    int64_t address, run_bytes, runs, stride
    const int64_t *places
    bint write


cdef struct Origin:     # who makes an access
    int32_t room        # how many blocks each block stands for
    int32_t partition   # of the cache: the reader's own


cdef struct Memory:
    # organisation and timings: archsim.program.machine.Dram; lanes are pseudo-channels, over all channels
    int64_t channels, lanes, lanes_per_channel, interleave_bytes, run_bytes, banks, row_bytes, burst_bytes, burst_ps
    int64_t cl_ps, rcd_ps, rcd_write_ps, rp_ps, rc_ps, column_to_act_ps, write_to_act_ps, act_ps, ccd_ps
    int64_t row_bus_ps, to_write_ps, to_read_ps, groups, drain_high, drain_low
    int64_t live_ps, rfc_ps, refi_bank_ps, rfc_bank_ps  # live: between two all-bank refreshes (0: none)
    bint hashed                        # rows of chunks are turned, each by a number of channels
    int burst_shift                    # of a mapped address; tables NULL: rows go round the banks
    double bursts_per_ps
    int64_t switch_ps, share_of_stack  # idle time of a data bus between two stacks; what a read queue holds of one
    int reach, stack_shift             # bursts between columns of one group; groups of a stack, a power of two
    const uint64_t *tables
    # the cache: archsim.program.machine.Cache (capacity 0: none)
    int64_t capacity_blocks, partitions, block_bytes, sector_bytes, slice_as_per_byte, hit_latency_ps, slices, slice_bytes
    Channel *states         # as many as channels
    int32_t *state_of       # of a channel
    int32_t *unused         # states of no channel
    int64_t unused_states
    bint apart              # each channel has been in a state of its own, and stays there
    int64_t words           # of 64 bits, one a channel
    uint64_t *members       # of each state, as bits
    uint64_t *asked         # the channels of a request that have not been served yet; and those of one state among them
    # of each state; lanes of a bank or bank group side by side
    Lane *pseudo_channels
    int64_t *group_free
    Session *sessions       # SESSIONS of each bank: rows that were open before, the latest one first
    int64_t groups_of_state, sessions_of_state
    int64_t *group_of       # of a bank, in its lane
    # cached blocks: slots in a doubly linked list (most recent first), found through an open-addressing table
    int64_t *slice_free
    int64_t *slice_load     # bytes of the present access
    uint64_t whole_block
    Block *blocks
    int32_t newest, oldest, taken, spare  # slots ever taken; a list of those that are free again
    int64_t capacity, held  # room: sectors, each as often as it is held, times the partitions; what is taken of it
    int64_t present         # blocks that are there
    int64_t slots
    int32_t *table
    int64_t table_mask
    int table_shift


cdef void memory_access(
    Memory *memory, Counters *counters, int64_t t, const Access *access, int64_t weight, const Origin *origin,
    int64_t *head, int64_t *done,
) noexcept nogil


cdef class MemoryKernel:
    cdef Memory memory
    cdef const uint64_t[:, ::1] tables  # keeps alive what memory.tables points to
    cdef Counters counters
