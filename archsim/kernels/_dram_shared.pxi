# The controller with one read and one write queue over all banks (FR-FCFS). Included by _dram_cycle.pyx.
#
# Each bank keeps its waiting requests in order of age, one list for reads and one for writes, and knows the oldest that hits the
# open row and the oldest that does not: only these can be next. Bit sets name the banks that have such a request.

cdef struct Pick:  # what could be issued next on one of the buses
    int64_t time, sequence
    int rank            # lower goes first among what is ready at the same time
    int what, bank


cdef struct Want:  # the row command that a bank needs next for the requests of one direction
    int64_t ready, sequence
    int gate, what


cdef inline void put(uint64_t *bits, int at, bint value) noexcept nogil:
    if value:
        bits[at >> 6] |= <uint64_t>1 << (at & 63)
    else:
        bits[at >> 6] &= ~(<uint64_t>1 << (at & 63))


cdef inline void refill(Channel *c, int number, int mode, int hit_from, int miss_from) noexcept nogil:
    """Find the oldest hit and the oldest miss of a bank again, each from a request on that is no younger than it."""
    cdef Bank *bank = &c.banks[number]
    while hit_from != NONE and c.pool[hit_from].row != bank.open_row:
        hit_from = c.pool[hit_from].next
    while miss_from != NONE and c.pool[miss_from].row == bank.open_row:
        miss_from = c.pool[miss_from].next
    bank.hit[mode], bank.miss[mode] = hit_from, miss_from
    put(c.hit_bits + mode * WORDS, number, hit_from != NONE)
    set_want(c, number, mode)


cdef inline void set_want(Channel *c, int number, int mode) noexcept nogil:
    """Note the activate or precharge that the oldest miss needs, unless the open row is still wanted by an older one."""
    cdef Bank *bank = &c.banks[number]
    cdef Want *want = &c.want[mode * c.bank_count + number]
    cdef int miss = bank.miss[mode]
    cdef bint blocked = miss == NONE
    if not blocked:
        want.sequence = c.pool[miss].sequence
        if bank.open_row == NONE:
            want.ready, want.gate, want.what = aligned(c, bank.next_act), bank.group, ACT
        else:
            blocked = bank.active != NONE or (
                c.hits_first and bank.hit[mode] != NONE and c.pool[bank.hit[mode]].arrive <= c.pool[miss].arrive
            )
            want.ready, want.gate, want.what = bank.next_pre, c.pc_count * c.pc_groups + bank.pc, PRE
    put(c.want_bits + mode * WORDS, number, not blocked)


cdef inline void refill_both(Channel *c, int number) noexcept nogil:
    cdef Bank *bank = &c.banks[number]
    refill(c, number, 0, bank.head[0], bank.head[0])
    refill(c, number, 1, bank.head[1], bank.head[1])


cdef inline void unqueue(Channel *c, int entry) noexcept nogil:
    """Take a request out of its bank's list; its slot in the queue is free."""
    cdef Request *request = &c.pool[entry]
    cdef Bank *bank = &c.banks[request.bank]
    if request.previous == NONE:
        bank.head[request.write] = request.next
    else:
        c.pool[request.previous].next = request.next
    if request.next == NONE:
        bank.tail[request.write] = request.previous
    else:
        c.pool[request.next].previous = request.previous
    c.waiting[request.write] -= 1


cdef inline void choose_direction(Channel *c) noexcept nogil:
    if not c.writing:
        if c.waiting[1] > c.drain_high or c.waiting[0] == 0:
            c.writing = True
            c.column_stale = c.row_stale = True
    elif c.waiting[0] != 0 and (c.waiting[1] < c.drain_low or c.waiting[1] == 0):
        c.writing = False
        c.column_stale = c.row_stale = True


cdef inline bint better(Pick *a, int64_t time, int rank, int64_t sequence) noexcept nogil:
    if time != a.time:
        return time < a.time
    if rank != a.rank:
        return rank < a.rank
    return sequence < a.sequence


