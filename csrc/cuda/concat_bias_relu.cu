// Concatenation with bias and ReLU, and its gradient, one pass over memory each.
//
// Each thread keeps a few adjacent columns (16 bytes of them where alignment allows) and walks down
// the rows, so that its branch and its bias are looked up once. A warp covers 512 adjacent bytes.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "../concat_bias_relu.h"

#ifndef GOOGLENET_FAST_WARP_SIZE
#define GOOGLENET_FAST_WARP_SIZE 32
#endif

namespace googlenet_fast {
namespace {

constexpr int kWarpSize = GOOGLENET_FAST_WARP_SIZE;
constexpr int kThreads = 256;
constexpr int kBytesPerAccess = 16;
// Enough blocks to fill the largest GPUs eight times over; longer inputs are walked by stride.
constexpr int64_t kMaxRowBlocks = 2048;
static_assert(kThreads % kWarpSize == 0, "blocks are whole warps");

template <typename T>
constexpr int kVectorWidth = kBytesPerAccess / static_cast<int>(sizeof(T));

template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Vector {
  T values[kWidth];
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ inline T from_float(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

template <typename T, int kWidth>
__device__ inline Vector<T, kWidth> load(const void* base, int64_t offset) {
  return *reinterpret_cast<const Vector<T, kWidth>*>(static_cast<const T*>(base) + offset);
}

template <typename T, int kWidth>
__device__ inline void store(void* base, int64_t offset, const Vector<T, kWidth>& vector) {
  *reinterpret_cast<Vector<T, kWidth>*>(static_cast<T*>(base) + offset) = vector;
}

// Selected by comparisons rather than by index, so that the parameters stay out of local memory.
__device__ inline Branch branch_of(const Branch* branches, int count, int64_t column) {
  Branch branch = branches[0];
#pragma unroll
  for (int i = 1; i < kMaxBranches; ++i) {
    if (i < count && column >= branches[i].begin) branch = branches[i];
  }
  return branch;
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    concat_bias_relu_kernel(const __grid_constant__ ConcatBiasRelu p) {
  const int64_t column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kWidth;
  if (column >= p.columns) return;
  const Branch branch = branch_of(p.branches, p.count, column);
  const int64_t channel = column - branch.begin;

  float bias[kWidth] = {};
  if (branch.bias != nullptr) {
    for (int i = 0; i < kWidth; ++i) bias[i] = static_cast<const float*>(branch.bias)[channel + i];
  }
  const int64_t step = int64_t{gridDim.x} * blockDim.y;
  for (int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; row < p.rows; row += step) {
    auto vector = load<T, kWidth>(branch.data, row * branch.stride + channel);
    for (int i = 0; i < kWidth; ++i) {
      const float value = to_float(vector.values[i]) + bias[i];
      vector.values[i] = from_float<T>(p.relu && value < 0.f ? 0.f : value);  // keeps NaN
    }
    store<T, kWidth>(p.y, row * p.columns + column, vector);
  }
}

// Sum over threadIdx.y, a power of two: the result is in the threads whose threadIdx.y is 0.
template <int kWidth>
__device__ inline void sum_over_rows(float (&sum)[kWidth], float (*shared)[kWidth]) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    for (int i = 0; i < kWidth; ++i) shared[thread][i] = sum[i];
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < half) {
      for (int i = 0; i < kWidth; ++i) sum[i] += shared[thread + half * blockDim.x][i];
    }
    __syncthreads();
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    concat_bias_relu_backward_kernel(const __grid_constant__ ConcatBiasReluBackward p) {
  __shared__ float shared[kThreads][kWidth];
  const int64_t column = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kWidth;
  const bool inside = column < p.columns;
  float sum[kWidth] = {};

  if (inside) {
    const Branch branch = branch_of(p.branches, p.count, column);
    const int64_t channel = column - branch.begin;
    const int64_t step = int64_t{gridDim.x} * blockDim.y;
    for (int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y; row < p.rows; row += step) {
      auto grad = load<T, kWidth>(p.grad_y, row * p.grad_y_stride + column);
      if (p.y != nullptr) {
        const auto y = load<T, kWidth>(p.y, row * p.columns + column);
        for (int i = 0; i < kWidth; ++i) {
          if (to_float(y.values[i]) <= 0.f) grad.values[i] = from_float<T>(0.f);
        }
      }
      store<T, kWidth>(branch.data, row * branch.stride + channel, grad);
      for (int i = 0; i < kWidth; ++i) sum[i] += to_float(grad.values[i]);
    }
  }
  if (p.partial == nullptr) return;
  sum_over_rows<kWidth>(sum, shared);
  if (inside && threadIdx.y == 0) {
    float* const partial = static_cast<float*>(p.partial) + int64_t{blockIdx.x} * p.columns;
    for (int i = 0; i < kWidth; ++i) partial[column + i] = sum[i];
  }
}

__global__ void __launch_bounds__(kThreads)
    sum_partials_kernel(const float* partial, int64_t parts, int64_t columns, float* total) {
  __shared__ float shared[kThreads][1];
  const int64_t column = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  float sum[1] = {};
  if (column < columns) {
    for (int64_t part = threadIdx.y; part < parts; part += blockDim.y) {
      sum[0] += partial[part * columns + column];
    }
  }
  sum_over_rows<1>(sum, shared);
  if (column < columns && threadIdx.y == 0) total[column] = sum[0];
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Threads of a block: x over groups of columns, at most a warp's worth; y over rows.
dim3 block_shape(int64_t column_groups) {
  unsigned x = 1;
  while (x < kWarpSize && x < column_groups) x *= 2;
  return dim3(x, kThreads / x);
}

void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(kernel) + ": " + cudaGetErrorString(error));
  }
}

bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % kBytesPerAccess == 0;
}

template <typename T>
bool can_vectorise(const Branch* branches, int count) {
  return std::all_of(branches, branches + count, [](const Branch& branch) {
    return aligned(branch.data) && branch.stride % kVectorWidth<T> == 0 &&
           branch.channels % kVectorWidth<T> == 0;
  });
}

template <typename T, int kWidth>
void launch_forward(const ConcatBiasRelu& p, cudaStream_t stream) {
  const int64_t groups = divide_up(p.columns, kWidth);
  const dim3 block = block_shape(groups);
  const dim3 grid(
      std::min(divide_up(p.rows, block.y), kMaxRowBlocks), divide_up(groups, block.x));
  concat_bias_relu_kernel<T, kWidth><<<grid, block, 0, stream>>>(p);
  check_launch("concat_bias_relu");
}

template <typename T, int kWidth>
void launch_backward(const ConcatBiasReluBackward& p, cudaStream_t stream) {
  const int64_t groups = divide_up(p.columns, kWidth);
  const dim3 block = block_shape(groups);
  const dim3 grid(bias_partials(p.rows), divide_up(groups, block.x));
  concat_bias_relu_backward_kernel<T, kWidth><<<grid, block, 0, stream>>>(p);
  check_launch("concat_bias_relu_backward");
}

template <typename T>
void forward(const ConcatBiasRelu& p, cudaStream_t stream) {
  if (p.rows == 0 || p.columns == 0) return;
  if (can_vectorise<T>(p.branches, p.count) && aligned(p.y)) {
    launch_forward<T, kVectorWidth<T>>(p, stream);
  } else {
    launch_forward<T, 1>(p, stream);
  }
}

template <typename T>
void backward(const ConcatBiasReluBackward& p, cudaStream_t stream) {
  if (p.columns == 0) return;
  if (p.rows > 0) {
    const bool vectorise = can_vectorise<T>(p.branches, p.count) && aligned(p.y) &&
                           aligned(p.grad_y) && p.grad_y_stride % kVectorWidth<T> == 0;
    if (vectorise) {
      launch_backward<T, kVectorWidth<T>>(p, stream);
    } else {
      launch_backward<T, 1>(p, stream);
    }
  }
  if (p.grad_bias == nullptr) return;
  const dim3 block = block_shape(p.columns);
  sum_partials_kernel<<<divide_up(p.columns, block.x), block, 0, stream>>>(
      static_cast<const float*>(p.partial), bias_partials(p.rows), p.columns,
      static_cast<float*>(p.grad_bias));
  check_launch("concat_bias_relu_backward");
}

// Call `function` with a value of the C++ type of `dtype`.
template <typename F>
void dispatch(Dtype dtype, const F& function) {
  switch (dtype) {
    case Dtype::kFloat16: return function(__half());
    case Dtype::kBFloat16: return function(__nv_bfloat16());
    case Dtype::kFloat32: return function(float());
    case Dtype::kFloat64: throw std::runtime_error("concat_bias_relu: no float64 on CUDA");
  }
}

}  // namespace

void run_cuda(Dtype dtype, const ConcatBiasRelu& p, cudaStream_t stream) {
  dispatch(dtype, [&](auto value) { forward<decltype(value)>(p, stream); });
}

void run_cuda(Dtype dtype, const ConcatBiasReluBackward& p, cudaStream_t stream) {
  dispatch(dtype, [&](auto value) { backward<decltype(value)>(p, stream); });
}

}  // namespace googlenet_fast
