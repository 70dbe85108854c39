// MXFP4 as the kernels keep it: bits, widened to bf16 in registers, exactly.
#pragma once
#include "common.cuh"

// Eight E2M1 values from a word to four pairs of bf16, each value times 2^-126.
//
// E2M1 is sign, two bits of exponent, one of fraction. Put at bits 8..6 of bf16, they read as an exponent field of 0..3 and the
// first bit of the fraction, subnormals included: exactly the value times 2^-126. Half of the word is the pair's first value,
// the other half its second; the bits lie so that pairs 0, 1 and 2 need one shift and one mask (src/cuda/pack.rs writes them):
//   bits 15, 12, 9: signs of pairs 0, 1, 2; 8..6, 5..3, 2..0: their magnitudes; pair 3: sign 14, magnitude 13, 11, 10.
__device__ __forceinline__ void expand_e2m1(uint32_t word, uint32_t (&pairs)[4]) {
    constexpr uint32_t MASK = 0x81c081c0u;
    pairs[0] = word & MASK;
    pairs[1] = word << 3 & MASK;
    pairs[2] = word << 6 & MASK;
    pairs[3] = (word << 1 & 0x80008000u) | (word >> 5 & 0x01000100u) | (word >> 4 & 0x00c000c0u);
}

// The factor that takes values of expand_e2m1 to their place: 2^(scale - 127) * 2^126, twice, as bf16. scale <= 128.
__device__ __forceinline__ uint32_t e8m0_factor(uint32_t scale) {
    const uint32_t bits = (scale + 126u) << 7;
    return bits | bits << 16;
}
