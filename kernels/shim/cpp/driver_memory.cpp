// Memory of the device and of the host, and copies between them.
#include "driver.h"
#include "hopper.h"

#include <sys/mman.h>

using namespace shim;

namespace {

std::mutex pinned_lock;
std::map<uintptr_t, size_t> pinned;

Result allocate(Device& d, Pointer* pointer, size_t bytes) {
    if (d.sticky) return d.sticky;
    if (!bytes) return INVALID_VALUE;
    const bool fault = d.allocation_fault.at > 0 && --d.allocation_fault.at == 0;
    if (fault || d.memory.used() + bytes > d.memory_bytes) {
        note_error(d, OUT_OF_MEMORY,
                   std::to_string(bytes) + " bytes asked for, " + std::to_string(d.memory_bytes - d.memory.used()) + " free");
        return OUT_OF_MEMORY;
    }
    *pointer = (Pointer)d.memory.allocate(bytes);
    return *pointer ? OK : OUT_OF_MEMORY;
}

/// The device whose memory holds the address.
Device* owner(Pointer p) {
    for (int i = 0; i < DEVICES; i++) {
        if (device(i).memory.contains(p)) return &device(i);
    }
    return nullptr;
}

Result check_range(Pointer p, size_t bytes, const char* what) {
    uintptr_t low, high;
    Device* d = owner(p);
    if (d && d->memory.live(p, bytes, &low, &high)) return OK;
    if (host_pinned(p, bytes)) return OK;
    Device& told = context() ? *context() : device(0);
    note_error(told, INVALID_VALUE, std::string(what) + " of " + std::to_string(bytes) + " bytes leaves its allocation");
    return INVALID_VALUE;
}

Result copy(Stream* s, void* to, const void* from, size_t bytes) {
    return put(s, [=] {
        memcpy(to, from, bytes);
        return OK;
    });
}

Result set(Pointer to, int value, size_t bytes, int width, Stream* s) {
    if (Result r = check_range(to, bytes * (size_t)width, "a memset")) return r;
    return put(s, [=] {
        for (size_t i = 0; i < bytes; i++) memcpy(reinterpret_cast<char*>(to) + i * (size_t)width, &value, (size_t)width);
        return OK;
    });
}

}  // namespace

namespace shim {

bool host_pinned(uintptr_t address, size_t bytes) {
    std::lock_guard<std::mutex> guard(pinned_lock);
    auto after = pinned.upper_bound(address);
    if (after == pinned.begin()) return false;
    --after;
    return address + bytes <= after->first + after->second;
}

}  // namespace shim

#define ENTER_STREAM(handle)        \
    Stream* s = stream_of(handle);  \
    if (!s) return INVALID_CONTEXT; \
    ENTER(*s->device)

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER_CONTEXT();
    *total = d->memory_bytes;
    *free = d->memory_bytes - d->memory.used();
    return d->sticky;
}
API cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
    ENTER_CONTEXT();
    if (forbidden_in_capture(*d)) return CAPTURE_UNSUPPORTED;
    return allocate(*d, pointer, bytes);
}
API cuMemAllocAsync(Pointer* pointer, size_t bytes, void* stream) {
    ENTER_STREAM(stream);
    return allocate(*s->device, pointer, bytes);
}
API cuMemFree_v2(Pointer pointer) {
    if (!pointer) return OK;
    Device* d = owner(pointer);
    if (!d) return INVALID_VALUE;
    ENTER(*d);
    if (forbidden_in_capture(*d)) return CAPTURE_UNSUPPORTED;
    finish_all(*d);
    return d->memory.release(reinterpret_cast<void*>(pointer)) ? OK : INVALID_VALUE;
}
API cuMemFreeAsync(Pointer pointer, void* stream) {
    ENTER_STREAM(stream);
    Device* d = s->device;
    if (d->sticky) {  // what a failed device holds is free at once
        d->memory.release(reinterpret_cast<void*>(pointer));
        return OK;
    }
    return put(s, [=] { return d->memory.release(reinterpret_cast<void*>(pointer)) ? OK : INVALID_VALUE; });
}

API cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    ENTER_CONTEXT();
    const size_t size = (bytes + 4095) / 4096 * 4096;
    *pointer = aligned_alloc(4096, size);
    if (!*pointer) return OUT_OF_MEMORY;
    // So that a read before the copy into it has ended is seen.
    memset(*pointer, 0xff, size);
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned[(uintptr_t)*pointer] = size;
    return d->sticky;
}
API cuMemAllocHost_v2(void** pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }
API cuMemFreeHost(void* pointer) {
    {
        std::lock_guard<std::mutex> guard(pinned_lock);
        const auto found = pinned.find((uintptr_t)pointer);
        if (found == pinned.end()) return INVALID_VALUE;
        // So that a copy out of it that has not ended is seen.
        memset(pointer, 0xff, found->second);
    }
    if (Device* d = context()) {  // copies under way still find memory here
        std::lock_guard<std::recursive_mutex> guard(d->lock);
        finish_all(*d);
    }
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.erase((uintptr_t)pointer);
    free(pointer);
    return OK;
}
API cuMemHostRegister_v2(void* pointer, size_t bytes, unsigned) {
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned[(uintptr_t)pointer] = bytes;
    return OK;
}
API cuMemHostUnregister(void* pointer) {
    std::lock_guard<std::mutex> guard(pinned_lock);
    return pinned.erase((uintptr_t)pointer) ? OK : INVALID_VALUE;
}
API cuMemHostGetDevicePointer_v2(Pointer* device_pointer, void* pointer, unsigned) {
    *device_pointer = (Pointer)pointer;
    return OK;
}

API cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    ENTER_STREAM(stream);
    if (Result r = check_range(to, bytes, "a copy to the device")) return r;
    if (host_pinned((uintptr_t)from, bytes)) return copy(s, reinterpret_cast<void*>(to), from, bytes);
    // Pageable memory is staged: its bytes of now are what arrives.
    auto staged = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return put(s, [=] {
        memcpy(reinterpret_cast<void*>(to), staged->data(), bytes);
        return OK;
    });
}
API cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    ENTER_STREAM(stream);
    if (Result r = check_range(from, bytes, "a copy from the device")) return r;
    const bool pageable = !host_pinned((uintptr_t)to, bytes);
    if (pageable && s->capture) {
        s->capture->invalid = true;
        return CAPTURE_UNSUPPORTED;
    }
    const Result r = copy(s, to, reinterpret_cast<const void*>(from), bytes);
    return r || !pageable ? r : finish(s);
}
API cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
    ENTER_STREAM(stream);
    if (Result r = check_range(to, bytes, "a copy on the device")) return r;
    if (Result r = check_range(from, bytes, "a copy on the device")) return r;
    return copy(s, reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
}
API cuMemcpyAsync(Pointer to, Pointer from, size_t bytes, void* stream) { return cuMemcpyDtoDAsync_v2(to, from, bytes, stream); }
struct Rectangle {
    size_t x, y;
    int kind;
    void* host;
    Pointer device;
    void* array;
    size_t pitch;
};
API cuMemcpy2DAsync_v2(const void* description, void* stream) {
    struct {
        Rectangle from, to;
        size_t bytes, rows;
    } c;
    memcpy(&c, description, sizeof c);
    constexpr int ON_DEVICE = 2;
    ENTER_STREAM(stream);
    if (c.from.kind != ON_DEVICE || c.to.kind != ON_DEVICE) return NOT_SUPPORTED;
    if (c.from.x + c.bytes > c.from.pitch || c.to.x + c.bytes > c.to.pitch) return INVALID_VALUE;
    const auto first = [](const Rectangle& r) { return r.device + r.y * r.pitch + r.x; };
    const auto reach = [&](const Rectangle& r) { return (c.rows - 1) * r.pitch + c.bytes; };
    if (Result r = check_range(first(c.to), reach(c.to), "a copy of columns")) return r;
    if (Result r = check_range(first(c.from), reach(c.from), "a copy of columns")) return r;
    return put(s, [=] {
        for (size_t row = 0; row < c.rows; row++) {
            memcpy(reinterpret_cast<char*>(first(c.to)) + row * c.to.pitch, reinterpret_cast<char*>(first(c.from)) + row * c.from.pitch, c.bytes);
        }
        return OK;
    });
}
API cuMemcpyPeerAsync(Pointer to, void*, Pointer from, void*, size_t bytes, void* stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
API cuMemcpyHtoD_v2(Pointer to, const void* from, size_t bytes) {
    const Result r = cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr);
    return r ? r : finish(stream_of(nullptr));
}
API cuMemcpyDtoH_v2(void* to, Pointer from, size_t bytes) {
    const Result r = cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr);
    return r ? r : finish(stream_of(nullptr));
}
API cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t bytes) {
    const Result r = cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr);
    return r ? r : finish(stream_of(nullptr));
}
API cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void* stream) {
    ENTER_STREAM(stream);
    return set(to, value, bytes, 1, s);
}
API cuMemsetD32Async(Pointer to, unsigned value, size_t count, void* stream) {
    ENTER_STREAM(stream);
    return set(to, (int)value, count, 4, s);
}
API cuMemsetD8_v2(Pointer to, unsigned char value, size_t bytes) {
    const Result r = cuMemsetD8Async(to, value, bytes, nullptr);
    return r ? r : finish(stream_of(nullptr));
}

/// As the driver refuses: what it says of addresses, strides and boxes. Of what is left, what hopper.cpp can copy: two dimensions of f16 in
/// boxes of 128 bytes, with the 128-byte swizzle and zeros outside.
API cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* base, const uint64_t* sizes, const uint64_t* strides, const uint32_t* box,
                           const uint32_t* steps, int interleave, int swizzle, int, int outside) {
    constexpr int F16 = 6, SWIZZLE_128B = 3;
    const bool aligned = ((uintptr_t)map & 63) == 0 && ((uintptr_t)base & 15) == 0 && strides[0] % 16 == 0;
    if (!aligned || !sizes[0] || !sizes[1] || sizes[0] >> 32 || sizes[1] >> 32 || strides[0] >> 40 || strides[0] < 2 * sizes[0]) return INVALID_VALUE;
    if (!box[0] || !box[1] || box[0] > 256 || box[1] > 256 || box[0] * 2 > 128 || box[0] % 8) return INVALID_VALUE;
    if (type != F16 || rank != 2 || box[0] != 64 || steps[0] != 1 || steps[1] != 1 || interleave || swizzle != SWIZZLE_128B || outside) return NOT_SUPPORTED;
    const TensorMap made{TENSOR_MAP, (uint64_t)base, sizes[0], sizes[1], strides[0], box[1]};
    memset(map, 0, 128);
    memcpy(map, &made, sizeof made);
    return OK;
}
