# Buffers and credits: what arrives, what is sent, and who has something to do.


cdef inline void wake(Network *net, int32_t r) noexcept nogil:
    if not net.routers[r].awake:
        net.routers[r].awake = 1
        net.awake[net.awake_count] = r
        net.awake_count += 1


cdef inline void wake_source(Network *net, int32_t node) noexcept nogil:
    if not net.sources[node].awake:
        net.sources[node].awake = 1
        net.injecting[net.injecting_count] = node
        net.injecting_count += 1


cdef inline void may_cross(Network *net, int32_t at) noexcept nogil:
    """An input that holds an output, has a flit and has a credit takes part in switch allocation."""
    cdef Input *i = &net.inputs[at]
    cdef Router *router = &net.routers[i.router]
    i.place = router.ready_count
    net.ready[router.list_start + i.place] = at
    router.ready_count += 1
    wake(net, i.router)


cdef inline void leave(Network *net, Router *router, Input *i) noexcept nogil:
    cdef int32_t last = net.ready[router.list_start + router.ready_count - 1]
    router.ready_count -= 1
    net.ready[router.list_start + i.place] = last
    net.inputs[last].place = i.place
    i.place = -1


cdef inline void ask(Network *net, int32_t at, int64_t ready) noexcept nogil:
    """The head at the front of an input learns its way, and from cycle `ready` asks for an output virtual channel."""
    cdef Input *i = &net.inputs[at]
    cdef Router *router = &net.routers[i.router]
    cdef Packet *packet = &net.packets[net.buffers[at * net.depth + i.first] >> 2]
    cdef int64_t hop = packet.route + packet.hop
    cdef int32_t kind = packet.kind * HOP_KINDS + net.hop_kind[hop]
    packet.hop += 1
    i.state, i.ready, i.output = WAITING, ready, -1
    i.channel, i.allowed = net.hops[hop], net.allowed[kind]
    net.waiting[router.list_start + router.waiting_count] = at
    router.waiting_count += 1
    wake(net, i.router)


cdef inline void receive(Network *net, int32_t at, int32_t flit, int64_t now) noexcept nogil:
    cdef Input *i = &net.inputs[at]
    cdef int32_t end = i.first + i.count
    if i.count == net.depth:
        net.overflow = True
        return
    net.buffers[at * net.depth + (end if end < net.depth else end - net.depth)] = flit
    i.count += 1
    if i.state == IDLE:
        ask(net, at, now + net.route_cycles)
    elif i.state == ACTIVE and i.count == 1 and net.outputs[i.output].credits:
        may_cross(net, at)


cdef inline void credit(Network *net, int32_t to) noexcept nogil:
    cdef Output *o = &net.outputs[to]
    o.credits += 1
    if o.draining and o.credits == net.depth:
        o.draining = 0
        net.channels[o.channel].free |= o.bit
    if o.channel >= net.links + net.nodes:
        wake_source(net, o.channel - net.links - net.nodes)
    elif o.holder >= 0 and o.credits == 1 and net.inputs[o.holder].count and net.inputs[o.holder].place < 0:
        may_cross(net, o.holder)


cdef inline void give_up(Network *net, int32_t output) noexcept nogil:
    """The tail has passed: the virtual channel is free, at once or when its credits are back."""
    cdef Output *o = &net.outputs[output]
    if net.tail_credit:
        o.draining = 1
    else:
        net.channels[o.channel].free |= o.bit


cdef inline void send(Network *net, int64_t when, int32_t target, int32_t flit) noexcept nogil:
    cdef Slot *slot = &net.slots[when & net.slot_mask]
    slot.flits[slot.flit_count].target = target
    slot.flits[slot.flit_count].flit = flit
    slot.flit_count += 1
    net.pending += 1


cdef inline void send_credit(Network *net, int64_t when, int32_t to) noexcept nogil:
    cdef Slot *slot = &net.slots[when & net.slot_mask]
    slot.credits[slot.credit_count] = to
    slot.credit_count += 1
    net.pending += 1
