# The DRAM side of a channel: bank state, what every command delays, and the buses. Included by _dram_cycle.pyx.

cdef int64_t FOREVER = INT64_MAX // 4
cdef int NONE = -1

cdef enum:  # in the command log
    ACT = 0
    PRE = 1
    RD = 2
    WR = 3
    RDA = 4
    WRA = 5
    PREAB = 6
    REFAB = 7
    REFPB = 8


cdef struct Timing:  # adjusted to the starts of commands
    int64_t clock, data, read_done
    int64_t rcd_rd, rcd_wr, ras, rc, rp, rtp, wr_pre, rrd_s, rrd_l, faw, ppd
    int64_t ccd_s, ccd_l, ccd_r, rtw, wtr_s, wtr_l
    int64_t act_ticks, pre_ticks, col_ticks, ref_ticks
    int64_t refi, rfc, refi_pb, rfc_pb, rrefd, act_ref, pre_ref, ref_ref, act_refpb, refpb_refpb, refpb_again, ref_pre


cdef struct Bank:
    int64_t open_row, next_act, next_pre, next_rd, next_wr, next_ref
    int pc, stack, group    # numbers of the domains that it belongs to, each counted over the whole channel
    int streak              # column accesses since the activate
    int active              # shared queues: the request that opened the row and has not had it yet
    int[2] head             # shared queues: waiting requests by direction, oldest first
    int[2] tail
    int[2] hit              # the oldest that wants the open row, and the oldest that does not
    int[2] miss


cdef struct PseudoChannel:
    int64_t next_act, next_pre, next_rd, next_wr, next_ref, next_refpb
    int64_t[4] activates    # the last four, as a ring
    int64_t counted         # activates since the start
    int64_t open_since, open_ticks
    int open_banks
    int refresh_bank        # per-bank refresh: the bank that is due, or NONE
    int refresh_next


cdef struct Request:
    int64_t arrive, sequence, row
    int bank, column, next, previous, index
    uint8_t write, seen


cdef struct Totals:
    int64_t activates, precharges, reads, writes, refreshes, refreshes_pb
    int64_t row_hits, row_misses, row_conflicts, forwarded, open_ticks


cdef inline int64_t aligned(Channel *c, int64_t t) noexcept nogil:
    """The next start of a clock: ticks 1, 1 + clock, ... so that the first one follows an arrival at 0."""
    return ((t - 2 + c.timing.clock) & -c.timing.clock) + 1


cdef inline void log_command(Channel *c, int64_t t, int what, int bank, int64_t row) noexcept nogil:
    if c.log_used < c.log_room:
        c.log[4 * c.log_used] = t
        c.log[4 * c.log_used + 1] = what
        c.log[4 * c.log_used + 2] = bank
        c.log[4 * c.log_used + 3] = row
    c.log_used += 1


cdef inline void set_gates(Channel *c, int which) noexcept nogil:
    """What a pseudo-channel and its bank groups hold back: activates by group, then precharges by pseudo-channel."""
    cdef int group
    for group in range(which * c.pc_groups, (which + 1) * c.pc_groups):
        c.gate[group] = aligned(c, max(c.group_act[group], c.pcs[which].next_act))
    c.gate[c.pc_count * c.pc_groups + which] = c.pcs[which].next_pre


cdef inline int64_t column_ready(Channel *c, Bank *bank, bint write) noexcept nogil:
    """When the open row of a bank can be read or written, whatever the column bus does."""
    cdef PseudoChannel *pc = &c.pcs[bank.pc]
    if write:
        return max(max(bank.next_wr, pc.next_wr), max(c.group_wr[bank.group], c.stack_wr[bank.stack]))
    return max(max(bank.next_rd, pc.next_rd), max(c.group_rd[bank.group], c.stack_rd[bank.stack]))


cdef inline int64_t activate_ready(Channel *c, Bank *bank) noexcept nogil:
    return max(max(bank.next_act, c.pcs[bank.pc].next_act), c.group_act[bank.group])


cdef inline int64_t precharge_ready(Channel *c, Bank *bank) noexcept nogil:
    return max(bank.next_pre, c.pcs[bank.pc].next_pre)


cdef inline void row_opened(Channel *c, PseudoChannel *pc, int64_t t) noexcept nogil:
    if pc.open_banks == 0:
        pc.open_since = t
    pc.open_banks += 1


cdef inline void row_closed(Channel *c, PseudoChannel *pc, int64_t t) noexcept nogil:
    pc.open_banks -= 1
    if pc.open_banks == 0:
        pc.open_ticks += t - pc.open_since


