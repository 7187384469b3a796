// Products of matrices: a tile of kTileRows x kPanel sums stays in registers over the whole depth.
#pragma once

#include <cstring>

#include "isa.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

// Rows of a panel that are fetched ahead: caches fetch on their own only within a page of memory.
constexpr int64_t kAhead = 16;

// sums[r] += a[r, k] * b[k] over k, of the first kWide vectors of b's panel. `a` has a row of
// `a_stride` for each r, or for each k if kTransposed. A function of its own, whose caller's variables
// take no registers from the sums.
template <int kRows, int kWide, bool kTransposed>
[[gnu::noinline]] void add_products(
    const float* a, int64_t a_stride, const float* b, int64_t depth, Vector (&total)[kRows][kWide]) {
  Vector sums[kRows][kWide];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) sums[r][v] = total[r][v];
  }
  for (int64_t k = 0; k < depth; ++k, b += kPanel) {
    Vector right[kWide];
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) {
      __builtin_prefetch(b + kAhead * kPanel + v * kLanes);
      right[v] = load<Vector>(b + v * kLanes);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const float left = kTransposed ? a[k * a_stride + r] : a[r * a_stride + k];
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) sums[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) total[r][v] = sums[r][v];
  }
}

// What becomes of sums before they are written: plus what is there, plus a bias, clipped.
struct Finish {
  bool add;
  const float* bias;  // or null
  bool relu;
};

template <typename V>
inline V finished(const Finish& finish, V value, const float* c, int64_t column) {
  if (finish.add) value += load<V>(c);
  if (finish.bias != nullptr) value += load<V>(finish.bias + column);
  return finish.relu ? relu(value) : value;
}

// Write one row of a panel's sums, or the part of it that the matrix has.
template <int kWide>
inline void write_row(
    const Finish& finish, const Vector (&sums)[kWide], float* c, int64_t column, int64_t columns) {
  if (columns - column >= kWide * kLanes) {
    for (int v = 0; v < kWide; ++v, column += kLanes) {
      store(c + column, finished(finish, sums[v], c + column, column));
    }
    return;
  }
  float values[kWide * kLanes];
  for (int v = 0; v < kWide; ++v) store(values + v * kLanes, sums[v]);
  for (int64_t i = 0; column + i < columns; ++i) {
    c[column + i] = finished(finish, values[i], c + column + i, column + i);
  }
}

// Call function<n>(column) for the panels of a row: n of a panel's vectors have columns.
template <typename F>
inline void for_each_panel(int64_t columns, const F& function) {
  int64_t j = 0;
  for (; columns - j > kLanes; j += kPanel) function.template operator()<kVectors>(j);
  if (j < columns) function.template operator()<1>(j);
}

template <int kRows>
void multiply_rows(const Product& p, int64_t row) {
  const float* const a = p.a + row * p.a_stride;
  const Finish finish{p.add, p.bias, p.relu};
  for_each_panel(p.columns, [&]<int kWide>(int64_t j) {
    Vector sums[kRows][kWide] = {};
    for (int64_t part = 0; part < p.parts; ++part) {
      const float* const b = p.b + (j * p.parts + part * kPanel) * p.depth;
      add_products<kRows, kWide, false>(a + part * p.part_stride, p.a_stride, b, p.depth, sums);
    }
    for (int r = 0; r < kRows; ++r) {
      write_row(finish, sums[r], p.c + (row + r) * p.c_stride, j, p.columns);
    }
  });
}

// Call function<n>() for n = count, which is 1 .. kMost.
template <int kMost, typename F>
inline void with_constant(int64_t count, const F& function) {
  if constexpr (kMost > 0) {
    if (count == kMost) return function.template operator()<kMost>();
    with_constant<kMost - 1>(count, function);
  }
}

// Call function<n>(first) for tiles of n rows, at most kTileRows and all about as many: a tile of few
// rows takes longer for each.
template <typename F>
inline void for_each_tile(int64_t rows, const F& function) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t first = i * rows / tiles, count = (i + 1) * rows / tiles - first;
    with_constant<kTileRows>(count, [&]<int kRows>() { function.template operator()<kRows>(first); });
  }
}

inline void multiply(const Product& p) {
  for_each_tile(p.rows, [&]<int kRows>(int64_t row) { multiply_rows<kRows>(p, row); });
}

template <int kRows>
void multiply_outputs(const OuterProduct& p, int64_t output) {
  float a[kOuterRows * kRows];  // this tile's columns of A, side by side
  for (int64_t k = 0; k < p.rows; ++k) {
    std::memcpy(a + k * kRows, p.a + k * p.a_stride + output, sizeof(float) * kRows);
  }
  for_each_panel(p.columns, [&]<int kWide>(int64_t j) {
    Vector sums[kRows][kWide] = {};
    add_products<kRows, kWide, true>(a, kRows, p.b + j * p.b_rows, p.rows, sums);
    for (int r = 0; r < kRows; ++r) {
      write_row({p.add, nullptr, false}, sums[r], p.c + (output + r) * p.c_stride, j, p.columns);
    }
  });
}

inline void multiply_transposed(const OuterProduct& p) {
  for_each_tile(p.outputs, [&]<int kRows>(int64_t output) { multiply_outputs<kRows>(p, output); });
}

inline void pack(
    const float* b, int64_t stride, int64_t depth, int64_t columns, int64_t b_rows, float* packed) {
  for (int64_t j = 0; j < columns; j += kPanel) {
    const int64_t count = columns - j < kPanel ? columns - j : kPanel;
    for (int64_t k = 0; k < depth; ++k) {
      float* const row = packed + j * b_rows + k * kPanel;
      for (int64_t i = 0; i < count; ++i) row[i] = b[k * stride + j + i];
      for (int64_t i = count; i < kPanel; ++i) row[i] = 0;
    }
  }
}

// Turn blocks of rows and columns that fit the first-level cache, each block row by row.
inline void pack_transposed(
    const float* b, int64_t stride, int64_t depth, int64_t columns, float* packed) {
  constexpr int64_t kDepth = 16;
  for (int64_t j = 0; j < columns; j += kPanel) {
    const int64_t count = columns - j < kPanel ? columns - j : kPanel;
    float* const panel = packed + j * depth;
    for (int64_t first = 0; first < depth; first += kDepth) {
      const int64_t end = first + kDepth < depth ? first + kDepth : depth;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t k = first; k < end; ++k) panel[k * kPanel + i] = b[(j + i) * stride + k];
      }
    }
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = count; i < kPanel; ++i) panel[k * kPanel + i] = 0;
    }
  }
}

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
