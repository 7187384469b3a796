// The gradient of ReLU, and its sum.
#pragma once

#include "kernel_configs.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

inline void relu_mask(
    const float* grad, const float* mask, int64_t channels, float* y, float* sums,
    bool nontemporal_store) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    V value = load<V>(grad + c);
    if (mask != nullptr) value = load<V>(mask + c) <= 0.0f ? zero<V>() : value;
    if (y != nullptr) store(y + c, value, nontemporal_store);
    if (sums != nullptr) store(sums + c, load<V>(sums + c) + value);
  });
}

constexpr ReluMaskConfig kReluMask{.relu_mask = relu_mask};

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
