// Runs a launch: a fiber for each thread of a block, block after block, in the order that the schedule names.
//
// A fiber that has to wait clears its bit among the ready threads and switches straight to the next one. The fiber that arrives last
// at a barrier or collective does its work, marks the others ready and goes on without a switch.
#include "fibers.h"

#include <cstdarg>
#include <link.h>
#include <sys/mman.h>

#if !defined(__x86_64__)
#error "the shim switches fibers on x86-64 only"
#endif

asm(R"(
.text
.globl shim_switch
.hidden shim_switch
.type shim_switch,@function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch,.-shim_switch
)");
extern "C" void shim_switch(void** saved, void* to);

namespace shim {

thread_local Thread* current __attribute__((tls_model("initial-exec")));

namespace {

constexpr size_t STACK = 64 << 10;
constexpr size_t PAGE = 4096;

uint32_t random_word(Executor& e) {
    e.random ^= e.random << 13;
    e.random ^= e.random >> 7;
    e.random ^= e.random << 17;
    return (uint32_t)(e.random >> 32);
}

Fiber* lowest(Executor& e, uint32_t warp) { return &e.fibers[warp * 32 + __builtin_ctz(e.warps[warp].ready)]; }

/// The ready fiber that follows `from` in the order of threads, cyclically.
Fiber* forward(Executor& e, uint32_t from) {
    const uint32_t warp = from / 32, lane = from % 32;
    if (const uint32_t later = e.warps[warp].ready & (lane == 31 ? 0 : ~0u << (lane + 1))) {
        return &e.fibers[warp * 32 + __builtin_ctz(later)];
    }
    for (uint32_t i = 1; i <= e.warp_count; i++) {
        const uint32_t w = warp + i < e.warp_count ? warp + i : warp + i - e.warp_count;
        if (e.warps[w].ready) return lowest(e, w);
    }
    return nullptr;
}

Fiber* backward(Executor& e, uint32_t from) {
    const uint32_t warp = from / 32, lane = from % 32;
    if (const uint32_t earlier = e.warps[warp].ready & ((1u << lane) - 1)) {
        return &e.fibers[warp * 32 + 31 - __builtin_clz(earlier)];
    }
    for (uint32_t i = 1; i <= e.warp_count; i++) {
        const uint32_t w = warp >= i ? warp - i : warp + e.warp_count - i;
        if (e.warps[w].ready) return &e.fibers[w * 32 + 31 - __builtin_clz(e.warps[w].ready)];
    }
    return nullptr;
}

Fiber* any(Executor& e) {
    const uint32_t start = random_word(e) % e.warp_count;
    for (uint32_t i = 0; i < e.warp_count; i++) {
        const uint32_t w = (start + i) % e.warp_count, ready = e.warps[w].ready;
        if (!ready) continue;
        const uint32_t turn = random_word(e) & 31;
        const uint32_t turned = turn ? ready >> turn | ready << (32 - turn) : ready;
        return &e.fibers[w * 32 + ((__builtin_ctz(turned) + turn) & 31)];
    }
    return nullptr;
}

Fiber* any_warp(Executor& e) {
    const uint32_t start = random_word(e) % e.warp_count;
    for (uint32_t i = 0; i < e.warp_count; i++) {
        const uint32_t w = (start + i) % e.warp_count;
        if (e.warps[w].ready) return lowest(e, w);
    }
    return nullptr;
}

Fiber* first(Executor& e) {
    switch (e.order) {
        case Order::Reverse: return backward(e, 0);
        case Order::Random: return any(e);
        case Order::WarpsRandom: return any_warp(e);
        case Order::Warps:
        case Order::Forward: break;
    }
    return &e.fibers[0];
}

Fiber* next(Executor& e, uint32_t from) {
    switch (e.order) {
        case Order::Forward: return forward(e, from);
        case Order::Reverse: return backward(e, from);
        case Order::Random: return any(e);
        case Order::Warps:
            if (e.warps[from / 32].ready) return lowest(e, from / 32);
            return forward(e, from | 31);
        case Order::WarpsRandom:
            if (e.warps[from / 32].ready) return lowest(e, from / 32);
            return any_warp(e);
    }
    return nullptr;
}

/// Leaves this fiber for the next one, or for `run` if none can go on.
void leave(Executor& e, Fiber& self) {
    Fiber* to = next(e, self.thread.linear);
    if (to == &self) return;
    if (to) {
        current = &to->thread;
        shim_switch(&self.stack, to->stack);
    } else {
        shim_switch(&self.stack, e.main_stack);
    }
}

void finish_block_barrier(Executor& e) {
    e.barrier_result = e.barrier_votes;
    e.barrier_arrived = e.barrier_votes = 0;
    e.barrier_number++;
    for (uint32_t w = 0; w < e.warp_count; w++) e.warps[w].ready |= e.warps[w].at_barrier;
    for (uint32_t w = 0; w < e.warp_count; w++) e.warps[w].at_barrier = 0;
}

void fiber_main() {
    Executor& e = running();
    e.launch->kernel->trampoline(e.launch->kernel->function, e.launch->arguments);
    Fiber& self = self_fiber();
    Warp& warp = *self.thread.warp;
    const uint32_t bit = 1u << self.thread.lane;
    if (self.copy_count && e.error.empty()) fail("cp.async copies were never waited for");
    warp.alive &= ~bit;
    warp.ready &= ~bit;
    self.where = nullptr;
    e.alive--;
    if (e.alive && e.barrier_arrived == e.alive) finish_block_barrier(e);
    leave(e, self);
    abort();
}

void set_up(Executor& e) {
    const size_t bytes = STACK * THREADS_MAX;
    void* stacks = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) abort();
    e.stacks = static_cast<char*>(stacks);
    for (size_t i = 0; i < THREADS_MAX; i++) mprotect(e.stacks + i * STACK, PAGE, PROT_NONE);
    e.fibers.reset(new Fiber[THREADS_MAX]);
    catch_faults();
}

void start_block(Executor& e, const Launch& launch, uint64_t number) {
    const dim3 grid = launch.grid, size = launch.block;
    const uint32_t threads = size.x * size.y * size.z;
    e.block.index = {(unsigned)(number % grid.x), (unsigned)(number / grid.x % grid.y), (unsigned)(number / grid.x / grid.y)};
    e.block_number = (uint32_t)number;
    e.alive = threads;
    e.barrier_arrived = e.barrier_votes = e.barrier_number = 0;
    for (auto& barrier : e.named) barrier = {};
    e.bulk = {};
    if (launch.dynamic_bytes) memset(e.block.dynamic, 0xff, launch.dynamic_bytes);
    for (uint32_t w = 0; w < e.warp_count; w++) {
        const uint32_t lanes = threads - w * 32;
        Warp& warp = e.warps[w];
        warp.alive = warp.ready = lanes >= 32 ? FULL_MASK : (1u << lanes) - 1;
        warp.arrived = warp.at_barrier = warp.behind = warp.interval = 0;
        warp.products = {};
    }
    for (uint32_t i = 0; i < threads; i++) {
        Fiber& f = e.fibers[i];
        f.thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
        f.thread.linear = i;
        f.thread.lane = i % 32;
        f.thread.warp = &e.warps[i / 32];
        f.thread.block = &e.block;
        f.copy_group = f.copy_count = 0;
        f.where = "its start";
        // The tops are staggered: at equal offsets of 64 KiB all of them would fall into one set of the first-level cache.
        void** top = reinterpret_cast<void**>(e.stacks + (i + 1) * STACK - 64 - i % 61 * 192);
        *--top = nullptr;
        *--top = reinterpret_cast<void*>(&fiber_main);
        f.stack = top - 6;
    }
}

std::string deadlock(Executor& e) {
    for (uint32_t i = 0; i < e.warp_count * 32; i++) {
        if (!(e.warps[i / 32].alive >> i % 32 & 1)) continue;
        char text[300];
        snprintf(text, sizeof text, "deadlock: %u threads wait for ever; thread %u at %s in block %u,%u,%u", e.alive, i,
                 e.fibers[i].where ? e.fibers[i].where : "?", e.block.index.x, e.block.index.y, e.block.index.z);
        return text;
    }
    return "deadlock";
}

int find_tls(dl_phdr_info* info, size_t, void* data) {
    auto* library = static_cast<const Library*>(data);
    const uintptr_t base = info->dlpi_addr;
    if (base != library->code_low || !info->dlpi_tls_data) return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
        watch.tls_low = (uintptr_t)info->dlpi_tls_data;
        watch.tls_high = watch.tls_low + info->dlpi_phdr[i].p_memsz;
    }
    return 1;
}

