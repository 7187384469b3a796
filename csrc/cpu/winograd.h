// Winograd transforms for tiles of 6 to 9 points. The last point is infinity, finite() has the
// others.
//
// A convolution is Aᵀ [(G w Gᵀ) ⊙ (Bᵀ d B)] A (Lavin and Gray 2015, arXiv:1509.09308). A evaluates
// a polynomial at the points p_i. G does too, and scales by n_i = 1 / Π_{j≠i} (p_i - p_j). Row i of
// Bᵀ has the coefficients of Π_{j≠i} (x - p_j). Infinity is left out of both products.
#pragma once

#include "kernel_configs.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

// Point i of the finite ones. Tiles of 6, 7 and 8 points use the first of kWithZero. Nine points
// have pairs only: the most accurate set of a grid search over fractions; sets with 0 are worse.
template <int kPoints>
constexpr double finite(int i) {
  constexpr double kWithZero[] = {0, 1, -1, 2, -2, 0.5, -0.5};
  constexpr double kPairsOnly[] = {1, -1, 2.25, -2.25, 2.0 / 3, -2.0 / 3, 0.25, -0.25};
  return kPoints == 9 ? kPairsOnly[i] : kWithZero[i];
}

// The first of the pairs p, -p. Of 7 points the last p has no pair.
template <int kPoints>
constexpr int kFirst = kPoints == 9 ? 0 : 1;

template <int kPoints>
constexpr int kPairs = (kPoints - kFirst<kPoints>) / 2;

template <int kPoints>
constexpr float absolute(int pair) {
  return finite<kPoints>(kFirst<kPoints> + 2 * pair);
}

template <int kPoints>
struct Factors {  // n_i
  float values[kPoints];

  constexpr Factors() : values() {
    for (int i = 0; i < kPoints; ++i) {
      double product = 1;
      for (int j = 0; j < kPoints - 1 && i < kPoints - 1; ++j) {
        if (j != i) product *= finite<kPoints>(i) - finite<kPoints>(j);
      }
      values[i] = 1 / product;
    }
  }
};

template <int kPoints>
constexpr Factors<kPoints> kFactors;

// The sums of the terms a_k p^k of even k and of odd k.
template <int kCount, typename V>
[[gnu::always_inline]] inline void add_terms(const V* a, float p, V& even, V& odd) {
  even = a[0], odd = p * a[1];
  float power = p;
#pragma GCC unroll 8
  for (int k = 2; k < kCount; ++k) {
    power *= p;
    (k % 2 == 0 ? even : odd) += power * a[k];
  }
}

// The polynomial with kCount coefficients at the points; at infinity, its last coefficient.
template <int kPoints, int kCount, typename V>
[[gnu::always_inline]] inline void evaluate(const V* a, V* values) {
  values[0] = a[0];
#pragma GCC unroll 4
  for (int i = 0; i < kPairs<kPoints>; ++i) {
    V even, odd;
    add_terms<kCount>(a, absolute<kPoints>(i), even, odd);
    values[kFirst<kPoints> + 2 * i] = even + odd;
    values[kFirst<kPoints> + 2 * i + 1] = even - odd;
  }
  values[kPoints - 1] = a[kCount - 1];
}

// Its transpose: a_k = Σ_i p_i^k values_i.
template <int kPoints, int kCount, typename V>
[[gnu::always_inline]] inline void evaluate_adjoint(const V* values, V* a) {
  V sum[kPairs<kPoints>], difference[kPairs<kPoints>];
  float power[kPairs<kPoints>];
#pragma GCC unroll 4
  for (int i = 0; i < kPairs<kPoints>; ++i) {
    const V* const pair = values + kFirst<kPoints> + 2 * i;
    const bool unpaired = kFirst<kPoints> + 2 * i == kPoints - 2;
    sum[i] = unpaired ? pair[0] : pair[0] + pair[1];
    difference[i] = unpaired ? pair[0] : pair[0] - pair[1];
    power[i] = 1;
  }
#pragma GCC unroll 8
  for (int k = 0; k < kCount; ++k) {
    const V* const terms = k % 2 == 0 ? sum : difference;
    a[k] = terms[0];
#pragma GCC unroll 4
    for (int i = 1; i < kPairs<kPoints>; ++i) {
      a[k] += power[i] * terms[i];
      power[i] *= absolute<kPoints>(i);
    }
  }
  if constexpr (kFirst<kPoints> == 1) a[0] += values[0];
  a[kCount - 1] += values[kPoints - 1];
}

