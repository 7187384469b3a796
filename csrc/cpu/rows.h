// What is done to rows of channels: pools, normalisation, masks.
#pragma once

#include "../pooling.h"
#include "isa.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

inline void max_of_nine(
    const float* const* pixels, int64_t channels, const float* bias, bool clip, float* y,
    uint8_t* index) {
  constexpr int kClippedIndex = kClipped;
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
    if (bias != nullptr) most += load<V>(bias + c);
    if (clip) at = most <= 0.0f ? kClippedIndex + IntegersOf<V>{} : at;
    store(y + c, clip ? relu(most) : most);
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

// s^-beta; three quarters, which every published network has, without a power.
inline float inverse_power(float s, float beta) {
  if (beta != 0.75f) return __builtin_powf(s, -beta);
  const float root = __builtin_sqrtf(1.0f / s);
  return root * __builtin_sqrtf(root);
}

// Put zeros around `channels` values, `before` of them before, and return where the values begin.
// The window of channel c then begins at wide[c].
inline float* begin_wide(float* wide, int64_t channels, int size, int before) {
  for (int i = 0; i < before; ++i) wide[i] = 0;
  for (int i = before; i < size; ++i) wide[channels + i] = 0;
  return wide + before;
}

inline void normalize(
    const float* x, int64_t channels, int size, float scale, float beta, float k, float* wide,
    float* y) {
  float* const squares = begin_wide(wide, channels, size, size / 2);
  for (int64_t c = 0; c < channels; ++c) squares[c] = x[c] * x[c];
  for (int64_t c = 0; c < channels; ++c) {
    float sum = 0;
    for (int i = 0; i < size; ++i) sum += wide[c + i];
    y[c] = x[c] * inverse_power(k + scale * sum, beta);
  }
}

inline void normalize_backward(
    const float* grad, const float* x, int64_t channels, int size, float scale, float beta, float k,
    float* wide, float* grad_x) {
  float* const wide_terms = wide + channels + size;
  float* const squares = begin_wide(wide, channels, size, size / 2);
  float* const terms = begin_wide(wide_terms, channels, size, (size - 1) / 2);
  for (int64_t c = 0; c < channels; ++c) squares[c] = x[c] * x[c];
  for (int64_t c = 0; c < channels; ++c) {
    float sum = 0;
    for (int i = 0; i < size; ++i) sum += wide[c + i];
    const float s = k + scale * sum, power = inverse_power(s, beta);
    grad_x[c] = grad[c] * power;
    terms[c] = grad[c] * x[c] * power / s;
  }
  for (int64_t c = 0; c < channels; ++c) {
    float sum = 0;
    for (int i = 0; i < size; ++i) sum += wide_terms[c + i];
    grad_x[c] -= 2 * scale * beta * x[c] * sum;
  }
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
