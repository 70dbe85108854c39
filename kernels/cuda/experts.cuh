// What the experts' kernels share: the tile list and the activation.
#pragma once
#include "common.cuh"

// One entry of the tile list: tokens first ..  first + count of the pairs sorted by expert.
struct ExpertTile {
    int expert, first, count;
};

__device__ __forceinline__ ExpertTile read_tile(const int* tiles, int index) {
    return {tiles[3 * index], tiles[3 * index + 1], tiles[3 * index + 2]};
}

// The gated activation of gpt-oss, clamped. Comparisons, not fminf: NaN stays NaN.
__device__ __forceinline__ f16 swiglu(float gate, float up, float alpha, float limit) {
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    return to_f16((up + 1.0f) * (gate / (1.0f + __expf(-alpha * gate))));
}
