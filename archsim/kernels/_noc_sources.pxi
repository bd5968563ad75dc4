# What nodes do: queue packets, take a free virtual channel, send a flit a cycle, accept what arrives.


cdef inline void enqueue(Network *net, int32_t packet) noexcept nogil:
    cdef Source *source = &net.sources[net.packets[packet].source]
    if source.first < 0:
        source.first = packet
    else:
        net.packets[source.last].following = packet
    source.last = packet
    wake_source(net, net.packets[packet].source)


cdef inline int32_t pick(Network *net, int32_t node, int32_t kind) noexcept nogil:
    """The first free virtual channel with a credit past the last one used, or -1; the very first one may be only the lowest."""
    cdef int32_t channel = net.links + net.nodes + node
    cdef uint64_t allowed = net.allowed[kind * HOP_KINDS + HOP_KINDS - 1]
    cdef uint64_t free = net.channels[channel].free & allowed
    cdef int32_t vc, last = net.sources[node].vc
    cdef int32_t best = -1
    if last < 0 or not allowed >> last & 1:
        vc = lowest(allowed)
        return vc if free >> vc & 1 and net.outputs[channel * net.vcs + vc].credits else -1
    while free:
        vc = lowest(free)
        free &= free - 1
        if net.outputs[channel * net.vcs + vc].credits and (best < 0 or (vc > last and best <= last)):
            best = vc
    return best


cdef inline bint inject(Network *net, int32_t node, int64_t now) noexcept nogil:
    """Send one flit if there is a virtual channel with a credit; False: nothing to do until something changes."""
    cdef Source *source = &net.sources[node]
    cdef int32_t base = (net.links + net.nodes + node) * net.vcs
    cdef int32_t vc, n, flit
    cdef Packet *packet
    cdef Output *o
    if source.packet < 0:
        if source.first < 0:
            return False
        packet = &net.packets[source.first]
        vc = pick(net, node, packet.kind)
        if vc < 0:
            return False
        net.channels[net.links + net.nodes + node].free &= ~(<uint64_t>1 << vc)
        source.packet, source.vc, source.sent = source.first, vc, 0
        source.first = packet.following
        packet.injected = now
    packet = &net.packets[source.packet]
    o = &net.outputs[base + source.vc]
    if o.credits == 0:
        return False
    flit = source.packet << 2
    if source.sent == 0:
        flit |= HEAD
    source.sent += 1
    o.credits -= 1
    net.in_network += 1
    net.moved += 1
    if source.sent == packet.flits:
        flit |= TAIL
        give_up(net, base + source.vc)
        source.packet = -1
    n = net.links + node
    send(net, now + net.into_cycles, n * net.vcs + source.vc, flit)
    return source.packet >= 0 or source.first >= 0


cdef inline void eject(Network *net, int32_t output, int32_t flit, int64_t now) noexcept nogil:
    """A node takes a flit; its buffer is empty again at once."""
    cdef int32_t node = net.outputs[output].channel - net.links
    cdef Packet *packet = &net.packets[flit >> 2]
    net.accepted[node] += 1
    net.in_network -= 1
    send_credit(net, now + net.node_credit_cycles, output)
    if flit & TAIL:
        packet.arrived = now
        net.done += 1
        if packet.releases >= 0:
            net.released[net.released_count] = packet.releases
            net.released_count += 1
