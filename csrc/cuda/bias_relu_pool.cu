// Bias, ReLU and the 3x3/2 max pool without padding, and their gradient.

#include "../bias_relu_pool.h"
#include "pooling.h"

namespace googlenet_fast {

using Stride2 = Window<3, 2, 0>;

void run_cuda(Dtype dtype, const BiasReluPool& p, cudaStream_t stream) {
  pool<Stride2>("bias_relu_pool", dtype, p, stream);
}

void run_cuda(Dtype dtype, const BiasReluPoolBackward& p, cudaStream_t stream) {
  pool_backward<Stride2>("bias_relu_pool_backward", dtype, p, stream);
}

}  // namespace googlenet_fast
