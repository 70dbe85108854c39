// Devices, contexts and errors.
#include "driver.h"

using namespace shim;

namespace {

constexpr size_t MEMORY_BYTES = 1ull << 30;
constexpr int MULTIPROCESSORS = 8;
constexpr int DRIVER_VERSION = 13000;

thread_local Device* current_context;
thread_local Device* last_failed;
std::atomic<int> driver_version{DRIVER_VERSION}, shown{DEVICES};

struct Devices {
    Device all[DEVICES];
    Devices() {
        for (int i = 0; i < DEVICES; i++) {
            all[i].ordinal = i;
            all[i].memory_bytes = MEMORY_BYTES;
            all[i].multiprocessors = MULTIPROCESSORS;
        }
    }
};

int attribute(const Device& d, int which) {
    switch (which) {
        case 1: return (int)THREADS_MAX;    // threads a block
        case 2: case 3: return 1024;        // block x, y
        case 4: return 64;                  // block z
        case 5: return 0x7fffffff;          // grid x
        case 6: case 7: return 65535;       // grid y, z
        case 8: return 48 << 10;            // shared memory a block, without asking
        case 10: return 32;                 // warp
        case 12: return 65536;              // registers a block
        case 16: return d.multiprocessors;
        case 38: return 50 << 20;           // second-level cache
        case 39: return multiprocessor(d).threads;
        case 41: return 1;                  // unified addresses
        case 75: return d.major;
        case 76: return d.minor;
        case 81: return (int)multiprocessor(d).shared_bytes;
        case 82: return 65536;              // registers a multiprocessor
        case 97: return (int)shared_max(d);  // shared memory a block that asked
        case 106: return multiprocessor(d).blocks;
        case 115: return 1;                 // memory pools
        default: return 0;
    }
}

const char* name_of(int code) {
    switch (code) {
        case OK: return "CUDA_SUCCESS";
        case INVALID_VALUE: return "CUDA_ERROR_INVALID_VALUE";
        case OUT_OF_MEMORY: return "CUDA_ERROR_OUT_OF_MEMORY";
        case NO_DEVICE: return "CUDA_ERROR_NO_DEVICE";
        case INVALID_DEVICE: return "CUDA_ERROR_INVALID_DEVICE";
        case INVALID_IMAGE: return "CUDA_ERROR_INVALID_IMAGE";
        case INVALID_CONTEXT: return "CUDA_ERROR_INVALID_CONTEXT";
        case NO_BINARY_FOR_GPU: return "CUDA_ERROR_NO_BINARY_FOR_GPU";
        case INVALID_HANDLE: return "CUDA_ERROR_INVALID_HANDLE";
        case NOT_FOUND: return "CUDA_ERROR_NOT_FOUND";
        case NOT_READY: return "CUDA_ERROR_NOT_READY";
        case ILLEGAL_ADDRESS: return "CUDA_ERROR_ILLEGAL_ADDRESS";
        case LAUNCH_OUT_OF_RESOURCES: return "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
        case LAUNCH_FAILED: return "CUDA_ERROR_LAUNCH_FAILED";
        case NOT_SUPPORTED: return "CUDA_ERROR_NOT_SUPPORTED";
        case CAPTURE_UNSUPPORTED: return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
        case CAPTURE_INVALIDATED: return "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED";
        case CAPTURE_UNJOINED: return "CUDA_ERROR_STREAM_CAPTURE_UNJOINED";
        default: return "CUDA_ERROR_UNKNOWN";
    }
}

}  // namespace

namespace shim {

Device& device(int ordinal) {
    static Devices* devices = new Devices;  // lives as long as the process: streams may outlast static destructors
    return devices->all[ordinal];
}

Device* context() { return current_context; }

int version() { return driver_version; }

Multiprocessor multiprocessor(const Device& d) {
    switch (d.major * 10 + d.minor) {
        case 75: return {64 << 10, 1024, 16};
        case 80: return {164 << 10, 2048, 32};
        case 86: return {100 << 10, 1536, 16};
        case 87: return {164 << 10, 1536, 16};
        case 89: return {100 << 10, 1536, 24};
        case 90: case 100: case 103: return {228 << 10, 2048, 32};
        default: return {100 << 10, 1536, 24};  // 12.x, and the least for what is not listed
    }
}

void show_devices(int count) { shown = count; }

void note_error(Device& d, Result code, const std::string& message) {
    last_failed = &d;
    if (code == LAUNCH_FAILED || code == ILLEGAL_ADDRESS) d.sticky = code;
    d.message = message;
}

}  // namespace shim

