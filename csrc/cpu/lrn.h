// Local response normalisation of one pixel's channels, and its gradient.
#pragma once

#include "kernel_configs.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

// s^-beta. beta = 3/4, as in every published network, needs no power.
template <bool kThreeQuarters, typename V>
inline V inverse_power(V s, float beta) {
  if constexpr (kThreeQuarters) {
    const V root = square_root(1.0f / s);
    return root * square_root(root);
  } else if constexpr (sizeof(V) == sizeof(float)) {
    return __builtin_powf(s, -beta);
  } else {
    for (int i = 0; i < kLanes; ++i) s[i] = __builtin_powf(s[i], -beta);
    return s;
  }
}

// The sum of `size` adjacent values from p on, per lane.
template <typename V>
inline V window_sum(const float* p, int size) {
  V sum = load<V>(p);
  for (int i = 1; i < size; ++i) sum += load<V>(p + i);
  return sum;
}

// Write `size` zeros of padding around `channels` values, `before` of them on the left. Return
// where the values begin; the window of channel c begins at padded[c].
inline float* pad(float* padded, int64_t channels, int size, int before) {
  for (int i = 0; i < before; ++i) padded[i] = 0;
  for (int i = before; i < size; ++i) padded[channels + i] = 0;
  return padded + before;
}

inline void square(const float* x, int64_t channels, float* squares) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const V value = load<V>(x + c);
    store(squares + c, value * value);
  });
}

template <bool kThreeQuarters>
void lrn_with(
    const float* x, int64_t channels, int size, float scale, float beta, float k, float* padded,
    float* y) {
  square(x, channels, pad(padded, channels, size, size / 2));
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const V s = k + scale * window_sum<V>(padded + c, size);
    store(y + c, load<V>(x + c) * inverse_power<kThreeQuarters>(s, beta));
  });
}

inline void lrn(
    const float* x, int64_t channels, int size, float scale, float beta, float k, float* padded,
    float* y) {
  const auto row = beta == 0.75f ? lrn_with<true> : lrn_with<false>;
  row(x, channels, size, scale, beta, k, padded, y);
}

template <bool kThreeQuarters>
void lrn_backward_with(
    const float* grad, const float* x, int64_t channels, int size, float scale, float beta, float k,
    float* padded, float* grad_x) {
  float* const padded_terms = padded + channels + size;
  float* const terms = pad(padded_terms, channels, size, (size - 1) / 2);
  square(x, channels, pad(padded, channels, size, size / 2));
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const V s = k + scale * window_sum<V>(padded + c, size);
    const V scaled = load<V>(grad + c) * inverse_power<kThreeQuarters>(s, beta);
    store(grad_x + c, scaled);
    store(terms + c, load<V>(x + c) * scaled / s);
  });
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const V sum = window_sum<V>(padded_terms + c, size);
    store(grad_x + c, load<V>(grad_x + c) - 2 * scale * beta * load<V>(x + c) * sum);
  });
}

inline void lrn_backward(
    const float* grad, const float* x, int64_t channels, int size, float scale, float beta, float k,
    float* padded, float* grad_x) {
  const auto row = beta == 0.75f ? lrn_backward_with<true> : lrn_backward_with<false>;
  row(grad, x, channels, size, scale, beta, k, padded, grad_x);
}

constexpr LrnConfig kLrn{.lrn = lrn, .lrn_backward = lrn_backward};

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
