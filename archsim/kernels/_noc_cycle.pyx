"""Flit-level routers: a calendar of arrivals, lists of what may move; `archsim.kernels.noc_cycle` documents the model."""

from libc.stdint cimport INT32_MAX, int8_t, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, realloc


cdef class NocCycleKernel:
    """The state of one network; channels 0..links-1 join routers, then one a node leads into and out of the network."""

    cdef int vcs, depth, links, nodes, router_count, lanes_per_port, route_cycles
    cdef int into_cycles, node_credit_cycles
    cdef bint speculative, tail_credit, overflow
    cdef Input *inputs
    cdef Output *outputs
    cdef Channel *channels
    cdef Lane *lanes
    cdef Router *routers
    cdef Source *sources
    cdef Packet *packets
    cdef int32_t *buffers
    cdef int32_t *ready
    cdef int32_t *waiting
    cdef int32_t *awake
    cdef int32_t *injecting
    cdef int32_t *asked
    cdef int32_t *released
    cdef Slot *slots
    cdef int slot_mask, awake_count, injecting_count, released_count
    cdef int64_t packet_count, packet_room, due, done, now, pending, moved, flit_hops, in_network
    cdef int64_t *carried
    cdef int64_t *accepted
    cdef void **owned      # what was allocated, to be freed
    cdef int owned_count
    cdef const int32_t[::1] hops
    cdef const int8_t[::1] hop_kind
    cdef const uint64_t[::1] allowed

    def __cinit__(self, int vcs, int depth, int lanes_per_port, int route_cycles, int switch_cycles, int credit_cycles,
                  bint speculative, bint tail_credit,
                  const int32_t[::1] link_from, const int32_t[::1] link_to, const int32_t[::1] link_cycles,
                  const int32_t[::1] out_rank, const int32_t[::1] in_rank, const int32_t[::1] node_router,
                  const int32_t[::1] node_rank, const int32_t[::1] ports, int node_cycles,
                  const int32_t[::1] hops, const int8_t[::1] hop_kind, const uint64_t[::1] allowed):
        cdef int c, v, r, start, cycles, longest = 0
        cdef int ends, lanes
        cdef Input *i
        cdef Output *o
        self.vcs, self.depth, self.lanes_per_port, self.route_cycles = vcs, depth, lanes_per_port, route_cycles
        self.speculative, self.tail_credit = speculative, tail_credit
        self.links, self.nodes, self.router_count = link_from.shape[0], node_router.shape[0], ports.shape[0]
        self.hops, self.hop_kind, self.allowed = hops, hop_kind, allowed
        ends = self.links + self.nodes
        lanes = ends * lanes_per_port
        self.inputs = <Input *>self.room(ends * vcs + 1, sizeof(Input))
        self.outputs = <Output *>self.room((ends + self.nodes) * vcs + 1, sizeof(Output))
        self.channels = <Channel *>self.room(ends + self.nodes + 1, sizeof(Channel))
        self.lanes = <Lane *>self.room(lanes + 1, sizeof(Lane))
        self.routers = <Router *>self.room(self.router_count + 1, sizeof(Router))
        self.sources = <Source *>self.room(self.nodes + 1, sizeof(Source))
        self.buffers = <int32_t *>self.room(ends * vcs * depth + 1, sizeof(int32_t))
        self.ready = <int32_t *>self.room(ends * vcs + 1, sizeof(int32_t))
        self.waiting = <int32_t *>self.room(ends * vcs + 1, sizeof(int32_t))
        self.awake = <int32_t *>self.room(self.router_count + 1, sizeof(int32_t))
        self.injecting = <int32_t *>self.room(self.nodes + 1, sizeof(int32_t))
        self.asked = <int32_t *>self.room(2 * (ends + lanes) + 2, sizeof(int32_t))
        self.released = <int32_t *>self.room(self.nodes + 1, sizeof(int32_t))
        self.carried = <int64_t *>self.room(ends + 1, sizeof(int64_t))
        self.accepted = <int64_t *>self.room(self.nodes + 1, sizeof(int64_t))
        self.into_cycles = node_cycles + 1
        self.node_credit_cycles = node_cycles + 1 + credit_cycles
        longest = node_cycles
        for c in range(self.links):
            longest = max(longest, link_cycles[c])
        longest += switch_cycles + credit_cycles + 2
        self.slot_mask = 1
        while self.slot_mask <= longest:
            self.slot_mask *= 2
        self.slots = <Slot *>self.room(self.slot_mask, sizeof(Slot))
        for c in range(self.slot_mask):
            self.slots[c].flits = <Arrival *>self.room(ends + self.nodes + 1, sizeof(Arrival))
            self.slots[c].credits = <int32_t *>self.room(lanes + self.nodes + 1, sizeof(int32_t))
        self.slot_mask -= 1
        start = 0
        for r in range(self.router_count):
            self.routers[r].outputs = ports[r]
            self.routers[r].lanes = ports[r] * lanes_per_port
            self.routers[r].inputs_vcs = ports[r] * vcs
            self.routers[r].list_start = start
            start += ports[r] * vcs
        for c in range(ends):
            cycles = link_cycles[c] if c < self.links else node_cycles
            self.channels[c].rank = out_rank[c] if c < self.links else node_rank[c - self.links]
            self.channels[c].flight = switch_cycles + cycles + 1
            self.channels[c].asked_at = -1
            for v in range(vcs):
                o = &self.outputs[c * vcs + v]
                o.rank = self.channels[c].rank * vcs + v
                i = &self.inputs[c * vcs + v]
                i.router = link_to[c] if c < self.links else node_router[c - self.links]
                i.vc = v
                i.rank = (in_rank[c] if c < self.links else node_rank[c - self.links])
                i.lane = c * lanes_per_port + v % lanes_per_port
                self.lanes[i.lane].rank = i.rank * lanes_per_port + v % lanes_per_port
                self.lanes[i.lane].vc_pointer = v % lanes_per_port
                self.lanes[i.lane].asked_at = -1
                i.lane_rank = i.rank * lanes_per_port + v % lanes_per_port
                i.rank = i.rank * vcs + v
                # a router counts credits `credit_cycles` after they come, a node at once
                i.upstream = c * vcs + v if c < self.links else (c + self.nodes) * vcs + v
                i.credit_cycles = cycles + 1 + (credit_cycles if c < self.links else 0)
                i.output = i.place = -1
        for c in range((ends + self.nodes) * vcs):
            self.outputs[c].credits = depth
            self.outputs[c].channel = c // vcs
            self.outputs[c].bit = <uint64_t>1 << (c % vcs)
            self.outputs[c].holder = -1
            self.outputs[c].asked_at = -1
        for c in range(ends + self.nodes):
            self.channels[c].free = (<uint64_t>1 << (vcs - 1)) * 2 - 1
        for c in range(self.nodes):
            self.sources[c].first = self.sources[c].last = self.sources[c].packet = self.sources[c].vc = -1

    def __dealloc__(self):
        cdef int n
        for n in range(self.owned_count):
            free(self.owned[n])
        free(self.owned)
        free(self.packets)

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
        return self.now

    @property
    def hops_done(self):
        """Flits that have crossed a switch."""
        return self.flit_hops

    @property
    def packets_done(self):
        """Packets whose tail has arrived."""
        return self.done

    @property
    def overflowed(self):
        """Whether a buffer ever held more than its depth, which credits must prevent."""
        return self.overflow

    def add(self, const int64_t[::1] created, const int32_t[::1] source, const int32_t[::1] flits,
            const int64_t[::1] route, const int32_t[::1] kind, const int32_t[::1] releases, const uint8_t[::1] held):
        """Append packets: those not held are created in order of time, the others when the one that releases them arrives."""
        cdef int64_t n
        cdef int64_t count = created.shape[0]
        cdef Packet *p
        cdef void *grown
        if self.packet_count + count > self.packet_room:
            self.packet_room = max(2 * self.packet_room, self.packet_count + count)
            grown = realloc(self.packets, self.packet_room * sizeof(Packet))
            if grown == NULL:
                raise MemoryError
            self.packets = <Packet *>grown
        for n in range(count):
            p = &self.packets[self.packet_count + n]
            p.created = -1 if held[n] else created[n]
            p.injected = p.arrived = -1
            p.source, p.flits, p.route, p.kind, p.hop = source[n], flits[n], route[n], kind[n], 0
            p.following, p.releases, p.held = -1, releases[n], held[n]
        self.packet_count += count

    def times(self, int64_t[::1] created, int64_t[::1] injected, int64_t[::1] arrived):
        """Fill in the cycles of all packets; -1: not yet."""
        cdef int64_t n
        for n in range(self.packet_count):
            created[n], injected[n], arrived[n] = self.packets[n].created, self.packets[n].injected, self.packets[n].arrived

    def counts(self, int64_t[::1] carried, int64_t[::1] accepted):
        """Fill in the flits that each channel has carried and each node has accepted."""
        cdef int c
        for c in range(self.links + self.nodes):
            carried[c] = self.carried[c]
        for c in range(self.nodes):
            accepted[c] = self.accepted[c]

    def run(self, int64_t until, bint drain):
        """Simulate up to cycle `until`; with `drain`, stop when all packets have arrived. False: the network is locked."""
        cdef int64_t still = 0
        with nogil:
            while self.now < until:
                if drain and self.done == self.packet_count:
                    break
                if self.awake_count == 0 and self.injecting_count == 0 and self.pending == 0:
                    while self.due < self.packet_count and self.packets[self.due].held:
                        self.due += 1
                    if self.due < self.packet_count:
                        self.now = min(until, max(self.now, self.packets[self.due].created))
                    else:
                        self.now = until
                    if self.now == until:
                        break
                self.moved = 0
                self.cycle()
                # with nothing on the way and nothing moving, no later cycle can differ
                still = 0 if self.moved or self.pending else still + 1
                if still > self.route_cycles + 4 and self.in_network:
                    with gil:
                        return False
                self.now += 1
        return True

    # --- one cycle --------------------------------------------------------------------------------------------

    cdef void cycle(self) noexcept nogil:
        cdef int64_t now = self.now
        cdef Slot *slot = &self.slots[now & self.slot_mask]
        cdef int n, r, kept
        self.pending -= slot.flit_count + slot.credit_count
        self.released_count = 0
        for n in range(slot.flit_count):
            if slot.flits[n].target >= 0:
                self.receive(slot.flits[n].target, slot.flits[n].flit, now)
            else:
                self.eject(-1 - slot.flits[n].target, slot.flits[n].flit, now)
        for n in range(slot.credit_count):
            self.credit(slot.credits[n])
        slot.flit_count = slot.credit_count = 0
        while self.due < self.packet_count and (self.packets[self.due].held or self.packets[self.due].created <= now):
            if not self.packets[self.due].held:
                self.enqueue(<int32_t>self.due)
            self.due += 1
        kept = 0
        for n in range(self.injecting_count):
            r = self.injecting[n]
            if self.inject(r, now):
                self.injecting[kept] = r
                kept += 1
            else:
                self.sources[r].awake = 0
        self.injecting_count = kept
        for n in range(self.released_count):  # a node answers in the cycle after the one in which it was asked
            self.packets[self.released[n]].created = now
            self.enqueue(self.released[n])
        kept = 0
        for n in range(self.awake_count):
            r = self.awake[n]
            self.route(&self.routers[r], now)
            if self.routers[r].ready_count or self.routers[r].waiting_count:
                self.awake[kept] = r
                kept += 1
            else:
                self.routers[r].awake = 0
        self.awake_count = kept

    cdef inline void wake(self, int32_t r) noexcept nogil:
        if not self.routers[r].awake:
            self.routers[r].awake = 1
            self.awake[self.awake_count] = r
            self.awake_count += 1

    cdef inline void wake_source(self, int32_t node) noexcept nogil:
        if not self.sources[node].awake:
            self.sources[node].awake = 1
            self.injecting[self.injecting_count] = node
            self.injecting_count += 1

    cdef inline void may_cross(self, int32_t at) noexcept nogil:
        """An input that holds an output, has a flit and has a credit takes part in switch allocation."""
        cdef Input *i = &self.inputs[at]
        cdef Router *router = &self.routers[i.router]
        i.place = router.ready_count
        self.ready[router.list_start + i.place] = at
        router.ready_count += 1
        self.wake(i.router)

    cdef inline void leave(self, Router *router, Input *i) noexcept nogil:
        cdef int32_t last = self.ready[router.list_start + router.ready_count - 1]
        router.ready_count -= 1
        self.ready[router.list_start + i.place] = last
        self.inputs[last].place = i.place
        i.place = -1

    cdef inline void ask(self, int32_t at, int64_t ready) noexcept nogil:
        """The head at the front of an input learns its way, and from cycle `ready` asks for an output virtual channel."""
        cdef Input *i = &self.inputs[at]
        cdef Router *router = &self.routers[i.router]
        cdef Packet *packet = &self.packets[self.buffers[at * self.depth + i.first] >> 2]
        cdef int64_t hop = packet.route + packet.hop
        cdef int32_t kind = packet.kind * HOP_KINDS + self.hop_kind[hop]
        packet.hop += 1
        i.state, i.ready, i.output = WAITING, ready, -1
        i.channel, i.allowed = self.hops[hop], self.allowed[kind]
        self.waiting[router.list_start + router.waiting_count] = at
        router.waiting_count += 1
        self.wake(i.router)

    cdef inline void receive(self, int32_t at, int32_t flit, int64_t now) noexcept nogil:
        cdef Input *i = &self.inputs[at]
        cdef int32_t end = i.first + i.count
        if i.count == self.depth:
            self.overflow = True
            return
        self.buffers[at * self.depth + (end if end < self.depth else end - self.depth)] = flit
        i.count += 1
        if i.state == IDLE:
            self.ask(at, now + self.route_cycles)
        elif i.state == ACTIVE and i.count == 1 and self.outputs[i.output].credits:
            self.may_cross(at)

    cdef inline void credit(self, int32_t to) noexcept nogil:
        cdef Output *o = &self.outputs[to]
        o.credits += 1
        if o.draining and o.credits == self.depth:
            o.draining = 0
            self.channels[o.channel].free |= o.bit
        if o.channel >= self.links + self.nodes:
            self.wake_source(o.channel - self.links - self.nodes)
        elif o.holder >= 0 and o.credits == 1 and self.inputs[o.holder].count and self.inputs[o.holder].place < 0:
            self.may_cross(o.holder)

    cdef inline void give_up(self, int32_t output) noexcept nogil:
        """The tail has passed: the virtual channel is free, at once or when its credits are back."""
        cdef Output *o = &self.outputs[output]
        if self.tail_credit:
            o.draining = 1
        else:
            self.channels[o.channel].free |= o.bit

    cdef inline void send(self, int64_t when, int32_t target, int32_t flit) noexcept nogil:
        cdef Slot *slot = &self.slots[when & self.slot_mask]
        slot.flits[slot.flit_count].target = target
        slot.flits[slot.flit_count].flit = flit
        slot.flit_count += 1
        self.pending += 1

    cdef inline void send_credit(self, int64_t when, int32_t to) noexcept nogil:
        cdef Slot *slot = &self.slots[when & self.slot_mask]
        slot.credits[slot.credit_count] = to
        slot.credit_count += 1
        self.pending += 1

    cdef inline void eject(self, int32_t output, int32_t flit, int64_t now) noexcept nogil:
        """A node takes a flit; its buffer is empty again at once."""
        cdef int32_t node = self.outputs[output].channel - self.links
        cdef Packet *packet = &self.packets[flit >> 2]
        self.accepted[node] += 1
        self.in_network -= 1
        self.send_credit(now + self.node_credit_cycles, output)
        if flit & TAIL:
            packet.arrived = now
            self.done += 1
            if packet.releases >= 0:
                self.released[self.released_count] = packet.releases
                self.released_count += 1

    # --- sources ----------------------------------------------------------------------------------------------

    cdef inline void enqueue(self, int32_t packet) noexcept nogil:
        cdef Source *source = &self.sources[self.packets[packet].source]
        if source.first < 0:
            source.first = packet
        else:
            self.packets[source.last].following = packet
        source.last = packet
        self.wake_source(self.packets[packet].source)

    cdef inline int32_t pick(self, int32_t node, int32_t kind) noexcept nogil:
        """The first free virtual channel with a credit past the last one used, or -1; the very first one may be only the lowest."""
        cdef int32_t channel = self.links + self.nodes + node
        cdef uint64_t allowed = self.allowed[kind * HOP_KINDS + HOP_KINDS - 1]
        cdef uint64_t free = self.channels[channel].free & allowed
        cdef int32_t vc, last = self.sources[node].vc
        cdef int32_t best = -1
        if last < 0 or not allowed >> last & 1:
            vc = lowest(allowed)
            return vc if free >> vc & 1 and self.outputs[channel * self.vcs + vc].credits else -1
        while free:
            vc = lowest(free)
            free &= free - 1
            if self.outputs[channel * self.vcs + vc].credits and (best < 0 or (vc > last and best <= last)):
                best = vc
        return best

    cdef inline bint inject(self, int32_t node, int64_t now) noexcept nogil:
        """Send one flit if there is a virtual channel with a credit; False: nothing to do until something changes."""
        cdef Source *source = &self.sources[node]
        cdef int32_t base = (self.links + self.nodes + node) * self.vcs
        cdef int32_t vc, n, flit
        cdef Packet *packet
        cdef Output *o
        if source.packet < 0:
            if source.first < 0:
                return False
            packet = &self.packets[source.first]
            vc = self.pick(node, packet.kind)
            if vc < 0:
                return False
            self.channels[self.links + self.nodes + node].free &= ~(<uint64_t>1 << vc)
            source.packet, source.vc, source.sent = source.first, vc, 0
            source.first = packet.following
            packet.injected = now
        packet = &self.packets[source.packet]
        o = &self.outputs[base + source.vc]
        if o.credits == 0:
            return False
        flit = source.packet << 2
        if source.sent == 0:
            flit |= HEAD
        source.sent += 1
        o.credits -= 1
        self.in_network += 1
        self.moved += 1
        if source.sent == packet.flits:
            flit |= TAIL
            self.give_up(base + source.vc)
            source.packet = -1
        n = self.links + node
        self.send(now + self.into_cycles, n * self.vcs + source.vc, flit)
        return source.packet >= 0 or source.first >= 0

    # --- routers ----------------------------------------------------------------------------------------------

    cdef void route(self, Router *router, int64_t now) noexcept nogil:
        """One cycle of one router: allocate virtual channels and the switch, then let both take effect."""
        cdef int32_t *ready = &self.ready[router.list_start]
        cdef int32_t *waiting = &self.waiting[router.list_start]
        cdef int32_t n, at, kept, winners
        cdef int32_t asking = router.waiting_count
        cdef Input *i
        cdef Lane *lane
        if asking:
            self.allocate_channels(router, waiting, now)
        winners = self.allocate_switch(router, ready, waiting, asking, now)
        if asking:
            kept = 0
            for n in range(asking):
                i = &self.inputs[waiting[n]]
                if i.output < 0:
                    waiting[kept] = waiting[n]
                    kept += 1
                    continue
                self.channels[i.channel].free &= ~self.outputs[i.output].bit
                self.outputs[i.output].holder = waiting[n]
                i.state = ACTIVE
                if self.outputs[i.output].credits:
                    self.may_cross(waiting[n])
            router.waiting_count = kept
        for n in range(winners):
            lane = &self.lanes[self.asked[n]]
            at = self.channels[lane.channel].winner
            i = &self.inputs[at]
            if i.place < 0:
                continue  # speculation that failed: no output virtual channel, or no credit
            lane.vc_pointer = (i.vc + self.lanes_per_port) % self.vcs
            self.cross(router, at, now)

    cdef inline void allocate_channels(self, Router *router, int32_t *waiting, int64_t now) noexcept nogil:
        """iSLIP, one iteration, between input and output virtual channels."""
        cdef int32_t n, at, ov, distance, best, nearest
        cdef uint64_t free
        cdef int32_t size = router.inputs_vcs
        cdef int32_t out_size = router.outputs * self.vcs
        cdef Input *i
        cdef Output *o
        for n in range(router.waiting_count):
            at = waiting[n]
            i = &self.inputs[at]
            if i.ready > now:
                continue
            free = self.channels[i.channel].free & i.allowed
            while free:
                o = &self.outputs[i.channel * self.vcs + lowest(free)]
                free &= free - 1
                distance = around(i.rank, o.pointer, size)
                if o.asked_at != now or distance < o.distance:
                    o.asked_at, o.asked_by, o.distance = now, at, distance
        for n in range(router.waiting_count):
            at = waiting[n]
            i = &self.inputs[at]
            if i.ready > now:
                continue
            best, nearest = -1, INT32_MAX
            free = self.channels[i.channel].free & i.allowed
            while free:
                ov = i.channel * self.vcs + lowest(free)
                free &= free - 1
                o = &self.outputs[ov]
                if o.asked_by == at:
                    distance = around(o.rank, i.pointer, out_size)
                    if distance < nearest:
                        best, nearest = ov, distance
            if best >= 0:
                i.output = best
                i.pointer = after(self.outputs[best].rank, out_size)
                self.outputs[best].pointer = after(i.rank, size)

    cdef inline bint bids(self, Input *i, int64_t now) noexcept nogil:
        """Whether a head bids for the switch while it asks for a virtual channel: one is free there and has a credit."""
        cdef uint64_t free = self.channels[i.channel].free & i.allowed
        if i.ready > now:
            return False
        while free:
            if self.outputs[i.channel * self.vcs + lowest(free)].credits:
                return True
            free &= free - 1
        return False

    cdef inline bint precedes(self, Input *a, Input *b) noexcept nogil:
        """Of two virtual channels of one lane: who is sure of its output comes first, then round robin."""
        cdef int32_t pointer = self.lanes[a.lane].vc_pointer
        if a.state != b.state:
            return a.state == ACTIVE
        return around(a.vc, pointer, self.vcs) < around(b.vc, pointer, self.vcs)

    cdef inline int32_t allocate_switch(self, Router *router, int32_t *ready, int32_t *waiting, int32_t asking,
                                        int64_t now) noexcept nogil:
        """iSLIP, one iteration, between lanes and channels; the winning lanes are left in `asked`."""
        cdef int32_t certain = router.ready_count
        cdef int32_t bidders = certain + (asking if self.speculative else 0)
        cdef int32_t n, at, distance
        cdef int32_t wanted = 0
        cdef int32_t winners = 0
        cdef int32_t *channels = &self.asked[self.links + self.nodes + 1]
        cdef Input *i
        cdef Channel *c
        cdef Lane *lane
        for n in range(bidders):
            at = ready[n] if n < certain else waiting[n - certain]
            i = &self.inputs[at]
            if n >= certain and not self.bids(i, now):
                continue
            c = &self.channels[i.channel]
            distance = around(i.lane_rank, c.pointer, router.lanes)
            if c.asked_at != now:
                channels[wanted] = i.channel
                wanted += 1
                c.asked_at, c.distance, c.winner = now, distance, at
            elif distance < c.distance or (distance == c.distance and self.precedes(i, &self.inputs[c.winner])):
                c.distance, c.winner = distance, at
        for n in range(wanted):
            c = &self.channels[channels[n]]
            lane = &self.lanes[self.inputs[c.winner].lane]
            distance = around(c.rank, lane.pointer, router.outputs)
            if lane.asked_at != now:
                self.asked[winners] = self.inputs[c.winner].lane
                winners += 1
                lane.asked_at, lane.distance, lane.channel = now, distance, channels[n]
            elif distance < lane.distance:
                lane.distance, lane.channel = distance, channels[n]
        for n in range(winners):
            lane = &self.lanes[self.asked[n]]
            c = &self.channels[lane.channel]
            c.pointer = after(lane.rank, router.lanes)
            lane.pointer = after(c.rank, router.outputs)
        return winners

    cdef inline void cross(self, Router *router, int32_t at, int64_t now) noexcept nogil:
        """The flit at the front of an input crosses the switch and goes out on its channel."""
        cdef Input *i = &self.inputs[at]
        cdef Output *o = &self.outputs[i.output]
        cdef int32_t flit = self.buffers[at * self.depth + i.first]
        i.first = i.first + 1 if i.first + 1 < self.depth else 0
        i.count -= 1
        o.credits -= 1
        self.moved += 1
        self.flit_hops += 1
        self.carried[i.channel] += 1
        self.send(now + self.channels[i.channel].flight, i.output if i.channel < self.links else -1 - i.output, flit)
        self.send_credit(now + i.credit_cycles, i.upstream)
        if flit & TAIL:
            o.holder = -1
            self.give_up(i.output)
            self.leave(router, i)
            i.state = IDLE
            if i.count:
                self.ask(at, now + 1 + self.route_cycles)
        elif i.count == 0 or o.credits == 0:
            self.leave(router, i)
