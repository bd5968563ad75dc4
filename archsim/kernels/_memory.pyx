"""Block cache and DRAM channels in C structs; `archsim.kernels.memory` documents the model."""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef int64_t AS_PER_PS = 1000000
cdef int32_t NONE = -1


# --- DRAM ---------------------------------------------------------------------------------------------------------

cdef inline int64_t after_refresh(Memory *m, int64_t t) noexcept nogil:
    cdef int64_t phase
    if m.refi_ps == 0:
        return t
    phase = t % m.refi_ps
    return t - phase + m.rfc_ps if phase < m.rfc_ps else t


cdef inline int64_t bank_ready(Memory *m, Counters *counters, int64_t t, int64_t channel, int64_t row) noexcept nogil:
    """Open `row` if it is not open, and return when its columns can be read."""
    cdef int64_t bank = channel * m.banks + row % m.banks
    cdef int64_t act
    if m.open_row[bank] == row:
        counters.row_hits += 1
        return m.open_ready[bank]
    counters.row_misses += 1
    # the activate takes its place in the channel's order now; a bank that must wait does not hold up the others
    act = max(t, m.act_free[channel])
    m.act_free[channel] = act + m.act_ps
    act = after_refresh(m, max(act, m.bank_next_act[bank]))
    m.bank_next_act[bank] = act + m.rc_ps
    m.open_ready[bank] = act + m.rcd_ps + (m.rp_ps if m.open_row[bank] >= 0 else 0)
    m.open_row[bank] = row
    return m.open_ready[bank]


