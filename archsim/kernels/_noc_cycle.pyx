"""Flit-level routers: a calendar of arrivals, lists of what may move; `archsim.kernels.noc_cycle` documents the model."""

from libc.stdint cimport INT32_MAX, int8_t, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, realloc

include "_noc_buffers.pxi"
include "_noc_sources.pxi"
include "_noc_router.pxi"


cdef void cycle(Network *net) noexcept nogil:
    """All that happens in one cycle: arrivals, new packets, nodes, routers."""
    cdef int64_t now = net.now
    cdef Slot *slot = &net.slots[now & net.slot_mask]
    cdef int n, r, kept
    net.pending -= slot.flit_count + slot.credit_count
    net.released_count = 0
    for n in range(slot.flit_count):
        if slot.flits[n].target >= 0:
            receive(net, slot.flits[n].target, slot.flits[n].flit, now)
        else:
            eject(net, -1 - slot.flits[n].target, slot.flits[n].flit, now)
    for n in range(slot.credit_count):
        credit(net, slot.credits[n])
    slot.flit_count = slot.credit_count = 0
    while net.due < net.packet_count and (net.packets[net.due].held or net.packets[net.due].created <= now):
        if not net.packets[net.due].held:
            enqueue(net, <int32_t>net.due)
        net.due += 1
    kept = 0
    for n in range(net.injecting_count):
        r = net.injecting[n]
        if inject(net, r, now):
            net.injecting[kept] = r
            kept += 1
        else:
            net.sources[r].awake = 0
    net.injecting_count = kept
    for n in range(net.released_count):  # a node answers in the cycle after the one in which it was asked
        net.packets[net.released[n]].created = now
        enqueue(net, net.released[n])
    kept = 0
    for n in range(net.awake_count):
        r = net.awake[n]
        route(net, &net.routers[r], now)
        if net.routers[r].ready_count or net.routers[r].waiting_count:
            net.awake[kept] = r
            kept += 1
        else:
            net.routers[r].awake = 0
    net.awake_count = kept


