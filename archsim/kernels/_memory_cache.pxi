# The block cache before the DRAM, and how an access goes through both. Included by _memory.pyx.

# --- block cache --------------------------------------------------------------------------------------------------

cdef enum:
    SLOTS = 8       # blocks that may be there, for each that fills its share of the cache

cdef inline int64_t home(Memory *m, int64_t block) noexcept nogil:
    """Neighbours lie side by side, sixteen to a line of the host's cache: a transfer touches many of them."""
    cdef uint64_t group = (<uint64_t>block >> 4) * <uint64_t>0x9E3779B97F4A7C15
    return <int64_t>((group >> m.table_shift) & ~<uint64_t>15 | (<uint64_t>block & 15))


cdef inline int64_t find(Memory *m, int64_t block) noexcept nogil:
    """Table position of `block`, or of the free place where it belongs."""
    cdef int64_t at = home(m, block)
    while m.table[at] != NONE and m.blocks[m.table[at]].number != block:
        at = (at + 1) & m.table_mask
    return at


cdef inline void forget(Memory *m, int64_t block) noexcept nogil:
    """Take `block` out of the table and close the gap, so that no tombstones pile up."""
    cdef int64_t gap = find(m, block)
    cdef int64_t at = (gap + 1) & m.table_mask
    cdef int64_t wanted
    while m.table[at] != NONE:
        wanted = home(m, m.blocks[m.table[at]].number)
        if ((at - wanted) & m.table_mask) >= ((at - gap) & m.table_mask):
            m.table[gap] = m.table[at]
            gap = at
        at = (at + 1) & m.table_mask
    m.table[gap] = NONE


cdef inline void unlink(Memory *m, int32_t slot) noexcept nogil:
    cdef Block *block = &m.blocks[slot]
    if block.newer == NONE:
        m.newest = block.older
    else:
        m.blocks[block.newer].older = block.older
    if block.older == NONE:
        m.oldest = block.newer
    else:
        m.blocks[block.older].newer = block.newer


cdef inline void link_newest(Memory *m, int32_t slot) noexcept nogil:
    m.blocks[slot].newer = NONE
    m.blocks[slot].older = m.newest
    if m.newest == NONE:
        m.oldest = slot
    else:
        m.blocks[m.newest].newer = slot
    m.newest = slot


cdef inline int64_t trailing_zeros(uint64_t bits) noexcept nogil:
    """Of at least one bit that is set."""
    cdef int64_t count = 0
    cdef int64_t step = 32
    while step:
        if not bits & ((<uint64_t>1 << step) - 1):
            bits >>= step
            count += step
        step >>= 1
    return count


cdef inline int64_t count_of(uint64_t bits) noexcept nogil:
    """How many bits are set."""
    bits -= (bits >> 1) & <uint64_t>0x5555555555555555
    bits = (bits & <uint64_t>0x3333333333333333) + ((bits >> 2) & <uint64_t>0x3333333333333333)
    return <int64_t>((((bits + (bits >> 4)) & <uint64_t>0x0F0F0F0F0F0F0F0F) * <uint64_t>0x0101010101010101) >> 56)


cdef inline uint64_t sectors(Memory *m, int64_t first, int64_t last) noexcept nogil:
    """The sectors of a block that the bytes first to last of it touch, as bits."""
    if first <= 0 and last >= m.block_bytes - 1:
        return m.whole_block
    first = max(first, 0) // m.sector_bytes
    last = min(last, m.block_bytes - 1) // m.sector_bytes
    return ALL_BITS >> (63 - last + first) << first


cdef void move(
    Memory *m, Counters *counters, int64_t t, int64_t number, uint64_t mask, bint write, int64_t *head, int64_t *done
) noexcept nogil:
    """Fetch sectors of a block, or write them back: neighbours as one access."""
    cdef int64_t first, count, one_head, one_done
    cdef Access one
    while mask:
        first = trailing_zeros(mask)
        count = trailing_zeros(~(mask >> first)) if ~(mask >> first) else 64
        one = Access(
            number * m.block_bytes + first * m.sector_bytes,
            min(count * m.sector_bytes, m.block_bytes - first * m.sector_bytes), 1, 0, NULL, write,
        )
        dram_access(m, counters, t, &one, &one_head, &one_done)
        head[0] = min(head[0], one_head)
        done[0] = max(done[0], one_done)
        mask &= ~(ALL_BITS >> (64 - count) << first)


