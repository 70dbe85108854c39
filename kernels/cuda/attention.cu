// What:    softmax attention over paged keys and values with a learned sink, GQA and an optional window:
//          out = sum over j of exp(s[j]) v[j] / (exp(sink) + sum over j of exp(s[j])), s[j] = q . k[j] / sqrt(head_dim), j over the
//          positions that the token sees. Prefill slices and decode are one kernel: a block takes an item of the work list, up to
//          16 rows a warp, a row being a token and one of the query heads that share the block's KV head.
// Shapes:  queries [T][heads][row], keys, values [block][kv head][slot][row] f16 as rope_store leaves them; sinks [heads] f32;
//          out [T][stride] f16; items [count][10] (AttentionItem); blocks: the batch's block tables; partials
//          [slot][heads][head_dim + 2] f32: maximum, sum, weighted values of a chunk. Grid: (any, kv heads); a block takes every
//          gridDim.x-th item.
// Source:  Dao et al. 2022, arXiv:2205.14135; Flash-Decoding for the split; Xiao et al. 2023, arXiv:2309.17453 (sinks).
// Twin:    reference::attention; 1e-3 of the largest value, the rounding of q, k, v, the weights and `out` to f16.
// Cost:    4 head_dim bytes a KV head and position for each item; 4 head_dim operations a query head and position.
//
// A token's bits depend on its position alone: keys go in tiles and chunks that begin at multiples of their size, whatever
// computes them. A decoding token's chunks may go to several blocks, whose partials attention_combine merges in order; an item of
// several chunks merges them in the same order with the same arithmetic. Tiles that a row does not see change no bit of it.
#include "common.cuh"

constexpr int CHUNK = 128;

struct AttentionItem {
    int token;        // first row of the slice in the step
    int start;        // its position
    int row, rows;    // rows of the slice that are this item's: token of the slice * group + head of the group
    int table;        // where the slice's block table begins in `blocks`
    int table_first;  // logical index of its first entry
    int chunk, chunk_end;
    int partial;      // slot of the first chunk; -1: merge the chunks and write `out`
    int window;       // positions that a token sees, itself included
};
constexpr int ITEM_INTS = 10;

// A sum under way: exp(score - max) summed, and weighted values beside it.
struct Running {
    float max, sum;
};

// What both sides of a merge are multiplied with; the maximum becomes that of both.
__device__ __forceinline__ float2 merge(Running& total, const Running& part) {
    const float max = fmaxf(total.max, part.max), base = max == -INFINITY ? 0.0f : max;
    const float2 factors = make_float2(__expf(total.max - base), __expf(part.max - base));
    total = {max, fmaf(total.sum, factors.x, part.sum * factors.y)};
    return factors;
}

// The factor on the weighted values once the sink is in the denominator.
__device__ __forceinline__ float finish(const Running& total, float sink) {
    const float max = fmaxf(total.max, sink), factor = __expf(total.max - max);
    return factor / fmaf(total.sum, factor, __expf(sink - max));
}

// One warp's 16 rows: for accumulator i, row g for i < 2, row g + 8 otherwise; values [DIM / 8][4] as mma leaves them.
template <int DIM, int KEYS, int WARPS>
struct Attention {
    static constexpr int ROW = DIM + 8, TILE = KEYS * ROW;

    // Starts copies of a tile of keys or values into shared memory: zeros where there is no such position or dimension.
    static __device__ __forceinline__ void load(f16* shared, const f16* memory, const int* blocks, const AttentionItem& item, int first,
                                                int from, int to, int kv_head, int kv_heads, int row, int block_tokens) {
        for (int i = threadIdx.x; i < KEYS * (DIM / 8); i += 32 * WARPS) {
            const int key = i / (DIM / 8), dim = i % (DIM / 8) * 8, position = first + key;
            const bool is_there = position >= from && position < to && dim < row;
            size_t offset = 0;
            if (is_there) {
                const size_t block = (size_t)blocks[item.table + position / block_tokens - item.table_first];
                offset = ((block * kv_heads + kv_head) * block_tokens + position % block_tokens) * row + dim;
            }
            cp_async16(shared + key * ROW + dim, memory + offset, is_there);
        }
    }

