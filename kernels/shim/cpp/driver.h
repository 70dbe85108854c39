// The driver's objects. A context is its device; a stream is a list of work that runs when it is waited for, so that a
// forgotten synchronisation shows as stale data.
#pragma once

#include "runtime.h"

#include <deque>
#include <functional>

namespace shim {

typedef int Result;
enum : int {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNJOINED = 904,
};

using Work = std::function<Result()>;

struct Graph {
    std::vector<Work> work;
};

struct Capture {
    Graph graph;
    Stream* origin;
    bool invalid = false;
};

struct Stream {
    Device* device;
    bool blocking;  // waits for the default stream, and it for this one
    std::deque<Work> queue;
    std::shared_ptr<Capture> capture;
};

struct Event {
    Device* device = nullptr;
    Stream* stream = nullptr;
    std::shared_ptr<Capture> capture;
    // Records of this event that were put into the stream, and that have been reached.
    uint64_t recorded = 0, reached = 0;
    bool asked = false;
    double seconds = 0;
};

struct Function {
    Device* device;
    std::string image, name;
    int dynamic_max = 48 << 10;
    const Kernel* kernel;
};

struct Module {
    Device* device;
    std::string image, program;
    std::vector<std::unique_ptr<Function>> functions;
};

typedef uint64_t Pointer;

/// What a compute capability has of a multiprocessor. Source: CUDA C++ Programming Guide 13.0, table of technical specifications.
struct Multiprocessor {
    size_t shared_bytes;  // a block that asked gets 1 KiB less
    int threads, blocks;
};
Multiprocessor multiprocessor(const Device& device);
/// Most shared memory of a block that asked for it.
inline size_t shared_max(const Device& device) { return multiprocessor(device).shared_bytes - 1024; }

/// The context of this thread, or null.
Device* context();
SHIM_API Stream* stream_of(void* handle);
/// Puts work into a stream, or into the graph that it captures.
SHIM_API Result put(Stream* stream, Work work);
/// Runs what is in a stream.
Result finish(Stream* stream);
Result finish_all(Device& device);
/// Ends the capture under way on this device, if any, as a call that cannot be captured does.
bool forbidden_in_capture(Device& device);
void reset_streams(Device& device);
SHIM_API void note_error(Device& device, Result code, const std::string& message);
/// The driver's version as cuDriverGetVersion says it.
int version();
/// Shows so many devices to callers of the driver.
void show_devices(int count);
/// Takes over what ANTIPHON_SHIM says, the first time.
void read_environment();
/// Plants the fault that ANTIPHON_SHIM's file asks for, if it is there.
void look_for_fault(Device& device);
/// Whether a planted fault refuses this launch, of a kernel or of a graph.
bool is_refused(Device& device);

}  // namespace shim

#define API extern "C" SHIM_API shim::Result
#define ENTER(device)                                          \
    (device).calls++;                                          \
    std::lock_guard<std::recursive_mutex> enter_lock((device).lock)
#define ENTER_CONTEXT()                              \
    shim::Device* d = shim::context();               \
    if (!d) return shim::INVALID_CONTEXT;            \
    ENTER(*d)
