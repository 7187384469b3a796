// Weights that were prepared for inference (ops/prepared.py).
#pragma once

#include "../bindings.h"
#include "../conv_bias_relu.h"

namespace googlenet_fast {

// What op prepare_weight made of (outputs, channels, taps, taps) for images like x.
inline const void* prepared_data(
    const char* op, const Tensor& prepared, const Tensor& x, int64_t outputs, int64_t channels,
    int taps) {
  const PrepareWeight p{x.size(2), x.size(3), outputs, channels, taps, nullptr, nullptr};
  STD_TORCH_CHECK(
      prepared.is_cpu() && prepared.scalar_type() == ScalarType::Float &&
          prepared.is_contiguous() && prepared.numel() == prepared_size(p),
      op, ": a prepared weight is not what prepare_weight makes of the weight for images of ",
      p.height, "x", p.width);
  return prepared.data_ptr();
}

}  // namespace googlenet_fast
