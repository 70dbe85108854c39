// The memory and race checker. Kernels built with -fsanitize=thread call these hooks at every load and store; they stand in
// for that sanitizer's own library.
//
// An access must lie in a live allocation, in shared memory, on the fiber's stack or among the constants. Two accesses to a
// byte, one of them a write, race if nothing orders them: two blocks of a launch; two warps of a block between the same block
// barriers; two lanes of a warp between the same __syncwarps. A shuffle orders nothing, as in CUDA's memory model.
#include "runtime.h"

#include <sys/mman.h>
#include <unordered_map>

namespace shim {

/// The last write and the last reads of one byte.
struct Cell {
    uint32_t launch;
    uint32_t writer, write_barrier, write_warp;
    uint32_t reader, read_barrier, read_warp;  // reader may be a whole warp or a whole block
};

namespace {

constexpr size_t RANGE = 1ull << 36;
// An access is by 1 + block * 1,024 + thread. Readers of several threads of a warp, or of several warps of a block, have these bits.
constexpr uint32_t SEVERAL_LANES = 1u << 31, SEVERAL_WARPS = 1u << 30, WHO = SEVERAL_WARPS - 1;

uint32_t block_of(uint32_t who) { return ((who & WHO) - 1) / 1024; }
uint32_t warp_of(uint32_t who) { return ((who & WHO) - 1) / 32; }

struct Access {
    uint32_t who, barrier, warp;
};

bool ordered(const Access& now, uint32_t who, uint32_t barrier, uint32_t warp) {
    if (!who || who == now.who) return true;
    if (block_of(who) != block_of(now.who)) return false;
    if (barrier != now.barrier) return true;
    if ((who & SEVERAL_WARPS) || warp_of(who) != warp_of(now.who)) return false;
    return warp != now.warp;
}

void report(const char* what, uintptr_t address, uint32_t other) {
    Device& d = *watch.device;
    if (d.races++ >= 4) return;
    const bool shared = !d.memory.contains(address) || (address >= watch.dynamic_low && address < watch.dynamic_high);
    char text[256];
    snprintf(text, sizeof text, "%s in %s memory: block %u thread %u against block %u thread %u%s", what,
             shared ? "shared" : "global", block_number(), current->linear, block_of(other), ((other & WHO) - 1) % 1024,
             other & (SEVERAL_LANES | SEVERAL_WARPS) ? " and others" : "");
    fprintf(stderr, "cuda shim: %s\n", text);
    // Says more than what was there before, such as a name that was looked up in the wrong module.
    if (d.races == 1) d.message = text;
}

void remember_read(Cell& cell, const Access& now) {
    const bool same_block = cell.reader && block_of(cell.reader) == block_of(now.who) && cell.read_barrier == now.barrier;
    uint32_t who = now.who;
    if (same_block && cell.reader != now.who) {
        if ((cell.reader & SEVERAL_WARPS) || warp_of(cell.reader) != warp_of(now.who)) {
            who = now.who | SEVERAL_WARPS;
        } else if (cell.read_warp == now.warp) {
            who = now.who | SEVERAL_LANES;
        }
    }
    cell.reader = who;
    cell.read_barrier = now.barrier;
    cell.read_warp = now.warp;
}

void judge(Cell& cell, const Access& now, uintptr_t address, bool write, bool shared) {
    if (cell.launch != watch.launch) {
        cell = Cell{};
        cell.launch = watch.launch;
    }
    if (shared) {  // a block finds shared memory as if it had not been used
        if (cell.writer && block_of(cell.writer) != block_of(now.who)) cell.writer = 0;
        if (cell.reader && block_of(cell.reader) != block_of(now.who)) cell.reader = 0;
    }
    if (!ordered(now, cell.writer, cell.write_barrier, cell.write_warp)) {
        report(write ? "two writes race" : "a read races with a write", address, cell.writer);
        cell.writer = 0;
        return;
    }
    if (!write) {
        remember_read(cell, now);
        return;
    }
    if (!ordered(now, cell.reader, cell.read_barrier, cell.read_warp)) {
        report("a write races with an earlier read", address, cell.reader);
        cell.reader = 0;
        return;
    }
    cell.writer = now.who;
    cell.write_barrier = now.barrier;
    cell.write_warp = now.warp;
}

/// Shared memory that a kernel declares lies in thread-local storage; its shadow is kept apart, for each system thread.
Cell* static_cells(uintptr_t address) {
    static thread_local std::unordered_map<uintptr_t, std::unique_ptr<Cell[]>> pages;
    auto& page = pages[address >> 10];
    if (!page) page.reset(new Cell[1024 + 16]());
    return page.get() + (address & 1023);
}

bool in(uintptr_t address, uintptr_t low, uintptr_t high) { return address >= low && address < high; }

void touch(uintptr_t address, size_t bytes, bool write, bool aligned) {
    const Watch& w = watch;
    if (!current || in(address, w.stacks_low, w.stacks_high)) return;
    if (aligned && (address & (bytes - 1))) {
        fail("misaligned %s of %zu bytes at %#lx", write ? "write" : "read", bytes, (unsigned long)address);
    }
    watch_access(address, bytes, write);
}

}  // namespace

Cell* Shadow::cells(uintptr_t base, uintptr_t address) {
    if (!device_) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* all = mmap(nullptr, RANGE * sizeof(Cell), PROT_READ | PROT_WRITE, flags, -1, 0);
        if (all == MAP_FAILED) fail("no room for the checker's addresses");
        device_ = static_cast<Cell*>(all);
    }
    return device_ + (address - base);
}

