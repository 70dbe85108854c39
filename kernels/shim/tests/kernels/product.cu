// What the shim's own tests run: a product of matrices with copies that overlap, ldmatrix and mma. c = a b^T, a of m x k, b of
// n x k; n a multiple of 64, k of 32. Tiles of 64 x 64, 4 warps, two stages.
#include "common.cuh"

constexpr int TILE = 64, DEPTH = 32, PITCH = DEPTH + 8;

extern "C" __global__ void __launch_bounds__(128)
    sample_product(bf16* __restrict__ c, const f16* __restrict__ a, const f16* __restrict__ b, int m, int n, int k) {
    DYN_SMEM(f16, tiles);
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32, row0 = blockIdx.y * TILE, column0 = blockIdx.x * TILE;
    const int steps = k / DEPTH;
    auto stage = [&](int s) { return tiles + s % 2 * 2 * TILE * PITCH; };
    auto load = [&](int s) {
        f16 *ta = stage(s), *tb = ta + TILE * PITCH;
        for (int i = tid; i < TILE * DEPTH / 8; i += 128) {
            const int r = i / (DEPTH / 8), at = i % (DEPTH / 8) * 8;
            const bool ok = row0 + r < m;
            cp_async16(ta + r * PITCH + at, a + (size_t)(ok ? row0 + r : 0) * k + s * DEPTH + at, ok);
            cp_async16(tb + r * PITCH + at, b + (size_t)(column0 + r) * k + s * DEPTH + at);
        }
        cp_async_commit();
    };
    float sums[2][4][4] = {};
    load(0);
    for (int s = 0; s < steps; s++) {
        if (s + 1 < steps) {
            load(s + 1);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();  // the tiles are there
        const f16 *ta = stage(s), *tb = ta + TILE * PITCH;
#pragma unroll
        for (int depth = 0; depth < DEPTH; depth += 16) {
            uint32_t fa[2][4], fb[4][2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                ldmatrix_x4(fa[i], ta + (warp % 2 * 32 + i * 16 + lane % 16) * PITCH + depth + lane / 16 * 8);
            }
#pragma unroll
            for (int j = 0; j < 2; j++) {
                uint32_t four[4];
                const int r = warp / 2 * 32 + j * 16 + lane % 8 + lane / 16 * 8;
                ldmatrix_x4(four, tb + r * PITCH + depth + lane / 8 % 2 * 8);
                fb[2 * j][0] = four[0], fb[2 * j][1] = four[1], fb[2 * j + 1][0] = four[2], fb[2 * j + 1][1] = four[3];
            }
            mma_tile(sums, fa, fb);
        }
        __syncthreads();  // the tiles are read no more
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int r = row0 + warp % 2 * 32 + i * 16 + h * 8 + lane / 4;
                const int at = column0 + warp / 2 * 32 + j * 8 + lane % 4 * 2;
                if (r >= m) continue;
                *reinterpret_cast<uint32_t*>(c + (size_t)r * n + at) = pack_bf16x2(sums[i][j][h * 2], sums[i][j][h * 2 + 1]);
            }
        }
    }
}
KERNEL_EXPORT(sample_product)
