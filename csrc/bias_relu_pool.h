// Bias, ReLU and the 3x3/2 max pool without padding that follows a convolution.
#pragma once

#include "pooling.h"

namespace googlenet_fast {

struct BiasReluPool : Pool {};
struct BiasReluPoolBackward : PoolBackward {};

void run_cpu(Dtype dtype, const BiasReluPool& p);  // fp32 only
void run_cpu(Dtype dtype, const BiasReluPoolBackward& p);

#ifdef USE_CUDA
// All but kFloat64. Throw std::runtime_error when a launch fails.
void run_cuda(Dtype dtype, const BiasReluPool& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const BiasReluPoolBackward& p, cudaStream_t stream);
#endif

}  // namespace googlenet_fast
