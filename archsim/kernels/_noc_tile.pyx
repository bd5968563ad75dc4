"""Packets that reserve channels, from event to event; `archsim.kernels.noc_tile` documents the model."""

from libc.stdint cimport INT64_MAX, int8_t, int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free, realloc

# what may happen, in the order of one cycle: room comes back, packets come, channels are granted
cdef enum:
    ROOM = 0
    COME = 1
    GRANT = 2


cdef enum:
    BEAT = 1024
    UPPER = 1  # archsim.noc.routing


cdef struct Event:
    int32_t which      # a packet; for GRANT a channel; for ROOM a channel and a lane
    int32_t amount     # flits of room
    int32_t following  # event of the same cycle


cdef struct Slot:  # the events of one cycle, kind by kind
    int32_t first[3]
    int32_t last[3]


cdef struct Channel:
    int32_t rank     # the input port of the router that it leads to
    int32_t ports    # input ports of the router that it leaves
    int32_t flight, room_cycles
    int64_t beat     # cycles a flit takes on average, in parts of BEAT
    int32_t pointer, waiting
    int64_t free_at, try_at, full
    int64_t port_free  # when the input port that it leads to has passed its last packet on


cdef struct Packet:
    int64_t ready, route
    int32_t flits, hop, following
    int32_t via, lane, kind  # the channel and the lane that it came by; its class of messages
    int32_t length     # channels on its way, the one out of its node not counted
    int32_t waits      # segments of a tree that must have come before it goes on
    int32_t parent     # the segment whose end it goes on from; -1: none
    int32_t copies     # that go on from the end of this one and have not left yet


