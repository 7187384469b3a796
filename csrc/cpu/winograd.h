// Winograd's transforms for tiles of 6 points, 0, 1, -1, 2, -2 and infinity: F(4, 3) and F(2, 5).
//
// A convolution is Aᵀ [(G w Gᵀ) ⊙ (Bᵀ d B)] A (Lavin and Gray 2015, arXiv:1509.09308). Both have the
// same Bᵀ; row i of G is n_i (1, p_i, p_i², ...), column i of Aᵀ is (1, p_i, p_i², ...).
#pragma once

#include "isa.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

template <typename V>
inline void input_1d(const V* d, V* v) {  // Bᵀ d
  v[0] = 4.0f * d[0] - 5.0f * d[2] + d[4];
  const V even = d[4] - 4.0f * d[2], odd = d[3] - 4.0f * d[1];
  v[1] = even + odd;
  v[2] = even - odd;
  const V even2 = d[4] - d[2], odd2 = 2.0f * (d[3] - d[1]);
  v[3] = even2 + odd2;
  v[4] = even2 - odd2;
  v[5] = 4.0f * d[1] - 5.0f * d[3] + d[5];
}

template <int kSide, typename V>
inline void output_1d(const V* m, V* y) {  // Aᵀ m
  const V sum1 = m[1] + m[2], difference1 = m[1] - m[2];
  const V sum2 = m[3] + m[4], difference2 = m[3] - m[4];
  y[0] = m[0] + sum1 + sum2;
  y[1] = difference1 + 2.0f * difference2;
  if constexpr (kSide == 4) {
    y[2] = sum1 + 4.0f * sum2;
    y[3] = difference1 + 8.0f * difference2;
  }
  y[kSide - 1] += m[5];
}

template <int kSide, typename V>
inline void output_adjoint_1d(const V* y, V* m) {  // A y
  V even1 = y[0], odd1 = y[1], even2 = y[0], odd2 = 2.0f * y[1];
  if constexpr (kSide == 4) {
    even1 += y[2];
    odd1 += y[3];
    even2 += 4.0f * y[2];
    odd2 += 8.0f * y[3];
  }
  m[0] = y[0];
  m[1] = even1 + odd1;
  m[2] = even1 - odd1;
  m[3] = even2 + odd2;
  m[4] = even2 - odd2;
  m[5] = y[kSide - 1];
}

template <int kTaps, typename V>
inline void filter_1d(const V* w, V* u) {  // G w
  V even1 = w[0] + w[2], odd1 = w[1], even2 = w[0] + 4.0f * w[2], odd2 = 2.0f * w[1];
  if constexpr (kTaps == 5) {
    even1 += w[4];
    odd1 += w[3];
    even2 += 16.0f * w[4];
    odd2 += 8.0f * w[3];
  }
  u[0] = w[0] * (1.0f / 4);
  u[1] = (even1 + odd1) * (-1.0f / 6);
  u[2] = (even1 - odd1) * (-1.0f / 6);
  u[3] = (even2 + odd2) * (1.0f / 24);
  u[4] = (even2 - odd2) * (1.0f / 24);
  u[5] = w[kTaps - 1];
}

template <int kTaps, typename V>
inline void filter_adjoint_1d(const V* u, V* w) {  // Gᵀ u
  const V sum1 = (u[1] + u[2]) * (-1.0f / 6), difference1 = (u[1] - u[2]) * (-1.0f / 6);
  const V sum2 = (u[3] + u[4]) * (1.0f / 24), difference2 = (u[3] - u[4]) * (1.0f / 24);
  w[0] = u[0] * (1.0f / 4) + sum1 + sum2;
  w[1] = difference1 + 2.0f * difference2;
  w[2] = sum1 + 4.0f * sum2;
  if constexpr (kTaps == 5) {
    w[3] = difference1 + 8.0f * difference2;
    w[4] = sum1 + 16.0f * sum2;
  }
  w[kTaps - 1] += u[5];
}

// Apply a transform of kIn to kOut points to the columns, then to the rows of a tile, whose points
// `read(y, x)` gives and `write(y, x, value)` takes. Inlined, or each point would fetch the addresses
// that those have captured.
template <int kIn, int kOut, typename V, typename Read, typename Write, typename F>
[[gnu::always_inline]] inline void transform_2d(Read read, Write write, F transform) {
  V half[kIn][kOut];  // transposed
#pragma GCC unroll 6
  for (int x = 0; x < kIn; ++x) {
    V column[kIn];
#pragma GCC unroll 6
    for (int y = 0; y < kIn; ++y) column[y] = read(y, x);
    transform(column, half[x]);
  }
#pragma GCC unroll 6
  for (int y = 0; y < kOut; ++y) {
    V row[kIn], out[kOut];
#pragma GCC unroll 6
    for (int x = 0; x < kIn; ++x) row[x] = half[x][y];
    transform(row, out);
#pragma GCC unroll 6
    for (int x = 0; x < kOut; ++x) write(y, x, out[x]);
  }
}

