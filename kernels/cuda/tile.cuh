// The tile core: 16 rows of weights times 8 tokens, from registers, with mma.sync m16n8k16 in f16 and sums in f32.
//
// What:    acc[row][token] += sum over k of W[row][k] x[token][k], weights as the M operand, tokens as N.
// Shapes:  weights lie in fragment order: for each 16 rows and each step of k, what the 32 lanes need, 16 bytes a lane and load.
//          f16: a step is 32 of k, two loads; MXFP4: a step is 64 of k, one load and one word of scales.
//          With g = lane / 4 and t = lane % 4, a lane holds rows g and g + 8 at k = 8 t .. 8 t + 7 of each 32. The mma's own
//          order of k is another, but a sum over k may take any order as long as weights and tokens agree.
// Source:  PTX ISA, mma.m16n8k16 fragments; OCP MX 1.0 for MXFP4.
// Twin:    reference::linear, through the kernels that use it.
// Cost:    one 16-byte load of weights a lane for 2 (f16) or 4 (MXFP4) mma a tile of tokens.
#pragma once
#include "numbers.cuh"

// A block's warps share the sums' k range: warp w takes its w-th part, and the parts are added in the order of the warps. The
// parts depend on k alone, so a token's bits do not depend on how many tokens are beside it.
constexpr int TILE_WARPS = 8;

// The steps of k that belong to a warp: parts of equal size, the last ones shorter or empty.
__device__ __forceinline__ int part_begin(int steps, int warp) {
    const int part = (steps + TILE_WARPS - 1) / TILE_WARPS;
    return min(steps, part * warp);
}

struct F16Step {
    uint4 low, high;  // row g, row g + 8
};

// tile: [step][2][32 lanes].
__device__ __forceinline__ F16Step load_f16(const uint4* tile, int step, int lane) {
    const uint4* at = tile + (size_t)step * 64 + lane;
    return {load_once16(at), load_once16(at + 32)};
}

// The fragments of 32 of k: two mma's of four registers.
__device__ __forceinline__ void fragments_f16(const F16Step& w, uint32_t (&first)[4], uint32_t (&second)[4]) {
    first[0] = w.low.x, first[1] = w.high.x, first[2] = w.low.y, first[3] = w.high.y;
    second[0] = w.low.z, second[1] = w.high.z, second[2] = w.low.w, second[3] = w.high.w;
}

struct Mxfp4Step {
    uint4 codes;      // row g block 0, row g + 8 block 0, row g block 1, row g + 8 block 1
    uint32_t scales;  // in the same order, lowest byte first
};

// codes: [step][32 lanes]; scales: [step][8].
__device__ __forceinline__ Mxfp4Step load_mxfp4(const uint4* codes, const uint32_t* scales, int step, int lane) {
    return {load_once16(codes + (size_t)step * 32 + lane), scales[(size_t)step * 8 + (lane >> 2)]};
}

// The fragments of 32 of k, one block of MXFP4: two mma's of four registers.
__device__ __forceinline__ void fragments_mxfp4(const Mxfp4Step& w, int block, uint32_t (&first)[4], uint32_t (&second)[4]) {
    const uint32_t scales = block ? w.scales >> 16 : w.scales;
    const uint32_t low_factor = scale_factor(scales & 0xffu), high_factor = scale_factor(scales >> 8 & 0xffu);
    uint32_t low[4], high[4];
    expand_e2m1(block ? w.codes.z : w.codes.x, low);
    expand_e2m1(block ? w.codes.w : w.codes.y, high);
    first[0] = mul_f16x2(low[0], low_factor), first[1] = mul_f16x2(high[0], high_factor);
    first[2] = mul_f16x2(low[1], low_factor), first[3] = mul_f16x2(high[1], high_factor);
    second[0] = mul_f16x2(low[2], low_factor), second[1] = mul_f16x2(high[2], high_factor);
    second[2] = mul_f16x2(low[3], low_factor), second[3] = mul_f16x2(high[3], high_factor);
}

// What the lanes need of TOKEN_TILES * 8 tokens at 32 of k: 8 values of one token each, for two mma's.
template <int TOKEN_TILES>
__device__ __forceinline__ void load_tokens(const f16* const (&rows)[TOKEN_TILES], size_t k, uint32_t (&first)[TOKEN_TILES][2],
                                            uint32_t (&second)[TOKEN_TILES][2]) {
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++) {
        const uint4 x = *reinterpret_cast<const uint4*>(rows[n] + k);
        first[n][0] = x.x, first[n][1] = x.y, second[n][0] = x.z, second[n][1] = x.w;
    }
}

// From one token of the warps' sums in shared memory to the next, [warp][token][row]; padded so that no bank is met twice.
__device__ constexpr int sum_stride(int row_tiles) { return 16 * row_tiles + 4; }

// Puts a warp's tile of sums into its part of `sums`.
template <int ROW_TILES, int TOKEN_TILES>
__device__ __forceinline__ void store_sums(float* sums, const float (&acc)[ROW_TILES][TOKEN_TILES][4], int warp, int lane) {
    constexpr int STRIDE = sum_stride(ROW_TILES);
    float* own = sums + (size_t)warp * 8 * TOKEN_TILES * STRIDE;
    const int row = lane >> 2, token = (lane & 3) * 2;
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int n = 0; n < TOKEN_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) own[(8 * n + token + (i & 1)) * STRIDE + 16 * m + row + (i >> 1) * 8] = acc[m][n][i];
}

// The sum of all warps at (row, token) of the block's tile, in the order of the warps.
template <int ROW_TILES, int TOKEN_TILES>
__device__ __forceinline__ float whole_sum(const float* sums, int row, int token) {
    constexpr int STRIDE = sum_stride(ROW_TILES);
    float sum = sums[token * STRIDE + row];
#pragma unroll
    for (int warp = 1; warp < TILE_WARPS; warp++) sum += sums[(warp * 8 * TOKEN_TILES + token) * STRIDE + row];
    return sum;
}
