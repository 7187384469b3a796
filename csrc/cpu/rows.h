// What is done to rows of channels, one value at a time: pools and masks.
#pragma once

#include "isa.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

inline void max_of_nine(const float* const* pixels, int64_t channels, float* y, uint8_t* index) {
  int first = 0;
  while (pixels[first] == nullptr) ++first;
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    V most = load<V>(pixels[first] + c);
    IntegersOf<V> at = first + IntegersOf<V>{};
    for (int i = first + 1; i < 9; ++i) {
      if (pixels[i] == nullptr) continue;
      const V x = load<V>(pixels[i] + c);
      const auto greater = (x > most) | (x != x);  // NaN counts as greater
      most = greater ? x : most;
      at = greater ? i + IntegersOf<V>{} : at;
    }
    store(y + c, most);
    if (index != nullptr) store_bytes(index + c, at);
  });
}

inline void unpool_nine(
    const float* const* dy, const uint8_t* const* index, int64_t channels, float* dx) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    V sum = load<V>(dx + c);
    for (int i = 0; i < 9; ++i) {
      if (dy[i] == nullptr) continue;
      sum += load_bytes<IntegersOf<V>>(index[i] + c) == i ? load<V>(dy[i] + c) : zero<V>();
    }
    store(dx + c, sum);
  });
}

inline void mask(const float* grad, const float* mask, int64_t channels, float* y, float* sums) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    V value = load<V>(grad + c);
    if (mask != nullptr) value = load<V>(mask + c) <= 0.0f ? zero<V>() : value;
    store(y + c, value);
    if (sums != nullptr) store(sums + c, load<V>(sums + c) + value);
  });
}

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
