// The experts: MXFP4 grouped products on the tile core. A block takes 32 rows of one expert and the tokens of one entry of the
// tile list that route.cu writes; the grid has as many entries as there can be, and blocks past the last one end at once.
#include "experts.cuh"
#include "tile.cuh"

constexpr int EXPERT_ROW_TILES = 2;
// Steps whose weights are on their way at once: 3 of 64 k for 32 rows are 3.2 KiB a warp, 26 KiB a block.
constexpr int EXPERT_AHEAD = 3;

// Sums of a block's 32 rows and its tokens, whose rows `x_rows` names, over this warp's part of k.
template <int TOKEN_TILES>
__device__ __forceinline__ void expert_sums(float (&acc)[EXPERT_ROW_TILES][TOKEN_TILES][4], const uint4* codes, const uint32_t* scales,
                                            const f16* const (&x_rows)[TOKEN_TILES], int steps, int warp, int lane) {
    const int end = part_begin(steps, warp + 1);
    for (int begin = part_begin(steps, warp); begin < end; begin += EXPERT_AHEAD) {
        Mxfp4Step w[EXPERT_AHEAD][EXPERT_ROW_TILES];
#pragma unroll
        for (int i = 0; i < EXPERT_AHEAD; i++)
#pragma unroll
            for (int m = 0; m < EXPERT_ROW_TILES; m++)
                // Offsets in 32 bits: in 64, ptxas takes up to 18 registers more, which cost a block on every multiprocessor.
                w[i][m] = load_mxfp4(codes + m * steps * 32, scales + m * steps * 8, min(begin + i, end - 1), lane);
#pragma unroll
        for (int i = 0; i < EXPERT_AHEAD; i++) {
            if (begin + i >= end) break;
#pragma unroll
            for (int block = 0; block < 2; block++) {
                uint32_t first[EXPERT_ROW_TILES][4], second[EXPERT_ROW_TILES][4], x_first[TOKEN_TILES][2], x_second[TOKEN_TILES][2];
                load_tokens(x_rows, (size_t)(begin + i) * 64 + block * 32, x_first, x_second);
#pragma unroll
                for (int m = 0; m < EXPERT_ROW_TILES; m++) fragments_mxfp4(w[i][m], block, first[m], second[m]);
                mma_tile(acc, first, x_first);
                mma_tile(acc, second, x_second);
            }
        }
    }
}

// What:    h[p] = swiglu(gate_up[e] . x[p / top_k] + bias[e]) for each pair p of a token and its expert e, in the pairs' sorted
//          order; gate = min(., limit), up = clamp(., limit), h = (up + 1) gate / (1 + exp(-alpha gate)).
// Shapes:  x [T][stride] f16; codes, scales [E][row tile][step] in fragment order: a tile of 16 rows is 8 gates, then their 8
//          ups; bias [E][2 I] f32, interleaved as in the checkpoint; h [pairs][h_stride] f16; sorted [pairs], tiles (route.cu).
//          Grid: (row tiles / 2, tile list).
// Source:  OCP MX 1.0; Shazeer 2020, arXiv:2002.05202; the gpt-oss model card.
// Twin:    reference::linear and swiglu on x; 2^-10 of the largest value, which is f16's rounding of h.
// Cost:    17/16 I H bytes an expert hit and 8 to 64 tokens, 4 I H operations a pair.
template <int TOKEN_TILES>
__device__ __forceinline__ void gate_up_tile(f16* h, const f16* x, const uint4* codes, const uint32_t* scales, const float* bias,
                                             const int* sorted, const int* tiles, const int* tile_count, int inner, int row_tiles,
                                             int steps, int top_k, int stride, int h_stride, float alpha, float limit) {
    DYN_SMEM(float, sums);
    if ((int)blockIdx.y >= *tile_count) return;
    const ExpertTile tile = read_tile(tiles, blockIdx.y);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row_tile = blockIdx.x * EXPERT_ROW_TILES;
    const f16* x_rows[TOKEN_TILES];
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
        const int pair = sorted[tile.first + min(8 * n + (lane >> 2), tile.count - 1)];
        x_rows[n] = x + (size_t)(pair / top_k) * stride + (lane & 3) * 8;
    }
    const size_t first_step = ((size_t)tile.expert * row_tiles + row_tile) * steps;
    float acc[EXPERT_ROW_TILES][TOKEN_TILES][4] = {};
    expert_sums<TOKEN_TILES>(acc, codes + first_step * 32, scales + first_step * 8, x_rows, steps, warp, lane);
    store_sums<EXPERT_ROW_TILES, TOKEN_TILES>(sums, acc, warp, lane);
    __syncthreads();
    // Eight gates and their ups a row tile.
    for (int i = threadIdx.x; i < 8 * EXPERT_ROW_TILES * 8 * TOKEN_TILES; i += blockDim.x) {
        const int at = i % (8 * EXPERT_ROW_TILES), token = i / (8 * EXPERT_ROW_TILES);
        const int gate_row = at / 8 * 16 + at % 8, column = row_tile * 8 + at;
        if (column >= inner || token >= tile.count) continue;
        const float* pair_bias = bias + ((size_t)tile.expert * inner + column) * 2;
        const float gate = whole_sum<EXPERT_ROW_TILES, TOKEN_TILES>(sums, gate_row, token) + pair_bias[0];
        const float up = whole_sum<EXPERT_ROW_TILES, TOKEN_TILES>(sums, gate_row + 8, token) + pair_bias[1];
        h[(size_t)(tile.first + token) * h_stride + column] = swiglu(gate, up, alpha, limit);
    }
}

