"""Block cache and DRAM channels in C structs; `archsim.kernels.memory` documents the model."""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef int64_t AS_PER_PS = 1000000
cdef int32_t NONE = -1


# --- DRAM ---------------------------------------------------------------------------------------------------------
# All times here are live times: those that refreshes of all banks take are left out, and put back at the end.

cdef enum:
    LOOK_AHEAD = 8  # blocks of bursts in a queue
    SESSIONS = 4    # rows of a bank that are remembered
    HOLES = 8       # idle times of a bus that are remembered


cdef inline int64_t live(Memory *m, int64_t t) noexcept nogil:
    cdef int64_t interval, phase
    if m.live_ps == 0:
        return t
    interval = m.live_ps + m.rfc_ps
    phase = t % interval
    return t // interval * m.live_ps + min(phase, m.live_ps)


cdef inline int64_t real(Memory *m, int64_t t) noexcept nogil:
    return t + t // m.live_ps * m.rfc_ps if m.live_ps else t


cdef inline int64_t *open_row(Memory *m, Counters *counters, int64_t arrival, int64_t lane, int64_t bank, int64_t at,
                              int64_t row, bint write, int64_t *leaves) noexcept nogil:
    """Where the next column of a row that is not open stands; it is opened, unless it was when the run arrived."""
    cdef Session *session = &m.sessions[at * SESSIONS]
    cdef int64_t turn, act, phase
    cdef int i
    cdef bint conflict = m.open_row[at] >= 0 and m.opened[at] >= m.closed_before
    if conflict:
        for i in range(SESSIONS):
            if session[i].row == row and session[i].closed > arrival and session[i].opened >= m.closed_before:
                # it waited beside those that the row was open for, and went with them
                counters.row_hits += 1
                return &session[i].next_column
    counters.row_misses += 1
    # the activate takes its place in the lane's order now; a bank that must wait does not hold up the others
    turn = max(arrival, m.act_free[lane])
    m.act_free[lane] = turn + m.act_ps
    act = max(turn + m.rp_ps if conflict else turn, m.next_act[at])
    if m.refi_bank_ps:
        phase = (act + (m.banks - bank) * m.refi_bank_ps) % (m.banks * m.refi_bank_ps)
        if phase < m.rfc_bank_ps:
            act += m.rfc_bank_ps - phase
    if conflict:
        for i in range(SESSIONS - 1, 0, -1):
            session[i] = session[i - 1]
        session[0].row, session[0].opened = m.open_row[at], m.opened[at]
        session[0].next_column, session[0].closed = m.next_column[at], act - m.rp_ps
    m.open_row[at], m.opened[at] = row, act
    m.next_column[at] = act + (m.rcd_write_ps if write else m.rcd_ps)
    m.next_act[at] = act + m.rc_ps
    leaves[0] = act
    return &m.next_column[at]


cdef inline int64_t take_bus(Bus *bus, int64_t earliest, int64_t length) noexcept nogil:
    """A slot on the data bus: in idle time that was left before, or at the end."""
    cdef int64_t slot
    cdef int i
    if earliest + length <= bus.latest:
        for i in range(HOLES):
            slot = max(bus.begin[i], earliest)
            if slot + length <= bus.end[i]:
                # of what is left before and after, the longer part is kept
                if slot - bus.begin[i] > bus.end[i] - slot - length:
                    bus.end[i] = slot
                else:
                    bus.begin[i] = slot + length
                return slot
    slot = max(bus.free, earliest)
    if slot > bus.free:
        bus.begin[bus.next], bus.end[bus.next] = bus.free, slot
        bus.latest = slot
        bus.next = (bus.next + 1) % HOLES
    bus.free = slot + length
    return slot


cdef inline int64_t enter_queue(Memory *m, Queue *queue, int64_t t) noexcept nogil:
    """When a run that is offered at `t` is taken into the queue."""
    cdef int i, first = 0
    if queue.bursts >= m.block_bursts:
        for i in range(1, LOOK_AHEAD):
            if queue.left[i] < queue.left[first]:
                first = i
        queue.gate = max(queue.gate, queue.left[first] >> m.block_shift)
        queue.left[first] = 0
        queue.present = first
        queue.bursts = 0
    return max(t, queue.gate)


cdef inline void leave_queue(Memory *m, Queue *queue, int64_t bursts, int64_t leaves) noexcept nogil:
    """A run has entered and will have left at `leaves`; blocks that it fills take the place of the first ones to leave."""
    cdef int64_t part
    while True:
        part = min(bursts, m.block_bursts - queue.bursts)
        queue.left[queue.present] += part * leaves
        queue.bursts += part
        bursts -= part
        if bursts == 0:
            return
        enter_queue(m, queue, 0)


