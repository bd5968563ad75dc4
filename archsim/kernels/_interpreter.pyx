"""The event loop: a heap of four branches of (time, key) and C structs; `archsim.kernels.interpreter` documents the machine."""

from libc.stdint cimport INT64_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from archsim.kernels._memory cimport Access, Counters, Memory, MemoryKernel, Origin, memory_access

# The key orders the events of one instant: phase (1 bit), priority (12), job's order (20), step (31).
cdef extern from *:
    """
    #define ARRIVAL ((uint64_t)1 << 63)
    #define ORDER_MASK (((uint64_t)1 << 20) - 1)
    #define STEP_MASK (((uint64_t)1 << 31) - 1)
    #define NOBODY (~(uint64_t)0)
    #if defined(__GNUC__) || defined(__clang__)
    #define PREFETCH(place) __builtin_prefetch(place)
    #else
    #define PREFETCH(place) ((void)(place))
    #endif
    """
    const uint64_t ARRIVAL, ORDER_MASK, STEP_MASK, NOBODY
    void PREFETCH(const void *place) noexcept nogil  # from the host's memory, for steps lie far apart

cdef enum:
    PRIORITY_SHIFT = 51
    ORDER_SHIFT = 31
    AS_PER_PS = 1000000
    BRANCHES = 4    # of the heap


cdef enum:  # archsim.program.machine.Kind
    UNIT = 0
    LINK = 1
    MEMORY = 2
    WINDOW = 3


cdef struct Event:
    int64_t time
    uint64_t key


cdef struct Resource:
    int kind
    int64_t latency_ps
    int64_t as_per_byte
    int64_t free_at
    Memory *memory
    int64_t room, held        # of a window: its bytes, and those under way
    uint64_t first, last      # keys of the steps that wait for it, NOBODY if there are none


cdef struct Step:  # all that is read of a step on its way, side by side: a line of the host's cache
    int64_t prev_done       # when the last byte left the stage before
    uint64_t behind         # the key of the step that waits behind this one at a window
    int64_t work_ps, nbytes, address
    int32_t pending         # predecessors still to finish
    int32_t position, end   # where in route_resources the step stands, and where its route ends
    int32_t weight
    int32_t begin           # of its route
    int16_t priority
    uint8_t write
    uint8_t scattered       # in several runs, or gathered


cdef struct Job:  # a program that runs; the arrays belong to the Python objects in Interpreter.kept
    uint64_t order
    int64_t count, unfinished, end_ps
    void *room_of_steps
    Step *steps             # in it, each in a line of its own
    const int32_t *route_resources
    const int32_t *room
    const int8_t *partition
    const int32_t *runs
    const int64_t *stride
    const int64_t *gather
    const int64_t *gather_offsets
    const int64_t *succ_start
    const int32_t *succs
    int64_t *start_ps
    int64_t *finish_ps
    int64_t *busy_ps
    Counters counters


cdef inline bint before(Event a, Event b) noexcept nogil:
    return (a.time < b.time) | ((a.time == b.time) & (a.key < b.key))  # no branch: it would be guessed wrong half of the time


cdef inline bint fits(Resource *window, int64_t nbytes) noexcept nogil:
    return window.held == 0 or window.held + nbytes <= window.room


cdef inline const int32_t *ints(const int32_t[::1] array):
    return &array[0] if array.shape[0] else NULL


