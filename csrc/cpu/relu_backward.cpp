#include "relu_backward.h"

#include "common.h"
#include "partition.h"
#include "scratch.h"

namespace googlenet_fast::cpu {

void relu_backward(
    const Size& size, MatrixView grad_y, MatrixView y, MatrixView masked, float* sums) {
  const int64_t pixels = size.pixels(), channels = grad_y.channels;
  const int64_t partials = bias_partials(pixels);
  const bool nontemporal_store = use_nontemporal_store(size, masked);
  Scratch scratch;
  float* const partial = take_zeros(partials * channels, scratch);
  parallel_for_each(partials, [&](int64_t p) {
    for (int64_t i = p * pixels / partials; i < (p + 1) * pixels / partials; ++i) {
      kernel_configs().relu_mask.relu_mask(
          grad_y.row(i), y.data == nullptr ? nullptr : y.row(i), channels,
          masked.data == nullptr ? nullptr : masked.row(i), partial + p * channels,
          nontemporal_store);
    }
  });
  sum_partials<float>(partial, partials, channels, sums);
}

void sum_pixels(const Size& size, MatrixView grad, float* sums) {
  relu_backward(size, grad, {}, {}, sums);
}

}  // namespace googlenet_fast::cpu
