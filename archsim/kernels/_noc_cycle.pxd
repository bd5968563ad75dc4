"""The state of one network of routers: what every virtual channel, channel, router and packet remembers."""

from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t


cdef enum:
    HOP_KINDS = 3  # archsim.noc.routing: lower half, upper half, any virtual channel

# A flit is one integer: packet << 2 | tail << 1 | head.
cdef enum:
    HEAD = 1
    TAIL = 2


cdef extern from *:
    int lowest "__builtin_ctzll"(uint64_t) nogil


cdef inline int32_t around(int32_t rank, int32_t pointer, int32_t size) noexcept nogil:
    """How far `rank` is past a round-robin pointer."""
    cdef int32_t distance = rank - pointer
    return distance if distance >= 0 else distance + size


cdef inline int32_t after(int32_t rank, int32_t size) noexcept nogil:
    return rank + 1 if rank + 1 < size else 0


cdef enum State:
    IDLE      # nothing at the front
    WAITING   # a head at the front asks for an output virtual channel
    ACTIVE    # holds an output virtual channel


cdef struct Input:  # one virtual channel of one input port, and its buffer
    int32_t channel        # where the packet at the front goes
    int32_t output         # the output virtual channel that it holds, or was granted; -1: none
    int32_t lane, lane_rank, vc
    int32_t state, first, count
    int32_t place          # in the list of inputs that may cross the switch; -1: it is not there
    int32_t router
    int32_t upstream       # the output virtual channel that feeds it
    int32_t credit_cycles  # from a flit leaving to its credit counting upstream
    int32_t rank, pointer  # among the input virtual channels of its router; round robin over output virtual channels
    int64_t ready          # first cycle in which the head may ask
    uint64_t allowed       # virtual channels that it may take


cdef struct Output:  # one virtual channel of the far end of a channel
    int32_t credits, holder, channel
    uint64_t bit           # among the virtual channels of its channel
    int32_t draining       # given up by its packet, and not free before all credits are back
    int32_t rank, pointer  # among the output virtual channels of its router; round robin over input virtual channels
    int32_t asked_by, distance
    int64_t asked_at


cdef struct Channel:  # one output of a switch
    int32_t rank, pointer, flight
    int32_t distance, winner  # of the bid that it prefers
    int64_t asked_at
    uint64_t free          # virtual channels of the far end that no packet holds


cdef struct Lane:  # one input of a switch
    int32_t rank, pointer, vc_pointer
    int32_t channel, distance
    int64_t asked_at


cdef struct Router:
    int32_t lanes, outputs, inputs_vcs
    int32_t list_start, ready_count, waiting_count
    uint8_t awake


cdef struct Source:
    int32_t first, last    # packets that wait, as a linked list
    int32_t packet, sent, vc
    uint8_t awake


cdef struct Packet:
    int64_t created, injected, arrived, route
    int32_t source, flits, kind, hop, following, releases
    uint8_t held            # until another packet has arrived


cdef struct Arrival:
    int32_t target  # an input virtual channel, or -1 - output virtual channel for a flit that leaves the network
    int32_t flit


cdef struct Slot:
    Arrival *flits
    int32_t *credits
    int32_t flit_count, credit_count


cdef struct Network:  # channels 0..links-1 join routers, then one a node leads into and out of the network
    int vcs, depth, links, nodes, router_count, lanes_per_port, route_cycles
    int into_cycles, node_credit_cycles
    bint speculative, tail_credit, overflow
    Input *inputs
    Output *outputs
    Channel *channels
    Lane *lanes
    Router *routers
    Source *sources
    Packet *packets
    int32_t *buffers
    int32_t *ready
    int32_t *waiting
    int32_t *awake
    int32_t *injecting
    int32_t *asked
    int32_t *released
    Slot *slots
    int slot_mask, awake_count, injecting_count, released_count
    int64_t packet_count, packet_room, due, done, now, pending, moved, flit_hops, in_network
    int64_t *carried
    int64_t *accepted
    const int32_t *hops
    const int8_t *hop_kind
    const uint64_t *allowed
