// What every kernel stands on: types, conversions, warp sums, and the few instructions that C++ has no word for.
//
// With hopper.cuh the only header that knows on which side it is. nvcc and NVRTC see PTX; the CPU shim (CUDA_SHIM, kernels/shim) sees plain
// functions with the same meaning. No NVIDIA header is included, so NVRTC needs no include path.
//
// Rules for the .cu files, which keep them able to run on a CPU: no asm outside these headers, no <<<>>>, no waiting for another
// block. Dynamic shared memory comes through DYN_SMEM, and INFINITY from here (NVRTC has no math.h). Kernels are extern "C", each
// followed by KERNEL_EXPORT(name), with at most 1,024 threads a block.
#pragma once

#ifdef CUDA_SHIM
#include "cuda_shim.h"
#else

#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned long long uintptr_t;
#else
#include <stdint.h>
#endif

#define KERNEL_EXPORT(name)
#define DYN_SMEM(T, name)                                    \
    extern __shared__ __align__(128) unsigned char dyn_smem_[]; \
    T* name = reinterpret_cast<T*>(dyn_smem_)

#endif

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

#define FULL_WARP 0xffffffffu

// ---- bfloat16: the upper half of a float. Conversions round to nearest even.

struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_f32(bf16 value) { return __uint_as_float((uint32_t)value.bits << 16); }

/// Two values of one register: the low half first.
__device__ __forceinline__ float2 unpack_bf16x2(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

/// `low` and `high` as bf16 in one register.
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
#ifdef CUDA_SHIM
    return shim::round_bf16(low) | (uint32_t)shim::round_bf16(high) << 16;
#else
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

__device__ __forceinline__ bf16 to_bf16(float value) { return bf16{(uint16_t)pack_bf16x2(value, 0.0f)}; }

// ---- float16: what the tensor cores multiply. Conversions round to nearest even.

struct f16 {
    uint16_t bits;
};

/// `low` and `high` as f16 in one register, as `mma` wants its operands; beyond 65,504 they become infinite.
__device__ __forceinline__ uint32_t pack_f16x2(float low, float high) {
#ifdef CUDA_SHIM
    return shim::round_f16(low) | (uint32_t)shim::round_f16(high) << 16;
#else
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

/// Finite values beyond 65,504 become that; infinities and NaN stay, so that a broken model is seen.
__device__ __forceinline__ f16 to_f16(float value) {
    const float size = fabsf(value), kept = size > 65504.0f && size < INFINITY ? copysignf(65504.0f, value) : value;
    return f16{(uint16_t)pack_f16x2(kept, 0.0f)};
}

/// Two values of one register: the low half first.
__device__ __forceinline__ float2 unpack_f16x2(uint32_t pair) {
#ifdef CUDA_SHIM
    return make_float2(shim::widen_f16((uint16_t)pair), shim::widen_f16((uint16_t)(pair >> 16)));
#else
    float2 values;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
        : "=f"(values.x), "=f"(values.y)
        : "r"(pair));
    return values;
#endif
}

/// The products of two pairs, each rounded once.
__device__ __forceinline__ uint32_t mul_f16x2(uint32_t a, uint32_t b) {
#ifdef CUDA_SHIM
    const float2 x = unpack_f16x2(a), y = unpack_f16x2(b);
    return pack_f16x2(x.x * y.x, x.y * y.y);
#else
    uint32_t product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    return product;
#endif
}

// ---- copies from global to shared memory that overlap with work

#ifndef CUDA_SHIM
__device__ __forceinline__ uint32_t smem_u32(const void* pointer) { return (uint32_t)__cvta_generic_to_shared(pointer); }
#endif

/// Starts a copy of 16 bytes from global to shared memory, both 16-byte aligned; writes zeros where `ok` is false, without
/// reading. Not seen before `cp_async_wait` and a barrier.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool ok = true) {
#ifdef CUDA_SHIM
    shim::copy_async(shared, global, 16, ok ? 16 : 0);
#else
    const int bytes = ok ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_u32(shared)), "l"(global), "r"(bytes) : "memory");
#endif
}

