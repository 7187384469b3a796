// Stacked 1x1 convolutions: several convolutions of the same x, computed in one pass over it, and
// their gradients. A pooled convolution reads the 3x3/1 max pool of x instead.
#pragma once

#include <span>

#include "convolution.h"

namespace googlenet_fast::cpu {

// y = relu(conv(x, w) + bias), or without bias (null) or ReLU.
struct Conv1x1 {
  Filter w;
  const float* bias;
  bool relu;
  MatrixView y;
  bool pooled = false;
};

// `index`: of the max pool (max_pool_3x3()), or null.
void stacked_1x1(const Size& size, MatrixView x, std::span<const Conv1x1> convs, uint8_t* index);

struct InputGrad1x1 {
  Filter w;
  MatrixView grad_y;
};

// grad_x = the input gradient of two convolutions and a pooled one.
void stacked_1x1_input_gradient(
    const Size& size, const InputGrad1x1 (&convs)[2], const InputGrad1x1& pooled,
    const uint8_t* index, MatrixView grad_x);

struct WeightGrad {
  MatrixView grad_y;
  float* grad_w;  // (outputs, channels)
  bool pooled = false;
};

// The weight gradients; pooled convolutions come last.
void stacked_1x1_weight_gradient(const Size& size, std::span<const WeightGrad> convs, MatrixView x);

}  // namespace googlenet_fast::cpu
