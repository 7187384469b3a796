// What is done to rows of channels: pools, normalisation, masks.
#pragma once

#include "../pooling.h"
#include "isa.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

// Call function<V, vectors>(offset) for all of 0 .. n: by vectors side by side, enough to read whole
// lines of the caches of each pixel, and the rest one by one.
template <typename F>
inline void for_each_lines(int64_t n, const F& function) {
  constexpr int kTogether = 4;
  int64_t c = 0;
  for (; c + kTogether * kLanes <= n; c += kTogether * kLanes) {
    function.template operator()<Vector, kTogether>(c);
  }
  for (; c + kLanes <= n; c += kLanes) function.template operator()<Vector, 1>(c);
  for (; c < n; ++c) function.template operator()<float, 1>(c);
}

// The larger value; NaN counts as larger.
template <typename V>
inline auto is_larger(V x, V than) {
  return (x > than) | (x != x);
}

// kAll: no pixel is left out.
template <bool kIndex, bool kAll>
void max_of_nine_with(
    const float* const* pixels, int64_t channels, const float* bias, bool clip, float* y,
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
      if (clip) at = most <= 0.0f ? kClippedIndex + IntegersOf<V>{} : at;
      store_bytes(index + c, at);
    }
    store(y + c, clip ? relu(most) : most);
  });
}

inline void max_of_nine(
    const float* const* pixels, int64_t channels, const float* bias, bool clip, float* y,
    uint8_t* index) {
  if (channels == 0) return;  // the data of a tensor without values is null
  bool all = true;
  for (int i = 0; i < 9; ++i) all = all && pixels[i] != nullptr;
  const auto run = index == nullptr
                       ? (all ? max_of_nine_with<false, true> : max_of_nine_with<false, false>)
                       : (all ? max_of_nine_with<true, true> : max_of_nine_with<true, false>);
  run(pixels, channels, bias, clip, y, index);
}

// A column's maximum serves the three windows that it is in.
inline void max_of_rows(
    const float* const* rows, int64_t stride, bool before, bool after, int64_t count,
    int64_t channels, float* y, int64_t y_stride) {
  for_each_lines(channels, [&]<typename V, int kTogether>(int64_t c) {
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

// value where the index is `number`, else zero.
template <typename V>
inline V where(IntegersOf<V> index, int number, V value) {
  return index == number ? value : zero<V>();
}

// Even pixels are in the first column of a window and in the last one of the window before.
inline void unpool_halved(
    const float* const* dy, int64_t dy_stride, const uint8_t* const* index, int64_t index_stride,
    const int* numbers, int rows, int64_t count, int64_t width, int64_t channels, float* dx,
    int64_t dx_stride, bool past) {
  for (int64_t i = 0; 2 * i < width; ++i, dx += 2 * dx_stride) {
    const bool begins = i < count, ends = i > 0 && i <= count;
    for_each_vector(channels, [&]<typename V>(int64_t c, V) {
      V even = zero<V>(), odd = zero<V>();
      const auto passed = [&](int row, int64_t window, int number) {
        const auto at = load_bytes<IntegersOf<V>>(index[row] + window * index_stride + c);
        return where(at, 3 * numbers[row] + number, load<V>(dy[row] + window * dy_stride + c));
      };
      for (int row = 0; row < rows; ++row) {
        if (begins) even += passed(row, i, 0), odd += passed(row, i, 1);
        if (ends) even += passed(row, i - 1, 2);
      }
      store(dx + c, even, past);
      if (2 * i + 1 < width) store(dx + dx_stride + c, odd, past);
    });
  }
}

inline void add_unclipped(const float* dy, const uint8_t* index, int64_t channels, float* sums) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const IntegersOf<V> at = load_bytes<IntegersOf<V>>(index + c);
    store(sums + c, load<V>(sums + c) + (at == kClipped ? zero<V>() : load<V>(dy + c)));
  });
}

