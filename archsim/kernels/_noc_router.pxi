# What a router does in a cycle: allocate virtual channels, allocate the switch, let flits cross.


cdef void route(Network *net, Router *router, int64_t now) noexcept nogil:
    """One cycle of one router: allocate virtual channels and the switch, then let both take effect."""
    cdef int32_t *ready = &net.ready[router.list_start]
    cdef int32_t *waiting = &net.waiting[router.list_start]
    cdef int32_t n, at, kept, winners
    cdef int32_t asking = router.waiting_count
    cdef Input *i
    cdef Lane *lane
    if asking:
        allocate_channels(net, router, waiting, now)
    winners = allocate_switch(net, router, ready, waiting, asking, now)
    if asking:
        kept = 0
        for n in range(asking):
            i = &net.inputs[waiting[n]]
            if i.output < 0:
                waiting[kept] = waiting[n]
                kept += 1
                continue
            net.channels[i.channel].free &= ~net.outputs[i.output].bit
            net.outputs[i.output].holder = waiting[n]
            i.state = ACTIVE
            if net.outputs[i.output].credits:
                may_cross(net, waiting[n])
        router.waiting_count = kept
    for n in range(winners):
        lane = &net.lanes[net.asked[n]]
        at = net.channels[lane.channel].winner
        i = &net.inputs[at]
        if i.place < 0:
            continue  # speculation that failed: no output virtual channel, or no credit
        lane.vc_pointer = (i.vc + net.lanes_per_port) % net.vcs
        cross(net, router, at, now)


cdef inline void allocate_channels(Network *net, Router *router, int32_t *waiting, int64_t now) noexcept nogil:
    """iSLIP, one iteration, between input and output virtual channels."""
    cdef int32_t n, at, ov, distance, best, nearest
    cdef uint64_t free
    cdef int32_t size = router.inputs_vcs
    cdef int32_t out_size = router.outputs * net.vcs
    cdef Input *i
    cdef Output *o
    for n in range(router.waiting_count):
        at = waiting[n]
        i = &net.inputs[at]
        if i.ready > now:
            continue
        free = net.channels[i.channel].free & i.allowed
        while free:
            o = &net.outputs[i.channel * net.vcs + lowest(free)]
            free &= free - 1
            distance = around(i.rank, o.pointer, size)
            if o.asked_at != now or distance < o.distance:
                o.asked_at, o.asked_by, o.distance = now, at, distance
    for n in range(router.waiting_count):
        at = waiting[n]
        i = &net.inputs[at]
        if i.ready > now:
            continue
        best, nearest = -1, INT32_MAX
        free = net.channels[i.channel].free & i.allowed
        while free:
            ov = i.channel * net.vcs + lowest(free)
            free &= free - 1
            o = &net.outputs[ov]
            if o.asked_by == at:
                distance = around(o.rank, i.pointer, out_size)
                if distance < nearest:
                    best, nearest = ov, distance
        if best >= 0:
            i.output = best
            i.pointer = after(net.outputs[best].rank, out_size)
            net.outputs[best].pointer = after(i.rank, size)


cdef inline bint bids(Network *net, Input *i, int64_t now) noexcept nogil:
    """Whether a head bids for the switch while it asks for a virtual channel: one is free there and has a credit."""
    cdef uint64_t free = net.channels[i.channel].free & i.allowed
    if i.ready > now:
        return False
    while free:
        if net.outputs[i.channel * net.vcs + lowest(free)].credits:
            return True
        free &= free - 1
    return False


cdef inline bint precedes(Network *net, Input *a, Input *b) noexcept nogil:
    """Of two virtual channels of one lane: who is sure of its output comes first, then round robin."""
    cdef int32_t pointer = net.lanes[a.lane].vc_pointer
    if a.state != b.state:
        return a.state == ACTIVE
    return around(a.vc, pointer, net.vcs) < around(b.vc, pointer, net.vcs)


cdef inline int32_t allocate_switch(Network *net, Router *router, int32_t *ready, int32_t *waiting, int32_t asking,
                                    int64_t now) noexcept nogil:
    """iSLIP, one iteration, between lanes and channels; the winning lanes are left in `asked`."""
    cdef int32_t certain = router.ready_count
    cdef int32_t bidders = certain + (asking if net.speculative else 0)
    cdef int32_t n, at, distance
    cdef int32_t wanted = 0
    cdef int32_t winners = 0
    cdef int32_t *channels = &net.asked[net.links + net.nodes + 1]
    cdef Input *i
    cdef Channel *c
    cdef Lane *lane
    for n in range(bidders):
        at = ready[n] if n < certain else waiting[n - certain]
        i = &net.inputs[at]
        if n >= certain and not bids(net, i, now):
            continue
        c = &net.channels[i.channel]
        distance = around(i.lane_rank, c.pointer, router.lanes)
        if c.asked_at != now:
            channels[wanted] = i.channel
            wanted += 1
            c.asked_at, c.distance, c.winner = now, distance, at
        elif distance < c.distance or (distance == c.distance and precedes(net, i, &net.inputs[c.winner])):
            c.distance, c.winner = distance, at
    for n in range(wanted):
        c = &net.channels[channels[n]]
        lane = &net.lanes[net.inputs[c.winner].lane]
        distance = around(c.rank, lane.pointer, router.outputs)
        if lane.asked_at != now:
            net.asked[winners] = net.inputs[c.winner].lane
            winners += 1
            lane.asked_at, lane.distance, lane.channel = now, distance, channels[n]
        elif distance < lane.distance:
            lane.distance, lane.channel = distance, channels[n]
    for n in range(winners):
        lane = &net.lanes[net.asked[n]]
        c = &net.channels[lane.channel]
        c.pointer = after(lane.rank, router.lanes)
        lane.pointer = after(c.rank, router.outputs)
    return winners


cdef inline void cross(Network *net, Router *router, int32_t at, int64_t now) noexcept nogil:
    """The flit at the front of an input crosses the switch and goes out on its channel."""
    cdef Input *i = &net.inputs[at]
    cdef Output *o = &net.outputs[i.output]
    cdef int32_t flit = net.buffers[at * net.depth + i.first]
    i.first = i.first + 1 if i.first + 1 < net.depth else 0
    i.count -= 1
    o.credits -= 1
    net.moved += 1
    net.flit_hops += 1
    net.carried[i.channel] += 1
    send(net, now + net.channels[i.channel].flight, i.output if i.channel < net.links else -1 - i.output, flit)
    send_credit(net, now + i.credit_cycles, i.upstream)
    if flit & TAIL:
        o.holder = -1
        give_up(net, i.output)
        leave(net, router, i)
        i.state = IDLE
        if i.count:
            ask(net, at, now + 1 + net.route_cycles)
    elif i.count == 0 or o.credits == 0:
        leave(net, router, i)