template <typename V>
inline V quintic(const V* d) {  // of x (x² - 1) (x² - 4)
  return 4.0f * d[1] - 5.0f * d[3] + d[5];
}

// The coefficients of Π (x² - p²) over all pairs but `without` (-1: over all), by powers of x².
struct Quartic {
  float values[5];

  constexpr explicit Quartic(int without) : values() {
    double product[5] = {1};
    for (int i = 0; i < kPairs<9>; ++i) {
      if (i == without) continue;
      const double p = finite<9>(2 * i);
      for (int k = 4; k >= 0; --k) product[k] = (k > 0 ? product[k - 1] : 0) - p * p * product[k];
    }
    for (int k = 0; k < 5; ++k) values[k] = product[k];
  }
};

// Bᵀ d of nine points: rows p and -p are (x ± p) Π (x² - q²) over the other pairs q.
template <typename V>
[[gnu::always_inline]] inline void input_of_pairs(const V* d, V* v) {
  constexpr Quartic kOthers[] = {Quartic(0), Quartic(1), Quartic(2), Quartic(3)}, kAll(-1);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float* const c = kOthers[i].values;
    const V odd = d[7] + c[2] * d[5] + c[1] * d[3] + c[0] * d[1];
    const V even = absolute<9>(i) * (d[6] + c[2] * d[4] + c[1] * d[2] + c[0] * d[0]);
    v[2 * i] = odd + even;
    v[2 * i + 1] = odd - even;
  }
  const float* const c = kAll.values;
  v[8] = d[8] + c[3] * d[6] + c[2] * d[4] + c[1] * d[2] + c[0] * d[0];
}

// Bᵀ d. The polynomials of 7 and 8 points are those of 6 times x - 1/2, or x² - 1/4.
template <int kPoints, typename V>
[[gnu::always_inline]] inline void input_1d(const V* d, V* v) {
  if constexpr (kPoints == 9) return input_of_pairs(d, v);
  V product[6];
  const V* e = d;
  if constexpr (kPoints > 6) {
    constexpr float kConstant = kPoints == 7 ? 0.5f : 0.25f;
#pragma GCC unroll 6
    for (int k = 0; k < 6; ++k) product[k] = d[k + kPoints - 6] - kConstant * d[k];
    e = product;
  }
  v[0] = 4.0f * e[0] - 5.0f * e[2] + e[4];
  const V even = e[4] - 4.0f * e[2], odd = e[3] - 4.0f * e[1];
  v[1] = even + odd;
  v[2] = even - odd;
  const V even2 = e[4] - e[2], odd2 = 2.0f * (e[3] - e[1]);
  v[3] = even2 + odd2;
  v[4] = even2 - odd2;
  if constexpr (kPoints == 7) v[5] = quintic(d);
  if constexpr (kPoints == 8) {
    const V low = 0.5f * quintic(d), high = quintic(d + 1);
    v[5] = high + low;
    v[6] = high - low;
  }
  v[kPoints - 1] = quintic(e);
}

template <int kPoints, int kTaps, typename V>
[[gnu::always_inline]] inline void filter_1d(const V* w, V* u) {  // G w
  evaluate<kPoints, kTaps>(w, u);
#pragma GCC unroll 9
  for (int i = 0; i < kPoints; ++i) u[i] *= kFactors<kPoints>.values[i];
}

