// Local response normalisation across channels.
#pragma once

#include "kernels.h"

namespace googlenet_fast {

// s = k + alpha / size * (sum of the squares of the `size` channels around): `size / 2` before,
// the rest after, zero beyond the first and last.
struct Normalization {
  int64_t rows;
  int64_t channels;
  int size;
  float alpha, beta, k;
};

// y = x * s^-beta
struct LocalResponseNorm {
  Normalization norm;
  Matrix x;
  Matrix y;
};

// grad_x = grad_y * s^-beta - 2 alpha beta / size * x * sum of grad_y * x * s^(-beta - 1),
// over the channels whose windows hold this one.
struct LocalResponseNormBackward {
  Normalization norm;
  Matrix grad_y;
  Matrix x;
  Matrix grad_x;
};

// Channels of the window that the CUDA kernels take: that of every published network.
constexpr int kNormalizedChannels = 5;

void run_cpu(Dtype dtype, const LocalResponseNorm& p);  // fp32 only
void run_cpu(Dtype dtype, const LocalResponseNormBackward& p);

#ifdef USE_CUDA
// All but kFloat64. Throw std::runtime_error when a launch fails.
void run_cuda(Dtype dtype, const LocalResponseNorm& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const LocalResponseNormBackward& p, cudaStream_t stream);
#endif

}  // namespace googlenet_fast
