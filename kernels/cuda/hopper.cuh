// What sm_90a has beside mma.sync: barriers that count bytes, copies by the tensor memory accelerator (TMA), and products of a
// warpgroup (wgmma). With common.cuh the only files with PTX; the rules there hold here.
//
// Source: PTX ISA 9.0, mbarrier, cp.async.bulk, cp.async.bulk.tensor, wgmma. On other architectures a kernel that needs these is
// compiled to a trap (HOPPER is 0), and the host launches none.
#pragma once
#include "common.cuh"

// A host compiler's pass sees no architecture; of devices only sm_90a has these instructions.
#if defined(CUDA_SHIM) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1
#else
#define HOPPER 0
#endif

/// How a matrix lies in global memory and which boxes of it are copied: a CUtensorMap, made by the host.
struct
#ifndef CUDA_SHIM
    __align__(128)
#endif
        TensorMap {
    uint64_t words[16];
};

#if HOPPER

// ---- barriers in shared memory, 8 bytes each. A phase ends when as many have arrived as `init` said, and as many bytes have come
// as were announced; `wait` takes the parity of the phase that is waited for, 0 for the first.

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
#ifdef CUDA_SHIM
    shim::mbarrier_init(barrier, arrivals);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_u32(barrier)), "r"(arrivals) : "memory");
#endif
}

/// Shows the barriers that this thread has made to the copies; a block barrier shows them to the threads.
__device__ __forceinline__ void mbarrier_fence_init() {
#ifdef CUDA_SHIM
    shim::mbarrier_fence_init();
#else
    asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/// Arrives and announces `bytes` that copies will bring.
__device__ __forceinline__ void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
#ifdef CUDA_SHIM
    shim::mbarrier_arrive(barrier, bytes);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_u32(barrier)), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
#ifdef CUDA_SHIM
    shim::mbarrier_arrive(barrier, 0);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_u32(barrier)) : "memory");
#endif
}

/// Longest wait for a phase. A stage takes microseconds, seconds under a sanitizer: what is awaited longer never comes, and a trap
/// loses the process where a wait without end would hold its requests for ever. The shim finds such a wait as a deadlock.
constexpr uint64_t MBARRIER_WAIT_NS = 20ull * 1000 * 1000 * 1000;

/// Waits until the phase of this parity has ended.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
#ifdef CUDA_SHIM
    shim::mbarrier_wait(barrier, parity);
#else
    uint32_t done;
    uint64_t now, since = 0;
    for (;;) {
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                     : "=r"(done)
                     : "r"(smem_u32(barrier)), "r"(parity)
                     : "memory");
        if (done) return;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
        if (since == 0) since = now;
        if (now - since > MBARRIER_WAIT_NS) __trap();
    }
#endif
}

// ---- copies from global to shared memory that one thread starts and a barrier counts

/// A box of a matrix, from its corner (column, row) on; what lies outside of the matrix comes as zeros. With the 128-byte swizzle
/// the 16-byte part `p` of row `r` lands at part `p ^ (r % 8)` of its 128 bytes, counted from a multiple of 1,024.
__device__ __forceinline__ void copy_box(void* shared, const TensorMap* map, int column, int row, uint64_t* barrier) {
#ifdef CUDA_SHIM
    shim::copy_box(shared, map, column, row, barrier);
#else
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                     smem_u32(shared)),
                 "l"(map), "r"(column), "r"(row), "r"(smem_u32(barrier))
                 : "memory");
#endif
}

/// `bytes` side by side, a multiple of 16, both ends 16-byte aligned.
__device__ __forceinline__ void copy_bulk(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
#ifdef CUDA_SHIM
    shim::copy_bulk(shared, global, bytes, barrier);
#else
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(smem_u32(shared)),
                 "l"(global), "r"(bytes), "r"(smem_u32(barrier))
                 : "memory");
#endif
}

// ---- products of a warpgroup: four warps that begin at a multiple of four. Warp w has rows 16 w .. 16 w + 15 of both the weights and
// the sums, in registers and in the layout of `mma_16816`; the tokens are in shared memory. A product runs beside its warps: no thread
// touches its registers between `wgmma_fence` and `wgmma_wait`.

/// Before the first product after its registers were read or written by anything else.
__device__ __forceinline__ void wgmma_fence() {
#ifdef CUDA_SHIM
    shim::wgmma_fence();
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

/// Closes the group of the products started since the last one.
__device__ __forceinline__ void wgmma_commit() {
#ifdef CUDA_SHIM
    shim::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/// Waits until at most the `GROUPS` youngest groups are under way. `sums` are theirs, so that the compiler moves no use of them to
/// before the wait.
template <int GROUPS, int N>
__device__ __forceinline__ void wgmma_wait(float (&sums)[N][4]) {
#ifdef CUDA_SHIM
    shim::wgmma_wait(GROUPS);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(sums[n][i])::"memory");
#endif
}

#ifndef CUDA_SHIM
/// Rows of 128 bytes in the 128-byte swizzle, eight of them 1,024 bytes. The distance from one eight to the next is bits 32 to 45, in
/// units of 16 bytes, as is the address in the lowest 14. What stands between has no meaning in this layout.
__device__ __forceinline__ uint64_t wgmma_descriptor(const void* tokens) {
    return (uint64_t)((smem_u32(tokens) & 0x3ffff) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
#define SUMS_OF_8(n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define SUMS_OF_64(n)                                                                                                         \
    SUMS_OF_8(n), SUMS_OF_8(n + 1), SUMS_OF_8(n + 2), SUMS_OF_8(n + 3), SUMS_OF_8(n + 4), SUMS_OF_8(n + 5), SUMS_OF_8(n + 6), \
        SUMS_OF_8(n + 7)
#endif

/// Starts `c += a b` with a of 64 x 16 and b of 16 x 8 N, f16, sums in f32. `tokens`: 16 values of row 0, that is 32 of the 128 bytes of a
/// row; row r is token r.
template <int N>
__device__ __forceinline__ void wgmma_k16(float (&c)[N][4], const uint32_t (&a)[4], const f16* tokens) {
    static_assert(N == 8 || N == 16, "64 or 128 tokens");
#ifdef CUDA_SHIM
    shim::wgmma(c, a, tokens, N);
#else
    const uint64_t b = wgmma_descriptor(tokens);
    if constexpr (N == 8) {
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
            "{%32,%33,%34,%35}, %36, 1, 1, 1, 0;"
            : SUMS_OF_64(0)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    } else {
        asm volatile(
            "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
            "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
            "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,"
            "%61,%62,%63}, {%64,%65,%66,%67}, %68, 1, 1, 1, 0;"
            : SUMS_OF_64(0), SUMS_OF_64(8)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    }
#endif
}

/// Keeps fragments where they are until here: products that were waited for read them.
__device__ __forceinline__ void keep_fragments(const uint32_t (&first)[4], const uint32_t (&second)[4]) {
#ifndef CUDA_SHIM
    asm volatile("" ::"r"(first[0]), "r"(first[1]), "r"(first[2]), "r"(first[3]), "r"(second[0]), "r"(second[1]), "r"(second[2]),
                 "r"(second[3])
                 : "memory");
#endif
}

#endif
