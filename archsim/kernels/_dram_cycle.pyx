"""Every command of DRAM channels, from one event to the next; `archsim.kernels.dram_cycle` documents the model."""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memset

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define archsim_ctz __builtin_ctzll
    #else
    static int archsim_ctz(unsigned long long x) { int n = 0; while (!(x & 1)) { x >>= 1; n++; } return n; }
    #endif
    """
    int ctz "archsim_ctz"(unsigned long long x) nogil

DEF WORDS = 16  # of a bit set over banks: 1024 banks in a channel

cdef int STUCK = 1000000  # events while a request waits: a controller that never serves it

cdef int COLUMN_SHIFT = 10  # archsim.program.address_map
cdef int ROW_SHIFT = 24

include "_dram_device.pxi"
include "_dram_shared.pxi"
include "_dram_banked.pxi"


cdef struct Channel:
    Timing timing
    Totals totals
    int bank_count, pc_count, pc_banks, pc_groups, stacks, words
    # buses and domains
    int64_t row_free, column_free
    Bank *banks
    PseudoChannel *pcs
    int64_t *group_rd
    int64_t *group_wr
    int64_t *group_act
    int64_t *stack_rd
    int64_t *stack_wr
    int64_t *gate
    # requests
    Request *pool
    int *free
    int free_count
    int[2] waiting
    int[2] room
    double drain_high, drain_low
    bint hits_first, closed_rows, banked
    int row_hit_cap, bank_queue
    int64_t sequence
    # progress: no command before `floor`; `now` is the latest one
    int64_t now, floor
    int64_t *done
    # shared queues
    bint writing, column_stale, row_stale
    Pick column, row
    uint64_t[WORDS] active_bits
    uint64_t[2 * WORDS] hit_bits
    uint64_t[2 * WORDS] want_bits
    Want *want
    # refresh: 0 none, 1 all banks, 2 bank by bank; pseudo-channels still to be refreshed
    int refresh_mode, refresh_left
    int64_t refresh_due
    # bank queues
    int[2] fifo_head
    int[2] fifo_tail
    int turn, draining, queued
    bint movable
    # the commands issued, four numbers each
    int64_t *log
    int64_t log_room, log_used


cdef struct Offer:
    int64_t index, tick
    uint64_t word
    bint write


cdef struct Line:  # bursts that wait for room in the queues of their channel: a ring
    Offer *offers
    int64_t head, count, room
    int64_t accepted    # when the last one got in


cdef struct Transfer:  # bursts from `first` to `end`, of which `next` is the first that is not known to be done
    int64_t tag, first, next, end, last


cdef inline int64_t step(Channel *c, int64_t until) noexcept nogil:
    return banked_step(c, until) if c.banked else shared_step(c, until)


cdef inline bint pending(Channel *c) noexcept nogil:
    """Whether a request has not been served."""
    return c.free_count < c.room[0] + c.room[1] + (c.bank_queue if c.banked else 1) * c.bank_count


cdef void *allocate(int64_t count, size_t size) except NULL:
    cdef void *memory = calloc(max(1, count), size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef class DramCycleKernel:
    """Channels with their controllers; times in ticks."""

    cdef Channel *channels
    cdef int channel_count
    cdef int64_t interleave
    cdef int burst_shift
    cdef const uint64_t[:, ::1] tables
    # of requests as they come
    cdef Line *lines
    cdef Transfer *transfers
    cdef int64_t *times
    cdef int64_t offered, times_room, open, open_room

    def __cinit__(self, int channel_count, int64_t interleave, int burst_shift, const uint64_t[:, ::1] tables,
                  dict timing, dict organisation, dict controller):
        cdef int i
        self.channel_count, self.interleave, self.burst_shift, self.tables = channel_count, interleave, burst_shift, tables
        self.channels = <Channel *>allocate(channel_count, sizeof(Channel))
        for i in range(channel_count):
            self.set_up(&self.channels[i], timing, organisation, controller)

    cdef set_up(self, Channel *c, dict timing, dict organisation, dict controller):
        cdef int groups, total, i, j
        c.timing = timing
        c.pc_count, c.stacks = organisation["pseudo_channels"], organisation["stack_ids"]
        groups = c.stacks * organisation["bank_groups"]
        c.pc_groups = groups
        c.pc_banks = groups * organisation["banks_per_group"]
        c.bank_count = c.pc_count * c.pc_banks
        c.words = (c.bank_count + 63) // 64
        c.room[0], c.room[1] = controller["read_queue"], controller["write_queue"]
        c.drain_high, c.drain_low = controller["drain_high"] * c.room[1], controller["drain_low"] * c.room[1]
        c.banked = controller["scheduler"] == "bank_queues"
        c.hits_first = controller["scheduler"] == "row_hits_first"
        c.closed_rows = controller["row_policy"] == "closed"
        c.row_hit_cap, c.bank_queue = controller["row_hit_cap"], controller["bank_queue"]
        c.refresh_mode = {"none": 0, "all_bank": 1, "per_bank": 2}[controller["refresh"]]
        c.refresh_due = c.timing.refi if c.refresh_mode == 1 else c.timing.refi_pb
        c.banks = <Bank *>allocate(c.bank_count, sizeof(Bank))
        c.pcs = <PseudoChannel *>allocate(c.pc_count, sizeof(PseudoChannel))
        c.group_rd = <int64_t *>allocate(c.pc_count * groups, sizeof(int64_t))
        c.group_wr = <int64_t *>allocate(c.pc_count * groups, sizeof(int64_t))
        c.group_act = <int64_t *>allocate(c.pc_count * groups, sizeof(int64_t))
        c.stack_rd = <int64_t *>allocate(c.pc_count * c.stacks, sizeof(int64_t))
        c.stack_wr = <int64_t *>allocate(c.pc_count * c.stacks, sizeof(int64_t))
        c.gate = <int64_t *>allocate(c.pc_count * (groups + 1), sizeof(int64_t))
        c.want = <Want *>allocate(2 * c.bank_count, sizeof(Want))
        total = c.room[0] + c.room[1] + (c.bank_queue if c.banked else 1) * c.bank_count
        c.pool = <Request *>allocate(total, sizeof(Request))
        c.free = <int *>allocate(total, sizeof(int))
        c.free_count = total
        for i in range(total):
            c.free[i] = i
        for i in range(c.bank_count):
            c.banks[i].pc = i // c.pc_banks
            c.banks[i].group = i // organisation["banks_per_group"]
            c.banks[i].stack = c.banks[i].group // organisation["bank_groups"]
            c.banks[i].open_row = c.banks[i].active = NONE
            for j in range(2):
                c.banks[i].head[j] = c.banks[i].tail[j] = c.banks[i].hit[j] = c.banks[i].miss[j] = NONE
            if c.banked:
                c.banks[i].head[1] = 0
        for i in range(c.pc_count):
            c.pcs[i].refresh_bank = NONE
        for j in range(2):
            c.fifo_head[j] = c.fifo_tail[j] = NONE
        c.floor = 1
        c.column_stale = c.row_stale = True

    def __dealloc__(self):
        cdef int i
        cdef Channel *c
        for i in range(self.channel_count):
            c = &self.channels[i]
            free(c.banks)
            free(c.pcs)
            free(c.group_rd)
            free(c.group_wr)
            free(c.group_act)
            free(c.stack_rd)
            free(c.stack_wr)
            free(c.gate)
            free(c.want)
            free(c.pool)
            free(c.free)
            if self.lines != NULL:
                free(self.lines[i].offers)
        free(self.channels)
        free(self.lines)
        free(self.transfers)
        free(self.times)

    def run(self, const int64_t[::1] address, const uint8_t[::1] write, const int64_t[::1] due,
            int64_t[::1] arrive, int64_t[::1] done, bint serial, bint separate, int64_t[:, ::1] log):
        """Serve a stream offered in order; fill `arrive` and `done` (ticks), and the first channel's command log.

        due: when each request is offered at the earliest (empty: at once). serial: each after the one before is done.
        separate: every channel takes its own requests in order, instead of all waiting for the first that is refused.
        """
        cdef Py_ssize_t k
        cdef int which, i
        cdef int64_t chunk, local, t, time = 0
        cdef int left, rounds
        cdef uint64_t word
        cdef Channel *c
        cdef bint stuck = False
        cdef int64_t last = 0
        if log.shape[0]:
            self.channels[0].log, self.channels[0].log_room = &log[0, 0], log.shape[0]
        with nogil:
            for i in range(self.channel_count):
                self.channels[i].done = &done[0]
            for k in range(address.shape[0]):
                chunk = address[k] // self.interleave
                which = <int>(chunk % self.channel_count)
                local = (chunk // self.channel_count) * self.interleave + address[k] % self.interleave
                word = self.mapped(local)
                c = &self.channels[which]
                t = c.floor - 1 if separate else time
                if due.shape[0]:
                    t = max(t, due[k])
                if serial and k:
                    t = max(t, self.complete(last, done, k - 1))
                while step(c, t) != FOREVER:
                    pass
                rounds = 0
                while c.waiting[write[k]] >= c.room[write[k]] and rounds < STUCK:
                    t = max(t, step(c, FOREVER - 1))
                    rounds += 1
                if rounds == STUCK:
                    stuck = True
                    break
                arrive[k] = t
                done[k] = -1
                if c.banked:
                    banked_accept(c, t, <int>k, <int>(word & 1023), <int64_t>(word >> ROW_SHIFT),
                                  <int>(word >> COLUMN_SHIFT) & 16383, write[k])
                else:
                    shared_accept(c, t, <int>k, <int>(word & 1023), <int64_t>(word >> ROW_SHIFT),
                                  <int>(word >> COLUMN_SHIFT) & 16383, write[k])
                time = t
                last = which
            for i in range(self.channel_count):
                c = &self.channels[i]
                left = c.free_count
                rounds = 0
                while pending(c) and rounds < STUCK:
                    rounds = rounds + 1 if c.free_count == left else 0
                    left = c.free_count
                    if c.banked and c.queued == 0 and c.waiting[0] == 0 and c.draining == 0 and c.waiting[1] <= c.drain_low:
                        break  # posted writes too few to be begun
                    step(c, FOREVER - 1)
                stuck = stuck or rounds == STUCK
                for k in range(c.pc_count):
                    if c.pcs[k].open_banks:
                        c.pcs[k].open_ticks += c.now - c.pcs[k].open_since
                        c.pcs[k].open_since = c.now
                    c.totals.open_ticks += c.pcs[k].open_ticks
                    c.pcs[k].open_ticks = 0
        if stuck:
            raise RuntimeError("a DRAM controller does not serve a request that waits")

    cdef int64_t complete(self, int64_t which, int64_t[::1] done, Py_ssize_t k) noexcept nogil:
        """Let the request before finish; when the next one may come."""
        cdef Channel *c = &self.channels[which]
        cdef int rounds = 0
        while done[k] < 0 and rounds < STUCK:
            step(c, FOREVER - 1)
            rounds += 1
        return done[k] + c.banked

    # --- requests as they come: `offer` and `advance` by turns, in the order of time ----------------------------

    def offer(self, int64_t tag, const int64_t[::1] address, bint write, int64_t tick):
        """Bursts of one transfer that arrive together at `tick`, in their order."""
        cdef Py_ssize_t k
        cdef int64_t count = self.offered + address.shape[0]
        cdef Transfer *transfer
        self.times = <int64_t *>self.grown(self.times, count, &self.times_room, sizeof(int64_t))
        self.transfers = <Transfer *>self.grown(self.transfers, self.open + 1, &self.open_room, sizeof(Transfer))
        if self.lines == NULL:
            self.lines = <Line *>allocate(self.channel_count, sizeof(Line))
        transfer = &self.transfers[self.open]
        self.open += 1
        transfer.tag, transfer.last = tag, 0
        transfer.first = transfer.next = self.offered
        transfer.end = count
        for k in range(self.channel_count):
            self.channels[k].done = self.times
        for k in range(address.shape[0]):
            self.times[self.offered] = -1
            self.line_up(address[k], write, tick)
            self.offered += 1

    cdef void *grown(self, void *memory, int64_t count, int64_t *room, size_t size) except NULL:
        """Memory with room for so many entries."""
        cdef void *larger
        if count <= room[0]:
            return memory
        larger = realloc(memory, 2 * count * size)
        if larger == NULL:
            raise MemoryError
        room[0] = 2 * count
        return larger

    cdef line_up(self, int64_t address, bint write, int64_t tick):
        cdef int64_t chunk = address // self.interleave
        cdef Line *line = &self.lines[chunk % self.channel_count]
        cdef int64_t local = (chunk // self.channel_count) * self.interleave + address % self.interleave
        cdef int64_t i, room = line.room
        cdef Offer *larger
        if line.count == room:
            larger = <Offer *>allocate(2 * room + 64, sizeof(Offer))
            for i in range(line.count):
                larger[i] = line.offers[(line.head + i) % room]
            free(line.offers)
            line.offers, line.head, line.room = larger, 0, 2 * room + 64
        line.offers[(line.head + line.count) % line.room] = Offer(self.offered, tick, self.mapped(local), write)
        line.count += 1

    cdef uint64_t mapped(self, int64_t local) noexcept nogil:
        """Where an address of a channel lies: bank, column and row, packed."""
        cdef uint64_t burst = <uint64_t>local >> self.burst_shift
        cdef uint64_t word = 0
        cdef int i = 0
        while burst:
            word ^= self.tables[i, burst & 255]
            burst >>= 8
            i += 1
        return word

    def advance(self, int64_t until):
        """Issue the commands up to `until`. Of transfers: which are known to begin (tag, tick), and to end."""
        cdef int i
        cdef int64_t k, before
        cdef Transfer *transfer
        with nogil:
            for i in range(self.channel_count):
                self.serve(&self.channels[i], &self.lines[i], until)
        heads, ends = [], []
        i = 0
        for k in range(self.open):
            transfer = &self.transfers[k]
            before = transfer.next
            while transfer.next < transfer.end and self.times[transfer.next] >= 0:
                transfer.last = max(transfer.last, self.times[transfer.next])
                transfer.next += 1
            if before == transfer.first and transfer.next > before:
                heads.append((transfer.tag, self.times[transfer.first]))
            if transfer.next == transfer.end:
                ends.append((transfer.tag, transfer.last))
            else:
                self.transfers[i] = transfer[0]
                i += 1
        self.open = i
        return heads, ends

    cdef void serve(self, Channel *c, Line *line, int64_t until) noexcept nogil:
        cdef Offer *offer
        cdef int64_t t, moved
        while line.count:
            offer = &line.offers[line.head]
            t = max(offer.tick, line.accepted)
            if t > until:
                break
            while step(c, t) != FOREVER:
                pass
            while c.waiting[offer.write] >= c.room[offer.write]:
                moved = step(c, until)
                if moved == FOREVER:
                    return
                t = max(t, moved)
            if c.banked:
                banked_accept(c, t, <int>offer.index, <int>(offer.word & 1023), <int64_t>(offer.word >> ROW_SHIFT),
                              <int>(offer.word >> COLUMN_SHIFT) & 16383, offer.write)
            else:
                shared_accept(c, t, <int>offer.index, <int>(offer.word & 1023), <int64_t>(offer.word >> ROW_SHIFT),
                              <int>(offer.word >> COLUMN_SHIFT) & 16383, offer.write)
            line.accepted = t
            line.head = (line.head + 1) % line.room
            line.count -= 1
        while step(c, until) != FOREVER:
            pass

    def activates(self):
        """Rows opened so far."""
        cdef int64_t activates = 0
        for i in range(self.channel_count):
            activates += self.channels[i].totals.activates
        return activates

    def totals(self):
        """What each channel has done: a list of dicts."""
        return [self.channels[i].totals for i in range(self.channel_count)]

    @property
    def logged(self):
        """Commands of the first channel since it was made."""
        return self.channels[0].log_used