cdef inline void do_activate(Channel *c, int number, int64_t row, int64_t t) noexcept nogil:
    cdef Bank *bank = &c.banks[number]
    cdef PseudoChannel *pc = &c.pcs[bank.pc]
    cdef Timing *timing = &c.timing
    cdef int slot = <int>(pc.counted & 3)
    log_command(c, t, ACT, number, row)
    c.totals.activates += 1
    c.row_free = t + timing.act_ticks
    row_opened(c, pc, t)
    bank.open_row, bank.streak = row, 0
    bank.next_rd, bank.next_wr = t + timing.rcd_rd, t + timing.rcd_wr
    bank.next_pre, bank.next_act = t + timing.ras, t + timing.rc
    bank.next_ref = max(bank.next_ref, t + timing.act_ref)
    c.group_act[bank.group] = max(c.group_act[bank.group], t + timing.rrd_l)
    pc.activates[slot] = t
    pc.counted += 1
    pc.next_act = max(pc.next_act, t + timing.rrd_s)
    if pc.counted >= 4:
        pc.next_act = max(pc.next_act, pc.activates[(slot + 1) & 3] + timing.faw)
    pc.next_ref = max(pc.next_ref, t + timing.act_ref)
    pc.next_refpb = max(pc.next_refpb, t + timing.act_refpb)
    set_gates(c, bank.pc)


cdef inline void do_precharge(Channel *c, int number, int64_t t) noexcept nogil:
    cdef Bank *bank = &c.banks[number]
    cdef PseudoChannel *pc = &c.pcs[bank.pc]
    log_command(c, t, PRE, number, bank.open_row)
    c.totals.precharges += 1
    c.row_free = t + c.timing.pre_ticks
    row_closed(c, pc, t)
    bank.open_row = NONE
    bank.next_act = max(bank.next_act, t + c.timing.rp)
    bank.next_ref = max(bank.next_ref, t + c.timing.pre_ref)
    pc.next_pre = max(pc.next_pre, t + c.timing.ppd)
    pc.next_ref = max(pc.next_ref, t + c.timing.pre_ref)
    set_gates(c, bank.pc)


cdef inline void do_column(Channel *c, int number, bint write, bint close, int64_t t) noexcept nogil:
    """A read or a write, with the auto-precharge of a closed-row policy if `close`."""
    cdef Bank *bank = &c.banks[number]
    cdef PseudoChannel *pc = &c.pcs[bank.pc]
    cdef Timing *timing = &c.timing
    cdef int stack, first
    log_command(c, t, (WRA if write else RDA) if close else (WR if write else RD), number, bank.open_row)
    c.column_free = t + timing.col_ticks
    bank.streak += 1
    if write:
        c.totals.writes += 1
        bank.next_pre = max(bank.next_pre, t + timing.wr_pre)
        pc.next_wr = max(pc.next_wr, t + timing.data)
        pc.next_rd = max(pc.next_rd, t + timing.wtr_s)
        c.stack_wr[bank.stack] = t + timing.ccd_s
        c.group_wr[bank.group] = t + timing.ccd_l
        c.group_rd[bank.group] = max(c.group_rd[bank.group], t + timing.wtr_l)
    else:
        c.totals.reads += 1
        bank.next_pre = max(bank.next_pre, t + timing.rtp)
        pc.next_rd = max(pc.next_rd, t + timing.data)
        pc.next_wr = max(pc.next_wr, t + timing.rtw)
        c.group_rd[bank.group] = max(c.group_rd[bank.group], t + timing.ccd_l)
        first = bank.pc * c.stacks
        for stack in range(first, first + c.stacks):
            c.stack_rd[stack] = max(c.stack_rd[stack], t + (timing.ccd_s if stack == bank.stack else timing.ccd_r))
    if close:
        c.totals.precharges += 1
        row_closed(c, pc, bank.next_pre)
        bank.open_row = NONE
        bank.next_act = max(bank.next_act, bank.next_pre + timing.rp)
        bank.next_ref = max(bank.next_ref, bank.next_pre + timing.pre_ref)
        pc.next_ref = max(pc.next_ref, bank.next_pre + timing.pre_ref)


cdef inline void do_refresh_all(Channel *c, int which, int64_t t) noexcept nogil:
    cdef PseudoChannel *pc = &c.pcs[which]
    log_command(c, t, REFAB, which, 0)
    c.totals.refreshes += 1
    c.row_free = t + c.timing.ref_ticks
    pc.next_act = max(pc.next_act, t + c.timing.rfc)
    pc.next_pre = max(pc.next_pre, t + c.timing.ref_pre)
    pc.next_ref = t + c.timing.ref_ref
    set_gates(c, which)


cdef inline void do_refresh_bank(Channel *c, int number, int64_t t) noexcept nogil:
    cdef Bank *bank = &c.banks[number]
    cdef PseudoChannel *pc = &c.pcs[bank.pc]
    log_command(c, t, REFPB, number, 0)
    c.totals.refreshes_pb += 1
    c.row_free = t + c.timing.ref_ticks
    bank.next_act = max(bank.next_act, t + c.timing.rfc_pb)
    bank.next_ref = max(bank.next_ref, t + c.timing.refpb_again)
    pc.next_act = max(pc.next_act, t + c.timing.rrefd)
    pc.next_refpb = max(pc.next_refpb, t + c.timing.refpb_refpb)
    set_gates(c, bank.pc)
