// What the shim's own tests run: a reduction over a block. y = x / sqrt(mean(x^2) + eps) * w, one block a row.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
    sample_norm(bf16* y, const bf16* __restrict__ x, const bf16* __restrict__ w, int columns, float eps) {
    __shared__ float partial[32];
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const bf16* row = x + (size_t)blockIdx.x * columns;
    float sum = 0.0f;
    for (int i = tid; i < columns; i += blockDim.x) sum = fmaf(to_f32(row[i]), to_f32(row[i]), sum);
    sum = warp_sum(sum);
    if (lane == 0) partial[warp] = sum;
    __syncthreads();  // the sums are there
    if (warp == 0) {
        float all = warp_sum(lane < (int)(blockDim.x / 32) ? partial[lane] : 0.0f);
        if (lane == 0) partial[0] = rsqrtf(all / columns + eps);
    }
    __syncthreads();  // the factor is there
    const float factor = partial[0];
    for (int i = tid; i < columns; i += blockDim.x) {
        y[(size_t)blockIdx.x * columns + i] = to_bf16(to_f32(row[i]) * factor * to_f32(w[i]));
    }
}
KERNEL_EXPORT(sample_norm)
