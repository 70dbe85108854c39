// The experts of steps with many tokens on sm_90a: MXFP4 grouped products on the core of prefill.cuh. A block takes 128 rows of one
// expert and the tokens of one entry of the tile list that route.cu writes, as in experts.cu.
#include "experts.cuh"
#include "prefill.cuh"

#if HOPPER

// An expert's MXFP4 weights in a stage: the tile's 512 bytes of codes, then its 32 of scales.
struct Mxfp4Weights {
    static constexpr int TILE_BYTES = 544;
    const uint4* codes;
    const uint32_t* scales;
    int steps;
    __device__ __forceinline__ Mxfp4Weights(const uint4* all_codes, const uint32_t* all_scales, int expert, int row_tiles, int step_count)
        : codes(all_codes + (size_t)expert * row_tiles * step_count * 32),
          scales(all_scales + (size_t)expert * row_tiles * step_count * 8),
          steps(step_count) {}
    __device__ __forceinline__ int units() const { return 2 * steps; }
    __device__ __forceinline__ int part_units() const { return 2 * part_begin(steps, 1); }
    __device__ __forceinline__ uint32_t tile_bytes(int) const { return TILE_BYTES; }
    __device__ __forceinline__ void copy(unsigned char* to, int tile, int stage, uint64_t* barrier) const {
        const size_t step = (size_t)tile * steps + stage;
        copy_bulk(to, codes + step * 32, 512, barrier);
        copy_bulk(to + 512, scales + step * 8, 32, barrier);
    }
    __device__ __forceinline__ void fragments(const unsigned char* tile, int unit, int lane, uint32_t (&first)[4], uint32_t (&second)[4]) const {
        const uint32_t tile_scales = reinterpret_cast<const uint32_t*>(tile + 512)[lane >> 2];
        fragments_mxfp4({reinterpret_cast<const uint4*>(tile)[lane], tile_scales}, unit, first, second);
    }
};

// Fills the ring or sums, as the warp's place in the block asks; whether it has sums.
template <int TOKENS>
__device__ __forceinline__ bool sum_expert(Parts<TOKENS / 8>& sums, unsigned char* shared, const TensorMap* x, const Mxfp4Weights& weights,
                                           const ExpertTile& tile, int row_tiles) {
    const Ring<Mxfp4Weights, TOKENS> ring(shared);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    ring.begin();
    if (warp == PREFILL_ROW_TILES) {
        if (lane == 0) fill_ring(ring, x, weights, blockIdx.x * PREFILL_ROW_TILES, row_tiles, tile.first);
        return false;
    }
    sum_products(sums, ring, weights, warp, lane);
    return true;
}

// What:    h[p] = swiglu(gate_up[e] . x[p / top_k] + bias[e]) as gate_up_* does and with its bits, arranged for down_wgmma_*.
// Shapes:  x: the map of [pairs][stride] f16, the pairs' rows in sorted order, arranged; the rest as in experts.cu. Grid: (row tiles / 8,
//          tile list).
// Source:  prefill.cuh; experts.cu.
// Twin:    gate_up_64, equal.
// Cost:    4 I H operations a pair; (68 + 2 tokens) H bytes from L2 for 64 columns and 64 or 128 pairs.
template <int TOKENS>
__device__ __forceinline__ void gate_up_wgmma_tile(f16* h, const TensorMap* x, const uint4* codes, const uint32_t* scales, const float* bias,
                                                   const int* tiles, const int* tile_count, int inner, int row_tiles, int steps,
                                                   int h_stride, float alpha, float limit) {
    DYN_SMEM(unsigned char, shared);
    if ((int)blockIdx.y >= *tile_count) return;
    const ExpertTile tile = read_tile(tiles, blockIdx.y);
    const Mxfp4Weights weights(codes, scales, tile.expert, row_tiles, steps);
    Parts<TOKENS / 8> sums(weights.part_units());
    if (!sum_expert<TOKENS>(sums, shared, x, weights, tile, row_tiles)) return;
    const int lane = threadIdx.x & 31, row_tile = blockIdx.x * PREFILL_ROW_TILES + (threadIdx.x >> 5);
    // A lane has a gate and, eight rows on, its up.
    const int column = row_tile * 8 + (lane >> 2);
    if (column >= inner) return;
    const float* pair_bias = bias + ((size_t)tile.expert * inner + column) * 2;
    const float gate_bias = pair_bias[0], up_bias = pair_bias[1];
    f16* out = h + (size_t)tile.first * h_stride + arranged(column);
#pragma unroll
    for (int n = 0; n < TOKENS / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int token = 8 * n + (lane & 3) * 2 + i;
            if (token >= tile.count) continue;
            out[(size_t)token * h_stride] = swiglu(sums.total[n][i] + gate_bias, sums.total[n][i + 2] + up_bias, alpha, limit);
        }
}