void begin_watch(Executor& e, Device& device, const Launch& launch) {
    watch = {};
    watch.device = &device;
    watch.stacks_low = (uintptr_t)e.stacks;
    watch.stacks_high = watch.stacks_low + STACK * THREADS_MAX;
    watch.code_low = launch.library->code_low;
    watch.code_high = launch.library->code_high;
    watch.dynamic_low = (uintptr_t)e.block.dynamic;
    watch.dynamic_high = watch.dynamic_low + launch.dynamic_bytes;
    watch.launch = ++device.launch_number;
}

std::vector<uint32_t> block_order(Executor& e, uint64_t blocks) {
    std::vector<uint32_t> order(blocks);
    for (uint64_t i = 0; i < blocks; i++) order[i] = (uint32_t)(e.order == Order::Reverse ? blocks - 1 - i : i);
    if (e.order == Order::Random || e.order == Order::WarpsRandom) {
        for (uint64_t i = blocks; i > 1; i--) std::swap(order[i - 1], order[random_word(e) % i]);
    }
    return order;
}

}  // namespace

thread_local Watch watch;

void find_static_shared() {
    const Library* library = running().launch->library;
    dl_iterate_phdr(find_tls, const_cast<Library*>(library));
}

Executor::~Executor() {
    if (stacks) munmap(stacks, STACK * THREADS_MAX);
}

