// Linear maps of steps with many tokens on sm_90a, and the copy of their inputs that they read.
#include "prefill.cuh"

// What:    out[i] = row x[i], or x[sorted[i] / top_k] of a list of pairs, arranged for the products of prefill.cuh.
// Shapes:  x [tokens][stride] f16, out [rows][stride] f16, stride a multiple of 32; sorted [rows] or null. A thread takes 64 bytes.
// Source:  prefill.cuh.
// Twin:    the same places on the host, equal.
// Cost:    4 stride bytes a row.
extern "C" __global__ void arrange(f16* __restrict__ out, const f16* __restrict__ x, const int* __restrict__ sorted, int rows, int tokens,
                                   int top_k, int stride) {
    const int units = stride / UNIT_K;
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (long long)rows * units) return;
    const int row = (int)(at / units), unit = (int)(at % units);
    // Past the pairs of this rank the list holds what it held before.
    const int token = sorted ? min(max(sorted[row] / top_k, 0), tokens - 1) : row;
    const uint4* from = reinterpret_cast<const uint4*>(x + (size_t)token * stride + unit * UNIT_K);
    const uint4 a = from[0], b = from[1], c = from[2], d = from[3];
    uint4* to = reinterpret_cast<uint4*>(out + (size_t)row * stride + unit * UNIT_K);
    to[0] = {a.x, b.x, c.x, d.x};
    to[1] = {a.y, b.y, c.y, d.y};
    to[2] = {a.z, b.z, c.z, d.z};
    to[3] = {a.w, b.w, c.w, d.w};
}
KERNEL_EXPORT(arrange)

// What:    y[t][n] = bias[n] + sum over k of W[n][k] x[t][k], or adds that to y, as linear.cu does and with its bits.
// Shapes:  x: the map of [T][stride] f16, arranged; the rest as in linear.cu. Grid: (row tiles / 8, tokens / 128).
// Source:  prefill.cuh.
// Twin:    linear_64, equal.
// Cost:    2 N K T operations; 2 K (128 + 128) bytes from L2 for 128 x 128 sums.
#if HOPPER
constexpr int LINEAR_WGMMA_TOKENS = 128;

template <bool ADD>
__device__ __forceinline__ void linear_wgmma_tile(float* y, const TensorMap* x, const uint4* tiles, const float* bias, int rows, int steps,
                                                  int tokens) {
    DYN_SMEM(unsigned char, shared);
    const Ring<F16Weights, LINEAR_WGMMA_TOKENS> ring(shared);
    const F16Weights weights{tiles, steps};
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const int first_tile = blockIdx.x * PREFILL_ROW_TILES, first_token = blockIdx.y * LINEAR_WGMMA_TOKENS;
    ring.begin();
    if (warp == PREFILL_ROW_TILES) {
        if (lane == 0) fill_ring(ring, x, weights, first_tile, (rows + 15) / 16, first_token);
        return;
    }
    Parts<LINEAR_WGMMA_TOKENS / 8> sums(weights.part_units());
    sum_products(sums, ring, weights, warp, lane);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = (first_tile + warp) * 16 + (lane >> 2) + (i >> 1) * 8;
        if (row >= rows) continue;
        const float offset = bias ? bias[row] : 0.0f;
#pragma unroll
        for (int n = 0; n < LINEAR_WGMMA_TOKENS / 8; n++) {
            const int token = first_token + 8 * n + (lane & 3) * 2 + (i & 1);
            if (token >= tokens) continue;
            const float sum = sums.total[n][i] + offset;
            float* out = y + (size_t)token * rows + row;
            *out = ADD ? *out + sum : sum;
        }
    }
}
#define LINEAR_WGMMA_BODY(add) linear_wgmma_tile<add>(y, &x, weights, bias, rows, steps, tokens)
#else
#define LINEAR_WGMMA_BODY(add) __trap()
#endif

#define LINEAR_WGMMA(name, add)                                                                                              \
    extern "C" __global__ void __launch_bounds__(PREFILL_THREADS, 1)                                                         \
        name(const __grid_constant__ TensorMap x, float* __restrict__ y, const uint4* __restrict__ weights,                  \
             const float* __restrict__ bias, int rows, int steps, int tokens) {                                              \
        LINEAR_WGMMA_BODY(add);                                                                                              \
    }                                                                                                                        \
    KERNEL_EXPORT(name)

LINEAR_WGMMA(linear_wgmma, false)
LINEAR_WGMMA(linear_add_wgmma, true)