cdef class NocCycleKernel:
    """The state of one network; channels 0..links-1 join routers, then one a node leads into and out of the network."""

    cdef Network net
    cdef void **owned      # what was allocated, to be freed
    cdef int owned_count
    cdef object tables     # routes and virtual channels of each kind, which the network points into

    def __cinit__(self, int vcs, int depth, int lanes_per_port, int route_cycles, int switch_cycles, int credit_cycles,
                  bint speculative, bint tail_credit,
                  const int32_t[::1] link_from, const int32_t[::1] link_to, const int32_t[::1] link_cycles,
                  const int32_t[::1] out_rank, const int32_t[::1] in_rank, const int32_t[::1] node_router,
                  const int32_t[::1] node_rank, const int32_t[::1] ports, int node_cycles,
                  const int32_t[::1] hops, const int8_t[::1] hop_kind, const uint64_t[::1] allowed):
        cdef Network *net = &self.net
        cdef int c, v, r, start, cycles, longest = 0
        cdef int ends, lanes
        cdef Input *i
        cdef Output *o
        net.vcs, net.depth, net.lanes_per_port, net.route_cycles = vcs, depth, lanes_per_port, route_cycles
        net.speculative, net.tail_credit = speculative, tail_credit
        net.links, net.nodes, net.router_count = link_from.shape[0], node_router.shape[0], ports.shape[0]
        self.tables = (hops, hop_kind, allowed)
        net.hops, net.hop_kind, net.allowed = &hops[0], &hop_kind[0], &allowed[0]
        ends = net.links + net.nodes
        lanes = ends * lanes_per_port
        net.inputs = <Input *>self.room(ends * vcs + 1, sizeof(Input))
        net.outputs = <Output *>self.room((ends + net.nodes) * vcs + 1, sizeof(Output))
        net.channels = <Channel *>self.room(ends + net.nodes + 1, sizeof(Channel))
        net.lanes = <Lane *>self.room(lanes + 1, sizeof(Lane))
        net.routers = <Router *>self.room(net.router_count + 1, sizeof(Router))
        net.sources = <Source *>self.room(net.nodes + 1, sizeof(Source))
        net.buffers = <int32_t *>self.room(ends * vcs * depth + 1, sizeof(int32_t))
        net.ready = <int32_t *>self.room(ends * vcs + 1, sizeof(int32_t))
        net.waiting = <int32_t *>self.room(ends * vcs + 1, sizeof(int32_t))
        net.awake = <int32_t *>self.room(net.router_count + 1, sizeof(int32_t))
        net.injecting = <int32_t *>self.room(net.nodes + 1, sizeof(int32_t))
        net.asked = <int32_t *>self.room(2 * (ends + lanes) + 2, sizeof(int32_t))
        net.released = <int32_t *>self.room(net.nodes + 1, sizeof(int32_t))
        net.carried = <int64_t *>self.room(ends + 1, sizeof(int64_t))
        net.accepted = <int64_t *>self.room(net.nodes + 1, sizeof(int64_t))
        net.into_cycles = node_cycles + 1
        net.node_credit_cycles = node_cycles + 1 + credit_cycles
        longest = node_cycles
        for c in range(net.links):
            longest = max(longest, link_cycles[c])
        longest += switch_cycles + credit_cycles + 2
        net.slot_mask = 1
        while net.slot_mask <= longest:
            net.slot_mask *= 2
        net.slots = <Slot *>self.room(net.slot_mask, sizeof(Slot))
        for c in range(net.slot_mask):
            net.slots[c].flits = <Arrival *>self.room(ends + net.nodes + 1, sizeof(Arrival))
            net.slots[c].credits = <int32_t *>self.room(lanes + net.nodes + 1, sizeof(int32_t))
        net.slot_mask -= 1
        start = 0
        for r in range(net.router_count):
            net.routers[r].outputs = ports[r]
            net.routers[r].lanes = ports[r] * lanes_per_port
            net.routers[r].inputs_vcs = ports[r] * vcs
            net.routers[r].list_start = start
            start += ports[r] * vcs
        for c in range(ends):
            cycles = link_cycles[c] if c < net.links else node_cycles
            net.channels[c].rank = out_rank[c] if c < net.links else node_rank[c - net.links]
            net.channels[c].flight = switch_cycles + cycles + 1
            net.channels[c].asked_at = -1
            for v in range(vcs):
                o = &net.outputs[c * vcs + v]
                o.rank = net.channels[c].rank * vcs + v
                i = &net.inputs[c * vcs + v]
                i.router = link_to[c] if c < net.links else node_router[c - net.links]
                i.vc = v
                i.rank = (in_rank[c] if c < net.links else node_rank[c - net.links])
                i.lane = c * lanes_per_port + v % lanes_per_port
                net.lanes[i.lane].rank = i.rank * lanes_per_port + v % lanes_per_port
                net.lanes[i.lane].vc_pointer = v % lanes_per_port
                net.lanes[i.lane].asked_at = -1
                i.lane_rank = i.rank * lanes_per_port + v % lanes_per_port
                i.rank = i.rank * vcs + v
                # a router counts credits `credit_cycles` after they come, a node at once
                i.upstream = c * vcs + v if c < net.links else (c + net.nodes) * vcs + v
                i.credit_cycles = cycles + 1 + (credit_cycles if c < net.links else 0)
                i.output = i.place = -1
        for c in range((ends + net.nodes) * vcs):
            net.outputs[c].credits = depth
            net.outputs[c].channel = c // vcs
            net.outputs[c].bit = <uint64_t>1 << (c % vcs)
            net.outputs[c].holder = -1
            net.outputs[c].asked_at = -1
        for c in range(ends + net.nodes):
            net.channels[c].free = (<uint64_t>1 << (vcs - 1)) * 2 - 1
        for c in range(net.nodes):
            net.sources[c].first = net.sources[c].last = net.sources[c].packet = net.sources[c].vc = -1

    def __dealloc__(self):
        cdef int n
        for n in range(self.owned_count):
            free(self.owned[n])
        free(self.owned)
        free(self.net.packets)

    cdef void *room(self, size_t count, size_t size) except NULL:
        """Zeroed memory that lives as long as the kernel."""
        cdef void **grown = <void **>realloc(self.owned, (self.owned_count + 1) * sizeof(void *))
        if grown == NULL:
            raise MemoryError
        self.owned = grown
        self.owned[self.owned_count] = calloc(count, size)
        if self.owned[self.owned_count] == NULL:
            raise MemoryError
        self.owned_count += 1
        return self.owned[self.owned_count - 1]

    @property
    def now_cycle(self):
        """The next cycle to simulate."""
        return self.net.now

    @property
    def hops_done(self):
        """Flits that have crossed a switch."""
        return self.net.flit_hops

    @property
    def packets_done(self):
        """Packets whose tail has arrived."""
        return self.net.done

    @property
    def overflowed(self):
        """Whether a buffer ever held more than its depth, which credits must prevent."""
        return self.net.overflow

    def add(self, const int64_t[::1] created, const int32_t[::1] source, const int32_t[::1] flits,
            const int64_t[::1] route, const int32_t[::1] kind, const int32_t[::1] releases, const uint8_t[::1] held):
        """Append packets: those not held are created in order of time, the others when the one that releases them arrives."""
        cdef Network *net = &self.net
        cdef int64_t n
        cdef int64_t count = created.shape[0]
        cdef Packet *p
        cdef void *grown
        if net.packet_count + count > net.packet_room:
            net.packet_room = max(2 * net.packet_room, net.packet_count + count)
            grown = realloc(net.packets, net.packet_room * sizeof(Packet))
            if grown == NULL:
                raise MemoryError
            net.packets = <Packet *>grown
        for n in range(count):
            p = &net.packets[net.packet_count + n]
            p.created = -1 if held[n] else created[n]
            p.injected = p.arrived = -1
            p.source, p.flits, p.route, p.kind, p.hop = source[n], flits[n], route[n], kind[n], 0
            p.following, p.releases, p.held = -1, releases[n], held[n]
        net.packet_count += count

    def times(self, int64_t[::1] created, int64_t[::1] injected, int64_t[::1] arrived):
        """Fill in the cycles of all packets; -1: not yet."""
        cdef Network *net = &self.net
        cdef int64_t n
        for n in range(net.packet_count):
            created[n], injected[n], arrived[n] = net.packets[n].created, net.packets[n].injected, net.packets[n].arrived

    def counts(self, int64_t[::1] carried, int64_t[::1] accepted):
        """Fill in the flits that each channel has carried and each node has accepted."""
        cdef Network *net = &self.net
        cdef int c
        for c in range(net.links + net.nodes):
            carried[c] = net.carried[c]
        for c in range(net.nodes):
            accepted[c] = net.accepted[c]

    def run(self, int64_t until, bint drain):
        """Simulate up to cycle `until`; with `drain`, stop when all packets have arrived. False: the network is locked."""
        cdef Network *net = &self.net
        cdef int64_t still = 0
        with nogil:
            while net.now < until:
                if drain and net.done == net.packet_count:
                    break
                if net.awake_count == 0 and net.injecting_count == 0 and net.pending == 0:
                    while net.due < net.packet_count and net.packets[net.due].held:
                        net.due += 1
                    if net.due < net.packet_count:
                        net.now = min(until, max(net.now, net.packets[net.due].created))
                    else:
                        net.now = until
                    if net.now == until:
                        break
                net.moved = 0
                cycle(net)
                # with nothing on the way and nothing moving, no later cycle can differ
                still = 0 if net.moved or net.pending else still + 1
                if still > net.route_cycles + 4 and net.in_network:
                    with gil:
                        return False
                net.now += 1
        return True
