# The data bus of a pseudo-channel: which burst of time is whose, as a ring of bits. Included by _memory.pyx.

cdef enum:
    BURSTS = 256    # of time on a data bus, that are remembered, of them so many that have passed
    PASSED = 8
    WASTE = 128     # a burst of time that a change of stacks costs


cdef inline uint64_t busy_from(const Lane *bus, int64_t slot) noexcept nogil:
    """64 bursts from `slot` on, as bits."""
    return bus.busy[slot >> 6 & 3] >> (slot & 63) | bus.busy[(slot >> 6) + 1 & 3] << 1 << (~slot & 63)


cdef inline int64_t idle_burst(const Lane *bus, int64_t slot, int64_t limit) noexcept nogil:
    """The first idle one from `slot` on, before `limit`."""
    cdef uint64_t busy
    while slot < limit:
        busy = busy_from(bus, slot)
        if busy != ALL_BITS:
            return min(slot + LOWEST(~busy), limit)
        slot += 64
    return max(slot, limit)


cdef inline int burst_of(const Lane *bus, int64_t slot) noexcept nogil:
    """Whose burst it is; 0: idle."""
    return bus.owner[slot & (BURSTS - 1)] if busy_from(bus, slot) & 1 else 0


cdef inline void take_burst(Lane *bus, int64_t slot, int tag) noexcept nogil:
    bus.busy[slot >> 6 & 3] |= <uint64_t>1 << (slot & 63)
    bus.owner[slot & (BURSTS - 1)] = <uint8_t>tag


cdef inline bint take_row(Lane *bus, int64_t slot, int64_t bursts, int tag) noexcept nogil:
    """Take as many in a row at once, if all of them are idle."""
    cdef int64_t at = slot & (BURSTS - 1)
    cdef uint64_t those
    if bursts > 64 or at + bursts > BURSTS:
        return False
    those = ALL_BITS >> (64 - bursts)
    if busy_from(bus, slot) & those:
        return False
    bus.busy[slot >> 6 & 3] |= those << (slot & 63)
    bus.busy[(slot >> 6) + 1 & 3] |= those >> 1 >> (~slot & 63)
    memset(bus.owner + at, tag, bursts)
    return True


cdef inline int64_t bursts_in(const Memory *m, int64_t span) noexcept nogil:
    """Whole bursts in a span of time; half a picosecond keeps rounding off where one ends."""
    return <int64_t>((<double>span + 0.5) * m.bursts_per_ps)


cdef inline int64_t take_bus(
    Memory *m, Lane *bus, int64_t arrival, int64_t earliest, int tag, int64_t bursts, int64_t *last
) noexcept nogil:
    """Columns of one bank group from `earliest` on, wherever the bus is idle after `arrival`: the first, the last."""
    cdef int64_t begin = bus.end
    if bus.solid and earliest <= begin:
        bus.end = begin + bursts * m.burst_ps
        last[0] = begin + (bursts - 1) * m.ccd_ps
        return begin
    return fill_bus(m, bus, arrival, earliest, tag, bursts, last)


cdef inline int stack_of(const Memory *m, int tag) noexcept nogil:
    return ((tag & (WASTE - 1)) - 1) >> m.stack_shift


cdef inline int64_t idle_from(Memory *m, Lane *bus, int64_t earliest, int tag) noexcept nogil:
    """When the data bus is idle, from `earliest` on, but for what the group itself has there: that will be put off."""
    cdef int64_t slot = bus.first
    cdef int there
    if bus.solid:
        return max(earliest, bus.end)
    if earliest > bus.origin + slot * m.burst_ps:
        slot = bursts_in(m, earliest - bus.origin)
    while slot < bus.first + BURSTS - PASSED:
        there = burst_of(bus, slot)
        if there == 0 or there == tag:
            break
        slot += 1
    return max(earliest, bus.origin + slot * m.burst_ps)


