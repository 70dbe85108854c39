// MXFP4 as the kernels keep it: bits, widened to f16 in registers.
#pragma once
#include "common.cuh"

// Eight E2M1 values from a word to four pairs of f16, each value times 2^-14.
//
// E2M1 is sign, two bits of exponent, one of fraction. Put at bits 11..9 of f16, they read as an exponent field of 0..3 and the
// first bit of the fraction, subnormals included: exactly the value times 2^-14. Half of the word is the pair's first value, the
// other half its second. The bits lie so that pairs 0 and 1 need one shift and one mask (src/cuda/tile.rs writes them):
//   signs of pairs 0 to 3: bits 15, 12, 14, 13; their magnitudes: 11..9, 8..6, 2..0, 5..3.
__device__ __forceinline__ void expand_e2m1(uint32_t word, uint32_t (&pairs)[4]) {
    constexpr uint32_t SIGNS = 0x80008000u, MAGNITUDES = 0x0e000e00u;
    pairs[0] = word & (SIGNS | MAGNITUDES);
    pairs[1] = word << 3 & (SIGNS | MAGNITUDES);
    pairs[2] = (word << 1 & SIGNS) | (word << 9 & MAGNITUDES);
    pairs[3] = (word << 2 & SIGNS) | (word << 6 & MAGNITUDES);
}

// The factor that takes values of expand_e2m1 to their place, twice: a power of two of which `scale` is the exponent field.
__device__ __forceinline__ uint32_t scale_factor(uint32_t scale) { return scale << 10 | scale << 26; }
