// CUDA's small vector types.
#pragma once

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

#define SHIM_VECTORS(name, type, align2, align4)                                                                  \
    struct __attribute__((aligned(align2))) name##2 {                                                             \
        type x, y;                                                                                                \
    };                                                                                                            \
    struct __attribute__((aligned(align4))) name##4 {                                                             \
        type x, y, z, w;                                                                                          \
    };                                                                                                            \
    static inline name##2 make_##name##2(type a, type b) { return {a, b}; }                                       \
    static inline name##4 make_##name##4(type a, type b, type c, type d) { return {a, b, c, d}; }

SHIM_VECTORS(float, float, 8, 16)
SHIM_VECTORS(int, int, 8, 16)
SHIM_VECTORS(uint, unsigned, 8, 16)
SHIM_VECTORS(short, short, 4, 8)
SHIM_VECTORS(ushort, unsigned short, 4, 8)
SHIM_VECTORS(char, signed char, 2, 4)
SHIM_VECTORS(uchar, unsigned char, 2, 4)
SHIM_VECTORS(double, double, 16, 16)
SHIM_VECTORS(longlong, long long, 16, 16)
SHIM_VECTORS(ulonglong, unsigned long long, 16, 16)
#undef SHIM_VECTORS

struct float3 {
    float x, y, z;
};
struct int3 {
    int x, y, z;
};
static inline float3 make_float3(float a, float b, float c) { return {a, b, c}; }
static inline int3 make_int3(int a, int b, int c) { return {a, b, c}; }
static inline uint3 make_uint3(unsigned a, unsigned b, unsigned c) { return {a, b, c}; }
