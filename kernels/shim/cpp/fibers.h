// One launch at work on one system thread.
#pragma once

#include "hopper.h"
#include "runtime.h"

namespace shim {

constexpr uint32_t FULL_MASK = 0xffffffffu;
constexpr uint32_t NAMED_BARRIERS = 16;

struct Warp {
    uint32_t ready, alive, at_barrier;
    // The collective that some lanes have come to: which lanes belong to it, which are there, what it is.
    uint32_t mask, arrived;
    const void* operation;
    uint32_t behind;    // lanes that wait for another group's collective to end
    uint32_t interval;  // counts __syncwarp
    uint64_t in[32], out[32];
    int argument[32];
    void* pointer[32];
    Products products;
};

struct Copy {
    void* to;
    const void* from;
    uint32_t bytes, bytes_read, group;
};

struct Fiber {
    Thread thread;  // first: `current` is cast back to its fiber
    void* stack;
    const char* where;
    uint32_t copy_group, copy_count;
    Copy copies[COPIES_MAX];
};

struct NamedBarrier {
    uint32_t arrived;
    uint32_t waiting[WARPS_MAX];
};

struct Executor {
    Block block;  // first: a thread's block is cast back to its executor
    const Launch* launch;
    uint32_t warp_count, alive, block_number;
    uint32_t barrier_arrived, barrier_votes, barrier_result, barrier_number;
    Order order;
    bool copies_early, checked;
    uint64_t random;
    void* main_stack;
    char* stacks = nullptr;  // go with their system thread: with their guards they are 2,048 of the 65,530 mappings of a process
    std::unique_ptr<Fiber[]> fibers;
    Warp warps[WARPS_MAX];
    NamedBarrier named[NAMED_BARRIERS];
    BulkCopies bulk;
    std::string error;
    ~Executor();
};

/// This system thread's own.
Executor& executor();
/// The same, quicker, inside a kernel.
inline Executor& running() { return *reinterpret_cast<Executor*>(current->block); }
inline Fiber& self_fiber() { return *reinterpret_cast<Fiber*>(current); }
/// Takes this fiber off the ready ones until it is put back.
void wait(Executor& e, const char* where);
/// Waits until every lane of the mask has called the same operation; true in the last one, which works for all and then calls
/// `end_meeting`.
bool meet(uint32_t mask, const void* operation, const char* name);
void end_meeting(Warp& warp);
/// `c += a b`, 16 x 16 times 16 x 8: sums go along k in its order, one rounding a step where the machine has fused products.
void add_products(const float (&a)[16][16], const float (&b)[16][8], float (&c)[16][8]);
/// The fragments of `mma_16816` as a matrix, from one lane's registers.
void place_a(float (&a)[16][16], uint32_t lane, const uint32_t* from);
/// What hopper.cpp finds wrong with a block that has ended; empty if nothing.
std::string block_leftovers(Executor& e);
/// Turns a segmentation fault inside a kernel into a failed launch.
void catch_faults();

}  // namespace shim
