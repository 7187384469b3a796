// Batch normalisation by the batch's statistics, ReLU and the 3x3/2 max pool without padding, and
// the gradient. Sums of several processes can be added between the passes.
#pragma once

#include "pooling.h"

namespace googlenet_fast {

// Values per channel are (channels,) of fp32, fp64 for kFloat64.
struct NormPool {
  PoolShape shape;
  Matrix x;  // one row per pixel of the input, before normalisation
  const void* mean;
  const void* variance;  // biased
  const void* weight;
  const void* bias;
  double eps;
};

// y = relu(max over a window of (x - mean) / sqrt(variance + eps) * weight + bias)
struct BnReluPool : NormPool {
  Matrix y;        // one row per pixel of the output
  uint8_t* index;  // like y, dense: as of Pool
};

// What backward reads. The gradient of a pixel after ReLU is the sum of grad_y over the windows
// whose maximum it is.
struct NormPoolGradient : NormPool {
  Matrix grad_y;
  const uint8_t* index;
};

// sums[0] = sum of the pixels' gradients, sums[1] = sum of these times (x - mean) /
// sqrt(variance + eps): the gradients of bias and weight. Reads neither weight nor bias.
struct BnReluPoolSums : NormPoolGradient {
  void* partial;  // partial_size(pixels of x, channels, 2) values
  void* sums;     // (2, channels)
};

// grad_x, from these sums over `total` pixels. Does not read the bias.
struct BnReluPoolBackward : NormPoolGradient {
  const void* grad_bias;
  const void* grad_weight;
  double total;
  Matrix grad_x;
};

void run_cpu(Dtype dtype, const BnReluPool& p);
void run_cpu(Dtype dtype, const BnReluPoolSums& p);
void run_cpu(Dtype dtype, const BnReluPoolBackward& p);

#ifdef USE_CUDA
// All but kFloat64. Throw std::runtime_error when a launch fails.
void run_cuda(Dtype dtype, const BnReluPool& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const BnReluPoolSums& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const BnReluPoolBackward& p, cudaStream_t stream);
#endif

}  // namespace googlenet_fast