cdef void find_column(Channel *c) noexcept nogil:
    """The column command that is ready first: of an opened row's own request, else of the oldest hit."""
    cdef Pick *best = &c.column
    cdef uint64_t bits
    cdef int word, number, mode = c.writing
    cdef Bank *bank
    cdef Request *request
    cdef int64_t floor = max(c.floor, c.column_free)
    cdef int64_t t
    floor = aligned(c, floor)
    best.time, best.rank, best.sequence, best.bank = FOREVER, 9, 0, NONE
    for word in range(c.words):
        bits = c.active_bits[word]
        while bits:
            number = 64 * word + ctz(bits)
            bits &= bits - 1
            bank = &c.banks[number]
            request = &c.pool[bank.active]
            t = column_ready(c, bank, request.write)
            t = floor if t <= floor else aligned(c, t)
            if better(best, t, 0, request.sequence):
                best.time, best.rank, best.sequence, best.bank, best.what = t, 0, request.sequence, number, bank.active
    if c.refresh_left == 0:
        for word in range(c.words):
            bits = c.hit_bits[mode * WORDS + word]
            while bits:
                number = 64 * word + ctz(bits)
                bits &= bits - 1
                bank = &c.banks[number]
                if c.pcs[bank.pc].refresh_bank == number:
                    continue
                request = &c.pool[bank.hit[mode]]
                t = column_ready(c, bank, mode)
                t = floor if t <= floor else aligned(c, t)
                if better(best, t, 1, request.sequence):
                    best.time, best.rank, best.sequence = t, 1, request.sequence
                    best.bank, best.what = number, bank.hit[mode]
    c.column_stale = False


cdef void find_row(Channel *c) noexcept nogil:
    """The row command that is ready first: for a refresh that is due, else for the oldest request."""
    cdef Pick *best = &c.row
    cdef uint64_t bits
    cdef int word, number, which, mode = c.writing
    cdef Want *wants = c.want + mode * c.bank_count
    cdef Want *want
    cdef int64_t floor = max(c.floor, c.row_free)
    cdef int64_t clock_floor = aligned(c, floor)
    cdef int64_t t
    best.time, best.rank, best.sequence, best.bank = FOREVER, 9, 0, NONE
    c.row_stale = False
    if c.refresh_left:
        find_refresh_all(c, floor)
        return
    if c.refresh_mode == 2:
        for which in range(c.pc_count):
            if c.pcs[which].refresh_bank != NONE:
                find_refresh_bank(c, which, floor, clock_floor)
    for word in range(c.words):
        bits = c.want_bits[mode * WORDS + word]
        while bits:
            number = 64 * word + ctz(bits)
            bits &= bits - 1
            want = &wants[number]
            t = max(max(want.ready, c.gate[want.gate]), clock_floor if want.what == ACT else floor)
            if better(best, t, 1, want.sequence):
                if c.refresh_mode == 2 and c.pcs[c.banks[number].pc].refresh_bank == number:
                    continue
                best.time, best.rank, best.sequence, best.bank, best.what = t, 1, want.sequence, number, want.what


cdef inline void offer_row(Channel *c, int number) noexcept nogil:
    """What a bank wants has changed: look at all banks again only if it was the next one."""
    cdef Want *want = &c.want[c.writing * c.bank_count + number]
    cdef int64_t floor, t
    if c.row_stale or c.refresh_left or c.refresh_mode == 2 or c.row.bank == number:
        c.row_stale = True
        return
    if c.want_bits[c.writing * WORDS + (number >> 6)] >> (number & 63) & 1:
        floor = max(c.floor, c.row_free)
        t = max(max(want.ready, c.gate[want.gate]), aligned(c, floor) if want.what == ACT else floor)
        if better(&c.row, t, 1, want.sequence):
            c.row.time, c.row.rank, c.row.sequence, c.row.bank, c.row.what = t, 1, want.sequence, number, want.what


cdef inline void offer_active(Channel *c, int number) noexcept nogil:
    """A row has been opened: its request may be the next column command."""
    cdef Bank *bank = &c.banks[number]
    cdef Request *request = &c.pool[bank.active]
    cdef int64_t t = aligned(c, max(max(c.floor, c.column_free), column_ready(c, bank, request.write)))
    if better(&c.column, t, 0, request.sequence):
        c.column.time, c.column.rank, c.column.sequence = t, 0, request.sequence
        c.column.bank, c.column.what = number, bank.active


