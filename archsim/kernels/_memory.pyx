"""Block cache and DRAM channels in C structs; `archsim.kernels.memory` documents the model."""

from libc.stdint cimport INT64_MAX, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #undef CYTHON_INLINE
    #define CYTHON_INLINE inline __attribute__((always_inline))
    #define PREFETCH(place) __builtin_prefetch(place)
    #define LOWEST(bits) __builtin_ctzll(bits)
    #else
    #define PREFETCH(place) ((void)(place))
    static int LOWEST(unsigned long long bits) {
        int place = 0;
        while (!(bits >> place & 1)) place++;
        return place;
    }
    #endif
    """
    void PREFETCH(const void *place) noexcept nogil
    int LOWEST(uint64_t bits) noexcept nogil  # the place of the lowest bit of at least one

cdef enum:
    NONE = -1
    LINE = 64       # bytes of the host's cache
    AS_PER_PS = 1000000
cdef int64_t NEVER = -(<int64_t>1 << 60)  # long ago
cdef uint64_t ALL_BITS = ~<uint64_t>0


include "_memory_bus.pxi"
include "_memory_dram.pxi"
include "_memory_states.pxi"
include "_memory_cache.pxi"


# --- ownership ----------------------------------------------------------------------------------------------------

cdef void *allocate(int64_t count, size_t size) except NULL:
    """Zeros that begin a line of the host's cache; what was allocated lies before them."""
    cdef void *memory = calloc(max(1, count) * size + LINE + sizeof(void *), 1)
    cdef void **begin
    if memory == NULL:
        raise MemoryError
    begin = <void **>((<uintptr_t>memory + sizeof(void *) + LINE - 1) & ~<uintptr_t>(LINE - 1))
    begin[-1] = memory
    return begin


cdef void release(void *begin) noexcept:
    if begin != NULL:
        free((<void **>begin)[-1])


