// Device memory: a range of addresses for each device, with room between allocations, every byte of which begins as 0xff: a
// NaN as f32 and as bf16, so that what was never written shows up in the results.
#include "runtime.h"

#include <algorithm>
#include <sys/mman.h>
#include <unistd.h>

namespace shim {

namespace {

constexpr size_t RANGE = 1ull << 36;
constexpr size_t GAP = 512, ALIGN = 512;
// From this size on an allocation is mapped from a file of 0xff, so that memory that is not touched costs nothing.
constexpr size_t MAPPED = 8 << 20;
constexpr size_t PAGE = 4096;
constexpr size_t PATTERN = 16 << 20;

size_t capacity(size_t bytes) {
    if (bytes >= MAPPED) return (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
    return (bytes + ALIGN - 1) / ALIGN * ALIGN + GAP;
}

int pattern_file() {
    static const int file = [] {
        const int f = memfd_create("antiphon-cuda-shim", MFD_CLOEXEC);
        if (f < 0 || ftruncate(f, PATTERN) != 0) return -1;
        void* p = mmap(nullptr, PATTERN, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
        if (p == MAP_FAILED) return -1;
        memset(p, 0xff, PATTERN);
        munmap(p, PATTERN);
        return f;
    }();
    return file;
}

void fill(uintptr_t at, size_t bytes) {
    if (bytes < MAPPED || pattern_file() < 0) {
        memset(reinterpret_cast<void*>(at), 0xff, bytes);
        return;
    }
    for (size_t done = 0; done < bytes; done += PATTERN) {
        const size_t part = std::min(PATTERN, (bytes - done + PAGE - 1) / PAGE * PAGE);
        void* to = reinterpret_cast<void*>(at + done);
        if (mmap(to, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, pattern_file(), 0) == MAP_FAILED) {
            memset(to, 0xff, std::min(part, bytes - done));
        }
    }
}

void give_back(uintptr_t at, size_t bytes) {
    void* to = reinterpret_cast<void*>(at);
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (bytes >= MAPPED) mmap(to, (bytes + PAGE - 1) / PAGE * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0);
}

}  // namespace

void Arena::reserve() {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* range = mmap(nullptr, RANGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (range == MAP_FAILED) {
        perror("cuda shim: no room for a device's addresses");
        abort();
    }
    low_ = (uintptr_t)range;
    high_ = low_ + RANGE;
    top_ = low_ + PAGE;
}

unsigned char* Arena::allocate(size_t bytes) {
    std::lock_guard<std::mutex> guard(lock_);
    if (!low_) reserve();
    const size_t need = capacity(bytes);
    uintptr_t at;
    const auto found = free_.find(need);
    if (found != free_.end()) {
        at = found->second;
        free_.erase(found);
    } else {
        if (bytes >= MAPPED) top_ = (top_ + PAGE - 1) / PAGE * PAGE;
        at = top_;
        if (need > high_ - at) return nullptr;
        top_ += need;
    }
    live_[at] = bytes;
    used_ += bytes;
    fill(at, bytes);
    return reinterpret_cast<unsigned char*>(at);
}

bool Arena::release(void* pointer) {
    std::lock_guard<std::mutex> guard(lock_);
    const auto found = live_.find((uintptr_t)pointer);
    if (found == live_.end()) return false;
    give_back(found->first, found->second);
    free_.emplace(capacity(found->second), found->first);
    used_ -= found->second;
    live_.erase(found);
    return true;
}

void Arena::clear() {
    std::lock_guard<std::mutex> guard(lock_);
    if (!low_) return;
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    mmap(reinterpret_cast<void*>(low_), top_ - low_, PROT_READ | PROT_WRITE, flags, -1, 0);
    live_.clear();
    free_.clear();
    top_ = low_ + PAGE;
    used_ = 0;
}

bool Arena::live(uintptr_t address, size_t bytes, uintptr_t* low, uintptr_t* high) {
    std::lock_guard<std::mutex> guard(lock_);
    auto after = live_.upper_bound(address);
    if (after == live_.begin()) return false;
    --after;
    *low = after->first;
    *high = after->first + after->second;
    return address + bytes <= *high;
}

size_t Arena::size_of(void* pointer) {
    std::lock_guard<std::mutex> guard(lock_);
    const auto found = live_.find((uintptr_t)pointer);
    return found == live_.end() ? 0 : found->second;
}

}  // namespace shim
