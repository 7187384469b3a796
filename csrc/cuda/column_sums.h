// Sums of columns over all rows, in two stages and a fixed order.
//
// Each block of the first kernel stores its sums in a row of `partial`; a second kernel adds the
// rows.
#pragma once

#include "launch.h"

namespace googlenet_fast {

// Sum over threadIdx.y, a power of two: the result is in the threads whose threadIdx.y is 0.
template <int kWidth>
__device__ inline void sum_over_rows(float (&sum)[kWidth], float (*shared)[kThreads]) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    for (int i = 0; i < kWidth; ++i) shared[i][thread] = sum[i];
    __syncthreads();
    if (static_cast<int>(threadIdx.y) < half) {
      for (int i = 0; i < kWidth; ++i) sum[i] += shared[i][thread + half * blockDim.x];
    }
    __syncthreads();
  }
}

// Store the sums over the threads of a block that share columns in row blockIdx.x of `partial`. All
// threads of the block must call it, those beyond the last column with sums of zero.
template <int kWidth>
__device__ inline void store_partial(float (&sum)[kWidth], void* partial, int64_t columns) {
  __shared__ float shared[kWidth][kThreads];
  sum_over_rows<kWidth>(sum, shared);
  const int64_t column = first_column<kWidth>();
  if (column >= columns || threadIdx.y != 0) return;
  float* const row = static_cast<float*>(partial) + int64_t{blockIdx.x} * columns;
  for (int i = 0; i < kWidth; ++i) row[column + i] = sum[i];
}

// A template, so that several files can include its definition.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    sum_partials_kernel(const float* partial, int64_t parts, int64_t columns, float* total) {
  __shared__ float shared[kWidth][kThreads];
  const int64_t column = first_column<kWidth>();
  float sum[kWidth] = {};
  if (column < columns) {
    for (int64_t part = threadIdx.y; part < parts; part += blockDim.y) {
      for (int i = 0; i < kWidth; ++i) sum[i] += partial[part * columns + column + i];
    }
  }
  sum_over_rows<kWidth>(sum, shared);
  if (column < columns && threadIdx.y == 0) {
    for (int i = 0; i < kWidth; ++i) total[column + i] = sum[i];
  }
}

// One block over the rows per row of partial sums.
inline Shape shape_for_sums(int64_t rows, int64_t columns, int width) {
  return shape_of(columns, width, bias_partials(rows));
}

// Few columns and many rows per block: with 32 by 8 threads an H100 took 12 us for a few hundred
// rows, most of it the latency of loads.
inline void sum_partials(
    const void* partial, int64_t parts, int64_t columns, void* total, cudaStream_t stream) {
  constexpr int kColumns = 8;  // 32 adjacent bytes
  const Shape shape{dim3(1, divide_up(columns, kColumns)), dim3(kColumns, kThreads / kColumns)};
  launch(
      "sum_partials", sum_partials_kernel<1>, shape, stream, static_cast<const float*>(partial),
      parts, columns, static_cast<float*>(total));
}

}  // namespace googlenet_fast
