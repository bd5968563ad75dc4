# The DRAM behind the cache: queues, rows and banks, waiting writes, refresh. Included by _memory.pyx.

# --- DRAM ---------------------------------------------------------------------------------------------------------
# All times here are live times: those that refreshes of all banks take are left out, and put back at the end.

cdef enum:
    LOOK_AHEAD = 8  # entries that a queue has room for, of several bursts each
    SESSIONS = 8    # rows of a bank that are remembered
    SLIDE = 8       # entries that have left a queue, before the others take their place
    OLDEST = 16     # writes that wait, among which the next one is chosen


cdef inline int64_t scatter(int64_t number) noexcept nogil:
    """24 bits that have nothing to do with the order of numbers."""
    return <int64_t>((<uint64_t>number * <uint64_t>0x9E3779B97F4A7C15) >> 40)


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
    cdef int32_t head = queue.head
    bursts += queue.bursts
    while bursts > queue.room and head != queue.tail:
        entry = queue.left[head]
        head += 1
        bursts -= entry & 255
        t = max(t, entry >> 8)
    queue.head = head
    queue.bursts = bursts
    return t


cdef inline void leave_queue(Queue *queue, int64_t bursts, int64_t leaves) noexcept nogil:
    """So many bursts that are in the queue will have left it at `leaves`."""
    cdef int64_t entry = leaves << 8 | bursts
    cdef int64_t *at
    cdef int64_t *head
    if not queue.bounded:
        queue.left[0] = max(queue.left[0], entry)
        return
    if queue.head > SLIDE + queue.tail - queue.head:  # few lines of the host's cache hold what is few
        slide(queue)
    head, at = queue.left + queue.head, queue.left + queue.tail
    queue.tail += 1
    while at != head and at[-1] > entry:
        at[0] = at[-1]
        at -= 1
    at[0] = entry


cdef void slide(Queue *queue) noexcept nogil:
    cdef int32_t gone = queue.head - 1
    memmove(queue.left, queue.left + gone, (queue.tail - gone) * sizeof(int64_t))
    queue.head, queue.tail = 1, queue.tail - gone


cdef inline int64_t latest(Queue *queue) noexcept nogil:
    """When the last of those that have entered leaves."""
    return queue.left[queue.tail - 1] >> 8


cdef inline int64_t ready_again(Memory *m, Session *session) noexcept nogil:
    """When the bank of this row can be activated for another one."""
    return max(session.next_act, session.next_column + m.column_to_act_ps)


cdef inline Session *open_row(Memory *m, Counters *counters, Channel *channel, int64_t arrival, Place at, int64_t row, bint write,
                              int64_t *leaves) noexcept nogil:
    """The session of a row that is not open; it is opened, unless it was when the run arrived."""
    cdef Session *session = at.rows
    cdef Lane *lane = at.lane
    cdef int64_t turn, act, phase, bank
    cdef int alive = 1
    cdef bint conflict = session.row >= 0 and session.opened >= channel.closed_before
    if conflict:
        while alive < SESSIONS and session[alive].row >= 0 and session[alive].closed > arrival:
            if (
                session[alive].row == row and session[alive].opened >= channel.closed_before
                and session[alive].closed > idle_from(m, lane, max(arrival, session[alive].next_column), at.tag)
            ):
                # it waits beside those that the row is open for, and goes with them
                return &session[alive]
            alive += 1
    counters.activates += 1
    # the activate takes its place in the lane's order now; a bank that must wait does not hold up the others
    turn = max(arrival, max(lane.act_free, channel.row_free)) + (m.rp_ps if conflict else 0)
    lane.act_free = max(arrival, lane.act_free) + m.act_ps
    channel.row_free = max(arrival, channel.row_free) + m.row_bus_ps
    act = max(turn, ready_again(m, session))
    if act > turn:  # those that wait for their banks keep their distance as well
        if lane.late_act - m.act_ps < act < lane.late_act + m.act_ps:
            act = lane.late_act + m.act_ps
        lane.late_act = act
    if m.refi_bank_ps:
        bank = bank_of(m, session)
        phase = (act + (m.banks - bank) * m.refi_bank_ps) % (m.banks * m.refi_bank_ps)
        if phase < m.rfc_bank_ps:
            act += m.rfc_bank_ps - phase
    if conflict:
        push_down(session, alive)
        session[1].closed = act - m.rp_ps  # behind the move, which would stall on what has just been written
    session.row, session.opened = row, act
    session.late = act - turn
    session.next_column = act + (m.rcd_write_ps if write else m.rcd_ps)
    session.next_act = act + m.rc_ps
    leaves[0] = act
    return session