// Each window adds to three pixels of the row, whose sums are complete one after the other.
inline void unpool_rows(
    const float* const* dy, int64_t dy_stride, const uint8_t* const* index, int64_t index_stride,
    int64_t count, int64_t channels, bool add, float* dx, int64_t dx_stride) {
  for_each_lines(channels, [&]<typename V, int kTogether>(int64_t c) {
    V left[kTogether] = {}, here[kTogether] = {};
    const auto finish = [&](int64_t pixel, int v) {
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
          const int first = 6 - 3 * row;  // the windows above see the pixels in their last row
          const V value = load<V>(dy[row] + i * dy_stride + channel);
          const auto at = load_bytes<IntegersOf<V>>(index[row] + i * index_stride + channel);
          left[v] += where(at, first, value);
          here[v] += where(at, first + 1, value);
          right += where(at, first + 2, value);
        }
        if (i > 0) finish(i - 1, v);
        left[v] = here[v], here[v] = right;
      }
    }
    for (int v = 0; v < kTogether && count > 0; ++v) finish(count - 1, v);
  });
}

// s^-beta; three quarters, which every published network has, without a power.
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

// The sum of the `size` values from p on, for each lane.
template <typename V>
inline V window(const float* p, int size) {
  V sum = load<V>(p);
  for (int i = 1; i < size; ++i) sum += load<V>(p + i);
  return sum;
}

// Put zeros around `channels` values, `before` of them before, and return where the values begin.
// The window of channel c then begins at wide[c].
inline float* begin_wide(float* wide, int64_t channels, int size, int before) {
  for (int i = 0; i < before; ++i) wide[i] = 0;
  for (int i = before; i < size; ++i) wide[channels + i] = 0;
  return wide + before;
}

inline void square(const float* x, int64_t channels, float* squares) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const V value = load<V>(x + c);
    store(squares + c, value * value);
  });
}

template <bool kThreeQuarters>
void normalize_row(
    const float* x, int64_t channels, int size, float scale, float beta, float k, float* wide,
    float* y) {
  square(x, channels, begin_wide(wide, channels, size, size / 2));
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const V s = k + scale * window<V>(wide + c, size);
    store(y + c, load<V>(x + c) * inverse_power<kThreeQuarters>(s, beta));
  });
}

inline void normalize(
    const float* x, int64_t channels, int size, float scale, float beta, float k, float* wide,
    float* y) {
  const auto row = beta == 0.75f ? normalize_row<true> : normalize_row<false>;
  row(x, channels, size, scale, beta, k, wide, y);
}

template <bool kThreeQuarters>
void normalize_row_backward(
    const float* grad, const float* x, int64_t channels, int size, float scale, float beta, float k,
    float* wide, float* grad_x) {
  float* const wide_terms = wide + channels + size;
  float* const terms = begin_wide(wide_terms, channels, size, (size - 1) / 2);
  square(x, channels, begin_wide(wide, channels, size, size / 2));
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const V s = k + scale * window<V>(wide + c, size);
    const V scaled = load<V>(grad + c) * inverse_power<kThreeQuarters>(s, beta);
    store(grad_x + c, scaled);
    store(terms + c, load<V>(x + c) * scaled / s);
  });
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    const V sum = window<V>(wide_terms + c, size);
    store(grad_x + c, load<V>(grad_x + c) - 2 * scale * beta * load<V>(x + c) * sum);
  });
}

inline void normalize_backward(
    const float* grad, const float* x, int64_t channels, int size, float scale, float beta, float k,
    float* wide, float* grad_x) {
  const auto row = beta == 0.75f ? normalize_row_backward<true> : normalize_row_backward<false>;
  row(grad, x, channels, size, scale, beta, k, wide, grad_x);
}

inline void mask(
    const float* grad, const float* mask, int64_t channels, float* y, float* sums, bool past) {
  for_each_vector(channels, [&]<typename V>(int64_t c, V) {
    V value = load<V>(grad + c);
    if (mask != nullptr) value = load<V>(mask + c) <= 0.0f ? zero<V>() : value;
    if (y != nullptr) store(y + c, value, past);
    if (sums != nullptr) store(sums + c, load<V>(sums + c) + value);
  });
}

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
