// The tile core of steps with many tokens on sm_90a: 128 rows of weights times 64 or 128 tokens, with wgmma.
//
// What:    total[row][token] = sum over k of W[row][k] x[token][k], the sums in the order of tile.cuh. So k is cut into the same
//          TILE_WARPS parts, each part goes by the same 16 of k in the same order, and the parts are added in order. So a token's
//          bits are those of the mma.sync kernels, if both instructions add the 16 products of a step alike.
// Shapes:  weights as tile.cuh has them, from registers: a warp has a tile of 16 rows. Tokens arranged (`arranged`): rows of f16 in
//          which each 64 bytes, 4 x 4 words of two values, are transposed. Two warpgroups multiply; one thread of a ninth warp
//          fills a ring of stages, 64 of k each: a box of tokens and what the 8 tiles need.
// Source:  PTX ISA 9.0, wgmma.m64nNk16 fragments and its 128-byte swizzle.
// Twin:    the kernels of tile.cuh, equal; reference::linear through them.
// Cost:    a block reads (128 bytes of weights' format + 2 x tokens) of K from L2, for 256 x tokens operations of K.
#pragma once
#include "hopper.cuh"
#include "tile.cuh"

constexpr int PREFILL_ROW_TILES = 8;
constexpr int PREFILL_THREADS = 32 * PREFILL_ROW_TILES + 32;
constexpr int PREFILL_STAGES = 6;
// k of a stage, a row of the swizzle; and of what is expanded at once, two products.
constexpr int STAGE_K = 64, UNIT_K = 32;

// Where an arranged row keeps value `k`. The packed weights give lane t the values 8 t .. 8 t + 7 of each 32 (tile.cuh), and a product's
// fragments give it the word t of each four: so word j of lane t goes to place 4 j + t.
__device__ __forceinline__ int arranged(int k) {
    const int word = k % UNIT_K / 2;
    return k / UNIT_K * UNIT_K + (word % 4 * 4 + word / 4) * 2 + k % 2;
}

#if HOPPER

// f16 weights in a stage: [tile][step of 32][2][32 lanes].
struct F16Weights {
    static constexpr int TILE_BYTES = 2048;
    const uint4* tiles;
    int steps;
    __device__ __forceinline__ int units() const { return steps; }
    __device__ __forceinline__ int part_units() const { return part_begin(steps, 1); }
    __device__ __forceinline__ uint32_t tile_bytes(int stage) const { return 1024 * min(2, steps - 2 * stage); }
    __device__ __forceinline__ void copy(unsigned char* to, int tile, int stage, uint64_t* barrier) const {
        copy_bulk(to, tiles + ((size_t)tile * steps + 2 * stage) * 64, tile_bytes(stage), barrier);
    }
    __device__ __forceinline__ void fragments(const unsigned char* tile, int unit, int lane, uint32_t (&first)[4], uint32_t (&second)[4]) const {
        const uint4* at = reinterpret_cast<const uint4*>(tile) + unit * 64 + lane;
        fragments_f16({at[0], at[32]}, first, second);
    }
};

template <class Weights, int TOKENS>
struct Ring {
    static constexpr int TOKEN_BYTES = TOKENS * STAGE_K * 2;
    static constexpr int STAGE_BYTES = TOKEN_BYTES + (PREFILL_ROW_TILES * Weights::TILE_BYTES + 1023) / 1024 * 1024;
    unsigned char* stages;  // at a multiple of 1,024
    uint64_t *full, *empty;

    __device__ __forceinline__ explicit Ring(unsigned char* shared) {
        stages = shared + ((1024 - ((uintptr_t)shared & 1023)) & 1023);
        full = reinterpret_cast<uint64_t*>(stages + PREFILL_STAGES * STAGE_BYTES);
        empty = full + PREFILL_STAGES;
    }
    // By all threads.
    __device__ __forceinline__ void begin() const {
        if (threadIdx.x == 0) {
            for (int slot = 0; slot < PREFILL_STAGES; slot++) {
                mbarrier_init(full + slot, 1);
                mbarrier_init(empty + slot, PREFILL_ROW_TILES);
            }
            mbarrier_fence_init();
        }
        __syncthreads();
    }
    __device__ __forceinline__ unsigned char* tokens(int slot) const { return stages + slot * STAGE_BYTES; }
    __device__ __forceinline__ unsigned char* tile(int slot, int index) const {
        return tokens(slot) + TOKEN_BYTES + index * Weights::TILE_BYTES;
    }
};

