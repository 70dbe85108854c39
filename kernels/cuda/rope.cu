// What:    turns the two halves of each query and key head by the token's angles, and puts queries where attention reads them,
//          keys and values into the token's slot of paged KV memory; all rounded to f16.
// Shapes:  qkv [T][(heads + 2 kv_heads) head_dim] f32; cos, sin [positions][head_dim / 2] f32; positions [T]; slots [T], a block
//          times block_tokens plus the place in it, or -1 for a row that stores nothing. queries [T][heads][row];
//          keys, values [block][kv head][slot][row] f16, row = head_dim rounded up to 8, the rest zeros. One block a token.
// Source:  Su et al. 2021, arXiv:2104.09864, eq. 34, halves as in GPT-NeoX; YaRN in the table of angles.
// Twin:    reference::rotary and KvMemory::store; 2^-11 relative to the pair's length, which is f16's rounding, up to 65,504.
// Cost:    6 bytes a value.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256)
    rope_store(f16* __restrict__ queries, f16* __restrict__ keys, f16* __restrict__ values, const float* __restrict__ qkv,
               const float* __restrict__ cos, const float* __restrict__ sin, const int* __restrict__ positions,
               const int* __restrict__ slots, int heads, int kv_heads, int head_dim, int row, int block_tokens) {
    const int token = blockIdx.x, half = head_dim / 2, slot = slots[token];
    const float* in = qkv + (size_t)token * (heads + 2 * kv_heads) * head_dim;
    const float* own_cos = cos + (size_t)positions[token] * half;
    const float* own_sin = sin + (size_t)positions[token] * half;
    // Where head `h` of this token's keys and values lies.
    const size_t block = slot < 0 ? 0 : slot / block_tokens, place = slot < 0 ? 0 : slot % block_tokens;
    const auto stored = [&](int h) { return ((block * kv_heads + h) * block_tokens + place) * row; };
    for (int i = threadIdx.x; i < (heads + kv_heads) * half; i += blockDim.x) {
        const int head = i / half, pair = i % half;
        if (head >= heads && slot < 0) continue;
        const float first = in[head * head_dim + pair], second = in[head * head_dim + half + pair];
        const float c = own_cos[pair], s = own_sin[pair];
        f16* out = head < heads ? queries + ((size_t)token * heads + head) * row : keys + stored(head - heads);
        out[pair] = to_f16(first * c - second * s);
        out[half + pair] = to_f16(second * c + first * s);
    }
    if (slot < 0) return;
    const float* value = in + (heads + kv_heads) * head_dim;
    for (int i = threadIdx.x; i < kv_heads * head_dim; i += blockDim.x) values[stored(i / head_dim) + i % head_dim] = to_f16(value[i]);
}
KERNEL_EXPORT(rope_store)
