#include "../conv_bias_relu.h"

#include <algorithm>

#include "convolution.h"
#include "relu_backward.h"
#include "scratch.h"
#include "stem.h"

namespace googlenet_fast {
namespace {

using cpu::Filter;
using cpu::MatrixView;
using cpu::Size;
using cpu::view_of;

Size size_of(const ConvShape& s) { return {s.images, s.height, s.width}; }

Filter filter_of(const ConvShape& s, const void* weight) {
  return {static_cast<const float*>(weight), s.outputs, s.taps, s.channels};
}

Size size_of(const PackWeight& p) { return {1, p.height, p.width}; }

Filter filter_of(const PackWeight& p) {
  return {static_cast<const float*>(p.weight), p.outputs, p.taps, p.channels};
}

void run_stem(const ConvBiasReluBackward& p) {
  const ConvShape& s = p.shape;
  const Size size = size_of(s);
  const Filter weight = filter_of(s, p.weight);
  const MatrixView grad_y = view_of(p.grad_y, s.outputs), mask = view_of(p.y, s.outputs);
  if (p.grad_x.data != nullptr) {
    stem_input_gradient(size, grad_y, mask, weight, view_of(p.grad_x, s.channels));
  }
  if (p.grads == nullptr) return;
  float* const grads = static_cast<float*>(p.grads);
  stem_weight_gradient(size, grad_y, mask, view_of(p.x, s.channels), grads, grads + weight.size());
}

}  // namespace

void run_cpu(Dtype, const ConvBiasRelu& p) {
  const ConvShape& s = p.shape;
  const float* const bias = static_cast<const float*>(p.bias);
  Filter weight = filter_of(s, p.weight);
  weight.packed = static_cast<const float*>(p.packed);
  const auto run = s.taps == 7 ? cpu::convolve_stem : cpu::convolve;
  run(size_of(s), view_of(p.x, s.channels), weight, bias, p.relu, view_of(p.y, s.outputs));
}

int64_t packed_size(const PackWeight& p) { return cpu::packed_size(size_of(p), filter_of(p)); }

void run_cpu(Dtype, const PackWeight& p) {
  cpu::pack_filter(size_of(p), filter_of(p), static_cast<float*>(p.packed));
}

void run_cpu(Dtype, const ConvBiasReluBackward& p) {
  const ConvShape& s = p.shape;
  if (s.taps == 7) return run_stem(p);
  const Size size = size_of(s);
  const Filter weight = filter_of(s, p.weight);
  cpu::Scratch scratch;
  MatrixView grad_y = view_of(p.grad_y, s.outputs);
  float* const sums = scratch.take(s.outputs);
  if (p.y.data != nullptr) {
    const MatrixView masked{scratch.take(size.pixels() * s.outputs), s.outputs, s.outputs};
    relu_backward(size, grad_y, view_of(p.y, s.outputs), masked, sums);
    grad_y = masked;
  }
  if (p.grad_x.data != nullptr) {
    input_gradient(size, grad_y, weight, {}, view_of(p.grad_x, s.channels));
  }
  if (p.grads == nullptr) return;
  if (p.y.data == nullptr) sum_pixels(size, grad_y, sums);
  float* const grads = static_cast<float*>(p.grads);
  weight_gradient(size, grad_y, view_of(p.x, s.channels), s.taps, grads);
  std::copy_n(sums, s.outputs, grads + weight.size());
}

}  // namespace googlenet_fast

// Points of a tile of Winograd's convolution of such images, or 0 of other convolutions. Packed
// weights are the same for images of all sizes with the same points; read by
// googlenet_fast/extension.py.
extern "C" __attribute__((visibility("default"))) int64_t
googlenet_fast_tile_points(int64_t height, int64_t width, int64_t taps, int64_t channels) {
  using namespace googlenet_fast;
  return cpu::tile_points({1, height, width}, static_cast<int>(taps), channels);
}
