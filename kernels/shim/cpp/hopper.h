// What a block has under way of the things that sm_90a has.
#pragma once

#include <cstdint>
#include <vector>

#include "api.h"

namespace shim {

/// What cuTensorMapEncodeTiled writes, in place of NVIDIA's own form: rows of 16-bit values, boxes of 64 columns, 128-byte swizzle.
struct TensorMap {
    uint64_t magic, base, columns, rows, row_bytes, box_rows;
};
constexpr uint64_t TENSOR_MAP = 0x616e7469706d6170;

/// A product of a warp's rows that was started.
struct Product {
    float (*c[32])[4];
    const uint32_t* a[32];
    const void* tokens;
    int n;
    uint32_t group;
    bool done;
};

struct Products {
    std::vector<Product> started;
    uint32_t group = 0, count = 0;  // the group that is open; products so far
    bool fenced = false;
};

/// A copy whose bytes a barrier in shared memory counts.
struct BulkCopy {
    uint64_t* barrier;
    unsigned char* to;
    uint32_t bytes;
    const unsigned char* from;  // null: a box
    TensorMap map;
    int column, row;
};

struct BulkCopies {
    std::vector<BulkCopy> under_way;
    uint32_t waiting[32];  // lanes of each warp that wait for a barrier
    bool shown;            // whether the copies see the barriers that were made
};

}  // namespace shim