cdef inline void make_room(
    Memory *m, Counters *counters, int64_t t, int64_t held, int64_t slots, int64_t room, int64_t *done
) noexcept nogil:
    """The least recent blocks leave until so much more room, and so many more blocks, fit; of the dirty ones among them one
    in `room` is written back, whichever bank it lies in.
    """
    cdef int32_t slot
    cdef int64_t head
    cdef Block *block
    while (m.held + held > m.capacity or m.present + slots > m.slots) and m.oldest != NONE:
        slot = m.oldest
        block = &m.blocks[slot]
        if block.dirty and scatter(block.number) % room < block.room:
            move(m, counters, t, block.number, block.dirty, True, &head, done)
        forget(m, block.number)
        unlink(m, slot)
        m.held -= block.room * block.copies * count_of(block.valid)
        m.present -= 1
        block.older = m.spare
        m.spare = slot


cdef inline int32_t take_slot(Memory *m) noexcept nogil:
    """A slot for a new block."""
    cdef int32_t slot = m.spare
    m.present += 1
    if slot == NONE:
        slot = m.taken
        m.taken += 1
    else:
        m.spare = m.blocks[slot].older
    return slot


cdef inline void copy(Memory *m, Block *block, const Origin *origin, bint write) noexcept nogil:
    """Which partitions hold a block once it is written, at home only, or read by one of them, or by several (room > 1)."""
    cdef uint16_t home = <uint16_t>(1 << scatter(block.number) % m.partitions)
    if write:
        block.holders = home
        block.copies = <int16_t>m.partitions
    else:
        block.holders |= home | <uint16_t>(1 << origin.partition % m.partitions)
        if origin.room == 1:
            block.copies = max(block.copies, <int16_t>(m.partitions * count_of(block.holders)))
        else:
            block.copies = max(block.copies, <int16_t>(2 * m.partitions - 1))


cdef void touch(
    Memory *m, Counters *counters, int64_t t, int64_t number, uint64_t mask, bint write, const Origin *origin,
    int64_t *head, int64_t *done,
) noexcept nogil:
    """Sectors of a block are read or written: what is not there is fetched, the block becomes the most recent."""
    cdef int64_t fetched = 0
    cdef int32_t slot = m.table[find(m, number)]
    cdef bint present = slot != NONE
    cdef Block *block
    cdef uint64_t missing
    cdef int64_t held
    cdef Block new
    if present:
        unlink(m, slot)
        block = &m.blocks[slot]
    else:
        block = &new
        memset(block, 0, sizeof(Block))
        block.number = number
        block.copies = 1
    held = block.room * block.copies * count_of(block.valid)
    if m.partitions > 1:
        copy(m, block, origin, write)
    held = origin.room * block.copies * count_of(block.valid | mask) - held
    if held > 0 or not present:
        make_room(m, counters, t, held, 0 if present else 1, origin.room, done)
    if not present:
        slot = take_slot(m)
        m.blocks[slot] = new
        block = &m.blocks[slot]
        m.table[find(m, number)] = slot
    missing = 0 if write else mask & ~block.valid
    if missing:
        move(m, counters, t, number, missing, False, head, &fetched)
        block.earlier = max(block.earlier, block.ready)
        block.ready = fetched
        block.fresh = missing
    elif present:
        head[0] = min(head[0], t)
    if missing or not present:
        counters.block_misses += 1
    else:
        counters.block_hits += 1
    if mask & block.fresh:
        done[0] = max(done[0], block.ready)
    if mask & ~block.fresh:
        done[0] = max(done[0], block.earlier)
    block.valid |= mask
    if write:
        block.dirty |= mask
    link_newest(m, slot)
    m.held += held
    block.room = origin.room


