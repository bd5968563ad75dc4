# The states of the channels. Those that have seen the same requests since the beginning are in the same state, which is kept
# and moved on once, whatever their number. Included by _memory.pyx.
#
# A state has a history, a number of 64 bits that depends on all of its requests. Where some of its channels see a request
# that others do not, they part; the others catch up with them when they see it next. Once no two channels are in one state,
# hardly any two will be again: histories are not looked at any more.

cdef inline uint64_t continued(uint64_t history, int64_t number) noexcept nogil:
    """A history with one more event."""
    history = (history ^ <uint64_t>number) * <uint64_t>0x9E3779B97F4A7C15
    return history ^ history >> 32


cdef inline Place place(const Memory *m, int64_t lane, int64_t bank) noexcept nogil:
    """A bank of a lane of the channels in the first state."""
    cdef Place at
    at.lane = m.pseudo_channels + lane
    at.rows = m.sessions + (bank * m.lanes_per_channel + lane) * SESSIONS
    at.group_free = m.group_free + m.group_of[bank] * m.lanes_per_channel + lane
    at.tag = 1 + <int>(m.group_of[bank] & 63)
    return at


cdef inline Place moved(const Memory *m, const Place *at, int64_t states) noexcept nogil:
    """The same place so many states further on."""
    cdef Place there = at[0]
    there.lane += states * m.lanes_per_channel
    there.rows += states * m.sessions_of_state
    there.group_free += states * m.groups_of_state
    return there


cdef inline int64_t bank_of(const Memory *m, const Session *rows) noexcept nogil:
    return (rows - m.sessions) // (m.lanes_per_channel * SESSIONS) % m.banks


cdef void share_one_state(Memory *m) noexcept nogil:
    """Nothing has been requested: all channels are in the first state, in which no row is open."""
    cdef Channel *channel = m.states
    cdef int64_t i
    memset(m.state_of, 0, m.channels * sizeof(int32_t))
    for i in range(m.channels):
        m.states[i].count = 0
        m.unused[i] = <int32_t>(m.channels - 1 - i)
    m.unused_states = m.channels - 1
    m.apart = False
    span(m.members, m.words, 0, m.channels)
    memset(m.pseudo_channels, 0, m.lanes_per_channel * sizeof(Lane))
    for i in range(m.lanes_per_channel):
        m.pseudo_channels[i].solid = True
        m.pseudo_channels[i].front = m.pseudo_channels[i].late_act = NEVER
    memset(m.group_free, 0, m.groups * m.lanes_per_channel * sizeof(int64_t))
    memset(m.sessions, 0, m.banks * m.lanes_per_channel * SESSIONS * sizeof(Session))
    for i in range(m.banks * m.lanes_per_channel * SESSIONS):
        m.sessions[i].row = -1
        m.sessions[i].next_column = NEVER
    empty(&channel.reads)
    empty(&channel.writes)
    channel.accepted = channel.drained = channel.closed_before = channel.row_free = 0
    channel.posted = channel.posted_bursts = channel.history = 0
    channel.refresh_at = m.live_ps if m.live_ps else INT64_MAX
    channel.count = <int32_t>m.channels
    channel.ahead = NONE


cdef inline void span(uint64_t *bits, int64_t words, int64_t first, int64_t end) noexcept nogil:
    """The bits from `first` up to `end` alone."""
    cdef int64_t word, low, high
    for word in range(words):
        low, high = max(first - 64 * word, 0), min(end - 64 * word, 64)
        bits[word] = ALL_BITS >> (64 - high + low) << low if high > low else 0


cdef inline void enter_state(Memory *m, int32_t state, int32_t before, uint64_t *channels) noexcept nogil:
    """Channels, as bits, leave one state for another."""
    cdef uint64_t bits
    cdef int64_t word
    cdef int32_t count = 0
    for word in range(m.words):
        bits = channels[word]
        if not bits:
            continue
        m.members[before * m.words + word] &= ~bits
        m.members[state * m.words + word] |= bits
        while bits:
            m.state_of[64 * word + LOWEST(bits)] = state
            bits &= bits - 1
            count += 1
    m.states[state].count += count
    m.states[before].count -= count
    if m.states[before].count == 0:
        m.unused[m.unused_states] = before
        m.unused_states += 1
        m.apart = False


cdef int32_t copy_state(Memory *m, int32_t state) noexcept nogil:
    """A state like that one, of no channel yet."""
    cdef int32_t other = m.unused[m.unused_states - 1]
    cdef const Channel *one = &m.states[state]
    cdef Channel *own = &m.states[other]
    cdef int64_t *reads = own.reads.left
    cdef int64_t *writes = own.writes.left
    cdef Posted *post = own.post
    cdef int64_t lanes = m.lanes_per_channel, i, apart = other - state
    m.unused_states -= 1
    m.apart = m.unused_states == 0
    own[0] = one[0]
    own.count = 0
    own.reads.left, own.writes.left, own.post = reads, writes, post
    memcpy(reads, one.reads.left, one.reads.tail * sizeof(int64_t))
    memcpy(writes, one.writes.left, one.writes.tail * sizeof(int64_t))
    for i in range(one.posted):
        post[i] = one.post[i]
        post[i].at = moved(m, &post[i].at, apart)
    for i in range(lanes):
        copy_lane(&m.pseudo_channels[other * lanes + i], &m.pseudo_channels[state * lanes + i])
    memcpy(m.group_free + other * m.groups * lanes, m.group_free + state * m.groups * lanes, m.groups * lanes * sizeof(int64_t))
    for i in range(m.banks * lanes):
        copy_rows(m.sessions + (other * m.banks * lanes + i) * SESSIONS, m.sessions + (state * m.banks * lanes + i) * SESSIONS)
    memset(m.members + other * m.words, 0, m.words * sizeof(uint64_t))
    return other


cdef inline void copy_lane(Lane *to, const Lane *lane) noexcept nogil:
    if lane.solid:  # no burst is remembered
        memcpy(to, lane, sizeof(Lane) - BURSTS)
    else:
        to[0] = lane[0]


cdef inline void copy_rows(Session *to, const Session *rows) noexcept nogil:
    """Those of a bank, up to the first that is none."""
    cdef int i
    for i in range(SESSIONS):
        to[i] = rows[i]
        if rows[i].row < 0:
            if i + 1 < SESSIONS:
                to[i + 1].row = -1
            return
