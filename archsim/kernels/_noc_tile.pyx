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
    int64_t key     # cycle << 2 | what
    int32_t which   # a packet; for GRANT a channel
    int32_t amount  # flits of room


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


cdef inline bint before(Event a, Event b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.which < b.which)


cdef class NocTileKernel:
    """One run: packets in, times out. Channels: links, then the way into each node, then the way out of each node."""

    cdef Event *heap
    cdef int64_t size, room
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
        free(self.heap)
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
            const int32_t[::1] releases, const uint8_t[::1] held,
            int64_t[::1] created, int64_t[::1] injected, int64_t[::1] arrived, int64_t[::1] carried):
        """Fill in when each packet was created, injected and arrived (-1: never), and the flits of each channel."""
        cdef int32_t total = flight.shape[0]
        cdef int32_t ends = links + nodes
        cdef int32_t count = source.shape[0]
        cdef int32_t c, p
        cdef int64_t now, done
        cdef int what
        cdef Event event
        cdef Packet *packet
        cdef Channel *channel
        self.most, self.gap, self.lanes, self.split, self.halves = 1, gap, lanes, split, halves
        for c in range(total):
            self.most = max(self.most, ports[c] * lanes)
        self.room = count + 3 * total + 16
        self.heap = <Event *>calloc(self.room, sizeof(Event))
        self.channels = <Channel *>calloc(total + 1, sizeof(Channel))
        self.packets = <Packet *>calloc(count + 1, sizeof(Packet))
        self.first = <int32_t *>calloc(<size_t>total * self.most + 1, sizeof(int32_t))
        self.last = <int32_t *>calloc(<size_t>total * self.most + 1, sizeof(int32_t))
        self.rooms = <int64_t *>calloc(<size_t>total * lanes + 1, sizeof(int64_t))
        if NULL in (self.heap, self.channels, self.packets, self.first, self.last, self.rooms):
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
            if held[p]:
                created[p] = -1
            elif not self.push(created[p], COME, p, 0):
                raise MemoryError
        with nogil:
            while self.size:
                event = self.heap[0]
                self.pop()
                now, what = event.key >> 2, <int>(event.key & 3)
                if what == ROOM:
                    self.rooms[event.which] += event.amount
                    self.attempt(event.which // lanes, now)
                    continue
                if what == GRANT:
                    channel = &self.channels[event.which]
                    if channel.try_at == now:
                        channel.try_at = -1
                        p = self.grant(event.which, now)
                        if p >= 0:
                            carried[event.which] += flits[p]
                            self.packet_hops += event.which < ends
                            if event.which >= ends:
                                injected[p] = now
                    continue
                p = event.which
                packet = &self.packets[p]
                if packet.via >= links and packet.via < ends:  # its head is at its node
                    done = arrived[p] = now + packet.flits - 1
                    if releases[p] >= 0:
                        created[releases[p]] = done + 1
                        self.push(done + 1, COME, releases[p], 0)
                    continue
                c = ends + source[p] if packet.hop < 0 else hops[packet.route + packet.hop]
                packet.ready = now + (0 if packet.hop < 0 else ready_cycles)
                packet.hop += 1
                self.queue(c, p)
                self.attempt(c, packet.ready)

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
        if packet.via >= 0:
            self.channels[packet.via].port_free = now + packet.flits
            self.push(now + self.channels[packet.via].room_cycles, ROOM, packet.via * self.lanes + packet.lane,
                      packet.flits)
        packet.via, packet.lane = c, lane
        self.push(now + channel.flight, COME, p, 0)

    cdef bint push(self, int64_t time, int what, int32_t which, int32_t amount) noexcept nogil:
        cdef int64_t at = self.size
        cdef int64_t parent
        cdef Event event
        cdef Event *grown
        if self.size == self.room:
            grown = <Event *>realloc(self.heap, 2 * self.room * sizeof(Event))
            if grown == NULL:
                return False
            self.heap, self.room = grown, 2 * self.room
        event.key, event.which, event.amount = (time << 2) | what, which, amount
        self.size += 1
        while at:
            parent = (at - 1) >> 1
            if not before(event, self.heap[parent]):
                break
            self.heap[at] = self.heap[parent]
            at = parent
        self.heap[at] = event
        return True

    cdef inline void pop(self) noexcept nogil:
        cdef int64_t at = 0
        cdef int64_t child = 1
        cdef Event event
        self.size -= 1
        event = self.heap[self.size]
        while child < self.size:
            if child + 1 < self.size and before(self.heap[child + 1], self.heap[child]):
                child += 1
            if not before(self.heap[child], event):
                break
            self.heap[at] = self.heap[child]
            at = child
            child = 2 * at + 1
        self.heap[at] = event
