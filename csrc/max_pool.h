// The 3x3/1 max pool of an Inception block, padded by one pixel: as large as its input.
#pragma once

#include "pooling.h"

namespace googlenet_fast {

struct MaxPool : Pool {};                  // without bias and ReLU
struct MaxPoolBackward : PoolBackward {};  // without the gradient of a bias

void run_cpu(Dtype dtype, const MaxPool& p);  // fp32 only
void run_cpu(Dtype dtype, const MaxPoolBackward& p);

#ifdef USE_CUDA
// All but kFloat64. Throw std::runtime_error when a launch fails.
void run_cuda(Dtype dtype, const MaxPool& p, cudaStream_t stream);
void run_cuda(Dtype dtype, const MaxPoolBackward& p, cudaStream_t stream);
#endif

}  // namespace googlenet_fast