    // Scores of a tile: s[n] are keys 8 n .. 8 n + 7.
    static __device__ __forceinline__ void scores(float (&s)[1][KEYS / 8][4], const uint32_t (&q)[DIM / 16][4], const f16* keys, int lane) {
        const int matrix = lane >> 3;
#pragma unroll
        for (int k = 0; k < DIM / 16; k++) {
            uint32_t b[KEYS / 8][2], a[1][4] = {{q[k][0], q[k][1], q[k][2], q[k][3]}};
#pragma unroll
            for (int n = 0; n < KEYS / 8; n += 2) {
                uint32_t four[4];
                ldmatrix_x4(four, keys + (8 * (n + (matrix >> 1)) + (lane & 7)) * ROW + 16 * k + (matrix & 1) * 8);
                b[n][0] = four[0], b[n][1] = four[1], b[n + 1][0] = four[2], b[n + 1][1] = four[3];
            }
            mma_tile(s, a, b);
        }
    }

    // Adds a tile's weights times its values.
    static __device__ __forceinline__ void weigh(float (&acc)[1][DIM / 8][4], const float (&s)[1][KEYS / 8][4], const f16* values, int lane) {
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            const float(&low)[4] = s[0][2 * k], (&high)[4] = s[0][2 * k + 1];
            uint32_t b[DIM / 8][2];
            uint32_t a[1][4] = {{pack_f16x2(low[0], low[1]), pack_f16x2(low[2], low[3]), pack_f16x2(high[0], high[1]),
                                 pack_f16x2(high[2], high[3])}};
#pragma unroll
            for (int n = 0; n < DIM / 8; n += 2) {
                uint32_t four[4];
                ldmatrix_x4_t(four, values + (16 * k + (lane & 15)) * ROW + 8 * n + (lane >> 4) * 8);
                b[n][0] = four[0], b[n][1] = four[1], b[n + 1][0] = four[2], b[n + 1][1] = four[3];
            }
            mma_tile(acc, a, b);
        }
    }

    // Masks and exponentiates a tile's scores against the chunk's running maximum; `side` 0 is row g, 1 row g + 8.
    static __device__ __forceinline__ void soften(float (&s)[1][KEYS / 8][4], float (&acc)[1][DIM / 8][4], Running& chunk, int side,
                                                  int first, int from, int to, float scale, int lane) {
        float max = chunk.max;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int position = first + 8 * n + (lane & 3) * 2 + i;
                float& score = s[0][n][2 * side + i];
                score = position >= from && position < to ? score * scale : -INFINITY;
                max = fmaxf(max, score);
            }
        max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 1));
        max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 2));
        const float base = max == -INFINITY ? 0.0f : max, factor = __expf(chunk.max - base);
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float& score = s[0][n][2 * side + i];
                score = __expf(score - base);
                sum += score;
            }
        sum += __shfl_xor_sync(FULL_WARP, sum, 1);
        sum += __shfl_xor_sync(FULL_WARP, sum, 2);
        chunk = {max, fmaf(chunk.sum, factor, sum)};
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            acc[0][n][2 * side] *= factor;
            acc[0][n][2 * side + 1] *= factor;
        }
    }
};

// The weighted values of the chunks merged so far, a lane's own: in registers, or in shared memory where registers run short.
template <int DIM, int WARPS>
struct Whole {
    static constexpr bool IS_SHARED = DIM > 64;
    float registers[IS_SHARED ? 1 : DIM / 2];
    float* shared;

    __device__ __forceinline__ explicit Whole(float* space) : registers{}, shared(space + threadIdx.x) {
        if (IS_SHARED)
            for (int i = 0; i < DIM / 2; i++) shared[i * 32 * WARPS] = 0.0f;
    }
    __device__ __forceinline__ float& operator[](int i) { return IS_SHARED ? shared[i * 32 * WARPS] : registers[IS_SHARED ? 0 : i]; }
};