cdef int64_t fill_bus(
    Memory *m, Lane *bus, int64_t arrival, int64_t earliest, int tag, int64_t bursts, int64_t *last
) noexcept nogil:
    cdef int64_t slot, before, begin, limit, left
    if bus.solid:
        bus.solid = False
        bus.origin = max(bus.end, arrival)
        bus.first = 0
    elif arrival > bus.origin + bus.first * m.burst_ps:
        forget_bursts(bus, bursts_in(m, arrival - bus.origin))
    slot, limit = bus.first, bus.first + BURSTS - 2 * PASSED  # what lies too far ahead is not remembered
    begin = bus.origin + slot * m.burst_ps
    if earliest > begin:
        slot = bursts_in(m, earliest - bus.origin)
        begin = earliest
    slot = idle_burst(bus, slot, limit)
    while bursts == 1 and slot < limit and is_near(m, bus, slot, tag):
        slot = idle_burst(bus, slot + 1, limit)
    begin, before, left = max(begin, bus.origin + slot * m.burst_ps), slot - 1, bursts
    if slot + bursts <= limit and take_row(bus, slot, bursts, tag):
        slot += bursts - 1
        left = 0
    while left > 0 and slot < limit:  # the columns of several bursts leave time to others: only what they fill is taken
        take_burst(bus, slot, tag)
        left -= 1
        if left > 0:
            slot = idle_burst(bus, slot + 1, limit)
    bus.end = max(bus.end, bus.origin + (slot + 1) * m.burst_ps, begin + bursts * m.burst_ps)
    if m.switch_ps and slot < limit:
        change_stacks(m, bus, arrival, before, slot, limit, tag)
    last[0] = max(begin + (bursts - 1) * m.ccd_ps, bus.origin + slot * m.burst_ps)
    forget_bursts(bus, idle_burst(bus, bus.first, bus.first + BURSTS))
    bus.solid = bus.origin + bus.first * m.burst_ps >= bus.end
    if bus.solid:
        forget_bursts(bus, bus.first + PASSED)  # all that is left
    return begin


cdef inline bint is_near(const Memory *m, const Lane *bus, int64_t slot, int tag) noexcept nogil:
    """Whether tCCD_L keeps a burst from others of the group."""
    cdef int i
    for i in range(1, m.reach):
        if burst_of(bus, slot - i) == tag or burst_of(bus, slot + i) == tag:
            return True
    return False


cdef inline bint goes_on(const Memory *m, const Lane *bus, int64_t arrival, int tag, int own) noexcept nogil:
    """Whether two bank groups of this one's stack have columns after `arrival`, or now."""
    cdef int64_t lane = (bus - m.pseudo_channels) % m.lanes_per_channel
    cdef const int64_t *free = m.group_free + (bus - m.pseudo_channels) // m.lanes_per_channel * m.groups * m.lanes_per_channel
    cdef int64_t group = <int64_t>stack_of(m, tag) << m.stack_shift
    cdef int64_t end = group + (<int64_t>1 << m.stack_shift)
    cdef int busy = 0
    while group < end:
        busy += group == own - 1 or free[group * m.lanes_per_channel + lane] > arrival
        group += 1
    return busy > 1


cdef void change_stacks(
    Memory *m, Lane *bus, int64_t arrival, int64_t before, int64_t slot, int64_t limit, int tag
) noexcept nogil:
    """What bursts beside bursts of other stacks cost, as bursts of idle time after them."""
    cdef int[2] near = [burst_of(bus, before), burst_of(bus, slot + 1)]
    cdef int stack = stack_of(m, tag), changes = 0, i
    cdef bint single = slot == before + 1, alone = False  # it has but one group to go on with; else all of one stack goes first
    if near[0] and near[1] and stack_of(m, near[0]) != stack_of(m, near[1]):
        changes -= 1
    for i in range(2):
        if near[i] and stack_of(m, near[i]) != stack:
            changes += 1
            alone = alone or (single and not goes_on(m, bus, arrival, near[i], tag))
    if changes:
        alone = alone or (single and not goes_on(m, bus, arrival, tag, tag))
        bus.owed += <int32_t>(changes * m.switch_ps // (1 if alone else m.share_of_stack))
    while bus.owed >= m.burst_ps:
        bus.owed -= <int32_t>m.burst_ps
        slot = idle_burst(bus, slot, limit)
        if slot < limit:
            take_burst(bus, slot, tag | WASTE)
            bus.end = max(bus.end, bus.origin + (slot + 1) * m.burst_ps)


cdef inline void forget_bursts(Lane *bus, int64_t before) noexcept nogil:
    cdef int64_t slot, count
    cdef uint64_t those
    if before - bus.first >= BURSTS:
        memset(bus.busy, 0, sizeof(bus.busy))
        bus.first = before
    while bus.first < before:
        slot, count = bus.first - PASSED, min(64, before - bus.first)
        those = ALL_BITS >> (64 - count)
        bus.busy[slot >> 6 & 3] &= ~(those << (slot & 63))
        bus.busy[(slot >> 6) + 1 & 3] &= ~(those >> 1 >> (~slot & 63))
        bus.first += count


cdef void turn_bus(Memory *m, Lane *bus, bint write) noexcept nogil:
    """The bus changes its direction once it has served what did not wait for a bank; idle time before that is lost."""
    bus.writing = write
    bus.front += m.to_write_ps if write else m.to_read_ps
    bus.end = max(bus.end, bus.front)
    if not bus.solid and bus.front > bus.origin:
        forget_bursts(bus, bursts_in(m, bus.front - bus.origin + m.burst_ps - 1))
