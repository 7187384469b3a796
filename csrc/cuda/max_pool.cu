// The 3x3/1 max pool, padded by one pixel, and its gradient.

#include "../max_pool.h"
#include "pooling.h"

namespace googlenet_fast {

using Stride1 = Window<3, 1, 1>;

void run_cuda(Dtype dtype, const MaxPool& p, cudaStream_t stream) {
  pool<Stride1>("max_pool", dtype, p, stream);
}

void run_cuda(Dtype dtype, const MaxPoolBackward& p, cudaStream_t stream) {
  pool_backward<Stride1>("max_pool_backward", dtype, p, stream);
}

}  // namespace googlenet_fast