cdef void find_refresh_all(Channel *c, int64_t floor) noexcept nogil:
    """All-bank refresh: close what is open once nobody waits for it, then refresh, one pseudo-channel after the other."""
    cdef int which = c.pc_count - c.refresh_left
    cdef PseudoChannel *pc = &c.pcs[which]
    cdef int number
    cdef Bank *bank
    cdef int64_t t
    c.row.rank, c.row.bank = 0, which
    if pc.open_banks == 0:
        c.row.time, c.row.what = aligned(c, max(floor, pc.next_ref)), REFAB
        return
    t = max(floor, pc.next_pre)
    for number in range(which * c.pc_banks, (which + 1) * c.pc_banks):
        bank = &c.banks[number]
        if bank.active != NONE:
            return
        if bank.open_row != NONE:
            t = max(t, bank.next_pre)
    c.row.time, c.row.what = t, PREAB


cdef void find_refresh_bank(Channel *c, int which, int64_t floor, int64_t clock_floor) noexcept nogil:
    cdef PseudoChannel *pc = &c.pcs[which]
    cdef Bank *bank = &c.banks[pc.refresh_bank]
    cdef int64_t t
    cdef int what
    if bank.open_row == NONE:
        t, what = aligned(c, max(clock_floor, max(bank.next_ref, pc.next_refpb))), REFPB
    elif bank.active != NONE:
        return
    else:
        t, what = max(floor, precharge_ready(c, bank)), PRE
    if better(&c.row, t, 0, which):
        c.row.time, c.row.rank, c.row.sequence, c.row.bank, c.row.what = t, 0, which, pc.refresh_bank, what


cdef inline void first_command(Channel *c, int entry, int64_t *counter) noexcept nogil:
    if not c.pool[entry].seen:
        c.pool[entry].seen = True
        counter[0] += 1


cdef void issue_column(Channel *c, int64_t t) noexcept nogil:
    cdef int number = c.column.bank
    cdef int entry = c.column.what
    cdef Bank *bank = &c.banks[number]
    cdef Request *request = &c.pool[entry]
    cdef int mode = request.write
    cdef bint close
    first_command(c, entry, &c.totals.row_hits)
    if bank.active == entry:
        bank.active = NONE
        put(c.active_bits, number, False)
    else:
        unqueue(c, entry)
        # when this was also the oldest of the bank's misses nothing but hits came before it
        refill(c, number, mode, request.next, bank.miss[mode])
    close = c.closed_rows and bank.active == NONE and (
        bank.streak + 1 >= c.row_hit_cap if c.row_hit_cap else bank.hit[0] == NONE and bank.hit[1] == NONE
    )
    do_column(c, number, mode, close, t)
    if close:
        refill_both(c, number)
    else:
        set_want(c, number, 0)
        set_want(c, number, 1)
    c.done[request.index] = t if mode else t + c.timing.read_done
    c.free[c.free_count] = entry
    c.free_count += 1
    c.column_stale = True
    offer_row(c, number)


cdef void issue_row(Channel *c, int64_t t) noexcept nogil:
    cdef int number = c.row.bank
    cdef int entry, what = c.row.what
    cdef int mode = c.writing
    cdef Bank *bank
    c.row_stale = True
    if what == REFAB:
        do_refresh_all(c, number, t)
        c.refresh_left -= 1
        return
    if what == PREAB:
        precharge_all(c, number, t)
        c.column_stale = True
        return
    bank = &c.banks[number]
    if what == REFPB:
        do_refresh_bank(c, number, t)
        c.pcs[bank.pc].refresh_bank = NONE
        c.column_stale = True
        set_want(c, number, 0)
        set_want(c, number, 1)
    elif what == PRE:
        if bank.miss[mode] != NONE and c.row.rank == 1:
            first_command(c, bank.miss[mode], &c.totals.row_conflicts)
        do_precharge(c, number, t)
        refill_both(c, number)
        if c.column.bank == number:
            c.column_stale = True
    else:
        entry = bank.miss[mode]
        first_command(c, entry, &c.totals.row_misses)
        do_activate(c, number, c.pool[entry].row, t)
        unqueue(c, entry)
        bank.active = entry
        put(c.active_bits, number, True)
        refill_both(c, number)
        offer_active(c, number)