void Shadow::clear() {
    if (device_) munmap(device_, RANGE * sizeof(Cell));
    device_ = nullptr;
}

Shadow::~Shadow() { clear(); }

void watch_access(uintptr_t address, size_t bytes, bool write) {
    Watch& w = watch;
    if (!current || in(address, w.stacks_low, w.stacks_high)) return;
    Device& d = *w.device;
    Cell* cells;
    bool shared = true;
    if (!w.tls_high && !d.memory.contains(address)) find_static_shared();
    if (d.memory.contains(address)) {
        if (!(address >= w.hit_low && address + bytes <= w.hit_high)) {
            if (!d.memory.live(address, bytes, &w.hit_low, &w.hit_high)) {
                w.hit_low = w.hit_high = 0;
                fail("%s of %zu bytes outside every allocation, at %#lx", write ? "write" : "read", bytes,
                     (unsigned long)address);
            }
        }
        shared = in(address, w.dynamic_low, w.dynamic_high);
        cells = d.shadow.cells(d.memory.low(), address);
    } else if (in(address, w.tls_low, w.tls_high)) {
        cells = static_cells(address);
    } else {
        const bool known = in(address, w.code_low, w.code_high) || in(address, (uintptr_t)current, (uintptr_t)(current + 1)) ||
                           in(address, (uintptr_t)current->block, (uintptr_t)(current->block + 1)) ||
                           address == (uintptr_t)&current || host_pinned(address, bytes);
        if (!known) {
            fail("%s of %zu bytes at %#lx, which is neither device memory nor pinned", write ? "write" : "read", bytes,
                 (unsigned long)address);
        }
        return;
    }
    const Access now{1 + block_number() * 1024 + current->linear, barrier_interval(), warp_interval()};
    for (size_t i = 0; i < bytes; i++) judge(cells[i], now, address + i, write, shared);
}

void atomic_access(const volatile void* pointer, uint32_t bytes) {
    const uintptr_t address = (uintptr_t)pointer;
    if (address & (bytes - 1)) fail("misaligned atomic of %u bytes at %#lx", bytes, (unsigned long)address);
    Watch& w = watch;
    if (!w.device->memory.contains(address)) return;
    uintptr_t low, high;
    if (!w.device->memory.live(address, bytes, &low, &high)) {
        fail("atomic of %u bytes outside every allocation, at %#lx", bytes, (unsigned long)address);
    }
}

void memory_fence() {}

}  // namespace shim

#define HOOK(name) SHIM_API void __tsan_##name
extern "C" {
HOOK(init)() {}
HOOK(func_entry)(void*) {}
HOOK(func_exit)() {}
HOOK(vptr_update)(void**, void*) {}
HOOK(vptr_read)(void**) {}
HOOK(read_range)(uintptr_t a, size_t n) { shim::touch(a, n, false, false); }
HOOK(write_range)(uintptr_t a, size_t n) { shim::touch(a, n, true, false); }
#define ACCESSES(n)                                                     \
    HOOK(read##n)(uintptr_t a) { shim::touch(a, n, false, true); }      \
    HOOK(write##n)(uintptr_t a) { shim::touch(a, n, true, true); }      \
    HOOK(unaligned_read##n)(uintptr_t a) { shim::touch(a, n, false, false); } \
    HOOK(unaligned_write##n)(uintptr_t a) { shim::touch(a, n, true, false); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
#define ATOMICS(bits, T)                                                                                              \
    SHIM_API T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }  \
    SHIM_API void __tsan_atomic##bits##_store(volatile T* p, T v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); } \
    SHIM_API int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* c, T v, int, int) {                 \
        return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                      \
    }                                                                                                                 \
    SHIM_API int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* c, T v, int, int) {                   \
        return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                      \
    }
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)
}
