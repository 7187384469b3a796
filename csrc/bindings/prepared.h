// Weights that were prepared for inference (ops/prepared.py).
#pragma once

#include "../bindings.h"
#include "../conv_bias_relu.h"

namespace googlenet_fast {

// What op prepare_weight made of (outputs, channels, taps, taps).
inline const void* prepared_data(
    const char* op, const Tensor& prepared, int64_t outputs, int64_t channels, int taps) {
  const PrepareWeight p{outputs, channels, taps, nullptr, nullptr};
  STD_TORCH_CHECK(
      prepared.is_cpu() && prepared.scalar_type() == ScalarType::Float &&
          prepared.is_contiguous() && prepared.numel() == prepared_size(p),
      op, ": a prepared weight is not what prepare_weight makes of the weight");
  return prepared.data_ptr();
}

}  // namespace googlenet_fast