cdef void precharge_all(Channel *c, int which, int64_t t) noexcept nogil:
    cdef int number
    log_command(c, t, PREAB, which, 0)
    c.row_free = t + c.timing.pre_ticks
    for number in range(which * c.pc_banks, (which + 1) * c.pc_banks):
        if c.banks[number].open_row != NONE:
            c.totals.precharges += 1
            row_closed(c, &c.pcs[which], t)
            c.banks[number].open_row = NONE
            refill_both(c, number)
        c.banks[number].next_act = max(c.banks[number].next_act, t + c.timing.rp)
        set_want(c, number, 0)
        set_want(c, number, 1)
    c.pcs[which].next_pre = max(c.pcs[which].next_pre, t + c.timing.ppd)
    c.pcs[which].next_ref = max(c.pcs[which].next_ref, t + c.timing.pre_ref)
    set_gates(c, which)


cdef void begin_refresh(Channel *c) noexcept nogil:
    """A refresh has become due."""
    cdef PseudoChannel *pc
    cdef int which
    c.column_stale = c.row_stale = True
    if c.refresh_mode == 1:
        c.refresh_left = c.pc_count
        c.refresh_due += c.timing.refi
        return
    for which in range(c.pc_count):
        pc = &c.pcs[which]
        pc.refresh_bank = which * c.pc_banks + pc.refresh_next
        pc.refresh_next = (pc.refresh_next + 1) % c.pc_banks
    c.refresh_due += c.timing.refi_pb


cdef int64_t shared_step(Channel *c, int64_t until) noexcept nogil:
    """Issue what is next, on both buses, if that is not after `until`; return the time, or FOREVER if nothing was."""
    cdef int64_t t
    choose_direction(c)
    if c.column_stale:
        find_column(c)
    if c.row_stale:
        find_row(c)
    t = min(c.column.time, c.row.time)
    if c.refresh_mode and c.refresh_due <= t:
        t = c.refresh_due
        if t > until:
            return FOREVER
        begin_refresh(c)
        c.floor = max(c.floor, t)
        return t
    if t > until or t == FOREVER:
        return FOREVER
    c.now = t
    c.floor = t
    if c.column.time == t:
        issue_column(c, t)
        choose_direction(c)
        if c.row_stale:
            find_row(c)
    if c.row.time == t:
        issue_row(c, t)
    c.floor = t + 1
    c.column_stale = c.column_stale or c.column.time <= t
    return t


cdef bint shared_accept(Channel *c, int64_t t, int index, int number, int64_t row, int column, bint write) noexcept nogil:
    """Take a request that arrives at `t`; False if the write queue already holds its data, or can take it in."""
    cdef Bank *bank = &c.banks[number]
    cdef int entry = bank.head[1]
    cdef Request *request
    while entry != NONE:
        if c.pool[entry].row == row and c.pool[entry].column == column:
            c.totals.forwarded += 1
            c.done[index] = t if write else t + 1
            return False
        entry = c.pool[entry].next
    c.free_count -= 1
    entry = c.free[c.free_count]
    request = &c.pool[entry]
    request.arrive, request.row, request.bank, request.column = t, row, number, column
    request.index, request.write, request.seen, request.next = index, write, False, NONE
    request.sequence = c.sequence
    c.sequence += 1
    request.previous = bank.tail[write]
    if bank.tail[write] == NONE:
        bank.head[write] = entry
    else:
        c.pool[bank.tail[write]].next = entry
    bank.tail[write] = entry
    c.waiting[write] += 1
    if row == bank.open_row:
        if bank.hit[write] == NONE:
            bank.hit[write] = entry
            put(c.hit_bits + write * WORDS, number, True)
        c.column_stale = True
    else:
        if bank.miss[write] == NONE:
            bank.miss[write] = entry
            set_want(c, number, write)
            if write == c.writing:
                c.floor = max(c.floor, t + 1)
                offer_row(c, number)
    c.floor = max(c.floor, t + 1)
    return True