cdef class NocTileKernel:
    """One run: packets in, times out. Channels: links, then the way into each node, then the way out of each node."""

    cdef Event *events
    cdef Slot *slots
    cdef int64_t slot_mask, pending
    cdef int32_t event_count, event_room, unused
    cdef bint full       # no memory for another event
    cdef Channel *channels
    cdef Packet *packets
    cdef int32_t *first  # of the packets that wait for a channel, port by port
    cdef int32_t *last
    cdef int64_t *rooms  # flits that the far end of a channel can take, lane by lane
    cdef const int8_t[::1] halves
    cdef int32_t most    # input ports of the widest router
    cdef int32_t lanes   # shares of the virtual channels that packets keep to: classes x halves
    cdef int32_t split   # 2: every class keeps its two halves apart
    cdef int gap
    cdef readonly int64_t packet_hops

    def __dealloc__(self):
        free(self.events)
        free(self.slots)
        free(self.channels)
        free(self.packets)
        free(self.first)
        free(self.last)
        free(self.rooms)

    def run(self, const int32_t[::1] flight, const int32_t[::1] room_cycles, const int64_t[::1] room,
            const int64_t[::1] beat,
            const int32_t[::1] rank, const int32_t[::1] ports, int32_t links, int32_t nodes, int32_t lanes, int32_t split,
            int ready_cycles, int gap, const int32_t[::1] hops, const int8_t[::1] halves,
            const int32_t[::1] kind, const int32_t[::1] source, const int32_t[::1] flits, const int64_t[::1] route,
            const int32_t[::1] releases, const uint8_t[::1] held, const int32_t[::1] length,
            const int32_t[::1] waits, const int32_t[::1] next_start, const int32_t[::1] nexts,
            int64_t[::1] created, int64_t[::1] injected, int64_t[::1] arrived, int64_t[::1] carried):
        """Fill in when each packet was created, injected and arrived (-1: never), and the flits of each channel."""
        cdef int32_t total = flight.shape[0]
        cdef int32_t ends = links + nodes
        cdef int32_t count = source.shape[0]
        cdef int32_t c, p, n, due, number, longest
        cdef int64_t now, horizon
        cdef int what
        cdef Event event
        cdef Slot *slot
        cdef Packet *packet
        cdef Channel *channel
        self.most, self.gap, self.lanes, self.split, self.halves = 1, gap, lanes, split, halves
        for c in range(total):
            self.most = max(self.most, ports[c] * lanes)
        longest = 1
        for p in range(count):
            longest = max(longest, flits[p])
        horizon = 2
        for c in range(total):
            horizon = max(horizon, max(flight[c], room_cycles[c]) + longest * (beat[c] // BEAT + 1) + gap + ready_cycles)
        self.slot_mask = 1
        while self.slot_mask <= horizon + 2:
            self.slot_mask *= 2
        self.slots = <Slot *>calloc(self.slot_mask, sizeof(Slot))
        self.channels = <Channel *>calloc(total + 1, sizeof(Channel))
        self.packets = <Packet *>calloc(count + 1, sizeof(Packet))
        self.first = <int32_t *>calloc(<size_t>total * self.most + 1, sizeof(int32_t))
        self.last = <int32_t *>calloc(<size_t>total * self.most + 1, sizeof(int32_t))
        self.rooms = <int64_t *>calloc(<size_t>total * lanes + 1, sizeof(int64_t))
        if NULL in (self.slots, self.channels, self.packets, self.first, self.last, self.rooms):
            raise MemoryError
        for c in range(total):
            channel = &self.channels[c]
            channel.rank, channel.ports = rank[c] * lanes, ports[c] * lanes
            channel.flight, channel.room_cycles = flight[c], room_cycles[c]
            channel.full, channel.beat = room[c], beat[c]
            channel.try_at = -1
        for c in range(total * lanes):
            self.rooms[c] = room[c // lanes]
        for c in range(total * self.most):
            self.first[c] = -1
        for p in range(count):
            injected[p] = arrived[p] = -1
            packet = &self.packets[p]
            packet.flits, packet.route, packet.via, packet.hop, packet.kind = flits[p], route[p], -1, -1, kind[p]
            packet.length, packet.waits, packet.parent = length[p], waits[p], -1
            if held[p]:
                created[p] = -1
        for now in range(self.slot_mask):
            for what in range(3):
                self.slots[now].first[what] = -1
        self.slot_mask -= 1
        self.unused = -1
        now = due = 0
        with nogil:
            while not self.full:
                while due < count and held[due]:
                    due += 1
                if self.pending == 0:
                    if due == count:
                        break
                    now = max(now, created[due])
                slot = &self.slots[now & self.slot_mask]
                number = self.take(slot, ROOM)
                while number >= 0:
                    event = self.events[number]
                    number = self.give_back(number)
                    self.rooms[event.which] += event.amount
                    self.attempt(event.which // lanes, now)
                while due < count and (held[due] or created[due] <= now):
                    if not held[due]:
                        self.come(ends + source[due], due, now, 0)
                    due += 1
                number = self.take(slot, COME)
                while number >= 0:
                    p = self.events[number].which
                    number = self.give_back(number)
                    packet = &self.packets[p]
                    if packet.hop < 0:
                        self.come(ends + source[p], p, now, 0)
                    elif packet.hop < packet.length:
                        self.come(hops[packet.route + packet.hop], p, now, ready_cycles)
                    else:  # its head is at its node, or where a tree goes on
                        arrived[p] = now + packet.flits - 1
                        if releases[p] >= 0:
                            created[releases[p]] = arrived[p] + 1
                            self.push(arrived[p] + 1, COME, releases[p], 0)
                        for n in range(next_start[p], next_start[p + 1]):
                            if self.go_on(p, nexts[n], now):
                                created[nexts[n]] = now
                                self.come(hops[self.packets[nexts[n]].route], nexts[n], now, ready_cycles)
                number = self.take(slot, GRANT)
                while number >= 0:
                    c = self.events[number].which
                    number = self.give_back(number)
                    if self.channels[c].try_at != now:
                        continue  # it was looked at in between
                    self.channels[c].try_at = -1
                    p = self.grant(c, now)
                    if p >= 0:
                        carried[c] += flits[p]
                        self.packet_hops += c < ends
                        if c >= ends:
                            injected[p] = now
                now += 1
        if self.full:
            raise MemoryError

    cdef inline void come(self, int32_t c, int32_t p, int64_t now, int ready_cycles) noexcept nogil:
        """A packet joins those that wait for a channel."""
        self.packets[p].ready = now + ready_cycles
        self.packets[p].hop += 1
        self.queue(c, p)
        self.attempt(c, self.packets[p].ready)

    cdef inline bint go_on(self, int32_t p, int32_t q, int64_t now) noexcept nogil:
        """Segment `p` of a tree is at its end: whether `q` goes on from there now, or waits for others to be added."""
        cdef Packet *old = &self.packets[p]
        cdef Packet *new = &self.packets[q]
        new.waits -= 1
        if new.waits > 0:  # taken up where values are added, which frees the room behind
            self.channels[old.via].port_free = max(self.channels[old.via].port_free, now + old.flits)
            self.push(now + old.flits + self.channels[old.via].room_cycles, ROOM, old.via * self.lanes + old.lane, old.flits)
            return False
        new.via, new.lane, new.parent, new.hop = old.via, old.lane, p, 0
        old.copies += 1
        return True

    cdef inline void queue(self, int32_t c, int32_t p) noexcept nogil:
        cdef Packet *packet = &self.packets[p]
        cdef int64_t line = <int64_t>c * self.most + (self.channels[packet.via].rank + packet.lane if packet.via >= 0 else 0)
        packet.following = -1
        if self.first[line] < 0:
            self.first[line] = p
        else:
            self.packets[self.last[line]].following = p
        self.last[line] = p
        self.channels[c].waiting += 1

    cdef inline void attempt(self, int32_t c, int64_t time) noexcept nogil:
        """Look at a channel at `time`, or once it is free, unless it is looked at before anyway."""
        cdef Channel *channel = &self.channels[c]
        if channel.waiting == 0:
            return
        time = max(time, channel.free_at)
        if channel.try_at < 0 or time < channel.try_at:
            channel.try_at = time
            self.push(time, GRANT, c, 0)

    cdef inline int32_t grant(self, int32_t c, int64_t now) noexcept nogil:
        """Give a channel to the next input port whose packet is ready; the packet, or -1."""
        cdef Channel *channel = &self.channels[c]
        cdef Packet *packet
        cdef int64_t line = <int64_t>c * self.most
        cdef int64_t when
        cdef int64_t later = INT64_MAX
        cdef int32_t n, p, lane
        cdef int32_t port = channel.pointer
        for n in range(channel.ports):
            if port >= channel.ports:
                port = 0
            p = self.first[line + port]
            if p >= 0:
                packet = &self.packets[p]
                when = packet.ready
                if packet.via >= 0:
                    when = max(when, self.channels[packet.via].port_free)
                if when <= now:
                    lane = self.lane_of(packet)
                    when = self.rooms[c * self.lanes + lane]
                    if when < packet.flits and when < channel.full:  # the room that comes back will look again
                        port += 1
                        continue
                    self.first[line + port] = packet.following
                    channel.waiting -= 1
                    channel.pointer = port + 1
                    self.leave(c, p, lane, now)
                    self.attempt(c, channel.free_at)
                    return p
                later = min(later, when)
            port += 1
        if later < INT64_MAX:
            self.attempt(c, later)
        return -1

    cdef inline int32_t lane_of(self, Packet *packet) noexcept nogil:
        """The share of the virtual channels that a packet keeps to on the channel that it waits for."""
        if self.split == 1 or packet.hop == 0:
            return packet.kind * self.split
        return packet.kind * self.split + (self.halves[packet.route + packet.hop - 1] == UPPER)

    cdef inline void leave(self, int32_t c, int32_t p, int32_t lane, int64_t now) noexcept nogil:
        """A packet takes its channel for as long as it has flits, and gives back its room behind it."""
        cdef Channel *channel = &self.channels[c]
        cdef Packet *packet = &self.packets[p]
        channel.free_at = now + packet.flits * channel.beat // BEAT + self.gap
        self.rooms[c * self.lanes + lane] -= packet.flits
        if packet.hop == 1 and packet.parent >= 0:
            self.packets[packet.parent].copies -= 1
        if packet.via >= 0 and not (packet.hop == 1 and packet.parent >= 0 and self.packets[packet.parent].copies):
            self.channels[packet.via].port_free = now + packet.flits
            self.push(now + self.channels[packet.via].room_cycles, ROOM, packet.via * self.lanes + packet.lane,
                      packet.flits)
        packet.via, packet.lane = c, lane
        self.push(now + channel.flight, COME, p, 0)

    cdef inline void push(self, int64_t time, int what, int32_t which, int32_t amount) noexcept nogil:
        cdef Slot *slot = &self.slots[time & self.slot_mask]
        cdef int32_t number = self.unused
        cdef void *grown
        if number >= 0:
            self.unused = self.events[number].following
        else:
            if self.event_count == self.event_room:
                grown = realloc(self.events, (2 * self.event_room + 1024) * sizeof(Event))
                if grown == NULL:
                    self.full = True
                    return
                self.events, self.event_room = <Event *>grown, 2 * self.event_room + 1024
            number = self.event_count
            self.event_count += 1
        self.events[number].which, self.events[number].amount, self.events[number].following = which, amount, -1
        if slot.first[what] < 0:
            slot.first[what] = number
        else:
            self.events[slot.last[what]].following = number
        slot.last[what] = number
        self.pending += 1

    cdef inline int32_t take(self, Slot *slot, int what) noexcept nogil:
        """The first event of a kind; the list is then the caller's."""
        cdef int32_t number = slot.first[what]
        slot.first[what] = -1
        return number

    cdef inline int32_t give_back(self, int32_t number) noexcept nogil:
        """Reuse an event; returns the one that followed it."""
        cdef int32_t following = self.events[number].following
        self.events[number].following = self.unused
        self.unused = number
        self.pending -= 1
        return following
