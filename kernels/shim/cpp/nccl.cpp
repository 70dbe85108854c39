// Stands in for libnccl.so.2: what a collective needs of several devices, by copies between their memories. In order on the
// streams, and captured by them. Keeps NCCL's rules. All ranks must make the same calls in the same order. A rank waits, on its
// device, until all are there. An abort ends the waiting of its own rank only; abort and destroy return once the graphs are gone
// that captured a collective of theirs.
#include "driver.h"

#include <chrono>
#include <condition_variable>
#include <set>
#include <thread>

using namespace shim;

namespace {

enum : int { SUCCESS = 0, UNHANDLED_CUDA_ERROR = 1, INVALID_ARGUMENT = 4, INVALID_USAGE = 5 };
enum : int { FLOAT32 = 7 };

struct Call {
    const char* from;
    char* to;
    size_t count;
    int type;
};

struct Group {
    std::mutex lock;
    std::condition_variable moved;
    int arrived = 0;
    uint64_t round = 0;
    std::vector<Call> calls;
    std::vector<bool> parted;
    std::vector<Device*> devices;
    std::string error;
};

struct Comm {
    std::shared_ptr<Group> group;
    int rank;
    // As many owners as collectives that a graph has captured, and this.
    std::shared_ptr<int> captured = std::make_shared<int>(0);
};

bool holds(Device& d, const void* from, size_t bytes) {
    uintptr_t low, high;
    return d.memory.live((uintptr_t)from, bytes, &low, &high);
}

/// What is wrong with the calls that the ranks made, or nothing.
std::string compare(const Group& g) {
    for (size_t rank = 0; rank < g.calls.size(); rank++) {
        const Call &first = g.calls[0], &call = g.calls[rank];
        const std::string who = "rank " + std::to_string(rank);
        if (call.count != first.count || call.type != first.type) {
            return who + " gathers " + std::to_string(call.count) + " of type " + std::to_string(call.type) + ", rank 0 " +
                   std::to_string(first.count) + " of type " + std::to_string(first.type);
        }
        const size_t bytes = call.count * sizeof(float);
        const bool whole = holds(*g.devices[rank], call.from, bytes) && holds(*g.devices[rank], call.to, bytes * g.calls.size());
        if (!whole) return who + " gathers " + std::to_string(bytes) + " bytes a rank outside its device's memory";
        // A rank's own part may lie where it belongs, or apart from all parts.
        const char *own = call.to + rank * bytes, *end = call.to + g.calls.size() * bytes;
        if (call.from != own && call.from < end && call.from + bytes > call.to) return who + " gathers over its own part";
    }
    return {};
}

/// One rank's arrival at a collective; the last one to arrive copies for all.
Result meet(Group& g, int rank, const Call& call) {
    Device& d = *g.devices[(size_t)rank];
    std::unique_lock<std::mutex> guard(g.lock);
    // As a kernel whose communicator is aborted: it ends, and what it should have written means nothing.
    const auto parted = [&] { return (bool)g.parted[(size_t)rank]; };
    if (parted()) return OK;
    g.calls[(size_t)rank] = call;
    const uint64_t round = g.round;
    if (++g.arrived == (int)g.calls.size()) {
        if (g.error.empty()) g.error = compare(g);
        if (g.error.empty()) {
            const size_t bytes = call.count * sizeof(float);
            for (const Call& to : g.calls) {
                for (size_t from = 0; from < g.calls.size(); from++) memmove(to.to + from * bytes, g.calls[from].from, bytes);
            }
        }
        g.arrived = 0;
        g.round++;
        g.moved.notify_all();
    } else {
        g.moved.wait(guard, [&] { return g.round != round || parted(); });
        if (g.round == round) g.arrived--;
    }
    if (g.error.empty()) return OK;
    // NCCL would hang here, or give nonsense.
    note_error(d, LAUNCH_FAILED, "nccl: " + g.error);
    return LAUNCH_FAILED;
}

int part(Comm* comm) {
    {
        std::lock_guard<std::mutex> guard(comm->group->lock);
        comm->group->parted[(size_t)comm->rank] = true;
        comm->group->moved.notify_all();
    }
    while (comm->captured.use_count() > 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    delete comm;
    return SUCCESS;
}

}  // namespace

#define NCCL extern "C" SHIM_API int

NCCL ncclGetVersion(int* version) {
    *version = 29999;  // 2.99.99: none that NVIDIA made
    return SUCCESS;
}
extern "C" SHIM_API const char* ncclGetErrorString(int code) {
    switch (code) {
        case SUCCESS: return "no error";
        case UNHANDLED_CUDA_ERROR: return "unhandled cuda error";
        case INVALID_ARGUMENT: return "invalid argument";
        case INVALID_USAGE: return "invalid usage";
        default: return "unknown result code";
    }
}
NCCL ncclCommInitAll(Comm** comms, int count, const int* ordinals) {
    if (!comms || !ordinals || count < 1) return INVALID_ARGUMENT;
    if (std::set<int>(ordinals, ordinals + count).size() != (size_t)count) return INVALID_USAGE;
    auto group = std::make_shared<Group>();
    for (int rank = 0; rank < count; rank++) {
        if (ordinals[rank] < 0 || ordinals[rank] >= DEVICES) return INVALID_ARGUMENT;
        group->devices.push_back(&device(ordinals[rank]));
    }
    group->calls.resize((size_t)count);
    group->parted.resize((size_t)count);
    for (int rank = 0; rank < count; rank++) comms[rank] = new Comm{group, rank};
    return SUCCESS;
}
NCCL ncclAllGather(const void* from, void* to, size_t count, int type, Comm* comm, void* handle) {
    Stream* s = stream_of(handle);
    if (!comm || !s || type != FLOAT32) return INVALID_ARGUMENT;
    const auto group = comm->group;
    const int rank = comm->rank;
    if (s->device != group->devices[(size_t)rank]) return INVALID_ARGUMENT;
    ENTER(*s->device);
    const Call call{static_cast<const char*>(from), static_cast<char*>(to), count, type};
    const std::shared_ptr<int> held = s->capture ? comm->captured : nullptr;
    const Result put_there = put(s, [group, rank, call, held] { return meet(*group, rank, call); });
    return put_there == OK ? SUCCESS : UNHANDLED_CUDA_ERROR;
}
NCCL ncclCommAbort(Comm* comm) { return comm ? part(comm) : SUCCESS; }
NCCL ncclCommDestroy(Comm* comm) { return comm ? part(comm) : SUCCESS; }
