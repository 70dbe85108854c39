// What a .cu file sees when it is compiled as C++: CUDA's words, with one fiber for each thread behind them.
//
// A fiber runs until a barrier, a warp collective or its end; `fibers.cpp` decides which is next. Included by common.cuh alone.
#pragma once

#include "api.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static const
// A block's threads all run on one system thread, and so do its blocks, one after another.
#define __shared__ static thread_local
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

#define KERNEL_EXPORT(name) static shim::Registration shim_registration_##name(#name, __FILE__, &name);
#define DYN_SMEM(T, name) T* name = reinterpret_cast<T*>(shim::current->block->dynamic)

#define threadIdx (shim::current->index)
#define blockIdx (shim::current->block->index)
#define blockDim (shim::current->block->size)
#define gridDim (shim::current->block->grid)
#define warpSize 32

#include "cuda_intrinsics.h"