cdef inline void push_down(Session *bank, int alive) noexcept nogil:
    """Room for another row before those that are still of interest; what has been closed for good is forgotten."""
    cdef int i = min(alive, SESSIONS - 1)
    if i < SESSIONS - 1:
        bank[i + 1].row = -1
    while i > 0:
        bank[i] = bank[i - 1]
        i -= 1


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
    Memory *m, Counters *counters, Channel *channel, Queue *queue, int64_t arrival, Place at, int64_t row, int64_t bursts,
    bint write, int64_t *head, int64_t *done,
) noexcept nogil:
    """Bursts in one row of one bank that are in the queue from `arrival` on: their first and their last column."""
    cdef Lane *lane = at.lane
    cdef Session *session = at.rows
    cdef int64_t column, last, token
    cdef int64_t columns = bursts * m.ccd_ps
    cdef int64_t leaves = NEVER
    if arrival >= channel.refresh_at:
        refresh(m, channel, arrival)
    if lane.writing != write:
        turn_bus(m, lane, write)
    if session.row != row or session.opened < channel.closed_before:
        session = open_row(m, counters, channel, arrival, at, row, write, &leaves)
    token = max(at.group_free[0], arrival)
    # what goes with an earlier row does not wait for its group's turn, for the row is closed then
    column = arrival if session != at.rows else token
    column = take_bus(m, lane, arrival, max(column, session.next_column), at.tag, bursts, &last)
    session.next_column = last + m.ccd_ps
    at.group_free[0] = max(token + columns, session.next_column - session.late)
    lane.front = max(lane.front, last + m.burst_ps - session.late)
    if write:
        session.next_act = max(session.next_act, last + m.write_to_act_ps)
    if session != at.rows:
        put_off(m, at.rows, session)
    # a request leaves the queue with its activate or its column command; those of a run one after the other
    leave_queue(queue, bursts, (column + last) >> 1 if bursts > 1 or leaves == NEVER else leaves)
    head[0] = min(head[0], column)
    done[0] = max(done[0], last)


cdef void serve_write(
    Memory *m, Counters *counters, Channel *channel, int64_t arrival, Place at, int64_t row, int64_t bursts, int64_t *head,
    int64_t *done,
) noexcept nogil:
    serve(m, counters, channel, &channel.writes, arrival, at, row, bursts, True, head, done)


cdef void refresh(Memory *m, Channel *channel, int64_t t) noexcept nogil:
    """All rows have been closed since the last time."""
    channel.closed_before = t // m.live_ps * m.live_ps
    channel.refresh_at = channel.closed_before + m.live_ps


cdef inline int64_t ready(Memory *m, Channel *channel, const Posted *post) noexcept nogil:
    """When a write that waits could have its column, or its bank an activate."""
    cdef Session *session = post.at.rows
    if session.row == post.row and session.opened >= channel.closed_before:
        return max(post.at.group_free[0], session.next_column)
    return ready_again(m, session)


cdef void drain(Memory *m, Counters *counters, Channel *channel, int64_t t, int64_t down_to) noexcept nogil:
    """Serve writes that wait, of the oldest first those whose bank is ready first, until at most `down_to` bursts are left."""
    cdef int64_t head = 0, done = 0, earliest
    cdef int64_t closed_before = channel.closed_before
    cdef int i, best
    cdef int known = 0      # of how many it is known when they are ready
    cdef Posted *post = channel.post
    cdef Posted one
    while channel.posted and channel.posted_bursts > down_to:
        earliest = INT64_MAX
        best = 0
        for i in range(min(channel.posted, OLDEST)):
            if i == known:
                post[i].ready = ready(m, channel, &post[i])
                known += 1
            if post[i].ready < earliest:
                earliest = post[i].ready
                best = i
                if earliest <= t:
                    break
        one = post[best]
        for i in range(best, 0, -1):  # the older ones move up, which are few
            post[i] = post[i - 1]
        post += 1
        channel.posted -= 1
        channel.posted_bursts -= one.bursts
        one.at.lane.posted -= one.bursts
        serve_write(m, counters, channel, t, one.at, one.row, one.bursts, &head, &done)
        known = known - 1 if channel.closed_before == closed_before else 0
        closed_before = channel.closed_before
        for i in range(known):
            if post[i].at.group_free == one.at.group_free:  # nothing else has changed
                post[i].ready = ready(m, channel, &post[i])
    if post != channel.post:
        memmove(channel.post, post, channel.posted * sizeof(Posted))
    channel.drained = latest(&channel.writes)


