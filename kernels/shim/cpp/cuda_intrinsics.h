// CUDA's built-in functions: barriers, shuffles, votes, atomics, bit casts, maths.
#pragma once

// ---- barriers and fences

static inline void __syncthreads() { shim::block_barrier(); }
static inline int __syncthreads_count(int p) { return (int)shim::block_barrier_count(p != 0); }
static inline int __syncthreads_or(int p) { return shim::block_barrier_count(p != 0) != 0; }
static inline int __syncthreads_and(int p) { return shim::block_barrier_count(p == 0) == 0; }
static inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::warp_barrier(mask); }
static inline void __threadfence() { shim::memory_fence(); }
static inline void __threadfence_block() {}
static inline void __nanosleep(unsigned) {}
static inline void __trap() { shim::fail("__trap"); }

// ---- shuffles, votes, reductions of a warp

namespace shim {
template <class T>
T shuffle_as(unsigned mask, T value, int argument, int width, Shuffle kind) {
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    word = shuffle(mask, word, argument, width, kind);
    memcpy(&value, &word, sizeof value);
    return value;
}
}  // namespace shim

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return shim::shuffle_as(mask, value, lane, width, shim::Shuffle::Index);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    return shim::shuffle_as(mask, value, lanes, width, shim::Shuffle::Xor);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return shim::shuffle_as(mask, value, (int)delta, width, shim::Shuffle::Down);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    return shim::shuffle_as(mask, value, (int)delta, width, shim::Shuffle::Up);
}
static inline unsigned __ballot_sync(unsigned mask, int p) { return shim::ballot(mask, p != 0); }
static inline int __any_sync(unsigned mask, int p) { return shim::ballot(mask, p != 0) != 0; }
static inline int __all_sync(unsigned mask, int p) { return shim::ballot(mask, p != 0) == mask; }
static inline unsigned __activemask() { return shim::active_mask(); }
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
    uint64_t word = 0;
    memcpy(&word, &value, sizeof value);
    return shim::match_any(mask, word);
}
#define SHIM_REDUCE(name, kind)                                                                                         \
    static inline unsigned __reduce_##name##_sync(unsigned m, unsigned v) { return shim::reduce(m, v, kind, false); } \
    static inline int __reduce_##name##_sync(unsigned m, int v) { return (int)shim::reduce(m, (unsigned)v, kind, true); }
SHIM_REDUCE(add, shim::Reduce::Add)
SHIM_REDUCE(min, shim::Reduce::Min)
SHIM_REDUCE(max, shim::Reduce::Max)
SHIM_REDUCE(and, shim::Reduce::And)
SHIM_REDUCE(or, shim::Reduce::Or)
SHIM_REDUCE(xor, shim::Reduce::Xor)
#undef SHIM_REDUCE

// ---- atomics: the host's own, so that blocks may one day run on several system threads

namespace shim {
template <class T, class F>
T atomic_update(T* address, F change) {
    using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "atomics have 4 or 8 bytes");
    atomic_access(address, sizeof(T));
    auto* word = reinterpret_cast<Word*>(address);
    Word before = __atomic_load_n(word, __ATOMIC_RELAXED), after;
    T value;
    do {
        memcpy(&value, &before, sizeof value);
        const T changed = change(value);
        memcpy(&after, &changed, sizeof after);
    } while (!__atomic_compare_exchange_n(word, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return value;
}
template <class T>
using Same = std::common_type_t<T>;
}  // namespace shim

template <class T>
T atomicAdd(T* p, shim::Same<T> v) {
    return shim::atomic_update(p, [v](T x) { return (T)(x + v); });
}
template <class T>
T atomicSub(T* p, shim::Same<T> v) {
    return shim::atomic_update(p, [v](T x) { return (T)(x - v); });
}
template <class T>
T atomicMax(T* p, shim::Same<T> v) {
    return shim::atomic_update(p, [v](T x) { return x < v ? v : x; });
}
template <class T>
T atomicMin(T* p, shim::Same<T> v) {
    return shim::atomic_update(p, [v](T x) { return v < x ? v : x; });
}
template <class T>
T atomicExch(T* p, shim::Same<T> v) {
    return shim::atomic_update(p, [v](T) { return v; });
}
template <class T>
T atomicCAS(T* p, shim::Same<T> expected, shim::Same<T> v) {
    return shim::atomic_update(p, [=](T x) { return x == expected ? v : x; });
}
template <class T>
T atomicOr(T* p, shim::Same<T> v) {
    return shim::atomic_update(p, [v](T x) { return (T)(x | v); });
}
template <class T>
T atomicAnd(T* p, shim::Same<T> v) {
    return shim::atomic_update(p, [v](T x) { return (T)(x & v); });
}
static inline unsigned atomicInc(unsigned* p, unsigned limit) {
    return shim::atomic_update(p, [limit](unsigned x) { return x >= limit ? 0u : x + 1; });
}

// ---- bits

static inline float __uint_as_float(unsigned v) { return shim::cast_bits<float>(v); }
static inline unsigned __float_as_uint(float v) { return shim::cast_bits<unsigned>(v); }
static inline int __float_as_int(float v) { return shim::cast_bits<int>(v); }
static inline float __int_as_float(int v) { return shim::cast_bits<float>(v); }
static inline double __longlong_as_double(long long v) { return shim::cast_bits<double>(v); }
static inline long long __double_as_longlong(double v) { return shim::cast_bits<long long>(v); }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __ffsll(long long v) { return __builtin_ffsll(v); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static inline unsigned __brev(unsigned v) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (v >> i & 1) << (31 - i);
    return r;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    const uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned s = selector >> (4 * i) & 15;
        unsigned byte = (unsigned)(bytes >> (8 * (s & 7))) & 255;
        if (s & 8) byte = byte & 128 ? 255 : 0;
        r |= byte << (8 * i);
    }
    return r;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)((((uint64_t)high << 32 | low) << (shift & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}

// ---- loads and stores with hints

template <class T>
T __ldg(const T* p) {
    return *p;
}
template <class T>
T __ldcs(const T* p) {
    return *p;
}
template <class T>
T __ldcg(const T* p) {
    return *p;
}
template <class T>
T __ldca(const T* p) {
    return *p;
}
template <class T>
void __stcs(T* p, T v) {
    *p = v;
}
template <class T>
void __stcg(T* p, T v) {
    *p = v;
}

// ---- maths. The file is compiled with -ffp-contract=off, so that a product and a sum stay two roundings.

using std::isfinite;
using std::isinf;
using std::isnan;
#define __expf expf  // glibc declares __expf and its like for itself
#define __logf logf
#define __log2f log2f
#define __sinf sinf
#define __cosf cosf
#define __powf powf
#define __exp10f exp10f
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
static inline float __saturatef(float v) { return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f; }
static inline float __uint2float_rn(unsigned v) { return (float)v; }
static inline float __int2float_rn(int v) { return (float)v; }
static inline int __float2int_rn(float v) { return (int)rintf(v); }
static inline int __float2int_rz(float v) { return (int)v; }
static inline unsigned __float2uint_rz(float v) { return (unsigned)v; }
static inline long long clock64() { return (long long)__builtin_ia32_rdtsc(); }

template <class A, class B>
static inline std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    return (T)a < (T)b ? (T)a : (T)b;
}
template <class A, class B>
static inline std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    return (T)a > (T)b ? (T)a : (T)b;
}