cdef inline int64_t slice_of(Memory *m, int64_t chunk) noexcept nogil:
    """Chunks that follow each other go to one slice after the other, from one that depends on where they lie."""
    return (chunk + scatter(chunk // m.slices)) % m.slices if m.slices > 1 else 0


cdef int64_t pass_slices(Memory *m, Counters *counters, int64_t t, const Access *access, int64_t *end) noexcept nogil:
    """Every slice passes its share of an access: when the first one begins, and when the last one ends."""
    cdef int64_t run, address, left, piece, i, start, service
    cdef int64_t first = INT64_MAX, busy = 0
    for run in range(access.runs):
        address, left = begin_of(access, run), access.run_bytes
        while left > 0:
            piece = min(left, m.slice_bytes - address % m.slice_bytes)
            m.slice_load[slice_of(m, address // m.slice_bytes)] += piece
            address += piece
            left -= piece
    for i in range(m.slices):
        if m.slice_load[i]:
            start = max(t, m.slice_free[i])
            service = max(1, (m.slice_load[i] * m.slice_as_per_byte + AS_PER_PS - 1) // AS_PER_PS)
            m.slice_free[i] = start + service
            m.slice_load[i] = 0
            first = min(first, start)
            end[0] = max(end[0], start + service)
            busy += service
    counters.cache_busy_ps += busy // m.slices
    return first


cdef void cache_access(
    Memory *m, Counters *counters, int64_t t, const Access *access, const Origin *origin, int64_t *head, int64_t *done
) noexcept nogil:
    cdef int64_t run, first, last, block
    cdef int64_t current = -1
    cdef uint64_t mask = 0
    done[0] = 0
    t = pass_slices(m, counters, t, access, done) + m.hit_latency_ps
    done[0] += m.hit_latency_ps
    head[0] = t if access.write else INT64_MAX  # a write never waits for a block
    for run in range(access.runs):
        first = begin_of(access, run)
        last = first + access.run_bytes - 1
        for block in range(first // m.block_bytes, last // m.block_bytes + 1):
            if block != current:
                if mask:
                    touch(m, counters, t, current, mask, access.write, origin, head, done)
                current, mask = block, 0
            mask |= sectors(m, first - block * m.block_bytes, last - block * m.block_bytes)
    touch(m, counters, t, current, mask, access.write, origin, head, done)


cdef void memory_access(
    Memory *memory, Counters *counters, int64_t t, const Access *access, int64_t weight, const Origin *origin,
    int64_t *head, int64_t *done,
) noexcept nogil:
    cdef Counters one
    if weight > 1:
        memset(&one, 0, sizeof(Counters))
        serve_access(memory, &one, t, access, origin, head, done)
        add_counters(counters, &one, weight)
    else:
        serve_access(memory, counters, t, access, origin, head, done)


cdef inline void add_counters(Counters *counters, const Counters *one, int64_t weight) noexcept nogil:
    counters.bytes_requested += weight * one.bytes_requested
    counters.bytes_read += weight * one.bytes_read
    counters.bytes_written += weight * one.bytes_written
    counters.block_hits += weight * one.block_hits
    counters.block_misses += weight * one.block_misses
    counters.activates += weight * one.activates
    counters.read_bursts += weight * one.read_bursts
    counters.write_bursts += weight * one.write_bursts
    counters.cache_busy_ps += weight * one.cache_busy_ps
    counters.dram_busy_ps += weight * one.dram_busy_ps


cdef inline void serve_access(
    Memory *memory, Counters *counters, int64_t t, const Access *access, const Origin *origin, int64_t *head,
    int64_t *done,
) noexcept nogil:
    cdef Origin most
    counters.bytes_requested += access.runs * access.run_bytes
    if memory.capacity_blocks:
        most = Origin(<int32_t>min(origin.room, memory.capacity_blocks), origin.partition)
        cache_access(memory, counters, t, access, &most, head, done)
    else:
        dram_access(memory, counters, t, access, head, done)