Executor& executor() {
    // Behind a pointer: `current` makes all of this library's thread-local storage static, of which a loaded library gets little.
    static thread_local std::unique_ptr<Executor> e;
    if (!e) e.reset(new Executor());
    return *e;
}

void wait(Executor& e, const char* where) {
    Fiber& self = self_fiber();
    self.where = where;
    self.thread.warp->ready &= ~(1u << self.thread.lane);
    leave(e, self);
}

void fail(const char* format, ...) {
    char text[512], place[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    Executor& e = running();
    const uint3 t = current->index, b = current->block->index;
    snprintf(place, sizeof place, " (block %u,%u,%u thread %u,%u,%u)", b.x, b.y, b.z, t.x, t.y, t.z);
    if (e.error.empty()) e.error = std::string(text) + place;
    void* nowhere;
    shim_switch(&nowhere, e.main_stack);
    abort();
}

bool running_a_kernel() { return current != nullptr; }

void block_barrier() { block_barrier_count(false); }

uint32_t block_barrier_count(bool predicate) {
    Executor& e = running();
    e.barrier_votes += predicate;
    if (++e.barrier_arrived == e.alive) {
        finish_block_barrier(e);
    } else {
        current->warp->at_barrier |= 1u << current->lane;
        wait(e, "__syncthreads");
    }
    return e.barrier_result;
}

void named_barrier(uint32_t id, uint32_t threads) {
    Executor& e = running();
    if (id == 0 || id >= NAMED_BARRIERS) fail("barrier %u: there are 1 to %u", id, NAMED_BARRIERS - 1);
    NamedBarrier& barrier = e.named[id];
    if (++barrier.arrived == threads) {
        for (uint32_t w = 0; w < e.warp_count; w++) e.warps[w].ready |= barrier.waiting[w];
        barrier = {};
        e.barrier_number++;
    } else {
        barrier.waiting[current->linear / 32] |= 1u << current->lane;
        wait(e, "a named barrier");
    }
}

std::string run(Device& device, const Launch& launch) {
    const uint64_t blocks = (uint64_t)launch.grid.x * launch.grid.y * launch.grid.z;
    const uint32_t threads = launch.block.x * launch.block.y * launch.block.z;
    Executor& e = executor();
    if (!e.stacks) set_up(e);
    e.error.clear();
    e.order = device.schedule.order;
    e.copies_early = device.schedule.copies_early;
    e.checked = launch.library->checked;
    e.random = 0x9E3779B97F4A7C15ull * (device.schedule.seed + 1) | 1;
    e.launch = &launch;
    e.warp_count = (threads + 31) / 32;
    e.block = {};
    e.block.size = launch.block;
    e.block.grid = launch.grid;
    e.block.dynamic = launch.dynamic_bytes ? device.memory.allocate(launch.dynamic_bytes) : nullptr;
    e.block.dynamic_bytes = launch.dynamic_bytes;
    begin_watch(e, device, launch);
    for (const uint32_t number : block_order(e, blocks)) {
        start_block(e, launch, number);
        Fiber* start = first(e);
        current = &start->thread;
        shim_switch(&e.main_stack, start->stack);
        if (!e.error.empty()) break;
        if (e.alive) {
            e.error = deadlock(e);
            break;
        }
        e.error = block_leftovers(e);
        if (!e.error.empty()) break;
    }
    current = nullptr;
    if (e.block.dynamic) device.memory.release(e.block.dynamic);
    return e.error;
}

uint32_t barrier_interval() { return running().barrier_number; }
uint32_t warp_interval() { return current->warp->interval; }
uint32_t block_number() { return running().block_number; }

}  // namespace shim