cdef void write_run(
    Memory *m, Counters *counters, int64_t t, Channel *channel, Place at, int64_t row, int64_t bursts, int64_t *head,
    int64_t *done,
) noexcept nogil:
    """A run that is written: at once while nothing is read, else it waits until enough of them do."""
    cdef int64_t piece
    while bursts > 0:
        piece = min(bursts, channel.writes.piece)
        bursts -= piece
        channel.accepted = t = enter_queue(&channel.writes, piece, max(t, channel.accepted))
        if not channel.writes.bounded or (channel.posted == 0 and latest(&channel.reads) <= t):
            serve_write(m, counters, channel, t, at, row, piece, head, done)
            continue
        channel.post[channel.posted] = Posted(at, row, piece, 0)
        channel.posted += 1
        channel.posted_bursts += piece
        at.lane.posted += piece
        head[0] = min(head[0], t)
        done[0] = max(done[0], max(t, at.lane.end) + (at.lane.posted - 1) * m.burst_ps)
        if channel.posted_bursts > m.drain_high or latest(&channel.reads) <= t:
            drain(m, counters, channel, t, m.drain_low)


cdef inline void read_run(
    Memory *m, Counters *counters, int64_t t, Channel *channel, Place at, int64_t row, int64_t bursts, int64_t *head,
    int64_t *done,
) noexcept nogil:
    cdef int64_t piece
    while bursts > 0:
        piece = min(bursts, channel.reads.piece)
        bursts -= piece
        channel.accepted = t = enter_queue(&channel.reads, piece, max(t, channel.accepted))
        if channel.posted and latest(&channel.reads) < t:
            drain(m, counters, channel, latest(&channel.reads), 0)
        # activates go on while writes are served, so that columns may follow at once
        serve(m, counters, channel, &channel.reads, max(t, channel.drained - m.rcd_ps), at, row, piece, False, head, done)


cdef struct Run:            # bursts in one row of a bank
    int64_t lane, bank, row, bursts
    Place at                # in the first state
    int64_t event           # a number that they have in the history of a channel
    bint write


cdef inline void run_of_state(
    Memory *m, Counters *counters, int64_t t, int32_t state, const Run *run, int64_t *head, int64_t *done
) noexcept nogil:
    """A run, of all channels in a state."""
    cdef Channel *channel = &m.states[state]
    cdef int64_t activates = counters.activates
    cdef Place at = moved(m, &run.at, state)
    channel.head, channel.done = INT64_MAX, 0
    if run.write:
        write_run(m, counters, t, channel, at, run.row, run.bursts, &channel.head, &channel.done)
    else:
        read_run(m, counters, t, channel, at, run.row, run.bursts, &channel.head, &channel.done)
    channel.activates = counters.activates - activates
    counters.activates += (channel.count - 1) * channel.activates
    channel.history = continued(channel.history, run.event)
    channel.ahead = NONE
    head[0] = min(head[0], channel.head)
    done[0] = max(done[0], channel.done)


cdef void run_of_some(
    Memory *m, Counters *counters, int64_t t, int32_t state, const Run *run, int64_t *head, int64_t *done
) noexcept nogil:
    """A run of those that asked for it among the channels in a state; they have been served then."""
    cdef uint64_t *these = m.asked + m.words
    cdef const uint64_t *members = m.members + state * m.words
    cdef Channel *channel = &m.states[state]
    cdef uint64_t others = 0
    cdef int32_t ahead = channel.ahead, count
    cdef Channel *first
    cdef int64_t word
    for word in range(m.words):
        these[word] = members[word] & m.asked[word]
        others |= members[word] ^ these[word]
        m.asked[word] ^= these[word]
    if ahead != NONE and m.states[ahead].count and m.states[ahead].history == continued(channel.history, run.event):
        first = &m.states[ahead]
        count = first.count
        enter_state(m, ahead, state, these)
        counters.activates += (first.count - count) * first.activates
        head[0] = min(head[0], first.head)
        done[0] = max(done[0], first.done)
        return
    if others:
        ahead = copy_state(m, state)
        enter_state(m, ahead, state, these)
        channel.ahead = ahead
        state = ahead
    run_of_state(m, counters, t, state, run, head, done)


cdef void run_of_each(
    Memory *m, Counters *counters, int64_t t, int64_t first, int64_t end, const Run *run, int64_t *head, int64_t *done
) noexcept nogil:
    """A run, of channels that are all in states of their own."""
    cdef int64_t channel
    cdef int32_t state
    cdef Place at
    for channel in range(first, end):
        state = m.state_of[channel]
        fetch_ahead(run.at.rows + m.state_of[min(channel + 2, m.channels - 1)] * m.sessions_of_state)
        at = moved(m, &run.at, state)
        if run.write:
            write_run(m, counters, t, &m.states[state], at, run.row, run.bursts, head, done)
        else:
            read_run(m, counters, t, &m.states[state], at, run.row, run.bursts, head, done)


