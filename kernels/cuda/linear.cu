// What:    y[t][n] = bias[n] + sum over k of W[n][k] x[t][k] in f16 with f32 sums: to f32 (QKV, lm_head), or added to the
//          residual stream (output projection).
// Shapes:  x [T][stride] f16, stride a multiple of 32 and zeros from K on; W in fragment order (tile.cuh), rows padded to 16
//          and k to 32 with zeros; bias [N] f32 or null; y [T][N] f32. Grid: (row tiles, tiles of tokens).
// Source:  the tile core; k is split over the warps of a block.
// Twin:    reference::linear on x and W as f16; |difference| <= 1e-5 of the sum of magnitudes.
// Cost:    2 N K bytes of weights for every 8, 16, 32 or 64 tokens; 2 N K T operations. Bound by memory up to about T = 64.
#include "tile.cuh"

// Steps whose weights are on their way at once: 4 KiB a warp, 32 KiB a block.
constexpr int LINEAR_AHEAD = 4;

template <int TOKEN_TILES, bool ADD>
__device__ __forceinline__ void linear_tile(float* y, const f16* x, const uint4* weights, const float* bias, int rows, int steps,
                                            int stride, int tokens) {
    DYN_SMEM(float, sums);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first_token = blockIdx.y * 8 * TOKEN_TILES;
    const uint4* tile = weights + (size_t)blockIdx.x * steps * 64;
    const f16* x_rows[TOKEN_TILES];
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
        // Tokens past the last one repeat it; their sums are not written.
        const int token = min(first_token + 8 * n + (lane >> 2), tokens - 1);
        x_rows[n] = x + (size_t)token * stride + (lane & 3) * 8;
    }
    float acc[1][TOKEN_TILES][4] = {};
    const int end = part_begin(steps, warp + 1);
    for (int begin = part_begin(steps, warp); begin < end; begin += LINEAR_AHEAD) {
        F16Step w[LINEAR_AHEAD];
#pragma unroll
        for (int i = 0; i < LINEAR_AHEAD; i++) w[i] = load_f16(tile, min(begin + i, end - 1), lane);
#pragma unroll
        for (int i = 0; i < LINEAR_AHEAD; i++) {
            if (begin + i >= end) break;
            uint32_t first[1][4], second[1][4], x_first[TOKEN_TILES][2], x_second[TOKEN_TILES][2];
            fragments_f16(w[i], first[0], second[0]);
            load_tokens(x_rows, (size_t)(begin + i) * 32, x_first, x_second);
            mma_tile(acc, first, x_first);
            mma_tile(acc, second, x_second);
        }
    }
    store_sums<1, TOKEN_TILES>(sums, acc, warp, lane);
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * 8 * TOKEN_TILES; i += blockDim.x) {
        const int row = blockIdx.x * 16 + (i & 15), token = first_token + (i >> 4);
        if (row >= rows || token >= tokens) continue;
        const float sum = whole_sum<1, TOKEN_TILES>(sums, i & 15, i >> 4) + (bias ? bias[row] : 0.0f);
        float* out = y + (size_t)token * rows + row;
        *out = ADD ? *out + sum : sum;
    }
}

#define LINEAR(name, token_tiles, add)                                                                                     \
    extern "C" __global__ void __launch_bounds__(32 * TILE_WARPS)                                                          \
        name(float* __restrict__ y, const f16* __restrict__ x, const uint4* __restrict__ weights,                          \
             const float* __restrict__ bias, int rows, int steps, int stride, int tokens) {                                \
        linear_tile<token_tiles, add>(y, x, weights, bias, rows, steps, stride, tokens);                                   \
    }                                                                                                                      \
    KERNEL_EXPORT(name)

LINEAR(linear_8, 1, false)
LINEAR(linear_16, 2, false)
LINEAR(linear_32, 4, false)
LINEAR(linear_64, 8, false)
LINEAR(linear_add_8, 1, true)
LINEAR(linear_add_16, 2, true)
LINEAR(linear_add_32, 4, true)
LINEAR(linear_add_64, 8, true)
