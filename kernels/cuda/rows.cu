// Operations on whole rows of the residual stream: embedding; sum of the experts, residual and norm.
#include "common.cuh"

// What:    stream[t] = table[token[t]]. A token with its highest bit set is one that the step before drew: the rest of it is the
//          row of the report that begins with it. A draw that failed reports no token of the table; the first stands for it.
// Shapes:  table [V][H] bf16, tokens [T], reports [rows][report_words], stream [T][H] f32; H a multiple of 8. One block a token.
// Source:  -
// Twin:    reference::embed, equal.
// Cost:    6 H T bytes.
extern "C" __global__ void __launch_bounds__(256)
    embed(float* __restrict__ stream, const bf16* __restrict__ table, const uint32_t* __restrict__ tokens,
          const uint32_t* __restrict__ reports, int report_rows, int report_words, int hidden, int vocab) {
    uint32_t token = tokens[blockIdx.x];
    const uint32_t row_drawn = token & 0x7fffffffu;
    if (token >> 31) token = row_drawn < (uint32_t)report_rows ? reports[(size_t)row_drawn * report_words] : 0;
    if (token >= (uint32_t)vocab) token = 0;
    const bf16* row = table + (size_t)token * hidden;
    float* out = stream + (size_t)blockIdx.x * hidden;
    for (int i = threadIdx.x * 8; i < hidden; i += blockDim.x * 8) {
        const uint4 eight = *reinterpret_cast<const uint4*>(row + i);
        const float2 a = unpack_bf16x2(eight.x), b = unpack_bf16x2(eight.y), c = unpack_bf16x2(eight.z), d = unpack_bf16x2(eight.w);
        *reinterpret_cast<float4*>(out + i) = make_float4(a.x, a.y, b.x, b.y);
        *reinterpret_cast<float4*>(out + i + 4) = make_float4(c.x, c.y, d.x, d.y);
    }
}
KERNEL_EXPORT(embed)

constexpr int NORM_THREADS = 256, NORM_WARPS = NORM_THREADS / 32;

// What:    stream[r] += sum over i of part_weights[r][i] * parts[r][i] (nothing where `parts` is null; weights of 1 where
//          `part_weights` is), then out[b] = stream[r] * scale / sqrt(mean(stream[r]^2) + eps), with r = rows[b], or b where `rows`
//          is null. With `rows` the stream is not written: nothing reads it after the last norm.
// Shapes:  stream [T][H] f32; parts f32, part i of row r at r * row_step + i * part_step: what the experts give, or the ranks;
//          part_weights [T][part_count]; scale [H] f32; out [B][stride] f16. One block a row; H * 4 bytes of shared memory.
// Source:  Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
// Twin:    reference::add, rms_norm and the last sum of reference::experts; 2^-11 relative, which is f16's rounding.
// Cost:    (10 + 4 part_count) H bytes a row. The order of the sums is the row's own: no atomics.
extern "C" __global__ void __launch_bounds__(NORM_THREADS)
    combine_norm(f16* __restrict__ out, float* __restrict__ stream, const float* __restrict__ parts,
                 const float* __restrict__ part_weights, const uint32_t* __restrict__ rows, const float* __restrict__ scale,
                 int part_count, int row_step, int part_step, int hidden, int stride, float eps) {
    DYN_SMEM(float, values);
    __shared__ float warp_sums[NORM_WARPS];
    const size_t row = rows ? rows[blockIdx.x] : blockIdx.x;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < hidden; i += NORM_THREADS) {
        float value = stream[row * hidden + i];
        if (parts) {
            float sum = 0.0f;
            for (int k = 0; k < part_count; k++) {
                const float part = parts[row * row_step + (size_t)k * part_step + i];
                sum = part_weights ? fmaf(part_weights[row * part_count + k], part, sum) : sum + part;
            }
            value += sum;
            if (!rows) stream[row * hidden + i] = value;
        }
        values[i] = value;
        squares = fmaf(value, value, squares);
    }
    squares = warp_sum(squares);
    if ((threadIdx.x & 31) == 0) warp_sums[threadIdx.x >> 5] = squares;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < NORM_WARPS; warp++) total += warp_sums[warp];
    const float inverse = 1.0f / sqrtf(total / (float)hidden + eps);
    for (int i = threadIdx.x; i < hidden; i += NORM_THREADS)
        out[(size_t)blockIdx.x * stride + i] = to_f16(scale[i] * (values[i] * inverse));
}
KERNEL_EXPORT(combine_norm)

// What:    out[t] = sum over i of route_weights[t][i] * routed[t][i] where this rank has the expert, experts[t][i] >= 0. Where it
//          has not, `routed` holds what an earlier step left.
// Shapes:  out [T][H] f32, routed [T][top_k][H] f32, route_weights, experts [T][top_k]. One block a token.
// Source:  Shazeer et al. 2017, arXiv:1701.06538.
// Twin:    the last sum of reference::experts; 1e-6 of the sum of magnitudes.
// Cost:    (4 + 4 top_k / ranks) H bytes a token. The order of the sum is the routes'.
extern "C" __global__ void __launch_bounds__(256)
    sum_routed(float* __restrict__ out, const float* __restrict__ routed, const float* __restrict__ route_weights,
               const int* __restrict__ experts, int top_k, int hidden) {
    const size_t token = blockIdx.x;
    for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
        float sum = 0.0f;
        for (int k = 0; k < top_k; k++) {
            const size_t pair = token * top_k + k;
            if (experts[pair] >= 0) sum = fmaf(route_weights[pair], routed[pair * hidden + i], sum);
        }
        out[token * hidden + i] = sum;
    }
}
KERNEL_EXPORT(sum_routed)
