// Batch normalisation of branches by their batch's statistics, with ReLU and concatenation, and its
// gradient. Four passes, between which the sums of several processes can be added.
#pragma once

#include "concat_bias_relu.h"

namespace googlenet_fast {

// One branch: `channels` columns of all branches' columns together, starting at column `begin`.
// Values per channel are (channels,) of fp32, fp64 for kFloat64; passes read only what they need.
struct NormBranch {
  Matrix x;     // (rows, channels), before normalisation
  Matrix grad;  // of y, where y = relu((x - mean) / sqrt(variance + eps) * weight + bias)
  Matrix out;   // written: y, or the gradient of x
  int64_t channels;
  int64_t begin;
  const void* mean;
  const void* variance;  // biased
  const void* weight;
  const void* bias;
  const void* grad_bias;  // sums over all rows, as BatchNormSums leaves them
  const void* grad_weight;
};

struct NormBranches {
  NormBranch branches[kMaxBranches];
  int count;
  int64_t rows;
  int64_t columns;
  double eps;
};

// statistics[0] = mean of x, statistics[1] = biased variance; zeros of no rows.
struct BatchNormStatistics : NormBranches {
  void* partial;     // partial_size(rows, columns, 2) values
  void* statistics;  // (2, columns)
};

// out = y
struct BatchNormRelu : NormBranches {};

// sums[0] = sum of grad where y > 0, sums[1] = sum of that times (x - mean) / sqrt(variance + eps):
// the gradients of bias and weight.
struct BatchNormSums : NormBranches {
  void* partial;  // partial_size(rows, columns, 2) values
  void* sums;     // (2, columns)
};

// out = gradient of x, from grad_bias and grad_weight
struct BatchNormBackward : NormBranches {
  double total;  // rows that grad_bias and grad_weight are sums over
};

void run_cpu(Dtype dtype, const BatchNormStatistics& p);
void run_cpu(Dtype dtype, const BatchNormRelu& p);
void run_cpu(Dtype dtype, const BatchNormSums& p);
void run_cpu(Dtype dtype, const BatchNormBackward& p);

#ifdef USE_CUDA
// All but kFloat64. Throw std::runtime_error when a launch fails.
void run_cuda(Dtype dtype, const BatchNormStatistics& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const BatchNormRelu& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const BatchNormSums& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const BatchNormBackward& p, cudaStream_t stream);
#endif

}  // namespace googlenet_fast