template <int DIM, int KEYS, int WARPS>
__device__ __forceinline__ void attention_item(f16* out, float* partials, const f16* queries, const f16* keys, const f16* values,
                                               const float* sinks, const int* items, int index, const int* blocks, int heads, int kv_heads,
                                               int head_dim, int row, int block_tokens, int stride, float scale) {
    using Tile = Attention<DIM, KEYS, WARPS>;
    DYN_SMEM(f16, shared);  // two stages of keys and values, then Whole
    const int* words = items + (size_t)index * ITEM_INTS;
    const AttentionItem item = {words[0], words[1], words[2], words[3], words[4], words[5], words[6], words[7], words[8], words[9]};
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, kv_head = blockIdx.y, group = heads / kv_heads;
    // The lane's two rows: their token, head and what they see.
    int token[2], head[2], from[2], to[2];
    bool is_row[2];
#pragma unroll
    for (int side = 0; side < 2; side++) {
        const int in_item = 16 * warp + 8 * side + (lane >> 2), in_slice = item.row + min(in_item, item.rows - 1);
        is_row[side] = in_item < item.rows;
        token[side] = item.token + in_slice / group;
        head[side] = kv_head * group + in_slice % group;
        to[side] = item.start + in_slice / group + 1;
        from[side] = max(0, to[side] - item.window);
    }
    uint32_t q[DIM / 16][4];
#pragma unroll
    for (int k = 0; k < DIM / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int dim = 16 * k + (i >> 1) * 8 + (lane & 3) * 2;
            const f16* from_row = queries + ((size_t)token[i & 1] * heads + head[i & 1]) * row;
            q[k][i] = dim < row ? *reinterpret_cast<const uint32_t*>(from_row + dim) : 0u;
        }
    // What the item's rows see, and the tiles in it.
    const int first_to = item.start + item.row / group + 1, item_to = item.start + (item.row + item.rows - 1) / group + 1;
    const int item_from = max(max(0, first_to - item.window), item.chunk * CHUNK), last = min(item_to, item.chunk_end * CHUNK);
    const int tile_begin = item_from / KEYS, tile_end = (last + KEYS - 1) / KEYS;
    const auto stage = [&](int tile) { return shared + (tile & 1) * 2 * Tile::TILE; };
    const auto load = [&](int tile) {
        if (tile < tile_end) {
            Tile::load(stage(tile), keys, blocks, item, tile * KEYS, item_from, last, kv_head, kv_heads, row, block_tokens);
            Tile::load(stage(tile) + Tile::TILE, values, blocks, item, tile * KEYS, item_from, last, kv_head, kv_heads, row, block_tokens);
        }
        cp_async_commit();
    };
    Running total[2] = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}}, chunk[2] = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}};
    float acc[1][DIM / 8][4] = {};
    Whole<DIM, WARPS> whole(reinterpret_cast<float*>(shared + 4 * Tile::TILE));
    load(tile_begin);
    for (int tile = tile_begin; tile < tile_end; tile++) {
        load(tile + 1);
        cp_async_wait<1>();
        __syncthreads();
        float s[1][KEYS / 8][4] = {};
        Tile::scores(s, q, stage(tile), lane);
#pragma unroll
        for (int side = 0; side < 2; side++)
            Tile::soften(s, acc, chunk[side], side, tile * KEYS, from[side], min(to[side], last), scale, lane);
        Tile::weigh(acc, s, stage(tile) + Tile::TILE, lane);
        __syncthreads();
        if ((tile + 1) % (CHUNK / KEYS) != 0 && tile + 1 < tile_end) continue;
        // The chunk is whole.
#pragma unroll
        for (int side = 0; side < 2; side++) {
            if (item.partial >= 0) {
                const size_t slot = item.partial + tile / (CHUNK / KEYS) - item.chunk;
                float* part = partials + (slot * heads + head[side]) * (head_dim + 2);
                if (!is_row[side]) continue;
                if ((lane & 3) == 0) part[0] = chunk[side].max, part[1] = chunk[side].sum;
#pragma unroll
                for (int n = 0; n < DIM / 8; n++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const int dim = 8 * n + (lane & 3) * 2 + i;
                        if (dim < head_dim) part[2 + dim] = acc[0][n][2 * side + i];
                    }
            } else {
                const float2 factors = merge(total[side], chunk[side]);
#pragma unroll
                for (int n = 0; n < DIM / 8; n++)
#pragma unroll
                    for (int i = 2 * side; i < 2 * side + 2; i++)
                        whole[4 * n + i] = fmaf(whole[4 * n + i], factors.x, acc[0][n][i] * factors.y);
            }
            chunk[side] = {-INFINITY, 0.0f};
        }
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[0][n][i] = 0.0f;
    }
    if (item.partial >= 0) return;