template <int kPoints, int kTaps, typename V>
[[gnu::always_inline]] inline void filter_adjoint_1d(const V* u, V* w) {  // Gᵀ u
  V scaled[kPoints];
#pragma GCC unroll 9
  for (int i = 0; i < kPoints; ++i) scaled[i] = kFactors<kPoints>.values[i] * u[i];
  evaluate_adjoint<kPoints, kTaps>(scaled, w);
}

// Channels of a tile that are transformed together: the intermediate result fits L1.
constexpr int64_t kChannelBlock = 64;

// Apply a 1-D transform of kIn to kOut points to the columns, then to the rows of a tile: points
// are read by read<V>(y, x, channel) and written by write(y, x, channel, value). The channels of a
// column are read in order, for the hardware prefetcher. All is inlined: otherwise each point would
// load the captured addresses again.
template <int kIn, int kOut, typename Read, typename Write, typename F>
[[gnu::always_inline]] inline void transform_2d(
    int64_t channels, Read read, Write write, F transform) {
  alignas(64) float half[kIn][kOut][kChannelBlock];
  for (int64_t first = 0; first < channels; first += kChannelBlock) {
    const int64_t count = channels - first < kChannelBlock ? channels - first : kChannelBlock;
    for (int x = 0; x < kIn; ++x) {
      for_each_vector(count, [&]<typename V>(int64_t c, V) __attribute__((always_inline)) {
        V column[kIn], out[kOut];
#pragma GCC unroll 9
        for (int y = 0; y < kIn; ++y) column[y] = read.template operator()<V>(y, x, first + c);
        transform(column, out);
#pragma GCC unroll 9
        for (int y = 0; y < kOut; ++y) store(&half[x][y][c], out[y]);
      });
    }
    for (int y = 0; y < kOut; ++y) {
      for_each_vector(count, [&]<typename V>(int64_t c, V) __attribute__((always_inline)) {
        V row[kIn], out[kOut];
#pragma GCC unroll 9
        for (int x = 0; x < kIn; ++x) row[x] = load<V>(&half[x][y][c]);
        transform(row, out);
#pragma GCC unroll 9
        for (int x = 0; x < kOut; ++x) write(y, x, first + c, out[x]);
      });
    }
  }
}

// Call function<points>() with a tile's constant.
template <typename F>
inline void with_points(int points, const F& function) {
  if (points == 6) function.template operator()<6>();
  else if (points == 7) function.template operator()<7>();
  else if (points == 8) function.template operator()<8>();
  else function.template operator()<9>();
}

// Call function<points, taps, side>() with a tile's constants.
template <typename F>
inline void with_tile(WinogradTile tile, const F& function) {
  with_points(tile.points, [&]<int kPoints>() {
    if (tile.taps == 3) function.template operator()<kPoints, 3, kPoints - 2>();
    else function.template operator()<kPoints, 5, kPoints - 4>();
  });
}

// Prefetch the first channels of `count` pixels, for a write.
inline void prefetch_first(float* const* pixels, int count, int64_t channels) {
  const int64_t end = channels < kChannelBlock ? channels : kChannelBlock;
  for (int64_t c = 0; c < end; c += kLine) {
    for (int i = 0; i < count; ++i) __builtin_prefetch(pixels[i] + c, 1);
  }
}

// Writes a tile's points in the layout of WinogradConfig::transform_input.
template <int kPoints>
inline auto packed_writer(float* to, int64_t frequency_stride, int64_t panel_stride) {
  return [=](int y, int x, int64_t c, auto value) __attribute__((always_inline)) {
    float* const row = to + (kPoints * y + x) * frequency_stride;
    store(row + c / kNr * panel_stride + c % kNr, value);
  };
}

inline void transform_input(
    WinogradTile tile, const float* const* pixels, int64_t channels, float* v,
    int64_t frequency_stride, int64_t panel_stride) {
  with_points(tile.points, [&]<int kPoints>() {
    transform_2d<kPoints, kPoints>(
        channels,
        [=]<typename V>(int y, int x, int64_t c) { return load<V>(pixels[kPoints * y + x] + c); },
        packed_writer<kPoints>(v, frequency_stride, panel_stride),
        [](const auto* a, auto* b) { input_1d<kPoints>(a, b); });
  });
}