/// As `cp_async16`, for 4 or 8 bytes.
template <int BYTES>
__device__ __forceinline__ void cp_async_small(void* shared, const void* global, bool ok = true) {
    static_assert(BYTES == 4 || BYTES == 8, "16 bytes have cp_async16");
#ifdef CUDA_SHIM
    shim::copy_async(shared, global, BYTES, ok ? BYTES : 0);
#else
    const int bytes = ok ? BYTES : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(smem_u32(shared)), "l"(global), "n"(BYTES), "r"(bytes)
                 : "memory");
#endif
}

/// Closes the group of the copies started since the last one.
__device__ __forceinline__ void cp_async_commit() {
#ifdef CUDA_SHIM
    shim::copy_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits until at most the `N` youngest groups of this thread are still under way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
#ifdef CUDA_SHIM
    shim::copy_async_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// ---- tensor cores

/// Four 8 x 8 matrices of 16-bit values from shared memory into fragments; lane `8 i + r` names row `r` of matrix `i`, 16-byte aligned.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&fragment)[4], const void* row) {
#ifdef CUDA_SHIM
    shim::ldmatrix(fragment, row, 4, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(smem_u32(row))
                 : "memory");
#endif
}

/// As `ldmatrix_x4`, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_t(uint32_t (&fragment)[4], const void* row) {
#ifdef CUDA_SHIM
    shim::ldmatrix(fragment, row, 4, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(smem_u32(row))
                 : "memory");
#endif
}

/// Two matrices; lanes 0 to 15 name the rows.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&fragment)[2], const void* row) {
#ifdef CUDA_SHIM
    shim::ldmatrix(fragment, row, 2, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(smem_u32(row))
                 : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x2_t(uint32_t (&fragment)[2], const void* row) {
#ifdef CUDA_SHIM
    shim::ldmatrix(fragment, row, 2, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(fragment[0]), "=r"(fragment[1])
                 : "r"(smem_u32(row))
                 : "memory");
#endif
}

/// `c += a b` with a of 16 x 16 (row-major) and b of 16 x 8 (column-major), f16, sums in f32.
///
/// With `g = lane / 4` and `t = lane % 4`: `a[0]` holds (row g, columns 2t, 2t+1), `a[1]` row g+8, `a[2]` columns 2t+8, 2t+9,
/// `a[3]` both. `b[0]` holds (rows 2t, 2t+1, column g), `b[1]` rows 2t+8, 2t+9. `c[0..2]` is (row g, columns 2t, 2t+1),
/// `c[2..4]` row g+8.
__device__ __forceinline__ void mma_16816(float (&c)[4], const uint32_t (&a)[4], const uint32_t* b) {
#ifdef CUDA_SHIM
    shim::mma(&c, &a, b, 1, 1);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// `c[m][n] += a[m] b[n]` for a tile of `M x N` products. The same as `M N` calls of `mma_16816`, in the same order; the shim
/// lets the warp meet once for all of them, which makes it some ten times faster there.
template <int M, int N>
__device__ __forceinline__ void mma_tile(float (&c)[M][N][4], const uint32_t (&a)[M][4], const uint32_t (&b)[N][2]) {
#ifdef CUDA_SHIM
    shim::mma(&c[0][0], &a[0], &b[0][0], M, N);
#else
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++) mma_16816(c[m][n], a[m], b[n]);
#endif
}

// ---- global memory, hints that change no result

/// 16 bytes that are read once: past the first-level cache.
__device__ __forceinline__ uint4 load_once16(const void* global) {
#ifdef CUDA_SHIM
    return *reinterpret_cast<const uint4*>(global);
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(global));
    return v;
#endif
}

/// Waits for the kernels before this one in a launch that was allowed to start early (programmatic dependent launch); nothing
/// on devices before sm_90 and in ordinary launches.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if !defined(CUDA_SHIM) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next kernel start its blocks; what it reads is guarded by its `wait_for_previous_kernel`.
__device__ __forceinline__ void let_next_kernel_start() {
#if !defined(CUDA_SHIM) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// ---- maths

/// 2^x to about 2 ulp.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef CUDA_SHIM
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(FULL_WARP, value, step);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int step = 16; step > 0; step >>= 1) value = fmaxf(value, __shfl_xor_sync(FULL_WARP, value, step));
    return value;
}
