// The router, and the grouping of tokens by expert.
#include "common.cuh"

constexpr int ROUTE_THREADS = 256, ROUTE_WARPS = ROUTE_THREADS / 32, ROUTE_TOKENS = 4;
// Marks the logit of an expert that a token goes to already: a NaN that no arithmetic makes.
constexpr uint32_t TAKEN = 0xffffffffu;

// What:    logits = W x + b; a token goes to the top_k experts with the largest, weighted by the softmax over those alone. Among
//          equals the lower index goes first, NaN counts as the largest and makes the weights NaN. Experts are numbered from
//          `first_expert` on, of which `own_count` are this rank's; the others become -1, which no expert computes. So do all of
//          the rows from `token_count` on, which fill a batch up to its graph's size.
// Shapes:  x [T][stride] f16, zeros from H on; W [E][stride] bf16; bias [E]; experts, weights [T][top_k]. Four tokens a block,
//          so that a row of W is read once for four; E * 16 bytes of shared memory.
// Source:  the gpt-oss model card.
// Twin:    reference::linear and route on x widened; weights 1e-5, experts equal where logits differ by more than rounding.
// Cost:    2 E H bytes (from L2) for four tokens, 2 E H T operations.
extern "C" __global__ void __launch_bounds__(ROUTE_THREADS)
    route(int* __restrict__ experts, float* __restrict__ weights, const f16* __restrict__ x, const bf16* __restrict__ w,
          const float* __restrict__ bias, const int* __restrict__ token_count, int expert_count, int first_expert, int own_count,
          int top_k, int stride, int tokens) {
    DYN_SMEM(float, logits);  // [ROUTE_TOKENS][expert_count]
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first = blockIdx.x * ROUTE_TOKENS;
    for (int expert = warp; expert < expert_count; expert += ROUTE_WARPS) {
        float sums[ROUTE_TOKENS] = {};
        for (int k = lane * 8; k < stride; k += 256) {
            const uint4 row = *reinterpret_cast<const uint4*>(w + (size_t)expert * stride + k);
            const uint32_t w_pairs[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
            for (int t = 0; t < ROUTE_TOKENS; t++) {
                const uint4 token = *reinterpret_cast<const uint4*>(x + (size_t)min(first + t, tokens - 1) * stride + k);
                const uint32_t x_pairs[4] = {token.x, token.y, token.z, token.w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float2 a = unpack_bf16x2(w_pairs[i]), b = unpack_f16x2(x_pairs[i]);
                    sums[t] = fmaf(a.y, b.y, fmaf(a.x, b.x, sums[t]));
                }
            }
        }
#pragma unroll
        for (int t = 0; t < ROUTE_TOKENS; t++) {
            const float sum = warp_sum(sums[t]);
            if (lane == 0) logits[t * expert_count + expert] = sum + bias[expert];
        }
    }
    __syncthreads();
    const int token = first + warp;
    if (warp >= ROUTE_TOKENS || token >= tokens) return;
    if (token >= *token_count) {
        for (int i = lane; i < top_k; i += 32) experts[(size_t)token * top_k + i] = -1, weights[(size_t)token * top_k + i] = 0.0f;
        return;
    }
    float* own = logits + warp * expert_count;
    float likeliest = 0.0f, total = 0.0f;
    for (int i = 0; i < top_k; i++) {
        // The key orders floats as integers, NaN above all; the lower index wins among equals.
        uint32_t best = 0, best_expert = 0xffffffffu;
        for (int expert = lane; expert < expert_count; expert += 32) {
            if (__float_as_uint(own[expert]) == TAKEN) continue;
            const uint32_t bits = __float_as_uint(own[expert] + 0.0f);
            uint32_t key = bits >> 31 ? ~bits : bits | 0x80000000u;
            if ((bits & 0x7fffffffu) > 0x7f800000u) key = 0xffffffffu;
            if (key > best) best = key, best_expert = (uint32_t)expert;
        }
#pragma unroll
        for (int step = 16; step > 0; step >>= 1) {
            const uint32_t key = __shfl_xor_sync(FULL_WARP, best, step), expert = __shfl_xor_sync(FULL_WARP, best_expert, step);
            if (key > best || (key == best && expert < best_expert)) best = key, best_expert = expert;
        }
        const float logit = own[best_expert];
        if (i == 0) likeliest = logit;
        const float weight = expf(logit - likeliest);
        total += weight;
        if (lane == 0) {
            const int number = (int)best_expert - first_expert;
            experts[(size_t)token * top_k + i] = number >= 0 && number < own_count ? number : -1;
            weights[(size_t)token * top_k + i] = weight;
        }
        __syncwarp();
        if (lane == 0) own[best_expert] = __uint_as_float(TAKEN);
        __syncwarp();
    }
    for (int i = lane; i < top_k; i += 32) weights[(size_t)token * top_k + i] /= total;
}
KERNEL_EXPORT(route)

constexpr int GROUP_THREADS = 1024, GROUP_WARPS = GROUP_THREADS / 32;

// What:    sorts the pairs of a token and an expert by expert, pairs of one expert in their own order, and cuts each expert's
//          pairs into tiles of at most `tile_tokens`: tiles[i] = (expert, first, count).
// Shapes:  experts [pairs]; sorted [pairs]; tiles [3 * (min(E, pairs) + pairs / tile_tokens)]; tile_count [1]. One block;
//          2 E ints of shared memory.
// Source:  a counting sort.
// Twin:    a stable sort on the host; equal.
// Cost:    (E / 32 + 2) * 4 bytes a pair, from L2. Integers alone, so it is the same whatever the order of threads.
extern "C" __global__ void __launch_bounds__(GROUP_THREADS)
    group_by_expert(int* __restrict__ sorted, int* __restrict__ tiles, int* __restrict__ tile_count, const int* __restrict__ experts,
                    int pairs, int expert_count, int tile_tokens) {
    DYN_SMEM(int, counts);  // [expert_count], then where each expert's pairs begin
    int* begins = counts + expert_count;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int expert = threadIdx.x; expert < expert_count; expert += GROUP_THREADS) counts[expert] = 0;
    __syncthreads();
    for (int pair = threadIdx.x; pair < pairs; pair += GROUP_THREADS)
        if (experts[pair] >= 0) atomicAdd(&counts[experts[pair]], 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        int begin = 0, tile = 0;
        for (int expert = 0; expert < expert_count; expert++) {
            begins[expert] = begin;
            for (int done = 0; done < counts[expert]; done += tile_tokens, tile++) {
                tiles[3 * tile] = expert;
                tiles[3 * tile + 1] = begin + done;
                tiles[3 * tile + 2] = min(tile_tokens, counts[expert] - done);
            }
            begin += counts[expert];
        }
        *tile_count = tile;
    }
    __syncthreads();
    for (int expert = warp; expert < expert_count; expert += GROUP_WARPS) {
        if (counts[expert] == 0) continue;
        int next = begins[expert];
        for (int base = 0; base < pairs; base += 32) {
            const int pair = base + lane;
            const bool is_mine = pair < pairs && experts[pair] == expert;
            const uint32_t mine = __ballot_sync(FULL_WARP, is_mine);
            if (is_mine) sorted[next + __popc(mine & ((1u << lane) - 1u))] = pair;
            next += __popc(mine);
        }
    }
}
KERNEL_EXPORT(group_by_expert)