inline void transform_output(
    WinogradTile tile, const float* m, int64_t frequency_stride, int64_t channels,
    float* const* pixels, const float* bias, bool relu, const float* const* masks,
    bool nontemporal_store) {
  const float lowest = relu ? 0 : -__builtin_inff();
  if (!nontemporal_store) prefetch_first(pixels, tile.side() * tile.side(), channels);
  with_tile(tile, [&]<int kPoints, int kTaps, int kSide>() {
    transform_2d<kPoints, kSide>(
        channels,
        [=]<typename V>(int y, int x, int64_t c) {
          return load<V>(m + (kPoints * y + x) * frequency_stride + c);
        },
        [=]<typename V>(int y, int x, int64_t c, V value) {
          const int i = kSide * y + x;
          const V lower = lowest + zero<V>();
          value += bias == nullptr ? zero<V>() : load<V>(bias + c);
          value = value < lower ? lower : value;
          if (masks != nullptr) value = load<V>(masks[i] + c) <= 0.0f ? zero<V>() : value;
          if (!nontemporal_store && c % kLine == 0) {
            __builtin_prefetch(pixels[i] + c + kChannelBlock, 1);
          }
          store(pixels[i] + c, value, nontemporal_store);
        },
        [](const auto* a, auto* b) { evaluate_adjoint<kPoints, kSide>(a, b); });
  });
}

inline void transform_output_adjoint(
    WinogradTile tile, const float* const* pixels, int64_t channels, float* dm,
    int64_t frequency_stride, int64_t panel_stride) {
  with_tile(tile, [&]<int kPoints, int kTaps, int kSide>() {
    transform_2d<kSide, kPoints>(
        channels,
        [=]<typename V>(int y, int x, int64_t c) { return load<V>(pixels[kSide * y + x] + c); },
        packed_writer<kPoints>(dm, frequency_stride, panel_stride),
        [](const auto* a, auto* b) { evaluate<kPoints, kSide>(a, b); });
  });
}

inline void transform_filter(
    WinogradTile tile, const float* w, int64_t lanes, bool flipped, float* u,
    int64_t frequency_stride) {
  with_tile(tile, [&]<int kPoints, int kTaps, int kSide>() {
    transform_2d<kTaps, kPoints>(
        lanes,
        [=]<typename V>(int y, int x, int64_t i) {
          const int tap = flipped ? kTaps * kTaps - 1 - (kTaps * y + x) : kTaps * y + x;
          return load<V>(w + tap * lanes + i);
        },
        [=](int y, int x, int64_t i, auto value) {
          store(u + (kPoints * y + x) * frequency_stride + i, value);
        },
        [](const auto* a, auto* b) { filter_1d<kPoints, kTaps>(a, b); });
  });
}

// Prefetches the next channels of all frequencies: too many streams for the hardware prefetcher.
inline void transform_filter_adjoint(
    WinogradTile tile, const float* u, int64_t frequency_stride, int64_t channels, float* dw) {
  with_tile(tile, [&]<int kPoints, int kTaps, int kSide>() {
    transform_2d<kPoints, kTaps>(
        channels,
        [=]<typename V>(int y, int x, int64_t c) {
          const float* const at = u + (kPoints * y + x) * frequency_stride + c;
          if (c % kLine == 0) __builtin_prefetch(at + kChannelBlock);
          return load<V>(at);
        },
        [=](int y, int x, int64_t c, auto value) {
          store(dw + (kTaps * y + x) * channels + c, value);
        },
        [](const auto* a, auto* b) { filter_adjoint_1d<kPoints, kTaps>(a, b); });
  });
}

constexpr WinogradConfig kWinograd{
    .transform_input = transform_input,
    .transform_output = transform_output,
    .transform_output_adjoint = transform_output_adjoint,
    .transform_filter = transform_filter,
    .transform_filter_adjoint = transform_filter_adjoint,
};

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