cdef set_up(Queue *queue, int64_t room):
    queue.bounded, queue.room = room > 0, room if room else <int64_t>1 << 60
    queue.piece = min(255, max(1, room // LOOK_AHEAD)) if room else 1 << 30
    queue.left = <int64_t *>allocate(2 * room + SLIDE + 2, sizeof(int64_t))


cdef void empty(Queue *queue) noexcept nogil:
    queue.head = queue.tail = 1
    queue.bursts = queue.left[0] = 0


cdef class MemoryKernel:
    """Owns one `Memory`; made from the fields of a `Dram` and, unless capacity_blocks is 0, of a `Cache`."""

    def __cinit__(self, dict dram, const uint64_t[:, ::1] tables, int64_t capacity_blocks, dict cache):
        cdef Memory *m = &self.memory
        cdef int64_t i, banks, places = 16  # a line of the host's cache at least
        m.channels, m.lanes_per_channel = dram["channels"], dram["lanes_per_channel"]
        m.lanes = m.channels * m.lanes_per_channel
        m.interleave_bytes, m.run_bytes, m.banks, m.row_bytes = (
            dram["interleave_bytes"], dram["run_bytes"], dram["banks"], dram["row_bytes"]
        )
        m.burst_bytes, m.burst_ps, m.cl_ps, m.ccd_ps = dram["burst_bytes"], dram["burst_ps"], dram["cl_ps"], dram["ccd_ps"]
        m.rcd_ps, m.rcd_write_ps, m.rp_ps, m.rc_ps = dram["rcd_ps"], dram["rcd_write_ps"], dram["rp_ps"], dram["rc_ps"]
        m.write_to_act_ps = dram["wr_ps"] + dram["rp_ps"]
        m.column_to_act_ps = dram["rtp_ps"] + dram["rp_ps"] - dram["ccd_ps"]
        m.act_ps, m.row_bus_ps = dram["act_ps"], dram["row_bus_ps"]
        m.to_write_ps, m.to_read_ps, m.groups = dram["to_write_ps"], dram["to_read_ps"], dram["bank_groups"]
        m.drain_high, m.drain_low = dram["drain_high"], dram["drain_low"]
        m.live_ps, m.rfc_ps = dram["live_ps"], dram["rfc_ps"]
        m.refi_bank_ps, m.rfc_bank_ps = dram["refi_bank_ps"], dram["rfc_bank_ps"]
        m.burst_shift = dram["burst_bytes"].bit_length() - 1
        m.bursts_per_ps = 1.0 / m.burst_ps
        m.groups_of_state, m.sessions_of_state = m.groups * m.lanes_per_channel, m.banks * m.lanes_per_channel * SESSIONS
        m.reach, m.switch_ps, m.stack_shift = dram["reach"], dram["switch_ps"], (dram["groups_of_stack"] - 1).bit_length()
        m.share_of_stack = dram["share_of_stack"]
        m.hashed = dram["hashed"]
        m.tables = NULL
        if tables is not None:
            self.tables = tables
            m.tables = &self.tables[0, 0]
        m.capacity_blocks = capacity_blocks
        if capacity_blocks:
            m.block_bytes, m.sector_bytes = cache["block_bytes"], cache["sector_bytes"]
            m.slices, m.slice_as_per_byte = cache["slices"], cache["as_per_byte"] * cache["slices"]
            m.slice_bytes = cache["interleave_bytes"] if m.slices > 1 else INT64_MAX
            m.whole_block = ALL_BITS >> (63 - (m.block_bytes - 1) // m.sector_bytes)
            m.hit_latency_ps = cache["hit_latency_ps"]
            m.partitions = cache["partitions"]
            m.capacity = capacity_blocks * ((m.block_bytes - 1) // m.sector_bytes + 1) * m.partitions
        m.slots = SLOTS * capacity_blocks
        banks = m.lanes * m.banks
        m.words = (m.channels + 63) // 64
        m.state_of = <int32_t *>allocate(m.channels, sizeof(int32_t))
        m.unused = <int32_t *>allocate(m.channels, sizeof(int32_t))
        m.members = <uint64_t *>allocate(m.channels * m.words, sizeof(uint64_t))
        m.asked = <uint64_t *>allocate(2 * m.words, sizeof(uint64_t))
        m.pseudo_channels = <Lane *>allocate(m.lanes, sizeof(Lane))
        m.group_of = <int64_t *>allocate(m.banks, sizeof(int64_t))
        for i in range(m.banks):
            m.group_of[i] = i // (m.banks // m.groups)
        m.states = <Channel *>allocate(m.channels, sizeof(Channel))
        for i in range(m.channels):
            set_up(&m.states[i].reads, dram["read_queue"])
            set_up(&m.states[i].writes, dram["write_queue"])
            m.states[i].post = <Posted *>allocate(dram["write_queue"] + 1, sizeof(Posted))
        m.sessions = <Session *>allocate(banks * SESSIONS, sizeof(Session))
        m.group_free = <int64_t *>allocate(m.lanes * m.groups, sizeof(int64_t))
        m.table_shift = 60
        while places < 2 * m.slots:
            places *= 2
            m.table_shift -= 1
        m.table_mask = places - 1
        m.table = <int32_t *>allocate(places, sizeof(int32_t))
        m.slice_free = <int64_t *>allocate(m.slices, sizeof(int64_t))
        m.slice_load = <int64_t *>allocate(m.slices, sizeof(int64_t))
        m.blocks = <Block *>allocate(m.slots, sizeof(Block))
        self.reset()

    def __dealloc__(self):
        cdef Memory *m = &self.memory
        cdef int64_t i
        release(m.pseudo_channels)
        release(m.group_of)
        release(m.state_of)
        release(m.unused)
        release(m.members)
        release(m.asked)
        if m.states != NULL:
            for i in range(m.channels):
                release(m.states[i].reads.left)
                release(m.states[i].writes.left)
                release(m.states[i].post)
        release(m.states)
        release(m.sessions)
        release(m.group_free)
        release(m.table)
        release(m.slice_free)
        release(m.slice_load)
        release(m.blocks)

    def reset(self):
        """Forget everything: rows closed, cache empty, clocks and counters at zero."""
        cdef Memory *m = &self.memory
        share_one_state(m)
        memset(m.table, 0xFF, (m.table_mask + 1) * sizeof(int32_t))
        memset(m.slice_free, 0, m.slices * sizeof(int64_t))
        m.taken = 0
        m.newest = m.oldest = m.spare = NONE
        m.held = m.present = 0
        memset(&self.counters, 0, sizeof(Counters))

    def access_in_order(self, const int64_t[::1] address, const int64_t[::1] nbytes, const uint8_t[::1] write,
                       int64_t[::1] done):
        cdef Py_ssize_t i
        cdef int64_t t = 0, head
        cdef int32_t channel
        cdef Access one
        cdef Origin origin = Origin(1, 0)
        with nogil:
            for i in range(address.shape[0]):
                one = Access(address[i], nbytes[i], 1, 0, NULL, write[i])
                memory_access(&self.memory, &self.counters, t, &one, 1, &origin, &head, &done[i])
                for channel in range(self.memory.channels):
                    t = max(t, real(&self.memory, self.memory.states[self.memory.state_of[channel]].accepted))

    def access(self, const int64_t[::1] t, const int64_t[::1] address, const int64_t[::1] nbytes,
               const uint8_t[::1] write, const int64_t[::1] runs, const int64_t[::1] stride,
               int64_t[::1] head, int64_t[::1] done):
        """Serve accesses one after the other, in the order given."""
        cdef Py_ssize_t i
        cdef Access one
        cdef Origin origin = Origin(1, 0)
        with nogil:
            for i in range(t.shape[0]):
                one = Access(address[i], nbytes[i] // runs[i], runs[i], stride[i], NULL, write[i])
                memory_access(&self.memory, &self.counters, t[i], &one, 1, &origin, &head[i], &done[i])

    def read_counters(self):
        """The counters as a dict."""
        return self.counters
