// The max pool on raw memory: the op of torch always returns dense tensors, the kernel can fill slices.

#include "../../csrc/max_pool.h"

using namespace googlenet_fast;

// y = the pool of x in float32.
extern "C" __attribute__((visibility("default"))) void pool_into(
    int images, int height, int width, int64_t channels, float* x, int64_t stride_x, float* y,
    int64_t stride_y) {
  const PoolShape shape{images, height, width, height, width, channels};
  run_cpu(Dtype::kFloat32, MaxPool{{shape, {x, stride_x}, nullptr, false, {y, stride_y}, nullptr}});
}
