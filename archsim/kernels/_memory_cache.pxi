# The block cache before the DRAM, and how an access goes through both. Included by _memory.pyx.

# --- block cache --------------------------------------------------------------------------------------------------

cdef inline int64_t scatter(int64_t block) noexcept nogil:
    """A number of 24 bits that has nothing to do with where the block lies."""
    return <int64_t>((<uint64_t>block * <uint64_t>0x9E3779B97F4A7C15) >> 40)


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


cdef inline int32_t take_slot(Memory *m, Counters *counters, int64_t t, int64_t room, int64_t *done) noexcept nogil:
    """A slot for a new block of some room; the least recent blocks leave for it, and of the dirty ones among them one in
    `room` is written back, whichever bank it lies in.
    """
    cdef int32_t slot
    cdef int64_t head, written
    while m.held + room > m.capacity_blocks and m.oldest != NONE:
        slot = m.oldest
        if m.block_dirty[slot] and scatter(m.block_id[slot]) % room < m.block_room[slot]:
            dram_access(m, counters, t, m.block_id[slot] * m.block_bytes, m.block_bytes, True, &head, &written)
            done[0] = max(done[0], written)
        forget(m, m.block_id[slot])
        unlink(m, slot)
        m.held -= m.block_room[slot]
        m.older[slot] = m.spare
        m.spare = slot
    if m.spare == NONE:
        slot = m.blocks
        m.blocks += 1
    else:
        slot = m.spare
        m.spare = m.older[slot]
    return slot


cdef void cache_access(
    Memory *m, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write, int64_t room,
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
            slot = take_slot(m, counters, t1, room, done)
            m.block_id[slot] = block
            m.block_room[slot] = 0
            m.block_dirty[slot] = write
            m.block_ready[slot] = t1
            if not write:
                dram_access(m, counters, t1, block * m.block_bytes, m.block_bytes, False, &block_head, &fetched)
                m.block_ready[slot] = fetched
                first_fetched = min(first_fetched, block_head)
                done[0] = max(done[0], fetched)
            m.table[find(m, block)] = slot  # `at` may have moved when the victim left
        link_newest(m, slot)
        m.held += room - m.block_room[slot]
        m.block_room[slot] = <int32_t>room
    head[0] = t1 if present else first_fetched


cdef void memory_access(
    Memory *memory, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write, int64_t weight,
    int64_t room,
    int64_t *head, int64_t *done,
) noexcept nogil:
    cdef Counters one
    if weight > 1:
        memset(&one, 0, sizeof(Counters))
        serve_access(memory, &one, t, address, nbytes, write, room, head, done)
        add_counters(counters, &one, weight)
    else:
        serve_access(memory, counters, t, address, nbytes, write, room, head, done)


cdef inline void add_counters(Counters *counters, const Counters *one, int64_t weight) noexcept nogil:
    counters.bytes_requested += weight * one.bytes_requested
    counters.bytes_read += weight * one.bytes_read
    counters.bytes_written += weight * one.bytes_written
    counters.block_hits += weight * one.block_hits
    counters.block_misses += weight * one.block_misses
    counters.row_hits += weight * one.row_hits
    counters.row_misses += weight * one.row_misses
    counters.cache_busy_ps += weight * one.cache_busy_ps
    counters.dram_busy_ps += weight * one.dram_busy_ps


cdef inline void serve_access(
    Memory *memory, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write, int64_t room,
    int64_t *head, int64_t *done,
) noexcept nogil:
    counters.bytes_requested += nbytes
    if memory.capacity_blocks:
        cache_access(memory, counters, t, address, nbytes, write, min(room, memory.capacity_blocks), head, done)
    else:
        dram_access(memory, counters, t, address, nbytes, write, head, done)
