// Max pools with 3x3 windows and their gradients.
#pragma once

#include "../pooling.h"
#include "kernel_configs.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

// NaN counts as larger.
template <typename V>
inline auto is_larger(V x, V than) {
  return (x > than) | (x != x);
}

// kAll: no pixel is null.
template <bool kIndex, bool kAll>
void max_of_window_with(
    const float* const* pixels, int64_t channels, const float* bias, bool relu_output, float* y,
    uint8_t* index) {
  constexpr int kClippedIndex = kClipped;
  int first = 0;
  while (!kAll && pixels[first] == nullptr) ++first;
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    V most = load<V>(pixels[first] + c);
    IntegersOf<V> at = first + IntegersOf<V>{};
#pragma GCC unroll 8
    for (int i = 1; i < 9; ++i) {
      if (!kAll && (i <= first || pixels[i] == nullptr)) continue;
      const V x = load<V>(pixels[i] + c);
      const auto larger = is_larger(x, most);
      most = larger ? x : most;
      if constexpr (kIndex) at = larger ? i + IntegersOf<V>{} : at;
    }
    if (bias != nullptr) most += load<V>(bias + c);
    if constexpr (kIndex) {
      if (relu_output) at = most <= 0.0f ? kClippedIndex + IntegersOf<V>{} : at;
      store_bytes(index + c, at);
    }
    store(y + c, relu_output ? relu(most) : most);
  });
}

inline void max_of_window(
    const float* const* pixels, int64_t channels, const float* bias, bool relu_output, float* y,
    uint8_t* index) {
  if (channels == 0) return;  // the data of a tensor without values is null
  bool all = true;
  for (int i = 0; i < 9; ++i) all = all && pixels[i] != nullptr;
  const auto run = index == nullptr
                       ? (all ? max_of_window_with<false, true> : max_of_window_with<false, false>)
                       : (all ? max_of_window_with<true, true> : max_of_window_with<true, false>);
  run(pixels, channels, bias, relu_output, y, index);
}

// The maximum of a column of three pixels is used by the three windows that contain it.
inline void max_of_row(
    const float* const* rows, int64_t stride, bool before, bool after, int64_t count,
    int64_t channels, float* y, int64_t y_stride) {
  for_each_vectors(channels, [&]<typename V, int kTogether>(int64_t c) {
    const auto larger = [](V a, V b) { return is_larger(b, a) ? b : a; };
    const auto column = [&](int64_t i, int v) {
      const auto pixel = [&](int row) { return load<V>(rows[row] + i * stride + c + v * kLanes); };
      return larger(larger(pixel(0), pixel(1)), pixel(2));
    };
    V left[kTogether], here[kTogether];
    for (int v = 0; v < kTogether; ++v) {
      here[v] = column(0, v);
      left[v] = before ? column(-1, v) : here[v];
    }
    for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kTogether; ++v) {
        const V right = i + 1 < count || after ? column(i + 1, v) : here[v];
        store(y + i * y_stride + c + v * kLanes, larger(larger(left[v], here[v]), right));
        left[v] = here[v], here[v] = right;
      }
    }
  });
}

// value if the index is `number`, else zero.
template <typename V>
inline V where(IntegersOf<V> index, int number, V value) {
  return index == number ? value : zero<V>();
}

// Even pixels are in the first column of one window and in the last column of the window before.
inline void stride2_backward_row(
    const float* const* dy, int64_t dy_stride, const uint8_t* const* index, int64_t index_stride,
    const int* numbers, int rows, int64_t count, int64_t width, int64_t channels, float* dx,
    int64_t dx_stride, bool nontemporal_store) {
  for (int64_t i = 0; 2 * i < width; ++i, dx += 2 * dx_stride) {
    const bool begins = i < count, ends = i > 0 && i <= count;
    for_each_vector(channels, [&]<typename V>(int64_t c, V) {
      V even = zero<V>(), odd = zero<V>();
      const auto gradient = [&](int row, int64_t window, int number) {
        const auto at = load_bytes<IntegersOf<V>>(index[row] + window * index_stride + c);
        return where(at, 3 * numbers[row] + number, load<V>(dy[row] + window * dy_stride + c));
      };
      for (int row = 0; row < rows; ++row) {
        if (begins) even += gradient(row, i, 0), odd += gradient(row, i, 1);
        if (ends) even += gradient(row, i - 1, 2);
      }
      store(dx + c, even, nontemporal_store);
      if (2 * i + 1 < width) store(dx + dx_stride + c, odd, nontemporal_store);
    });
  }
}

inline void accumulate_bias_grad(
    const float* dy, const uint8_t* index, int64_t channels, float* sums) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const IntegersOf<V> at = load_bytes<IntegersOf<V>>(index + c);
    store(sums + c, load<V>(sums + c) + (at == kClipped ? zero<V>() : load<V>(dy + c)));
  });
}

// Each window adds to three pixels of the row. A pixel is stored once its last window is added.
inline void stride1_backward_row(
    const float* const* dy, int64_t dy_stride, const uint8_t* const* index, int64_t index_stride,
    int64_t count, int64_t channels, bool add, float* dx, int64_t dx_stride) {
  for_each_vectors(channels, [&]<typename V, int kTogether>(int64_t c) {
    V left[kTogether] = {}, here[kTogether] = {};
    const auto store_pixel = [&](int64_t pixel, int v) {
      float* const to = dx + pixel * dx_stride + c + v * kLanes;
      store(to, add ? load<V>(to) + left[v] : left[v]);
    };
    for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kTogether; ++v) {
        const int64_t channel = c + v * kLanes;
        V right = zero<V>();
#pragma GCC unroll 3
        for (int row = 0; row < 3; ++row) {
          if (dy[row] == nullptr) continue;
          const int first = 6 - 3 * row;  // these pixels are the last row of the windows above
          const V value = load<V>(dy[row] + i * dy_stride + channel);
          const auto at = load_bytes<IntegersOf<V>>(index[row] + i * index_stride + channel);
          left[v] += where(at, first, value);
          here[v] += where(at, first + 1, value);
          right += where(at, first + 2, value);
        }
        if (i > 0) store_pixel(i - 1, v);
        left[v] = here[v], here[v] = right;
      }
    }
    for (int v = 0; v < kTogether && count > 0; ++v) store_pixel(count - 1, v);
  });
}

constexpr PoolConfig kPool{
    .max_of_window = max_of_window,
    .max_of_row = max_of_row,
    .stride2_backward_row = stride2_backward_row,
    .stride1_backward_row = stride1_backward_row,
    .accumulate_bias_grad = accumulate_bias_grad,
};

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
