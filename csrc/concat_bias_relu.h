// Bias and ReLU of branches, side by side in one tensor or each in its own, and the gradient.
#pragma once

#include "partial_sums.h"

namespace googlenet_fast {

constexpr int kMaxBranches = 4;

// One branch: `channels` columns of all branches' columns together, starting at column `begin`.
struct Branch {
  Matrix x;    // (rows, channels)
  Matrix out;  // written
  int64_t channels;
  int64_t begin;
  const void* bias;  // (channels,) of fp32, fp64 for kFloat64; null without bias
};

// out = relu(x + bias)
struct ConcatBiasRelu {
  Branch branches[kMaxBranches];
  int count;
  int64_t rows;
  int64_t columns;
  bool relu;
};

// One branch's gradient; columns as above.
struct GradBranch {
  Matrix grad;  // of the branch's output
  Matrix y;     // that output; null without ReLU
  Matrix out;   // written: the gradient of the branch
  int64_t channels;
  int64_t begin;
};

// out = grad where y > 0 else 0; grad_bias = its sum over the rows.
struct ConcatBiasReluBackward {
  GradBranch branches[kMaxBranches];
  int count;
  int64_t rows;
  int64_t columns;
  void* partial;    // partial_size(rows, columns) values of fp32, fp64 for kFloat64
  void* grad_bias;  // (columns,) of the same; both null without biases
};

void run_cpu(Dtype dtype, const ConcatBiasRelu& p);
void run_cpu(Dtype dtype, const ConcatBiasReluBackward& p);

#ifdef USE_CUDA
// All but kFloat64. Throw std::runtime_error when a launch fails.
void run_cuda(Dtype dtype, const ConcatBiasRelu& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const ConcatBiasReluBackward& p, cudaStream_t stream);
#endif

}  // namespace googlenet_fast