#pragma unroll
    for (int side = 0; side < 2; side++) {
        if (!is_row[side]) continue;
        const float factor = finish(total[side], sinks[head[side]]);
#pragma unroll
        for (int n = 0; n < DIM / 8; n++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int dim = 8 * n + (lane & 3) * 2 + i;
                if (dim < head_dim) out[(size_t)token[side] * stride + head[side] * head_dim + dim] = to_f16(whole[4 * n + 2 * side + i] * factor);
            }
    }
}

#define ATTENTION(name, dim, keys_a_tile, warps)                                                                                   \
    extern "C" __global__ void __launch_bounds__(32 * warps)                                                                       \
        name(f16* __restrict__ out, float* __restrict__ partials, const f16* __restrict__ queries, const f16* __restrict__ keys,   \
             const f16* __restrict__ values, const float* __restrict__ sinks, const int* __restrict__ items,                       \
             const int* __restrict__ item_count, const int* __restrict__ blocks, int heads, int kv_heads, int head_dim, int row,   \
             int block_tokens, int stride, float scale) {                                                                          \
        for (int index = blockIdx.x; index < *item_count; index += gridDim.x)                                                      \
            attention_item<dim, keys_a_tile, warps>(out, partials, queries, keys, values, sinks, items, index, blocks, heads,      \
                                                    kv_heads, head_dim, row, block_tokens, stride, scale);                         \
    }                                                                                                                              \
    KERNEL_EXPORT(name)

ATTENTION(attention_decode_32, 32, 32, 1)
ATTENTION(attention_decode_64, 64, 64, 1)
ATTENTION(attention_decode_128, 128, 32, 1)
ATTENTION(attention_prefill_32, 32, 32, 4)
ATTENTION(attention_prefill_64, 64, 64, 4)
ATTENTION(attention_prefill_128, 128, 32, 4)

// What:    merges the partials of a token's chunks, first chunk first, and writes its row of `out`.
// Shapes:  as above; splits [count][3]: token, slot of its first chunk, chunks. One warp a head; grid: (splits, heads / 4).
// Source, twin: as above.
// Cost:    4 (head_dim + 2) bytes a chunk and head, written and read: 13 % of the chunk's keys and values with 8 heads a KV head.
extern "C" __global__ void __launch_bounds__(128)
    attention_combine(f16* __restrict__ out, const float* __restrict__ partials, const float* __restrict__ sinks,
                      const int* __restrict__ splits, const int* __restrict__ split_count, int heads, int head_dim, int stride) {
    const int head = blockIdx.y * 4 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if ((int)blockIdx.x >= *split_count || head >= heads) return;
    const int token = splits[3 * blockIdx.x], first = splits[3 * blockIdx.x + 1], chunks = splits[3 * blockIdx.x + 2];
    Running total = {-INFINITY, 0.0f};
    float whole[4] = {};  // dimensions lane, lane + 32, ...
    for (int chunk = 0; chunk < chunks; chunk++) {
        const float* part = partials + ((size_t)(first + chunk) * heads + head) * (head_dim + 2);
        const float2 factors = merge(total, {part[0], part[1]});
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int dim = lane + 32 * i;
            if (dim < head_dim) whole[i] = fmaf(whole[i], factors.x, part[2 + dim] * factors.y);
        }
    }
    const float factor = finish(total, sinks[head]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int dim = lane + 32 * i;
        if (dim < head_dim) out[(size_t)token * stride + head * head_dim + dim] = to_f16(whole[i] * factor);
    }
}
KERNEL_EXPORT(attention_combine)
