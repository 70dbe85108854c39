// What kernels and the runtime know of each other.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cuda_types.h"

namespace shim {

struct Warp;

struct Block {
    uint3 index;
    dim3 size, grid;
    unsigned char* dynamic;
    uint32_t dynamic_bytes;
};

struct Thread {
    uint3 index;
    uint32_t linear, lane;
    Warp* warp;
    Block* block;
};

#define SHIM_API __attribute__((visibility("default")))

/// The thread that runs now. Eight bytes of static thread-local storage, so that reading it costs one instruction.
extern SHIM_API thread_local Thread* current __attribute__((tls_model("initial-exec")));

/// Ends the launch with an error; the process lives on.
[[noreturn]] SHIM_API void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

SHIM_API void block_barrier();
SHIM_API uint32_t block_barrier_count(bool predicate);
SHIM_API void named_barrier(uint32_t id, uint32_t threads);
SHIM_API void warp_barrier(uint32_t mask);
SHIM_API uint32_t active_mask();
SHIM_API void memory_fence();

enum class Shuffle { Index, Xor, Down, Up };
SHIM_API uint64_t shuffle(uint32_t mask, uint64_t value, int argument, int width, Shuffle kind);
SHIM_API uint32_t ballot(uint32_t mask, bool predicate);
SHIM_API uint32_t match_any(uint32_t mask, uint64_t value);
enum class Reduce { Add, Min, Max, And, Or, Xor };
SHIM_API uint32_t reduce(uint32_t mask, uint32_t value, Reduce kind, bool is_signed);

SHIM_API void copy_async(void* shared, const void* global, uint32_t bytes, uint32_t bytes_read);
SHIM_API void copy_async_commit();
SHIM_API void copy_async_wait(uint32_t groups_left);
SHIM_API void ldmatrix(uint32_t* fragment, const void* row, int matrices, bool transposed);
SHIM_API void mma(float (*c)[4], const uint32_t (*a)[4], const uint32_t* b, int m, int n);

// ---- what sm_90a has beside that (hopper.cpp)

SHIM_API void mbarrier_init(uint64_t* barrier, uint32_t arrivals);
SHIM_API void mbarrier_fence_init();
SHIM_API void mbarrier_arrive(uint64_t* barrier, uint32_t bytes);
SHIM_API void mbarrier_wait(uint64_t* barrier, uint32_t parity);
SHIM_API void copy_box(void* shared, const void* map, int column, int row, uint64_t* barrier);
SHIM_API void copy_bulk(void* shared, const void* global, uint32_t bytes, uint64_t* barrier);
SHIM_API void wgmma_fence();
SHIM_API void wgmma(float (*c)[4], const uint32_t (&a)[4], const void* tokens, int n);
SHIM_API void wgmma_commit();
SHIM_API void wgmma_wait(uint32_t groups_left);

/// Checks an atomic's address; the checked build's hooks see ordinary loads and stores only.
SHIM_API void atomic_access(const volatile void* address, uint32_t bytes);

template <class To, class From>
inline To cast_bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "a cast keeps the bits");
    To to;
    memcpy(&to, &value, sizeof to);
    return to;
}

inline uint16_t round_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/// Beyond 65,504 is infinity.
inline uint16_t round_f16(float value) {
    const uint32_t bits = cast_bits<uint32_t>(value), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) return 0x7fff;
    if (size >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    // Below 2^-14 the spacing is 2^-24, as it is of floats from 0.5 on.
    if (size < 0x38800000u) return (uint16_t)(sign | (cast_bits<uint32_t>(cast_bits<float>(size) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | (size - 0x38000000u + 0xfffu + (size >> 13 & 1)) >> 13);
}

inline float widen_f16(uint16_t half) {
    const uint32_t size = half & 0x7fffu;
    const float widened = size < 0x400u    ? (float)size * 0x1p-24f
                          : size < 0x7c00u ? cast_bits<float>((size << 13) + 0x38000000u)
                                           : cast_bits<float>(0x7f800000u | size << 13);
    return half & 0x8000u ? -widened : widened;
}

// ---- the list of kernels

typedef void (*Trampoline)(void* function, void** arguments);
SHIM_API void register_kernel(const char* name, const char* file, void* function, Trampoline trampoline, const uint32_t* sizes,
                              size_t count);

template <class... Args>
struct Registration {
    // The list of arguments is the launch's own, not the device's.
    template <size_t... I>
    __attribute__((no_sanitize("thread"))) static void call_each(void (*function)(Args...), void** arguments, std::index_sequence<I...>) {
        function(*static_cast<std::remove_const_t<Args>*>(arguments[I])...);
    }
    static void call(void* function, void** arguments) {
        call_each(reinterpret_cast<void (*)(Args...)>(function), arguments, std::index_sequence_for<Args...>());
    }
    Registration(const char* name, const char* file, void (*function)(Args...)) {
        static const uint32_t sizes[] = {sizeof(Args)..., 0};
        register_kernel(name, file, reinterpret_cast<void*>(function), &call, sizes, sizeof...(Args));
    }
};
template <class... Args>
Registration(const char*, const char*, void (*)(Args...)) -> Registration<Args...>;

}  // namespace shim