inline void transform_input(
    const float* const* pixels, int64_t channels, float* v, int64_t frequency_stride, int64_t panel,
    int64_t panel_stride) {
  for (int64_t first = 0; first < channels; first += panel) {
    float* const to = v + first / panel * panel_stride;
    const int64_t count = channels - first < panel ? channels - first : panel;
    for_each_vector(count, [&]<typename V>(int64_t c, V) {
      transform_2d<6, 6, V>(
          [=](int y, int x) { return load<V>(pixels[6 * y + x] + first + c); },
          [=](int y, int x, V value) { store(to + (6 * y + x) * frequency_stride + c, value); },
          [](const V* a, V* b) { input_1d(a, b); });
    });
  }
}

template <int kSide>
void transform_output_of(
    const float* m, int64_t frequency_stride, int64_t channels, float* const* pixels,
    const float* bias, bool clip, const float* const* masks) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const V shift = bias == nullptr ? zero<V>() : load<V>(bias + c);
    transform_2d<6, kSide, V>(
        [=](int y, int x) { return load<V>(m + (6 * y + x) * frequency_stride + c); },
        [=](int y, int x, V value) {
          const int i = kSide * y + x;
          if (pixels[i] == nullptr) return;
          value += shift;
          if (clip) value = relu(value);
          if (masks != nullptr) value = load<V>(masks[i] + c) <= 0.0f ? zero<V>() : value;
          store(pixels[i] + c, value);
        },
        [](const V* a, V* b) { output_1d<kSide>(a, b); });
  });
}

inline void transform_output(
    const float* m, int64_t frequency_stride, int64_t channels, int side, float* const* pixels,
    const float* bias, bool clip, const float* const* masks) {
  const auto transform = side == 4 ? transform_output_of<4> : transform_output_of<2>;
  transform(m, frequency_stride, channels, pixels, bias, clip, masks);
}

template <int kSide>
void transform_output_adjoint_of(
    const float* const* pixels, int64_t channels, float* dm, int64_t frequency_stride) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    transform_2d<kSide, 6, V>(
        [=](int y, int x) { return load<V>(pixels[kSide * y + x] + c); },
        [=](int y, int x, V value) { store(dm + (6 * y + x) * frequency_stride + c, value); },
        [](const V* a, V* b) { output_adjoint_1d<kSide>(a, b); });
  });
}

inline void transform_output_adjoint(
    const float* const* pixels, int64_t channels, int side, float* dm, int64_t frequency_stride) {
  const auto transform = side == 4 ? transform_output_adjoint_of<4> : transform_output_adjoint_of<2>;
  transform(pixels, channels, dm, frequency_stride);
}

template <int kTaps>
void transform_filter_of(
    const float* w, int64_t tap_stride, int64_t lanes, bool flipped, float* u,
    int64_t frequency_stride) {
  for_each_vector(lanes, [&]<typename V>(int64_t i, V) {
    transform_2d<kTaps, 6, V>(
        [=](int y, int x) {
          const int tap = flipped ? kTaps * kTaps - 1 - (kTaps * y + x) : kTaps * y + x;
          return load<V>(w + tap * tap_stride + i);
        },
        [=](int y, int x, V value) { store(u + (6 * y + x) * frequency_stride + i, value); },
        [](const V* a, V* b) { filter_1d<kTaps>(a, b); });
  });
}

inline void transform_filter(
    const float* w, int64_t tap_stride, int64_t lanes, int taps, bool flipped, float* u,
    int64_t frequency_stride) {
  const auto transform = taps == 3 ? transform_filter_of<3> : transform_filter_of<5>;
  transform(w, tap_stride, lanes, flipped, u, frequency_stride);
}

template <int kTaps>
void transform_filter_adjoint_of(
    const float* u, int64_t frequency_stride, int64_t channels, float* dw) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    transform_2d<6, kTaps, V>(
        [=](int y, int x) { return load<V>(u + (6 * y + x) * frequency_stride + c); },
        [=](int y, int x, V value) { store(dw + (kTaps * y + x) * channels + c, value); },
        [](const V* a, V* b) { filter_adjoint_1d<kTaps>(a, b); });
  });
}

inline void transform_filter_adjoint(
    const float* u, int64_t frequency_stride, int64_t channels, int taps, float* dw) {
  const auto transform = taps == 3 ? transform_filter_adjoint_of<3> : transform_filter_adjoint_of<5>;
  transform(u, frequency_stride, channels, dw);
}

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
