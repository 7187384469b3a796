// A step of stochastic gradient descent with momentum for all parameters of a network, and the
// search for gradients that are not finite.
#pragma once

#include "kernels.h"

namespace googlenet_fast {

// A parameter and what belongs to it: dense arrays of the same elements in the same order.
struct SgdTensor {
  float* parameter;
  const void* gradient;  // of the call's dtype, or fp32 if `single`; null: the parameter stays
  float* momentum;       // null without momentum
  void* copy;            // of the call's dtype: written; null for none
  float* average;        // null for none
  const float* lr;       // learning rate, on the device
  int64_t count;         // elements
  float weight_decay;
  bool single;
};

// g = gradient / grad_scale + weight_decay * parameter
// momentum = p.momentum * momentum + g
// parameter -= lr * (nesterov ? g + p.momentum * momentum : momentum)
// copy = parameter
// average += average_weight * (parameter - average)
//
// The three last arguments are on the device. If *found_inf is not 0, only averages change.
struct SgdStep {
  const SgdTensor* tensors;
  int64_t count;  // tensors
  float momentum;
  bool nesterov;
  const float* grad_scale;      // null: 1
  const float* found_inf;       // null: 0
  const float* average_weight;  // null without averages
};

struct Gradient {
  const void* data;  // of the call's dtype, or fp32 if `single`
  int64_t count;     // elements
  bool single;
};

// *found = 1 if a gradient has a value that is not finite, else 0. Reads alone otherwise.
struct FindNonfinite {
  const Gradient* gradients;
  int64_t count;
  float* found;
};

#ifdef USE_CUDA
// All but kFloat64. Throw std::runtime_error when a launch fails.
void run_cuda(Dtype dtype, const SgdStep& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const FindNonfinite& p, cudaStream_t stream);
#endif

}  // namespace googlenet_fast