cdef void dram_access(
    Memory *m, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write,
    int64_t *head, int64_t *done,
) noexcept nogil:
    cdef int64_t chunk = address // m.interleave_bytes
    cdef int64_t within = address - chunk * m.interleave_bytes
    cdef int64_t channel = chunk % m.channels
    cdef int64_t local = (chunk // m.channels) * m.interleave_bytes  # of this chunk's first byte, in its channel
    cdef int64_t left = nbytes
    cdef int64_t row, piece, data, slot, ready, begin
    head[0] = INT64_MAX
    done[0] = t
    while left > 0:
        row = (local + within) // m.row_bytes
        piece = min(left, m.interleave_bytes - within, (row + 1) * m.row_bytes - local - within)
        data = (piece + m.burst_bytes - 1) // m.burst_bytes * m.burst_ps
        slot = max(m.bus_free[channel], t)
        if m.last_write[channel] != write:
            slot += m.turn_ps
            m.last_write[channel] = write
        slot = after_refresh(m, slot)
        ready = bank_ready(m, counters, t, channel, row)
        m.bus_free[channel] = slot + data
        begin = slot if write else max(slot, ready) + m.cl_ps
        head[0] = min(head[0], begin)
        done[0] = max(done[0], begin + data)
        counters.dram_busy_ps += data
        left -= piece
        within += piece
        if within == m.interleave_bytes:
            within = 0
            channel += 1
            if channel == m.channels:
                channel = 0
                local += m.interleave_bytes
    if write:
        counters.bytes_written += nbytes
    else:
        counters.bytes_read += nbytes


# --- block cache --------------------------------------------------------------------------------------------------

cdef inline int64_t home(Memory *m, int64_t block) noexcept nogil:
    return <int64_t>((<uint64_t>block * <uint64_t>0x9E3779B97F4A7C15) >> m.table_shift)


cdef inline int64_t find(Memory *m, int64_t block) noexcept nogil:
    """Table position of `block`, or of the free place where it belongs."""
    cdef int64_t at = home(m, block)
    while m.table[at] != NONE and m.block_id[m.table[at]] != block:
        at = (at + 1) & m.table_mask
    return at


cdef inline void forget(Memory *m, int64_t block) noexcept nogil:
    """Take `block` out of the table and close the gap, so that no tombstones pile up."""
    cdef int64_t gap = find(m, block)
    cdef int64_t at = (gap + 1) & m.table_mask
    cdef int64_t wanted
    while m.table[at] != NONE:
        wanted = home(m, m.block_id[m.table[at]])
        if ((at - wanted) & m.table_mask) >= ((at - gap) & m.table_mask):
            m.table[gap] = m.table[at]
            gap = at
        at = (at + 1) & m.table_mask
    m.table[gap] = NONE


cdef inline void unlink(Memory *m, int32_t slot) noexcept nogil:
    if m.newer[slot] == NONE:
        m.newest = m.older[slot]
    else:
        m.older[m.newer[slot]] = m.older[slot]
    if m.older[slot] == NONE:
        m.oldest = m.newer[slot]
    else:
        m.newer[m.older[slot]] = m.newer[slot]


cdef inline void link_newest(Memory *m, int32_t slot) noexcept nogil:
    m.newer[slot] = NONE
    m.older[slot] = m.newest
    if m.newest == NONE:
        m.oldest = slot
    else:
        m.newer[m.newest] = slot
    m.newest = slot


cdef inline int32_t take_slot(Memory *m, Counters *counters, int64_t t, int64_t *done) noexcept nogil:
    """A slot for a new block: a fresh one, or that of the least recent block, written back if it is dirty."""
    cdef int32_t slot
    cdef int64_t head, written
    if m.blocks < m.capacity_blocks:
        slot = m.blocks
        m.blocks += 1
        return slot
    slot = m.oldest
    if m.block_dirty[slot]:
        dram_access(m, counters, t, m.block_id[slot] * m.block_bytes, m.block_bytes, True, &head, &written)
        done[0] = max(done[0], written)
    forget(m, m.block_id[slot])
    unlink(m, slot)
    return slot


cdef void cache_access(
    Memory *m, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write,
    int64_t *head, int64_t *done,
) noexcept nogil:
    cdef int64_t service = max(1, (nbytes * m.cache_as_per_byte + AS_PER_PS - 1) // AS_PER_PS)
    cdef int64_t start = max(t, m.cache_free)
    cdef int64_t t1 = start + m.hit_latency_ps
    cdef int64_t block, at, block_head, fetched
    cdef int64_t first_fetched = INT64_MAX
    cdef bint present = write  # a write never waits for a block, so its head is as early as a hit's
    cdef int32_t slot
    m.cache_free = start + service
    counters.cache_busy_ps += service
    done[0] = t1 + service
    for block in range(address // m.block_bytes, (address + nbytes - 1) // m.block_bytes + 1):
        at = find(m, block)
        slot = m.table[at]
        if slot != NONE:
            counters.block_hits += 1
            present = True
            unlink(m, slot)
            done[0] = max(done[0], m.block_ready[slot])
            m.block_dirty[slot] |= write
        else:
            counters.block_misses += 1
            slot = take_slot(m, counters, t1, done)
            m.block_id[slot] = block
            m.block_dirty[slot] = write
            m.block_ready[slot] = t1
            if not write:
                dram_access(m, counters, t1, block * m.block_bytes, m.block_bytes, False, &block_head, &fetched)
                m.block_ready[slot] = fetched
                first_fetched = min(first_fetched, block_head)
                done[0] = max(done[0], fetched)
            m.table[find(m, block)] = slot  # `at` may have moved when the victim left
        link_newest(m, slot)
    head[0] = t1 if present else first_fetched


cdef void memory_access(
    Memory *memory, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write,
    int64_t *head, int64_t *done,
) noexcept nogil:
    counters.bytes_requested += nbytes
    if memory.capacity_blocks:
        cache_access(memory, counters, t, address, nbytes, write, head, done)
    else:
        dram_access(memory, counters, t, address, nbytes, write, head, done)


# --- ownership ----------------------------------------------------------------------------------------------------

cdef void *allocate(int64_t count, size_t size) except NULL:
    cdef void *memory = calloc(max(1, count), size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef class MemoryKernel:
    """Owns one `Memory`; made from the fields of a `Dram` and, unless capacity_blocks is 0, of a `Cache`."""

    def __cinit__(self, dict dram, int64_t capacity_blocks, dict cache):
        cdef Memory *m = &self.memory
        cdef int64_t banks, places = 8
        m.channels, m.interleave_bytes = dram["channels"], dram["interleave_bytes"]
        m.banks, m.row_bytes = dram["banks"], dram["row_bytes"]
        m.burst_bytes, m.burst_ps, m.cl_ps = dram["burst_bytes"], dram["burst_ps"], dram["cl_ps"]
        m.rcd_ps, m.rp_ps, m.rc_ps, m.act_ps = dram["rcd_ps"], dram["rp_ps"], dram["rc_ps"], dram["act_ps"]
        m.refi_ps, m.rfc_ps, m.turn_ps = dram["refi_ps"], dram["rfc_ps"], dram["turn_ps"]
        m.capacity_blocks = capacity_blocks
        if capacity_blocks:
            m.block_bytes, m.cache_as_per_byte = cache["block_bytes"], cache["as_per_byte"]
            m.hit_latency_ps = cache["hit_latency_ps"]
        banks = m.channels * m.banks
        m.bus_free = <int64_t *>allocate(m.channels, sizeof(int64_t))
        m.act_free = <int64_t *>allocate(m.channels, sizeof(int64_t))
        m.last_write = <uint8_t *>allocate(m.channels, sizeof(uint8_t))
        m.open_row = <int64_t *>allocate(banks, sizeof(int64_t))
        m.open_ready = <int64_t *>allocate(banks, sizeof(int64_t))
        m.bank_next_act = <int64_t *>allocate(banks, sizeof(int64_t))
        m.table_shift = 61
        while places < 2 * capacity_blocks:
            places *= 2
            m.table_shift -= 1
        m.table_mask = places - 1
        m.table = <int32_t *>allocate(places, sizeof(int32_t))
        m.block_id = <int64_t *>allocate(capacity_blocks, sizeof(int64_t))
        m.block_ready = <int64_t *>allocate(capacity_blocks, sizeof(int64_t))
        m.block_dirty = <uint8_t *>allocate(capacity_blocks, sizeof(uint8_t))
        m.newer = <int32_t *>allocate(capacity_blocks, sizeof(int32_t))
        m.older = <int32_t *>allocate(capacity_blocks, sizeof(int32_t))
        self.reset()

    def __dealloc__(self):
        cdef Memory *m = &self.memory
        free(m.bus_free)
        free(m.act_free)
        free(m.last_write)
        free(m.open_row)
        free(m.open_ready)
        free(m.bank_next_act)
        free(m.table)
        free(m.block_id)
        free(m.block_ready)
        free(m.block_dirty)
        free(m.newer)
        free(m.older)

    def reset(self):
        """Forget everything: rows closed, cache empty, clocks and counters at zero."""
        cdef Memory *m = &self.memory
        cdef int64_t banks = m.channels * m.banks
        memset(m.bus_free, 0, m.channels * sizeof(int64_t))
        memset(m.act_free, 0, m.channels * sizeof(int64_t))
        memset(m.last_write, 0, m.channels)
        memset(m.open_row, 0xFF, banks * sizeof(int64_t))  # -1 everywhere: no row
        memset(m.bank_next_act, 0, banks * sizeof(int64_t))
        memset(m.table, 0xFF, (m.table_mask + 1) * sizeof(int32_t))
        m.cache_free = 0
        m.blocks = 0
        m.newest = m.oldest = NONE
        memset(&self.counters, 0, sizeof(Counters))

    def access(self, const int64_t[::1] t, const int64_t[::1] address, const int64_t[::1] nbytes,
               const uint8_t[::1] write, int64_t[::1] head, int64_t[::1] done):
        """Serve accesses one after the other, in the order given."""
        cdef Py_ssize_t i
        with nogil:
            for i in range(t.shape[0]):
                memory_access(&self.memory, &self.counters, t[i], address[i], nbytes[i], write[i],
                              &head[i], &done[i])

    def read_counters(self):
        """The counters as a dict."""
        return self.counters