API cuInit(unsigned) {
    read_environment();
    return OK;
}
API cuDriverGetVersion(int* version) {
    *version = driver_version;
    return OK;
}
API cuDeviceGetCount(int* count) {
    *count = shown;
    return OK;
}
API cuDeviceGet(int* handle, int ordinal) {
    if (ordinal < 0 || ordinal >= DEVICES) return INVALID_DEVICE;
    *handle = ordinal;
    return OK;
}
API cuDeviceGetName(char* name, int bytes, int) {
    snprintf(name, (size_t)bytes, "CPU shim");
    return OK;
}
API cuDeviceTotalMem_v2(size_t* bytes, int ordinal) {
    *bytes = device(ordinal).memory_bytes;
    return OK;
}
API cuDeviceGetUuid(char* uuid, int ordinal) {
    memset(uuid, ordinal, 16);
    return OK;
}
API cuDeviceGetUuid_v2(char* uuid, int ordinal) { return cuDeviceGetUuid(uuid, ordinal); }
API cuDeviceGetAttribute(int* value, int which, int ordinal) {
    *value = attribute(device(ordinal), which);
    return OK;
}
API cuDeviceCanAccessPeer(int* can, int, int) {
    *can = 1;
    return OK;
}
API cuDevicePrimaryCtxRetain(void** handle, int ordinal) {
    if (ordinal < 0 || ordinal >= DEVICES) return INVALID_DEVICE;
    *handle = &device(ordinal);
    return device(ordinal).sticky;
}
API cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API cuDevicePrimaryCtxReset_v2(int ordinal) {
    // An error that ended a kernel stays with the process, as on a device.
    reset_streams(device(ordinal));
    return device(ordinal).sticky;
}
API cuCtxGetCurrent(void** handle) {
    if (current_context) current_context->calls++;
    *handle = current_context;
    return OK;
}
API cuCtxSetCurrent(void* handle) {
    current_context = static_cast<Device*>(handle);
    return OK;
}
API cuCtxGetDevice(int* ordinal) {
    if (!current_context) return INVALID_CONTEXT;
    *ordinal = current_context->ordinal;
    return OK;
}
API cuCtxSetFlags(unsigned) { return OK; }
API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return OK;
}
API cuCtxEnablePeerAccess(void*, unsigned) { return OK; }
API cuCtxGetLimit(size_t* value, int) {
    *value = 0;
    return OK;
}
API cuCtxSetLimit(int, size_t) { return OK; }
API cuCtxSetCacheConfig(int) { return OK; }
API cuCtxSynchronize() {
    ENTER_CONTEXT();
    if (forbidden_in_capture(*d)) return CAPTURE_UNSUPPORTED;
    return finish_all(*d);
}

API cuGetErrorName(Result code, const char** name) {
    *name = name_of(code);
    return OK;
}
API cuGetErrorString(Result code, const char** text) {
    static thread_local std::string kept;
    const Device* d = current_context ? current_context : last_failed;
    kept = name_of(code);
    if (d && !d->message.empty() && code != OK && code != NOT_READY) kept += ": " + d->message;
    *text = kept.c_str();
    return OK;
}

// ---- what tests turn; bound by the Rust side of this crate

extern "C" {
SHIM_API int shim_device_count() { return DEVICES; }
SHIM_API void shim_reset(int ordinal) {
    Device& d = device(ordinal);
    std::lock_guard<std::recursive_mutex> guard(d.lock);
    reset_streams(d);
    d.memory.clear();
    d.shadow.clear();
    d.schedule = {};
    d.check = false;
    d.memory_bytes = MEMORY_BYTES;
    d.multiprocessors = MULTIPROCESSORS;
    d.major = 9;
    d.minor = 0;
    d.races = d.sticky = 0;
    d.message.clear();
    d.launch_fault = d.allocation_fault = {};
    d.calls = d.launches = 0;
    d.launched.clear();
    d.planted.clear();
}
SHIM_API void shim_set_schedule(int ordinal, int order, unsigned seed, int copies_early) {
    std::lock_guard<std::recursive_mutex> guard(device(ordinal).lock);
    device(ordinal).schedule = {static_cast<Order>(order), seed, copies_early != 0};
}
SHIM_API void shim_set_check(int ordinal, int on) { device(ordinal).check = on != 0; }
SHIM_API void shim_set_memory(int ordinal, size_t bytes) { device(ordinal).memory_bytes = bytes; }
SHIM_API void shim_set_multiprocessors(int ordinal, int count) { device(ordinal).multiprocessors = count; }
SHIM_API void shim_set_capability(int ordinal, int major, int minor) {
    device(ordinal).major = major;
    device(ordinal).minor = minor;
}
SHIM_API void shim_set_driver_version(int version) { driver_version = version ? version : DRIVER_VERSION; }
SHIM_API void shim_plant(int ordinal, const char* image) {
    std::lock_guard<std::recursive_mutex> guard(device(ordinal).lock);
    device(ordinal).planted = image;
}
SHIM_API int shim_races(int ordinal) { return device(ordinal).races; }
SHIM_API long shim_calls(int ordinal) { return device(ordinal).calls; }
SHIM_API long shim_launches(int ordinal) { return device(ordinal).launches; }
SHIM_API long shim_launches_of(int ordinal, const char* name) {
    Device& d = device(ordinal);
    std::lock_guard<std::recursive_mutex> guard(d.lock);
    const auto found = d.launched.find(name);
    return found == d.launched.end() ? 0 : found->second;
}
SHIM_API size_t shim_memory_used(int ordinal) { return device(ordinal).memory.used(); }
SHIM_API void shim_fail_launch(int ordinal, int nth, int code) {
    std::lock_guard<std::recursive_mutex> guard(device(ordinal).lock);
    device(ordinal).launch_fault = {nth, code, code == LAUNCH_FAILED || code == ILLEGAL_ADDRESS};
}
SHIM_API void shim_fail_allocation(int ordinal, int nth) {
    std::lock_guard<std::recursive_mutex> guard(device(ordinal).lock);
    device(ordinal).allocation_fault = {nth, OUT_OF_MEMORY, false};
}
SHIM_API size_t shim_message(int ordinal, char* text, size_t bytes) {
    Device& d = device(ordinal);
    std::lock_guard<std::recursive_mutex> guard(d.lock);
    return (size_t)snprintf(text, bytes, "%s", d.message.c_str());
}
}
