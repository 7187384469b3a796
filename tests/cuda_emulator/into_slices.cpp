// The kernels on raw memory: the ops of torch always return dense tensors, kernels can fill slices;
// and in any stream.

#include <cstdint>
#include <cstring>

#include "../../csrc/bias_relu_pool.h"
#include "../../csrc/concat_bias_relu.h"
#include "../../csrc/local_response_norm.h"
#include "../../csrc/max_pool.h"

using namespace googlenet_fast;

// Run the forward kernel of an op on float32, without bias or ReLU and with its default parameters.
extern "C" __attribute__((visibility("default"))) void run_into(
    const char* op, int images, int height, int width, int64_t channels, float* x,
    int64_t stride_x, float* y, int64_t stride_y) {
  const Matrix from{x, stride_x}, to{y, stride_y};
  const int64_t rows = int64_t{images} * height * width;
  const auto is = [op](const char* name) { return std::strcmp(op, name) == 0; };
  if (is("concat_bias_relu")) {
    ConcatBiasRelu p{};
    p.branches[0] = {from, to, channels, 0, nullptr};
    p.count = 1;
    p.rows = rows;
    p.columns = channels;
    run_cuda(Dtype::kFloat32, p, nullptr);
  } else if (is("local_response_norm")) {
    const Normalization norm{rows, channels, kNormalizedChannels, 1e-4f, 0.75f, 1.f};
    run_cuda(Dtype::kFloat32, LocalResponseNorm{norm, from, to}, nullptr);
  } else {
    const bool same = is("max_pool");
    const PoolShape shape{
        images, height, width, same ? height : (height - 1) / 2, same ? width : (width - 1) / 2,
        channels};
    const Pool p{shape, from, nullptr, false, to, nullptr};
    same ? run_cuda(Dtype::kFloat32, MaxPool{p}, nullptr)
         : run_cuda(Dtype::kFloat32, BiasReluPool{p}, nullptr);
  }
}

// The column sums of float32 in a stream of that number; x is also copied to `out`.
extern "C" __attribute__((visibility("default"))) void sum_columns(
    float* x, int64_t rows, int64_t columns, float* out, float* partial, float* sums,
    uintptr_t stream) {
  ConcatBiasReluBackward p{};
  p.branches[0] = {{x, columns}, {}, {out, columns}, columns, 0};
  p.count = 1;
  p.rows = rows;
  p.columns = columns;
  p.partial = partial;
  p.grad_bias = sums;
  run_cuda(Dtype::kFloat32, p, reinterpret_cast<cudaStream_t>(stream));
}