cdef class InterpreterKernel:
    """Resources, the jobs in flight, and the heap of what happens next."""

    cdef Resource *resources
    cdef int resource_count
    cdef Event *heap
    cdef int64_t heap_size, heap_room
    cdef Job *jobs
    cdef int job_count, job_room
    cdef int completed  # jobs in flight whose last step has finished
    cdef int64_t now
    cdef list memories
    cdef list kept

    def __cinit__(self, const int8_t[::1] kind, const int64_t[::1] latency_ps, const int64_t[::1] as_per_byte,
                  const int64_t[::1] room, list memories):
        cdef int i
        self.resource_count = kind.shape[0]
        self.memories = memories  # one entry a resource, None where it is no memory
        self.kept = []
        self.resources = <Resource *>malloc(max(1, self.resource_count) * sizeof(Resource))
        if self.resources == NULL:
            raise MemoryError
        for i in range(self.resource_count):
            self.resources[i].kind = kind[i]
            self.resources[i].latency_ps = latency_ps[i]
            self.resources[i].as_per_byte = as_per_byte[i]
            self.resources[i].memory = NULL
            self.resources[i].room = room[i]
            if kind[i] == MEMORY:
                self.resources[i].memory = &(<MemoryKernel>memories[i]).memory
        self.reset()

    def __dealloc__(self):
        cdef int i
        for i in range(self.job_count):
            free(self.jobs[i].room_of_steps)
        free(self.resources)
        free(self.heap)
        free(self.jobs)

    def reset(self):
        """Forget all jobs and all state of the resources; time starts at zero again."""
        cdef int i
        for i in range(self.resource_count):
            self.resources[i].free_at = self.resources[i].held = 0
            self.resources[i].first = self.resources[i].last = NOBODY
            if self.memories[i] is not None:
                self.memories[i].reset()
        for i in range(self.job_count):
            free(self.jobs[i].room_of_steps)
        self.heap_size = self.job_count = self.completed = 0
        self.now = 0
        self.kept.clear()

    @property
    def now_ps(self):
        """The time of the last event that was handled."""
        return self.now

    @property
    def next_ps(self):
        """The time of the next event, or INT64_MAX when nothing is under way."""
        return self.heap[0].time if self.heap_size else INT64_MAX

    def submit(self, uint64_t order, int64_t start_ps,
               const int32_t[::1] route_start, const int32_t[::1] route_resources, const int32_t[::1] route,
               const int64_t[::1] work_ps, const int64_t[::1] nbytes, const int64_t[::1] address,
               const uint8_t[::1] write, const int32_t[::1] priority, const int32_t[::1] weight,
               const int32_t[::1] room, const int8_t[::1] partition, const int32_t[::1] runs, const int64_t[::1] stride,
               const int64_t[::1] gather, const int64_t[::1] gather_offsets,
               const int64_t[::1] succ_start, const int32_t[::1] succs, const int64_t[::1] pred_start,
               int64_t[::1] out_start, int64_t[::1] out_finish, int64_t[::1] busy_ps):
        """Take a program of at least one step into the heap; its steps without predecessors arrive at `start_ps`."""
        cdef Job *job
        cdef Step *one
        cdef int64_t wanted = self.heap_size + route.shape[0]
        cdef int i
        cdef int64_t step
        cdef void *grown
        for i in range(self.job_count):
            wanted += self.jobs[i].count
        if wanted > self.heap_room:
            grown = realloc(self.heap, wanted * sizeof(Event))
            if grown == NULL:
                raise MemoryError
            self.heap, self.heap_room = <Event *>grown, wanted
        if self.job_count == self.job_room:
            grown = realloc(self.jobs, (2 * self.job_room + 1) * sizeof(Job))
            if grown == NULL:
                raise MemoryError
            self.jobs, self.job_room = <Job *>grown, 2 * self.job_room + 1
        job = &self.jobs[self.job_count]
        job.room_of_steps = malloc((route.shape[0] + 1) * sizeof(Step))
        if job.room_of_steps == NULL:
            raise MemoryError
        job.steps = <Step *>((<uintptr_t>job.room_of_steps + sizeof(Step) - 1) & ~<uintptr_t>(sizeof(Step) - 1))
        self.kept.append((route_resources, room, partition, runs, stride, gather, gather_offsets, succ_start, succs,
                          out_start, out_finish, busy_ps))
        self.job_count += 1
        memset(&job.counters, 0, sizeof(Counters))
        job.order = order
        job.count = job.unfinished = route.shape[0]
        job.end_ps = start_ps
        job.route_resources, job.room, job.partition = ints(route_resources), &room[0], &partition[0]
        job.runs, job.stride, job.gather = &runs[0], &stride[0], &gather[0]
        job.gather_offsets = &gather_offsets[0] if gather_offsets.shape[0] else NULL
        job.succ_start, job.succs = &succ_start[0], ints(succs)
        job.start_ps, job.finish_ps, job.busy_ps = &out_start[0], &out_finish[0], &busy_ps[0] if busy_ps.shape[0] else NULL
        with nogil:
            for step in range(job.count):
                one = &job.steps[step]
                one.work_ps, one.nbytes, one.address = work_ps[step], nbytes[step], address[step]
                one.write, one.priority, one.weight = write[step], <int16_t>priority[step], weight[step]
                one.begin, one.end = route_start[route[step]], route_start[route[step] + 1]
                one.pending = <int32_t>(pred_start[step + 1] - pred_start[step])
                one.scattered = runs[step] > 1 or gather[step] >= 0
            for step in range(job.count):
                if job.steps[step].pending == 0:
                    self.arrive(job, step, start_ps)

    def settle(self, int64_t time):
        """Let finish what finishes at `time` (with the joins that it releases); return the number of completed jobs."""
        with nogil:
            self.finish_all(time)
        return self.completed

    def advance(self, int64_t until):
        """Handle all events before `until`, but stop where a job completes, ahead of that instant's arrivals."""
        cdef int64_t now
        with nogil:
            while self.heap_size and self.completed == 0 and self.heap[0].time < until:
                now = self.heap[0].time
                self.finish_all(now)
                if self.completed == 0:
                    self.grant_all(now)
        return self.completed

    def collect(self):
        """Take out the completed jobs: a list of (order, end_ps, counters), first submitted first."""
        cdef int i = 0
        cdef int j
        taken = []
        while i < self.job_count:
            if self.jobs[i].unfinished:
                i += 1
                continue
            taken.append((self.jobs[i].order, self.jobs[i].end_ps, self.jobs[i].counters))
            free(self.jobs[i].room_of_steps)
            for j in range(i, self.job_count - 1):
                self.jobs[j] = self.jobs[j + 1]
            self.job_count -= 1
            del self.kept[i]
        self.completed = 0
        return taken

    # --- one instant ------------------------------------------------------------------------------------------

    cdef void finish_all(self, int64_t now) noexcept nogil:
        cdef Job *job
        cdef int64_t step, edge, waiting
        while self.heap_size and self.heap[0].time == now and self.heap[0].key < ARRIVAL:
            job = self.job_of(self.heap[0].key)
            step = <int64_t>(self.heap[0].key & STEP_MASK)
            self.pop()
            self.now = job.end_ps = now
            self.leave_windows(job, step, now)
            job.unfinished -= 1
            if job.unfinished == 0:
                self.completed += 1
            for edge in range(job.succ_start[step], job.succ_start[step + 1]):
                waiting = job.succs[edge]
                job.steps[waiting].pending -= 1
                if job.steps[waiting].pending == 0:
                    self.arrive(job, waiting, now)

    cdef void grant_all(self, int64_t now) noexcept nogil:
        """Serve the arrivals of this instant in the order of their keys; whatever follows from them is later."""
        cdef Job *job
        cdef int64_t step
        while self.heap_size and self.heap[0].time == now:
            job = self.job_of(self.heap[0].key)
            step = <int64_t>(self.heap[0].key & STEP_MASK)
            if self.must_wait(job, step, self.heap[0].key):
                self.pop()
            else:
                self.replace_top(self.serve(job, step, self.heap[0].key, now))
        self.now = now

    # --- windows ----------------------------------------------------------------------------------------------

    cdef inline bint must_wait(self, Job *job, int64_t step, uint64_t key) noexcept nogil:
        """Whether `step` stands at a window that has no room for it; it lines up then."""
        cdef Step *one = &job.steps[step]
        cdef Resource *window = &self.resources[job.route_resources[one.position]]
        if window.kind != WINDOW or (window.first == NOBODY and fits(window, one.nbytes)):
            return False
        one.behind = NOBODY
        if window.first == NOBODY:
            window.first = key
        else:
            self.job_of(window.last).steps[window.last & STEP_MASK].behind = key
        window.last = key
        return True

    cdef inline void leave_windows(self, Job *job, int64_t step, int64_t now) noexcept nogil:
        """A step that has finished makes room in the windows of its route for those that wait."""
        cdef int32_t position = job.steps[step].begin
        cdef int32_t end = job.steps[step].end
        cdef Resource *window
        cdef Job *other
        cdef uint64_t key
        cdef int64_t waiting
        while position < end and self.resources[job.route_resources[position]].kind == WINDOW:
            window = &self.resources[job.route_resources[position]]
            window.held -= job.steps[step].nbytes
            while window.first != NOBODY:
                key = window.first
                other, waiting = self.job_of(key), <int64_t>(key & STEP_MASK)
                if not fits(window, other.steps[waiting].nbytes):
                    break
                window.first = other.steps[waiting].behind
                self.push(self.serve(other, waiting, key, now))
            position += 1

    cdef inline void arrive(self, Job *job, int64_t step, int64_t now) noexcept nogil:
        """A step is ready: it arrives at its first resource, or (a join) finishes where it stands."""
        cdef uint64_t key = (<uint64_t>job.order << ORDER_SHIFT) | <uint64_t>step
        cdef Step *one = &job.steps[step]
        cdef Event event
        event.time = now
        event.key = key
        PREFETCH(&job.succ_start[step])
        one.position = one.begin
        one.prev_done = now
        job.start_ps[step] = job.finish_ps[step] = now
        if one.begin < one.end:
            event.key |= ARRIVAL | (<uint64_t>one.priority << PRIORITY_SHIFT)
        self.push(event)

    cdef inline Event serve(self, Job *job, int64_t step, uint64_t key, int64_t now) noexcept nogil:
        """Grant the resource that `step` has reached; return its next arrival, or its finish."""
        cdef Step *one = &job.steps[step]
        cdef int32_t position = one.position
        cdef int32_t number = job.route_resources[position]
        cdef Resource *resource = &self.resources[number]
        cdef int64_t start, service, head, done, edge
        cdef Access access
        cdef Origin origin
        cdef Event event
        if resource.kind == MEMORY:
            start = now
            service = job.counters.dram_busy_ps
            access = Access(one.address, one.nbytes, 1, 0, NULL, one.write)
            if one.scattered:
                access.runs, access.stride = job.runs[step], job.stride[step]
                access.run_bytes //= access.runs
                if job.gather[step] >= 0:
                    access.places = job.gather_offsets + job.gather[step]
            origin = Origin(job.room[step], job.partition[step])
            memory_access(resource.memory, &job.counters, now, &access, one.weight, &origin, &head, &done)
            service = job.counters.dram_busy_ps - service
            head += resource.latency_ps
        elif resource.kind == WINDOW:
            resource.held += one.nbytes
            start = head = done = now
            service = 0
        else:
            if resource.kind == UNIT:
                service = one.work_ps
            else:
                service = max(1, (one.nbytes * resource.as_per_byte + AS_PER_PS - 1) // AS_PER_PS)
            start = max(now, resource.free_at)
            resource.free_at = done = start + service
            service *= one.weight
            head = start + resource.latency_ps
        done = max(done, one.prev_done) + resource.latency_ps
        job.busy_ps[number] += service
        if position == one.begin:
            job.start_ps[step] = start
        position += 1
        if position == one.end:
            event.time = job.finish_ps[step] = max(done, now + 1)
            event.key = key & (ORDER_MASK << ORDER_SHIFT | STEP_MASK)
            for edge in range(job.succ_start[step], job.succ_start[step + 1]):
                PREFETCH(&job.steps[job.succs[edge]])
        else:
            event.time = max(head, now + 1)
            event.key = key
            one.position = position
            one.prev_done = done
        return event

    cdef inline Job *job_of(self, uint64_t key) noexcept nogil:
        cdef uint64_t order = (key >> ORDER_SHIFT) & ORDER_MASK
        cdef Job *job = self.jobs
        while job.order != order:
            job += 1
        return job

    # --- heap -------------------------------------------------------------------------------------------------

    cdef inline void push(self, Event event) noexcept nogil:
        cdef int64_t at = self.heap_size
        cdef int64_t parent
        self.heap_size += 1
        while at > 0:
            parent = (at - 1) // BRANCHES
            if not before(event, self.heap[parent]):
                break
            self.heap[at] = self.heap[parent]
            at = parent
        self.heap[at] = event

    cdef inline void pop(self) noexcept nogil:
        self.heap_size -= 1
        if self.heap_size:
            self.replace_top(self.heap[self.heap_size])

    cdef inline void replace_top(self, Event event) noexcept nogil:
        cdef Event *heap = self.heap
        cdef int64_t at = 0
        cdef int64_t child = 1
        cdef int64_t least, other
        while child + BRANCHES <= self.heap_size:
            least = child + before(heap[child + 1], heap[child])
            other = child + 2 + before(heap[child + 3], heap[child + 2])
            least += (other - least) * before(heap[other], heap[least])
            if not before(heap[least], event):
                heap[at] = event
                return
            heap[at] = heap[least]
            at = least
            child = BRANCHES * at + 1
        if child < self.heap_size:  # fewer than all branches
            least = child
            for other in range(child + 1, self.heap_size):
                if before(heap[other], heap[least]):
                    least = other
            if before(heap[least], event):
                heap[at] = heap[least]
                at = least
        heap[at] = event
