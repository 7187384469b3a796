// Launches kernels, and assigns rows and columns of a matrix to threads. A thread has a few
// adjacent columns (16 bytes where alignment allows) and loops over rows with a grid stride. So it
// loads the values of a channel once, and a warp accesses 512 contiguous bytes or whole rows.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "../kernels.h"
#include "vector.h"

#ifndef GOOGLENET_FAST_WARP_SIZE
#define GOOGLENET_FAST_WARP_SIZE 32
#endif
#ifndef __grid_constant__  // other vendors' compilers lack it
#define __grid_constant__
#endif

namespace googlenet_fast {

constexpr int kWarpSize = GOOGLENET_FAST_WARP_SIZE;
constexpr int kThreads = 256;
static_assert(kThreads % kWarpSize == 0, "blocks are whole warps");
// Four times as many as a multiprocessor can hold (2048 threads): blocks that end early are
// replaced. Larger inputs take more iterations of the grid-stride loop.
constexpr int kBlocksPerMultiprocessor = 4 * 2048 / kThreads;
constexpr int kMaxDevices = 64;

template <int kWidth>
__device__ inline int64_t first_column() {
  return (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kWidth;
}

__device__ inline int64_t first_row() { return int64_t{blockIdx.x} * blockDim.y + threadIdx.y; }

__device__ inline int64_t row_step() { return int64_t{gridDim.x} * blockDim.y; }

// The branch that a column is in. select(branch, other, take) must call take(branch.f, other.f) for
// each field f that the kernel reads. Comparisons instead of an index keep the kernel's parameters
// out of local memory. Separate fields show the compiler that each pointer is to global memory.
template <typename Branch, int kMax, typename F>
__device__ inline Branch branch_of(
    const Branch (&branches)[kMax], int count, int64_t column, const F& select) {
  Branch branch = branches[0];
#pragma unroll
  for (int i = 1; i < kMax; ++i) {
    const bool here = i < count && column >= branches[i].begin;
    select(branch, branches[i], [here](auto& value, auto next) { value = here ? next : value; });
  }
  return branch;
}

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
  }
}

// Cached per device. The query does not wait for the GPU.
inline int64_t multiprocessors() {
  static std::atomic<int> known[kMaxDevices];
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  int count = device < kMaxDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (count == 0) {
    check(
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
    if (device < kMaxDevices) known[device].store(count, std::memory_order_relaxed);
  }
  return count;
}

struct Shape {
  dim3 grid;
  dim3 block;
};

// Block: x over groups of `width` columns, at most a warp; y over rows, a power of two. Grid: x
// over rows, `row_blocks` of them; y over columns.
inline Shape shape_of(int64_t columns, int width, int64_t row_blocks) {
  const int64_t groups = divide_up(columns, width);
  unsigned x = 1;
  while (x < kWarpSize && x < groups) x *= 2;
  return {dim3(row_blocks, divide_up(groups, x)), dim3(x, kThreads / x)};
}

// As many blocks over the rows as the device can use.
inline Shape shape_for_rows(int64_t rows, int64_t columns, int width) {
  Shape shape = shape_of(columns, width, 1);
  const int64_t most = divide_up(multiprocessors() * kBlocksPerMultiprocessor, shape.grid.y);
  shape.grid.x = std::min(divide_up(rows, shape.block.y), most);
  return shape;
}

template <typename... Parameters>
void launch(
    const char* name, void (*kernel)(Parameters...), const Shape& shape,
    [[maybe_unused]] cudaStream_t stream, const std::type_identity_t<Parameters>&... arguments) {
#ifdef GOOGLENET_FAST_CUDA_EMULATOR
  cuda_emulator::launch(name, kernel, shape.grid, shape.block, arguments...);
#else
  kernel<<<shape.grid, shape.block, 0, stream>>>(arguments...);
#endif
  check(cudaGetLastError(), name);
}

// Call `function` with a value of the C++ type of `dtype`.
template <typename F>
void for_dtype(Dtype dtype, const F& function) {
  switch (dtype) {
    case Dtype::kFloat16: return function(__half());
    case Dtype::kBFloat16: return function(__nv_bfloat16());
    case Dtype::kFloat32: return function(float());
    case Dtype::kFloat64: throw std::runtime_error("the CUDA kernels take no float64");
  }
}

// Call function(value, width): a value of the C++ type of `dtype`, and the number of values per
// memory access as a constant.
template <typename F>
void for_access(Dtype dtype, bool vectorize, const F& function) {
  for_dtype(dtype, [&](auto value) {
    if (vectorize) {
      function(value, std::integral_constant<int, kVectorWidth<decltype(value)>>());
    } else {
      function(value, std::integral_constant<int, 1>());
    }
  });
}

}  // namespace googlenet_fast
