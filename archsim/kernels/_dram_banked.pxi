# The controller that sorts requests into a short queue for each bank and serves these in turn. Included by _dram_cycle.pyx.
#
# A request waits in the read or the write queue until, one a tick, it moves to the queue of its bank. Every tick the banks are
# asked in turn, from the one after the last that issued, for the first command in their queue that is ready; then once more for
# one of the other kind (row or column).

cdef inline void append(Channel *c, int *head, int *tail, int entry) noexcept nogil:
    c.pool[entry].previous = tail[0]
    c.pool[entry].next = NONE
    if tail[0] == NONE:
        head[0] = entry
    else:
        c.pool[tail[0]].next = entry
    tail[0] = entry


cdef inline void take_out(Channel *c, int *head, int *tail, int entry) noexcept nogil:
    cdef Request *request = &c.pool[entry]
    if request.previous == NONE:
        head[0] = request.next
    else:
        c.pool[request.previous].next = request.next
    if request.next == NONE:
        tail[0] = request.previous
    else:
        c.pool[request.next].previous = request.previous


cdef Pick first_in_bank(Channel *c, int number, int64_t floor) noexcept nogil:
    """What this bank could issue first, not before `floor`: of what is ready then, the first in its queue."""
    cdef Bank *bank = &c.banks[number]
    cdef int entry = bank.head[0]
    cdef int position = 0
    cdef bint hits = False
    cdef bint[2] known
    cdef int64_t t
    cdef Pick best
    best.time, best.bank, best.sequence, best.rank, best.what = FOREVER, number, 0, 0, ACT
    if entry == NONE:
        return best
    if bank.open_row == NONE:
        best.time = max(floor, activate_ready(c, bank))
        return best
    known[0] = known[1] = False
    while entry != NONE:
        if c.pool[entry].row == bank.open_row and not known[c.pool[entry].write]:
            hits = known[c.pool[entry].write] = True
            t = max(floor, column_ready(c, bank, c.pool[entry].write))
            if t < best.time:
                best.time, best.sequence, best.what, best.rank = t, position, RD, entry
        entry = c.pool[entry].next
        position += 1
    entry = bank.head[0]
    if c.pool[entry].row != bank.open_row and (not hits or bank.streak >= c.row_hit_cap):
        t = max(floor, precharge_ready(c, bank))
        if t <= best.time:  # it stands first
            best.time, best.sequence, best.what, best.rank = t, 0, PRE, entry
    return best


cdef Pick next_in_turn(Channel *c, int64_t t) noexcept nogil:
    """The first command that is ready at `t`, banks in turn."""
    cdef int tried
    cdef Pick pick
    pick.time = FOREVER
    for tried in range(c.bank_count):
        c.turn = c.turn + 1 if c.turn + 1 < c.bank_count else 0
        pick = first_in_bank(c, c.turn, t)
        if pick.time <= t:
            return pick
    pick.time = FOREVER
    return pick


cdef bint issue_pick(Channel *c, Pick *pick, int64_t t) noexcept nogil:
    """Issue; True if it was a column command."""
    cdef Bank *bank = &c.banks[pick.bank]
    cdef int entry = bank.head[0]
    if pick.what == ACT:
        first_command(c, entry, &c.totals.row_misses)
        do_activate(c, pick.bank, c.pool[entry].row, t)
        return False
    if pick.what == PRE:
        first_command(c, entry, &c.totals.row_conflicts)
        do_precharge(c, pick.bank, t)
        return False
    entry = pick.rank
    first_command(c, entry, &c.totals.row_hits)
    do_column(c, pick.bank, c.pool[entry].write, False, t)
    take_out(c, &bank.head[0], &bank.tail[0], entry)
    bank.head[1] -= 1
    c.queued -= 1
    if not c.pool[entry].write:
        c.done[c.pool[entry].index] = t + c.timing.read_done
    c.free[c.free_count] = entry
    c.free_count += 1
    c.movable = True
    return True


cdef Pick next_for_refresh(Channel *c, int64_t floor) noexcept nogil:
    """The precharge of an open bank that is ready first, or the refresh when all are closed."""
    cdef int number
    cdef int64_t t
    cdef Pick best
    best.time, best.what, best.bank = FOREVER, REFAB, 0
    for number in range(c.bank_count):
        if c.banks[number].open_row != NONE:
            t = max(floor, precharge_ready(c, &c.banks[number]))
            if t < best.time:
                best.time, best.what, best.bank = t, PRE, number
    if best.time == FOREVER:
        best.time = max(floor, c.pcs[0].next_ref)
    return best


cdef void move_one(Channel *c) noexcept nogil:
    """One request moves to the queue of its bank: the oldest that finds room."""
    cdef int entry, number
    cdef int which
    if c.draining == 0 and (c.waiting[1] >= c.room[1] or (c.waiting[1] > c.drain_low and c.queued == 0)):
        c.draining = c.waiting[1]
    which = c.draining > 0
    entry = c.fifo_head[which]
    while entry != NONE:
        number = c.pool[entry].bank
        if c.banks[number].head[1] < c.bank_queue:
            take_out(c, &c.fifo_head[which], &c.fifo_tail[which], entry)
            append(c, &c.banks[number].head[0], &c.banks[number].tail[0], entry)
            c.banks[number].head[1] += 1  # entries of this bank's queue
            c.queued += 1
            c.waiting[which] -= 1
            c.draining -= which
            return
        entry = c.pool[entry].next
    c.movable = False


cdef int64_t banked_step(Channel *c, int64_t until) noexcept nogil:
    cdef int64_t t = FOREVER
    cdef int number
    cdef bint column
    cdef Pick pick, other
    if c.refresh_left:
        pick = next_for_refresh(c, c.floor)
        t = pick.time
    else:
        for number in range(c.bank_count):
            pick = first_in_bank(c, number, c.floor)
            t = min(t, pick.time)
    if c.movable:
        t = min(t, c.floor)
    if c.refresh_mode:
        t = max(c.floor, min(t, c.refresh_due))
    if t > until or t == FOREVER:
        return FOREVER
    if c.refresh_mode and t >= c.refresh_due:
        c.refresh_left = 1
        c.refresh_due += c.timing.refi
    c.now = t
    if c.refresh_left:
        pick = next_for_refresh(c, t)
        if pick.time <= t and pick.what == PRE:
            do_precharge(c, pick.bank, t)
        elif pick.time <= t:
            do_refresh_all(c, 0, t)
            c.refresh_left = 0
    else:
        pick = next_in_turn(c, t)
        if pick.time <= t:
            column = issue_pick(c, &pick, t)
            other = next_in_turn(c, t)
            if other.time <= t and column != (other.what == RD):
                issue_pick(c, &other, t)
    if c.movable:
        move_one(c)
    c.floor = t + 1
    return t


cdef bint banked_accept(Channel *c, int64_t t, int index, int number, int64_t row, int column, bint write) noexcept nogil:
    cdef int entry
    cdef Request *request
    if write:
        c.done[index] = t + 1  # posted
    c.free_count -= 1
    entry = c.free[c.free_count]
    request = &c.pool[entry]
    request.arrive, request.row, request.bank, request.column = t, row, number, column
    request.index, request.write, request.seen = index, write, False
    append(c, &c.fifo_head[write], &c.fifo_tail[write], entry)
    c.waiting[write] += 1
    c.movable = True
    c.floor = max(c.floor, t + 1)
    return True