// Fills the ring with all of k, one stage after another, each once its contents are no longer read. By one thread.
template <class Weights, int TOKENS>
__device__ __forceinline__ void fill_ring(const Ring<Weights, TOKENS>& ring, const TensorMap* x, const Weights& weights, int first_tile,
                                          int tile_count, int first_token) {
    const int stages = (weights.units() + 1) / 2;
    for (int stage = 0; stage < stages; stage++) {
        const int slot = stage % PREFILL_STAGES, round = stage / PREFILL_STAGES;
        if (round > 0) mbarrier_wait(ring.empty + slot, (round - 1) & 1);
        uint64_t* full = ring.full + slot;
        mbarrier_arrive_expect(full, Ring<Weights, TOKENS>::TOKEN_BYTES + PREFILL_ROW_TILES * weights.tile_bytes(stage));
        copy_box(ring.tokens(slot), x, stage * STAGE_K, first_token, full);
        // Tiles past the last one repeat it; their sums are not written.
        for (int i = 0; i < PREFILL_ROW_TILES; i++) weights.copy(ring.tile(slot, i), min(first_tile + i, tile_count - 1), stage, full);
    }
}

// The sums of the part of k that is under way, and of the parts before it.
template <int N>
struct Parts {
    float part[N][4], total[N][4];
    int part_units, left, done;

    __device__ __forceinline__ explicit Parts(int units) : part_units(units), left(units), done(0) {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) part[n][i] = 0.0f, total[n][i] = -0.0f;  // -0 + x is x, whatever its sign
    }
    __device__ __forceinline__ void end_part() {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) total[n][i] += part[n][i], part[n][i] = 0.0f;
        left = part_units;
        done++;
    }
    __device__ __forceinline__ void end_unit() {
        if (--left == 0) end_part();
    }
    // Parts that are short or empty count too: the mma.sync kernels add their zeros.
    __device__ __forceinline__ void end() {
        if (left != part_units) end_part();
        while (done < TILE_WARPS) end_part();
    }
};

// Starts the products of 32 of k.
template <int N>
__device__ __forceinline__ void start_unit(float (&part)[N][4], const uint32_t (&first)[4], const uint32_t (&second)[4],
                                           const unsigned char* tokens) {
    const f16* at = reinterpret_cast<const f16*>(tokens);
    wgmma_fence();
    wgmma_k16(part, first, at);
    wgmma_k16(part, second, at + 16);
    wgmma_commit();
}

// The sums of a warp's tile over all of k. While the products of 32 of k run, the next 32 are expanded.
template <class Weights, int TOKENS>
__device__ __forceinline__ void sum_products(Parts<TOKENS / 8>& sums, const Ring<Weights, TOKENS>& ring, const Weights& weights,
                                             int warp, int lane) {
    const int units = weights.units(), stages = (units + 1) / 2;
    uint32_t even[2][4], odd[2][4];
    mbarrier_wait(ring.full, 0);
    weights.fragments(ring.tile(0, warp), 0, lane, even[0], even[1]);
    for (int stage = 0; stage < stages; stage++) {
        const int slot = stage % PREFILL_STAGES, next = stage + 1;
        const bool is_whole = 2 * stage + 1 < units;
        start_unit(sums.part, even[0], even[1], ring.tokens(slot));
        if (is_whole) weights.fragments(ring.tile(slot, warp), 1, lane, odd[0], odd[1]);
        wgmma_wait<0>(sums.part);
        keep_fragments(even[0], even[1]);
        sums.end_unit();
        if (is_whole) {
            start_unit(sums.part, odd[0], odd[1], ring.tokens(slot) + 2 * UNIT_K);
            if (next < stages) {
                mbarrier_wait(ring.full + next % PREFILL_STAGES, next / PREFILL_STAGES & 1);
                weights.fragments(ring.tile(next % PREFILL_STAGES, warp), 0, lane, even[0], even[1]);
            }
            wgmma_wait<0>(sums.part);
            keep_fragments(odd[0], odd[1]);
            sums.end_unit();
        }
        // Every lane has read its weights, and the products have read the tokens.
        __syncwarp();
        if (lane == 0) mbarrier_arrive(ring.empty + slot);
    }
    sums.end();
}

#endif
