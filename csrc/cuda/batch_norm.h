// Constants and sums that the kernels of batch normalisation share.
#pragma once

#include <cmath>

#include "column_sums.h"

namespace googlenet_fast {

// The constants of a thread's columns: y = relu((x - mean) * scale + bias).
template <int kWidth>
struct Normalization {
  float mean[kWidth], inverse[kWidth], scale[kWidth], bias[kWidth];

  // `of` has pointers to mean, variance, weight and bias; null: zeros.
  template <typename P>
  __device__ Normalization(const P& of, int64_t channel, float eps) {
    float weight[kWidth];
    load_bias(of.mean, channel, mean);
    load_bias(of.variance, channel, inverse);
    load_bias(of.weight, channel, weight);
    load_bias(of.bias, channel, bias);
    for (int i = 0; i < kWidth; ++i) {
      inverse[i] = 1.f / sqrtf(inverse[i] + eps);
      scale[i] = inverse[i] * weight[i];
    }
  }

  __device__ float centered(int i, float x) const { return x - mean[i]; }

  // Before ReLU. Forward and backward must compute the same sign: an explicit fmaf fixes the
  // rounding.
  __device__ float value(int i, float centered) const { return fmaf(centered, scale[i], bias[i]); }
};

// Store two sums over the threads of a block that share columns in row blockIdx.x of `partial`, a
// matrix of twice `columns`. finish(i) may change the sums of column i first. All threads of the
// block must call it.
template <int kWidth, typename F>
__device__ inline void store_pair(
    float (&a)[kWidth], float (&b)[kWidth], void* partial, int64_t columns, const F& finish) {
  __shared__ float shared[kWidth][kThreads];
  sum_over_rows<kWidth>(a, shared);
  sum_over_rows<kWidth>(b, shared);
  const int64_t column = first_column<kWidth>();
  if (column >= columns || threadIdx.y != 0) return;
  for (int i = 0; i < kWidth; ++i) finish(i);
  const int64_t row = int64_t{blockIdx.x} * 2 * columns + column;
  constexpr int kStep = kWidth == 1 ? 1 : kVectorWidth<float>;
  for (int i = 0; i < kWidth; i += kStep) {
    Vector<float, kStep> first, second;
    for (int j = 0; j < kStep; ++j) {
      first.values[j] = a[i + j];
      second.values[j] = b[i + j];
    }
    store<float, kStep>(partial, row + i, first);
    store<float, kStep>(partial, row + columns + i, second);
  }
}

}  // namespace googlenet_fast