cdef inline void serve(
    Memory *m, Counters *counters, int64_t t, int64_t channel, int64_t lane, int64_t bank, int64_t row, int64_t bursts,
    bint write, int64_t *head, int64_t *done,
) noexcept nogil:
    """A run of bursts in one row of one bank."""
    cdef int64_t at = bank * m.lanes + lane
    cdef int64_t group = (bank // (m.banks // m.groups)) * m.lanes + lane
    cdef int64_t arrival = enter_queue(m, &m.queues[channel], t) if m.block_bursts else t
    cdef int64_t column, last, turned
    cdef int64_t *next_column = &m.next_column[at]
    cdef int64_t leaves = 0
    if write:
        turned = min(m.drain_bursts, m.written[lane] + bursts)
        m.buses[lane].free += m.turn_ps * (turned - m.written[lane]) // m.drain_bursts
        m.written[lane] = turned
    else:
        m.written[lane] = 0
    if m.open_row[at] == row and m.opened[at] >= m.closed_before:
        counters.row_hits += 1
    else:
        next_column = open_row(m, counters, arrival, lane, bank, at, row, write, &leaves)
    m.group_free[group] = max(m.group_free[group], arrival)
    column = take_bus(&m.buses[lane], max(max(arrival, next_column[0]), m.group_free[group]), bursts * m.burst_ps)
    m.group_free[group] += bursts * m.ccd_ps
    last = column + (bursts - 1) * m.ccd_ps
    next_column[0] = last + m.ccd_ps
    m.next_act[at] = max(m.next_act[at], last + (m.wr_ps if write else m.rtp_ps) + m.rp_ps)
    if m.block_bursts:
        # a request leaves the queue with its activate or its column command; those of a run one after the other
        leave_queue(m, &m.queues[channel], bursts, (column + last) >> 1 if bursts > 1 or leaves == 0 else leaves)
    counters.dram_busy_ps += bursts * m.burst_ps
    if write:
        head[0] = min(head[0], column)
        done[0] = max(done[0], column + bursts * m.burst_ps)
    else:
        head[0] = min(head[0], column + m.cl_ps)
        done[0] = max(done[0], last + m.burst_ps + m.cl_ps)


cdef inline void run_of_channels(
    Memory *m, Counters *counters, int64_t t, int64_t local, int64_t nbytes, int64_t first, int64_t count, bint write,
    int64_t *head, int64_t *done,
) noexcept nogil:
    """The bytes [local, local + nbytes) of `count` channels from `first` on, run by run."""
    cdef int64_t piece, lane, bank, row, channel
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
        for channel in range(first, first + count):
            serve(m, counters, t, channel, channel * m.lanes_per_channel + lane, bank, row,
                  (piece + m.burst_bytes - 1) // m.burst_bytes, write, head, done)
        local += piece
        nbytes -= piece


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
    if m.live_ps:
        m.closed_before = max(m.closed_before, t // m.live_ps * m.live_ps)
    head[0] = INT64_MAX
    done[0] = t
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


cdef class MemoryKernel:
    """Owns one `Memory`; made from the fields of a `Dram` and, unless capacity_blocks is 0, of a `Cache`."""

    def __cinit__(self, dict dram, const uint64_t[:, ::1] tables, int64_t capacity_blocks, dict cache):
        cdef Memory *m = &self.memory
        cdef int64_t banks, places = 8
        m.channels, m.lanes_per_channel = dram["channels"], dram["lanes_per_channel"]
        m.lanes = m.channels * m.lanes_per_channel
        m.interleave_bytes, m.run_bytes, m.banks, m.row_bytes = (
            dram["interleave_bytes"], dram["run_bytes"], dram["banks"], dram["row_bytes"]
        )
        m.burst_bytes, m.burst_ps, m.cl_ps, m.ccd_ps = dram["burst_bytes"], dram["burst_ps"], dram["cl_ps"], dram["ccd_ps"]
        m.rcd_ps, m.rcd_write_ps, m.rp_ps, m.rc_ps = dram["rcd_ps"], dram["rcd_write_ps"], dram["rp_ps"], dram["rc_ps"]
        m.rtp_ps, m.wr_ps, m.act_ps, m.turn_ps = dram["rtp_ps"], dram["wr_ps"], dram["act_ps"], dram["turn_ps"]
        m.groups, m.block_bursts, m.drain_bursts = dram["bank_groups"], dram["block_bursts"], dram["drain_bursts"]
        m.block_shift = max(0, dram["block_bursts"].bit_length() - 1)
        m.live_ps, m.rfc_ps = dram["live_ps"], dram["rfc_ps"]
        m.refi_bank_ps, m.rfc_bank_ps = dram["refi_bank_ps"], dram["rfc_bank_ps"]
        m.burst_shift = dram["burst_bytes"].bit_length() - 1
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
        m.written = <int64_t *>allocate(m.lanes, sizeof(int64_t))
        m.queues = <Queue *>allocate(m.channels, sizeof(Queue))
        m.sessions = <Session *>allocate(banks * SESSIONS, sizeof(Session))
        m.group_free = <int64_t *>allocate(m.lanes * m.groups, sizeof(int64_t))
        m.open_row = <int64_t *>allocate(banks, sizeof(int64_t))
        m.opened = <int64_t *>allocate(banks, sizeof(int64_t))
        m.next_column = <int64_t *>allocate(banks, sizeof(int64_t))
        m.next_act = <int64_t *>allocate(banks, sizeof(int64_t))
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
        free(m.buses)
        free(m.act_free)
        free(m.written)
        free(m.queues)
        free(m.sessions)
        free(m.group_free)
        free(m.open_row)
        free(m.opened)
        free(m.next_column)
        free(m.next_act)
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
        cdef int64_t banks = m.lanes * m.banks
        memset(m.buses, 0, m.lanes * sizeof(Bus))
        memset(m.act_free, 0, m.lanes * sizeof(int64_t))
        memset(m.written, 0, m.lanes * sizeof(int64_t))
        memset(m.queues, 0, m.channels * sizeof(Queue))
        memset(m.sessions, 0xFF, banks * SESSIONS * sizeof(Session))
        memset(m.group_free, 0, m.lanes * m.groups * sizeof(int64_t))
        m.closed_before = 0
        memset(m.open_row, 0xFF, banks * sizeof(int64_t))  # -1 everywhere: no row
        memset(m.next_act, 0, banks * sizeof(int64_t))
        memset(m.table, 0xFF, (m.table_mask + 1) * sizeof(int32_t))
        m.cache_free = 0
        m.blocks = 0
        m.newest = m.oldest = m.spare = NONE
        m.held = 0
        memset(&self.counters, 0, sizeof(Counters))

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