// What:    y[p] = down[e] . h[sorted place of p] + bias[e], by pair, so that each token finds its experts' outputs in the order
//          of its routes; combine_norm sums them.
// Shapes:  h [pairs][stride] f16 in sorted order; codes, scales [E][row tile][step]; bias [E][H] f32; y [pairs][H] f32.
// Source:  OCP MX 1.0; Shazeer et al. 2017, arXiv:1701.06538.
// Twin:    reference::linear on h; 1e-5 of the sum of magnitudes.
// Cost:    17/32 I H bytes an expert hit and 8 to 64 tokens, 2 I H operations a pair.
template <int TOKEN_TILES>
__device__ __forceinline__ void down_tile(float* y, const f16* h, const uint4* codes, const uint32_t* scales, const float* bias,
                                          const int* sorted, const int* tiles, const int* tile_count, int hidden, int row_tiles,
                                          int steps, int stride) {
    DYN_SMEM(float, sums);
    if ((int)blockIdx.y >= *tile_count) return;
    const ExpertTile tile = read_tile(tiles, blockIdx.y);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row_tile = blockIdx.x * EXPERT_ROW_TILES;
    const f16* h_rows[TOKEN_TILES];
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++)
        h_rows[n] = h + (size_t)(tile.first + min(8 * n + (lane >> 2), tile.count - 1)) * stride + (lane & 3) * 8;
    const size_t first_step = ((size_t)tile.expert * row_tiles + row_tile) * steps;
    float acc[EXPERT_ROW_TILES][TOKEN_TILES][4] = {};
    expert_sums<TOKEN_TILES>(acc, codes + first_step * 32, scales + first_step * 8, h_rows, steps, warp, lane);
    store_sums<EXPERT_ROW_TILES, TOKEN_TILES>(sums, acc, warp, lane);
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * EXPERT_ROW_TILES * 8 * TOKEN_TILES; i += blockDim.x) {
        const int at = i % (16 * EXPERT_ROW_TILES), token = i / (16 * EXPERT_ROW_TILES), row = row_tile * 16 + at;
        if (row >= hidden || token >= tile.count) continue;
        const float sum = whole_sum<EXPERT_ROW_TILES, TOKEN_TILES>(sums, at, token);
        y[(size_t)sorted[tile.first + token] * hidden + row] = sum + bias[(size_t)tile.expert * hidden + row];
    }
}

#define EXPERTS(tokens, token_tiles)                                                                                              \
    extern "C" __global__ void __launch_bounds__(32 * TILE_WARPS)                                                                 \
        gate_up_##tokens(f16* __restrict__ h, const f16* __restrict__ x, const uint4* __restrict__ codes,                         \
                         const uint32_t* __restrict__ scales, const float* __restrict__ bias, const int* __restrict__ sorted,     \
                         const int* __restrict__ tiles, const int* __restrict__ tile_count, int inner, int row_tiles, int steps,  \
                         int top_k, int stride, int h_stride, float alpha, float limit) {                                         \
        gate_up_tile<token_tiles>(h, x, codes, scales, bias, sorted, tiles, tile_count, inner, row_tiles, steps, top_k, stride,   \
                                  h_stride, alpha, limit);                                                                        \
    }                                                                                                                             \
    KERNEL_EXPORT(gate_up_##tokens)                                                                                               \
    extern "C" __global__ void __launch_bounds__(32 * TILE_WARPS)                                                                 \
        down_##tokens(float* __restrict__ y, const f16* __restrict__ h, const uint4* __restrict__ codes,                          \
                      const uint32_t* __restrict__ scales, const float* __restrict__ bias, const int* __restrict__ sorted,        \
                      const int* __restrict__ tiles, const int* __restrict__ tile_count, int hidden, int row_tiles, int steps,    \
                      int stride) {                                                                                               \
        down_tile<token_tiles>(y, h, codes, scales, bias, sorted, tiles, tile_count, hidden, row_tiles, steps, stride);           \
    }                                                                                                                             \
    KERNEL_EXPORT(down_##tokens)

EXPERTS(8, 1)
EXPERTS(16, 2)
EXPERTS(32, 4)
EXPERTS(64, 8)
