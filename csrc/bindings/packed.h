// Weights that op pack_weight packed for inference.
#pragma once

#include "../bindings.h"
#include "../conv_bias_relu.h"

namespace googlenet_fast {

// A packed weight (outputs, channels, taps, taps) for images like x, as the kernels read it.
inline const void* packed_data(
    const Check& check, const Tensor& packed, const Tensor& x, int64_t outputs, int64_t channels,
    int64_t taps) {
  const PackWeight p{x.size(2), x.size(3), outputs, channels, static_cast<int>(taps),
                     nullptr,   nullptr};
  check.tensor("packed", packed, kFp32, {kAny});
  check.that(
      packed.is_contiguous() && packed.size(0) == packed_size(p), "packed",
      "be what pack_weight makes of the weights for images of ", p.height, "x", p.width);
  return packed.data_ptr();
}

}  // namespace googlenet_fast
