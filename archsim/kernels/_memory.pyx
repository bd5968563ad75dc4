"""Block cache and DRAM channels in C structs; `archsim.kernels.memory` documents the model."""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #undef CYTHON_INLINE
    #define CYTHON_INLINE inline __attribute__((always_inline))
    #endif
    """

cdef int64_t AS_PER_PS = 1000000
cdef int32_t NONE = -1
cdef int64_t NEVER = -(<int64_t>1 << 60)  # long ago


# --- DRAM ---------------------------------------------------------------------------------------------------------
# All times here are live times: those that refreshes of all banks take are left out, and put back at the end.

cdef enum:
    LOOK_AHEAD = 8  # entries that a queue has room for, of several bursts each
    SESSIONS = 4    # rows of a bank that are remembered
    BINS = 64       # of time on a data bus, that are remembered


cdef inline int64_t live(Memory *m, int64_t t) noexcept nogil:
    cdef int64_t interval, phase
    if m.live_ps == 0:
        return t
    interval = m.live_ps + m.rfc_ps
    phase = t % interval
    return t // interval * m.live_ps + min(phase, m.live_ps)


cdef inline int64_t real(Memory *m, int64_t t) noexcept nogil:
    return t + t // m.live_ps * m.rfc_ps if m.live_ps else t


cdef inline int64_t enter_queue(Queue *queue, int64_t bursts, int64_t t) noexcept nogil:
    """When there is room for so many bursts that are offered at `t`."""
    cdef int64_t entry
    queue.bursts += bursts
    while queue.bursts > queue.room and queue.count:
        entry = queue.left[queue.head & queue.mask]
        queue.head += 1
        queue.count -= 1
        queue.bursts -= entry & 255
        t = max(t, entry >> 8)
    return t


cdef inline void leave_queue(Queue *queue, int64_t bursts, int64_t leaves) noexcept nogil:
    """So many bursts that are in the queue will have left it at `leaves`."""
    cdef int64_t entry = leaves << 8 | bursts
    cdef int64_t at = queue.head + queue.count
    cdef int64_t before
    if queue.mask == 0:  # it has no limit
        queue.left[0] = max(queue.left[0], entry)
        return
    queue.count += 1
    while at > queue.head:
        before = queue.left[(at - 1) & queue.mask]
        if before <= entry:
            break
        queue.left[at & queue.mask] = before
        at -= 1
    queue.left[at & queue.mask] = entry


cdef inline int64_t latest(Queue *queue) noexcept nogil:
    """When the last of those that have entered leaves."""
    return queue.left[(queue.head + queue.count - 1) & queue.mask] >> 8


cdef inline int64_t take_bus(Memory *m, Bus *bus, int64_t arrival, int64_t earliest, int64_t length, int64_t *end) noexcept nogil:
    """Time on the data bus from `earliest` on, wherever it is idle after `arrival`; when it begins and ends."""
    cdef int64_t begin = bus.end
    if bus.solid and earliest <= begin:
        bus.end = end[0] = begin + length
        return begin
    return fill_bus(m, bus, arrival, earliest, length, end)


cdef int64_t fill_bus(Memory *m, Bus *bus, int64_t arrival, int64_t earliest, int64_t length, int64_t *end) noexcept nogil:
    cdef int64_t width = <int64_t>1 << m.bin_shift
    cdef int64_t begin = -1, whole = length
    cdef int64_t slot, used, part
    if bus.solid:
        bus.solid = False
        bus.origin = max(bus.end, arrival)
        bus.first = 0
    forget_bins(bus, (arrival - bus.origin) >> m.bin_shift)
    earliest -= bus.origin
    slot = max(earliest >> m.bin_shift, bus.first)
    while True:
        forget_bins(bus, slot - BINS + 1)
        used = bus.used[slot & (BINS - 1)]
        part = min(length, width - used)
        if part > 0:
            if begin < 0:
                begin = max(earliest, (slot << m.bin_shift) + used)
            used += part
            bus.used[slot & (BINS - 1)] = <int32_t>used
            length -= part
            if length == 0:
                break
        slot += 1
    end[0] = bus.origin + max((slot << m.bin_shift) + used, begin + whole)
    bus.end = max(bus.end, end[0])
    while bus.used[bus.first & (BINS - 1)] == width:
        bus.used[bus.first & (BINS - 1)] = 0
        bus.first += 1
    if bus.origin + (bus.first << m.bin_shift) + bus.used[bus.first & (BINS - 1)] >= bus.end:
        bus.solid = True
        bus.used[bus.first & (BINS - 1)] = 0
    return bus.origin + begin


cdef void forget_bins(Bus *bus, int64_t before) noexcept nogil:
    if before - bus.first >= BINS:
        memset(bus.used, 0, sizeof(bus.used))
        bus.first = before
    while bus.first < before:
        bus.used[bus.first & (BINS - 1)] = 0
        bus.first += 1


cdef void turn_bus(Memory *m, Bus *bus, bint write) noexcept nogil:
    """The bus changes its direction once it has served what did not wait for a bank; idle time before that is lost."""
    cdef int64_t slot, within
    bus.writing = write
    bus.front += m.to_write_ps if write else m.to_read_ps
    bus.end = max(bus.end, bus.front)
    if not bus.solid:
        slot = (bus.front - bus.origin) >> m.bin_shift
        within = bus.front - bus.origin - (slot << m.bin_shift)
        forget_bins(bus, slot)
        if slot == bus.first:
            bus.used[slot & (BINS - 1)] = max(bus.used[slot & (BINS - 1)], <int32_t>within)


cdef inline int64_t ready_again(Memory *m, Session *session) noexcept nogil:
    """When the bank of this row can be activated for another one."""
    return max(session.next_act, session.next_column + m.column_to_act_ps)


cdef Session *open_row(Memory *m, Counters *counters, Channel *channel, int64_t arrival, int64_t lane, int64_t bank,
                              Session *session, int64_t row, bint write, int64_t *leaves) noexcept nogil:
    """The session of a row that is not open; it is opened, unless it was when the run arrived."""
    cdef int64_t turn, act, phase
    cdef int i
    cdef bint conflict = session.row >= 0 and session.opened >= channel.closed_before
    if conflict:
        for i in range(1, SESSIONS):
            if session[i].row == row and session[i].closed > arrival and session[i].opened >= channel.closed_before:
                # it waits beside those that the row is open for, and goes with them
                return &session[i]
    counters.row_misses += 1
    counters.row_hits -= 1
    # the activate takes its place in the lane's order now; a bank that must wait does not hold up the others
    turn = max(arrival, max(m.act_free[lane], channel.row_free))
    m.act_free[lane] = max(arrival, m.act_free[lane]) + m.act_ps
    channel.row_free = max(arrival, channel.row_free) + m.row_bus_ps
    act = max(turn + m.rp_ps if conflict else turn, ready_again(m, session))
    if m.refi_bank_ps:
        phase = (act + (m.banks - bank) * m.refi_bank_ps) % (m.banks * m.refi_bank_ps)
        if phase < m.rfc_bank_ps:
            act += m.rfc_bank_ps - phase
    if conflict:
        session.closed = act - m.rp_ps
        for i in range(SESSIONS - 1, 0, -1):
            session[i] = session[i - 1]
    session.row, session.opened = row, act
    session.late = act - (turn + m.rp_ps if conflict else turn)
    session.next_column = act + (m.rcd_write_ps if write else m.rcd_ps)
    session.next_act = act + m.rc_ps
    leaves[0] = act
    return session


cdef void put_off(Memory *m, Session *bank, Session *session) noexcept nogil:
    """A row stays open longer than was thought: those that the bank opens after it come later."""
    cdef int64_t delay
    while session > bank:
        delay = ready_again(m, session) - (session - 1).opened
        if delay <= 0:
            return
        session.closed += delay
        session -= 1
        session.opened += delay
        session.late += delay
        session.next_column += delay
        session.next_act += delay


cdef inline void serve(
    Memory *m, Counters *counters, Channel *channel, Queue *queue, int64_t arrival, int64_t lane, int64_t bank, int64_t row,
    int64_t bursts, bint write, int64_t *head, int64_t *done,
) noexcept nogil:
    """Bursts in one row of one bank that are in the queue from `arrival` on: their first and their last column."""
    cdef Session *first = &m.sessions[(bank * m.lanes + lane) * SESSIONS]
    cdef Session *session = first
    cdef int64_t *group = &m.group_free[m.group_of[bank] * m.lanes + lane]
    cdef Bus *bus = &m.buses[lane]
    cdef int64_t column, last, token
    cdef int64_t leaves = NEVER
    if arrival >= channel.refresh_at:
        refresh(m, channel, arrival)
    if bus.writing != write:
        turn_bus(m, bus, write)
    if session.row != row or session.opened < channel.closed_before:
        session = open_row(m, counters, channel, arrival, lane, bank, session, row, write, &leaves)
    token = max(group[0], arrival)
    column = take_bus(m, bus, arrival, max(token, session.next_column), bursts * m.burst_ps, &last)
    last = max(column + bursts * m.ccd_ps, last + m.ccd_ps - m.burst_ps)
    session.next_column = last
    group[0] = max(token + bursts * m.ccd_ps, last - session.late)
    last -= m.ccd_ps
    bus.front = max(bus.front, last + m.burst_ps - session.late)
    if write:
        session.next_act = max(session.next_act, last + m.write_to_act_ps)
    if session != first:
        put_off(m, first, session)
    # a request leaves the queue with its activate or its column command; those of a run one after the other
    leave_queue(queue, bursts, (column + last) >> 1 if bursts > 1 or leaves == NEVER else leaves)
    head[0] = min(head[0], column)
    done[0] = max(done[0], last)


cdef void serve_write(
    Memory *m, Counters *counters, Channel *channel, int64_t arrival, int64_t lane, int64_t bank, int64_t row, int64_t bursts,
    int64_t *head, int64_t *done,
) noexcept nogil:
    serve(m, counters, channel, &channel.writes, arrival, lane, bank, row, bursts, True, head, done)


cdef void refresh(Memory *m, Channel *channel, int64_t t) noexcept nogil:
    """All rows have been closed since the last time."""
    channel.closed_before = t // m.live_ps * m.live_ps
    channel.refresh_at = channel.closed_before + m.live_ps


cdef inline int64_t ready(Memory *m, Channel *channel, Posted *post) noexcept nogil:
    """When a write that waits could have its column or its activate, as far as its bank is concerned."""
    cdef Session *session = &m.sessions[(post.bank * m.lanes + post.lane) * SESSIONS]
    if session.row == post.row and session.opened >= channel.closed_before:
        return 0
    return ready_again(m, session)


cdef void drain(Memory *m, Counters *counters, Channel *channel, int64_t t, int64_t down_to) noexcept nogil:
    """Serve writes that wait, first those whose bank is ready first, until at most `down_to` bursts are left."""
    cdef int64_t head = 0, done = 0, earliest, at
    cdef int i, best
    cdef Posted one
    while channel.posted and channel.posted_bursts > down_to:
        earliest = INT64_MAX
        for i in range(channel.posted):
            at = max(t, ready(m, channel, &channel.post[i]))
            if at < earliest:
                earliest = at
                best = i
        one = channel.post[best]
        channel.posted -= 1
        for i in range(best, channel.posted):
            channel.post[i] = channel.post[i + 1]
        channel.posted_bursts -= one.bursts
        m.posted[one.lane] -= one.bursts
        serve_write(m, counters, channel, t, one.lane, one.bank, one.row, one.bursts, &head, &done)
    channel.drained = latest(&channel.writes)


cdef void write_run(
    Memory *m, Counters *counters, int64_t t, Channel *channel, int64_t lane, int64_t bank, int64_t row, int64_t bursts,
    int64_t *head, int64_t *done,
) noexcept nogil:
    """A run that is written: at once while nothing is read, else it waits until enough of them do."""
    cdef int64_t piece
    cdef Posted *post
    while bursts > 0:
        piece = min(bursts, channel.writes.piece)
        bursts -= piece
        channel.accepted = t = enter_queue(&channel.writes, piece, max(t, channel.accepted))
        if channel.writes.mask == 0 or (channel.posted == 0 and latest(&channel.reads) <= t):
            serve_write(m, counters, channel, t, lane, bank, row, piece, head, done)
            continue
        post = &channel.post[channel.posted]
        post.lane, post.bank, post.row, post.bursts = lane, bank, row, piece
        channel.posted += 1
        channel.posted_bursts += piece
        m.posted[lane] += piece
        head[0] = min(head[0], t)
        done[0] = max(done[0], max(t, m.buses[lane].end) + (m.posted[lane] - 1) * m.burst_ps)
        if channel.posted_bursts > m.drain_high or latest(&channel.reads) <= t:
            drain(m, counters, channel, t, m.drain_low)


cdef inline void read_run(
    Memory *m, Counters *counters, int64_t t, Channel *channel, int64_t lane, int64_t bank, int64_t row, int64_t bursts,
    int64_t *head, int64_t *done,
) noexcept nogil:
    cdef int64_t piece
    while bursts > 0:
        piece = min(bursts, channel.reads.piece)
        bursts -= piece
        channel.accepted = t = enter_queue(&channel.reads, piece, max(t, channel.accepted))
        if channel.posted and latest(&channel.reads) < t:
            drain(m, counters, channel, latest(&channel.reads), 0)
        # activates go on while writes are served, so that columns may follow at once
        serve(m, counters, channel, &channel.reads, max(t, channel.drained - m.rcd_ps), lane, bank, row, piece, False, head, done)


cdef inline void run_of_channels(
    Memory *m, Counters *counters, int64_t t, int64_t local, int64_t nbytes, int64_t first, int64_t count, bint write,
    int64_t *head, int64_t *done,
) noexcept nogil:
    """The bytes [local, local + nbytes) of `count` channels from `first` on, run by run."""
    cdef int64_t piece, lane, bank, row, channel, bursts
    cdef int64_t begin = INT64_MAX, end = 0
    cdef uint64_t burst, word
    cdef int byte
    while nbytes > 0:
        piece = min(nbytes, m.run_bytes - local % m.run_bytes)
        lane = 0
        if m.tables == NULL:
            row = local // m.row_bytes
            bank = row % m.banks
        else:
            burst = <uint64_t>local >> m.burst_shift
            word = 0
            byte = 0
            while burst:
                word ^= m.tables[256 * byte + (burst & 255)]
                burst >>= 8
                byte += 1
            lane = <int64_t>(word & 1023) // m.banks
            bank = <int64_t>(word & 1023) % m.banks
            row = <int64_t>(word >> 24)
        bursts = (piece + m.burst_bytes - 1) // m.burst_bytes
        lane += first * m.lanes_per_channel
        for channel in range(first, first + count):
            if write:
                write_run(m, counters, t, &m.controllers[channel], lane, bank, row, bursts, &begin, &end)
            else:
                read_run(m, counters, t, &m.controllers[channel], lane, bank, row, bursts, &begin, &end)
            lane += m.lanes_per_channel
        counters.row_hits += count  # less those that open one
        counters.dram_busy_ps += count * bursts * m.burst_ps
        local += piece
        nbytes -= piece
    head[0] = min(head[0], begin)
    done[0] = max(done[0], end)


cdef void dram_access(
    Memory *m, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write,
    int64_t *head, int64_t *done,
) noexcept nogil:
    cdef int64_t chunk = address // m.interleave_bytes
    cdef int64_t within = address - chunk * m.interleave_bytes
    cdef int64_t channel = chunk % m.channels
    cdef int64_t local = (chunk // m.channels) * m.interleave_bytes  # of this chunk's first byte, in its channel
    cdef int64_t left = nbytes
    cdef int64_t piece, count
    t = live(m, t)
    head[0] = INT64_MAX
    done[0] = 0
    while left > 0:
        # whole chunks of one row of channels at a time; the first and the last chunk of the range may be parts
        count = 1
        piece = min(left, m.interleave_bytes - within)
        if within == 0 and left >= m.interleave_bytes:
            count = min(left // m.interleave_bytes, m.channels - channel)
        run_of_channels(m, counters, t, local + within, piece, channel, count, write, head, done)
        left -= piece * count
        within = 0
        channel += count
        if channel == m.channels:
            channel = 0
            local += m.interleave_bytes
    done[0] = max(done[0] + m.burst_ps, t)
    if not write:
        head[0] += m.cl_ps
        done[0] += m.cl_ps
    head[0] = real(m, head[0])
    done[0] = real(m, done[0])
    if write:
        counters.bytes_written += nbytes
    else:
        counters.bytes_read += nbytes


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


# --- ownership ----------------------------------------------------------------------------------------------------

cdef void *allocate(int64_t count, size_t size) except NULL:
    cdef void *memory = calloc(max(1, count), size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef set_up(Queue *queue, int64_t room):
    cdef int64_t places = 1
    while places < 2 * room:
        places *= 2
    queue.room, queue.mask = room if room else <int64_t>1 << 60, places - 1
    queue.piece = min(255, max(1, room // LOOK_AHEAD)) if room else <int64_t>1 << 40
    queue.left = <int64_t *>allocate(places, sizeof(int64_t))


cdef class MemoryKernel:
    """Owns one `Memory`; made from the fields of a `Dram` and, unless capacity_blocks is 0, of a `Cache`."""

    def __cinit__(self, dict dram, const uint64_t[:, ::1] tables, int64_t capacity_blocks, dict cache):
        cdef Memory *m = &self.memory
        cdef int64_t i, banks, places = 8
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
        m.bin_shift = (8 * m.burst_ps - 1).bit_length()
        m.tables = NULL
        if tables is not None:
            self.tables = tables
            m.tables = &self.tables[0, 0]
        m.capacity_blocks = capacity_blocks
        if capacity_blocks:
            m.block_bytes, m.cache_as_per_byte = cache["block_bytes"], cache["as_per_byte"]
            m.hit_latency_ps = cache["hit_latency_ps"]
        banks = m.lanes * m.banks
        m.buses = <Bus *>allocate(m.lanes, sizeof(Bus))
        m.act_free = <int64_t *>allocate(m.lanes, sizeof(int64_t))
        m.group_of = <int64_t *>allocate(m.banks, sizeof(int64_t))
        for i in range(m.banks):
            m.group_of[i] = i // (m.banks // m.groups)
        m.posted = <int64_t *>allocate(m.lanes, sizeof(int64_t))
        m.controllers = <Channel *>allocate(m.channels, sizeof(Channel))
        for i in range(m.channels):
            set_up(&m.controllers[i].reads, dram["read_queue"])
            set_up(&m.controllers[i].writes, dram["write_queue"])
            m.controllers[i].post = <Posted *>allocate(dram["write_queue"] + 1, sizeof(Posted))
        m.sessions = <Session *>allocate(banks * SESSIONS, sizeof(Session))
        m.group_free = <int64_t *>allocate(m.lanes * m.groups, sizeof(int64_t))
        m.table_shift = 61
        while places < 2 * capacity_blocks:
            places *= 2
            m.table_shift -= 1
        m.table_mask = places - 1
        m.table = <int32_t *>allocate(places, sizeof(int32_t))
        m.block_id = <int64_t *>allocate(capacity_blocks, sizeof(int64_t))
        m.block_ready = <int64_t *>allocate(capacity_blocks, sizeof(int64_t))
        m.block_dirty = <uint8_t *>allocate(capacity_blocks, sizeof(uint8_t))
        m.block_room = <int32_t *>allocate(capacity_blocks, sizeof(int32_t))
        m.newer = <int32_t *>allocate(capacity_blocks, sizeof(int32_t))
        m.older = <int32_t *>allocate(capacity_blocks, sizeof(int32_t))
        self.reset()

    def __dealloc__(self):
        cdef Memory *m = &self.memory
        cdef int64_t i
        free(m.buses)
        free(m.act_free)
        free(m.group_of)
        free(m.posted)
        if m.controllers != NULL:
            for i in range(m.channels):
                free(m.controllers[i].reads.left)
                free(m.controllers[i].writes.left)
                free(m.controllers[i].post)
        free(m.controllers)
        free(m.sessions)
        free(m.group_free)
        free(m.table)
        free(m.block_id)
        free(m.block_ready)
        free(m.block_dirty)
        free(m.block_room)
        free(m.newer)
        free(m.older)

    def reset(self):
        """Forget everything: rows closed, cache empty, clocks and counters at zero."""
        cdef Memory *m = &self.memory
        cdef int64_t i, banks = m.lanes * m.banks
        cdef Channel *channel
        memset(m.buses, 0, m.lanes * sizeof(Bus))
        for i in range(m.lanes):
            m.buses[i].solid = True
        memset(m.act_free, 0, m.lanes * sizeof(int64_t))
        memset(m.posted, 0, m.lanes * sizeof(int64_t))
        memset(m.group_free, 0, m.lanes * m.groups * sizeof(int64_t))
        memset(m.sessions, 0, banks * SESSIONS * sizeof(Session))
        for i in range(banks * SESSIONS):
            m.sessions[i].row = -1
            m.sessions[i].next_column = NEVER
        for i in range(m.channels):
            channel = &m.controllers[i]
            channel.reads.head = channel.reads.count = channel.reads.bursts = channel.reads.left[channel.reads.mask] = 0
            channel.writes.head = channel.writes.count = channel.writes.bursts = channel.writes.left[channel.writes.mask] = 0
            channel.accepted = channel.drained = channel.closed_before = channel.row_free = channel.posted = channel.posted_bursts = 0
            channel.refresh_at = m.live_ps if m.live_ps else INT64_MAX
        memset(m.table, 0xFF, (m.table_mask + 1) * sizeof(int32_t))
        m.cache_free = 0
        m.blocks = 0
        m.newest = m.oldest = m.spare = NONE
        m.held = 0
        memset(&self.counters, 0, sizeof(Counters))

    def access_in_order(self, const int64_t[::1] address, const int64_t[::1] nbytes, const uint8_t[::1] write,
                       int64_t[::1] done):
        cdef Py_ssize_t i
        cdef int64_t t = 0, head, channel
        with nogil:
            for i in range(address.shape[0]):
                memory_access(&self.memory, &self.counters, t, address[i], nbytes[i], write[i], 1, 1, &head, &done[i])
                for channel in range(self.memory.channels):
                    t = max(t, real(&self.memory, self.memory.controllers[channel].accepted))

    def access(self, const int64_t[::1] t, const int64_t[::1] address, const int64_t[::1] nbytes,
               const uint8_t[::1] write, int64_t[::1] head, int64_t[::1] done):
        """Serve accesses one after the other, in the order given."""
        cdef Py_ssize_t i
        with nogil:
            for i in range(t.shape[0]):
                memory_access(&self.memory, &self.counters, t[i], address[i], nbytes[i], write[i], 1, 1,
                              &head[i], &done[i])

    def read_counters(self):
        """The counters as a dict."""
        return self.counters