cdef void run_of_channels(
    Memory *m, Counters *counters, int64_t t, int64_t local, int64_t nbytes, int64_t first, int64_t count, bint write,
    int64_t *head, int64_t *done,
) noexcept nogil:
    """The bytes [local, local + nbytes) of `count` channels from `first` on, run by run."""
    cdef int64_t piece, word
    cdef int64_t begin = head[0], end = done[0]
    cdef uint64_t burst, found
    cdef int byte
    cdef int32_t state
    cdef Run run
    run.write = write
    while nbytes > 0:
        piece = min(nbytes, m.run_bytes - local % m.run_bytes)
        run.lane = 0
        if m.tables == NULL:
            run.row = local // m.row_bytes
            run.bank = run.row % m.banks
        else:
            burst = <uint64_t>local >> m.burst_shift
            found = 0
            byte = 0
            while burst:
                found ^= m.tables[256 * byte + (burst & 255)]
                burst >>= 8
                byte += 1
            run.lane = <int64_t>(found & 1023) // m.banks
            run.bank = <int64_t>(found & 1023) % m.banks
            run.row = <int64_t>(found >> 24)
        run.bursts = ((local & (m.burst_bytes - 1)) + piece + m.burst_bytes - 1) >> m.burst_shift
        run.at = place(m, run.lane, run.bank)
        if m.apart:
            run_of_each(m, counters, t, first, first + count, &run, &begin, &end)
        else:
            run.event = <int64_t>continued(
                continued(continued(<uint64_t>t, run.row), (run.bank << 10 | run.lane) << 1 | write), run.bursts
            )
            span(m.asked, m.words, first, first + count)
            for word in range(first >> 6, ((first + count - 1) >> 6) + 1):
                while m.asked[word]:
                    state = m.state_of[64 * word + LOWEST(m.asked[word])]
                    if m.states[state].count == 1 and m.states[state].ahead == NONE:
                        m.asked[word] &= m.asked[word] - 1
                        run_of_state(m, counters, t, state, &run, &begin, &end)
                    else:
                        run_of_some(m, counters, t, state, &run, &begin, &end)
        if write:
            counters.write_bursts += count * run.bursts
        else:
            counters.read_bursts += count * run.bursts
        counters.dram_busy_ps += count * run.bursts * m.burst_ps
        local += piece
        nbytes -= piece
    head[0] = begin
    done[0] = end


cdef inline void fetch_ahead(const Session *rows) noexcept nogil:
    """From the host's memory: the rows of all banks of many channels are more than its caches hold."""
    PREFETCH(rows)
    PREFETCH(rows + 2)


cdef inline int64_t turned(Memory *m, int64_t local) noexcept nogil:
    """By how many channels the row of chunks is turned that lies at `local` in its channels."""
    return scatter(local // m.interleave_bytes) % m.channels if m.hashed else 0


cdef inline void contiguous(
    Memory *m, Counters *counters, int64_t t, int64_t address, int64_t nbytes, bint write, int64_t *head, int64_t *done,
) noexcept nogil:
    """One run of an access: first and last columns."""
    cdef int64_t chunk = address // m.interleave_bytes
    cdef int64_t within = address - chunk * m.interleave_bytes
    cdef int64_t channel = chunk % m.channels
    cdef int64_t local = (chunk // m.channels) * m.interleave_bytes  # of this chunk's first byte, in its channel
    cdef int64_t lies = (channel + turned(m, local)) % m.channels
    cdef int64_t left = nbytes
    cdef int64_t piece, count
    while left > 0:
        # whole chunks of one row of channels at a time; the first and the last chunk of the range may be parts
        count = 1
        piece = min(left, m.interleave_bytes - within)
        if within == 0 and left >= m.interleave_bytes:
            if channel == 0 and left >= m.channels * m.interleave_bytes:
                lies = 0  # all of them, whichever way the row is turned
            count = min(left // m.interleave_bytes, m.channels - max(channel, lies))
        run_of_channels(m, counters, t, local + within, piece, lies, count, write, head, done)
        left -= piece * count
        within = 0
        channel += count
        lies += count
        if lies == m.channels:
            lies = 0
        if channel == m.channels:
            channel = 0
            local += m.interleave_bytes
            lies = turned(m, local)


cdef inline int64_t begin_of(const Access *access, int64_t run) noexcept nogil:
    """The address of a run."""
    return access.address + (access.places[run] if access.places != NULL else run * access.stride)


cdef void dram_access(
    Memory *m, Counters *counters, int64_t t, const Access *access, int64_t *head, int64_t *done
) noexcept nogil:
    cdef int64_t run
    t = live(m, t)
    head[0] = INT64_MAX
    done[0] = 0
    for run in range(access.runs):
        contiguous(m, counters, t, begin_of(access, run), access.run_bytes, access.write, head, done)
    done[0] = max(done[0] + m.burst_ps, t)
    if access.write:
        counters.bytes_written += access.runs * access.run_bytes
    else:
        head[0] += m.cl_ps
        done[0] += m.cl_ps
        counters.bytes_read += access.runs * access.run_bytes
    head[0] = real(m, head[0])
    done[0] = real(m, done[0])
