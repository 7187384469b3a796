// Constants that the kernels of batch normalisation share.
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

}  // namespace googlenet_fast
