// Concatenation with bias and ReLU, and its gradient.
#pragma once

#include "partial_sums.h"

namespace googlenet_fast {

constexpr int kMaxBranches = 4;

// One branch: `channels` columns of the concatenation, starting at column `begin`.
struct Branch {
  void* data;      // (rows, channels): read by forward, written by backward
  int64_t stride;  // elements from one row of `data` to the next
  int64_t channels;
  int64_t begin;
  const void* bias;  // (channels,) of fp32, fp64 for kFloat64; null without bias. Forward only.
};

// y[:, branch] = relu(branch + bias)
struct ConcatBiasRelu {
  Branch branches[kMaxBranches];
  int count;
  int64_t rows;
  int64_t columns;
  Matrix y;  // (rows, columns)
  bool relu;
};

// Each branch's gradient = grad_y[:, branch] where y > 0 else 0; grad_bias = its sum over the rows.
struct ConcatBiasReluBackward {
  Branch branches[kMaxBranches];
  int count;
  int64_t rows;
  int64_t columns;
  Matrix grad_y;    // (rows, columns)
  Matrix y;         // (rows, columns); null without ReLU
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
