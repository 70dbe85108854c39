// Inside the shim: devices, their memory and their kernels, and how a launch runs.
#pragma once

#include "api.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace shim {

constexpr uint32_t THREADS_MAX = 1024;
constexpr uint32_t WARPS_MAX = THREADS_MAX / 32;
constexpr uint32_t COPIES_MAX = 256;

/// Which fiber runs next whenever a fiber has to wait.
enum class Order : int {
    Warps,    // one warp as far as it gets, then the next: the fastest
    Forward,  // thread after thread
    Reverse,
    Random,
    WarpsRandom,  // one warp as far as it gets, then any other
};

struct Schedule {
    Order order = Order::Warps;
    uint32_t seed = 1;
    bool copies_early = false;  // cp.async writes at once instead of at the wait
};

struct Kernel {
    std::string name, file;
    void* function;
    Trampoline trampoline;
    std::vector<uint32_t> sizes;
};

/// The kernels of one library. `image` is what a module that wants them consists of; empty for the project's own.
struct Library {
    std::string image;
    bool checked;
    std::map<std::string, Kernel> kernels;
    uintptr_t code_low, code_high;  // where its constants may lie
    size_t tls_module;
};

// ---- memory.cpp

/// A device's memory: one range of addresses; allocations lie apart and begin as NaNs.
class SHIM_API Arena {
   public:
    unsigned char* allocate(size_t bytes);
    bool release(void* pointer);
    void clear();
    bool contains(uintptr_t address) const { return address >= low_ && address < high_; }
    /// Whether all of the bytes lie in one live allocation, whose bounds go into `low` and `high`.
    bool live(uintptr_t address, size_t bytes, uintptr_t* low, uintptr_t* high);
    uintptr_t low() const { return low_; }
    size_t used() const { return used_; }
    size_t size_of(void* pointer);

   private:
    void reserve();
    std::mutex lock_;
    std::map<uintptr_t, size_t> live_;
    std::multimap<size_t, uintptr_t> free_;
    uintptr_t low_ = 0, high_ = 0, top_ = 0;
    size_t used_ = 0;
};

bool host_pinned(uintptr_t address, size_t bytes);

// ---- check.cpp

struct Cell;

/// The last accesses to each byte of a device's memory and of a block's shared memory.
class Shadow {
   public:
    Cell* cells(uintptr_t base, uintptr_t address);
    ~Shadow();
    void clear();

   private:
    Cell* device_ = nullptr;
};

struct Device;

/// What the checker needs to know of the launch that runs on this system thread.
struct Watch {
    Device* device;
    uintptr_t stacks_low, stacks_high;
    uintptr_t tls_low, tls_high;
    uintptr_t code_low, code_high;
    uintptr_t dynamic_low, dynamic_high;
    uintptr_t hit_low, hit_high;  // bounds of the allocation last looked up
    uint32_t launch;
};
extern thread_local Watch watch;
/// Looks up where this system thread has the launch's declared shared memory; it comes into being with the first touch.
void find_static_shared();
void watch_access(uintptr_t address, size_t bytes, bool write);
uint32_t barrier_interval();
uint32_t warp_interval();
uint32_t block_number();

// ---- fibers.cpp

struct Launch {
    const Kernel* kernel;
    const Library* library;
    dim3 grid, block;
    uint32_t dynamic_bytes;
    void** arguments;
};

/// Runs all blocks. Returns an empty string, or what went wrong.
std::string run(Device& device, const Launch& launch);

/// Where the signal handler sends a fiber that touched what is not there.
bool running_a_kernel();

// ---- driver.cpp

struct Fault {
    int at = 0;  // counts down; 0: never
    int code = 0;
    bool sticky = false;
};

struct Stream;

struct Device {
    int ordinal;
    std::recursive_mutex lock;
    Arena memory;
    Shadow shadow;
    Schedule schedule;
    bool check = false;
    size_t memory_bytes;
    int multiprocessors;
    int races = 0;
    int sticky = 0;
    std::string message;
    Fault launch_fault, allocation_fault;
    std::atomic<long> calls{0}, launches{0};
    uint32_t launch_number = 0;
    int major = 9, minor = 0;
    std::vector<Stream*> streams;
    std::string planted;  // a library whose kernels stand in for those of the same name in the project's own
    std::map<std::string, long> launched;
};

constexpr int DEVICES = 8;
SHIM_API Device& device(int ordinal);
Library* find_library(const std::string& image, bool checked);

}  // namespace shim