// What:    y[p] = down[e] . h[sorted place of p] + bias[e] as down_* does and with its bits.
// Shapes:  h: the map of [pairs][stride] f16 in sorted order, arranged; the rest as in experts.cu. Grid: (row tiles / 8, tile list).
// Source:  prefill.cuh; experts.cu.
// Twin:    down_64, equal.
// Cost:    2 I H operations a pair; (68 + 2 tokens) I bytes from L2 for 128 rows and 64 or 128 pairs.
template <int TOKENS>
__device__ __forceinline__ void down_wgmma_tile(float* y, const TensorMap* h, const uint4* codes, const uint32_t* scales, const float* bias,
                                                const int* sorted, const int* tiles, const int* tile_count, int hidden, int row_tiles,
                                                int steps) {
    DYN_SMEM(unsigned char, shared);
    if ((int)blockIdx.y >= *tile_count) return;
    const ExpertTile tile = read_tile(tiles, blockIdx.y);
    const Mxfp4Weights weights(codes, scales, tile.expert, row_tiles, steps);
    Parts<TOKENS / 8> sums(weights.part_units());
    if (!sum_expert<TOKENS>(sums, shared, h, weights, tile, row_tiles)) return;
    const int lane = threadIdx.x & 31, row_tile = blockIdx.x * PREFILL_ROW_TILES + (threadIdx.x >> 5);
    const int row = row_tile * 16 + (lane >> 2);
    const float* row_bias = bias + (size_t)tile.expert * hidden + row;
    const float low_bias = row < hidden ? row_bias[0] : 0.0f, high_bias = row + 8 < hidden ? row_bias[8] : 0.0f;
#pragma unroll
    for (int n = 0; n < TOKENS / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int token = 8 * n + (lane & 3) * 2 + i;
            if (token >= tile.count) continue;
            float* out = y + (size_t)sorted[tile.first + token] * hidden + row;
            if (row < hidden) out[0] = sums.total[n][i] + low_bias;
            if (row + 8 < hidden) out[8] = sums.total[n][i + 2] + high_bias;
        }
}

#define GATE_UP_WGMMA(tokens) \
    gate_up_wgmma_tile<tokens>(h, &x, codes, scales, bias, tiles, tile_count, inner, row_tiles, steps, h_stride, alpha, limit)
#define DOWN_WGMMA(tokens) down_wgmma_tile<tokens>(y, &h, codes, scales, bias, sorted, tiles, tile_count, hidden, row_tiles, steps)
#else
#define GATE_UP_WGMMA(tokens) __trap()
#define DOWN_WGMMA(tokens) __trap()
#endif

#define EXPERTS_WGMMA(tokens)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(PREFILL_THREADS, 1)                                                               \
        gate_up_wgmma_##tokens(const __grid_constant__ TensorMap x, f16* __restrict__ h, const uint4* __restrict__ codes,          \
                               const uint32_t* __restrict__ scales, const float* __restrict__ bias, const int* __restrict__ tiles, \
                               const int* __restrict__ tile_count, int inner, int row_tiles, int steps, int h_stride, float alpha, \
                               float limit) {                                                                                      \
        GATE_UP_WGMMA(tokens);                                                                                                     \
    }                                                                                                                              \
    KERNEL_EXPORT(gate_up_wgmma_##tokens)                                                                                          \
    extern "C" __global__ void __launch_bounds__(PREFILL_THREADS, 1)                                                               \
        down_wgmma_##tokens(const __grid_constant__ TensorMap h, float* __restrict__ y, const uint4* __restrict__ codes,           \
                            const uint32_t* __restrict__ scales, const float* __restrict__ bias, const int* __restrict__ sorted,   \
                            const int* __restrict__ tiles, const int* __restrict__ tile_count, int hidden, int row_tiles,          \
                            int steps) {                                                                                           \
        DOWN_WGMMA(tokens);                                                                                                        \
    }                                                                                                                              \
    KERNEL_EXPORT(down_wgmma_##tokens)

EXPERTS_WGMMA(64)
EXPERTS_WGMMA(128)
