// Products of matrices: a tile of kTileRows x kPanel sums stays in registers over the whole depth.
#pragma once

#include <cstring>

#include "isa.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

// Rows of a panel whose loop's own instructions are shared.
constexpr int kUnrolled = 4;

// Rows of a panel from the one that is read to the one that is fetched: processors that see ahead what
// is read stop at the end of a page.
constexpr int kAhead = 16;

constexpr int kPanelLines = (kPanel + kLine - 1) / kLine;  // of a row

// Rows of a panel that fits the first-level cache beside the rows that pass by.
constexpr int64_t kPanelDepth = 5120 / kPanel;

// A lies by rows, and B is near or far, or C is written past the caches; or A is transposed.
enum class Kind { kNear, kFar, kStreamed, kTransposed };

// Tiles of kRows rows of C, one below the other, in kWide vectors = A · B plus what is there if `add`,
// plus a bias, clipped if `relu`.
struct Tiles {
  const float* a;
  int64_t a_stride;  // from one row to the next; transposed: from one column to the next
  const float* b;    // a panel
  int64_t depth, parts, part_stride;
  float* c;
  int64_t c_stride;
  const float* bias;  // or null
  bool add, relu;
};

// Fetch the lines at p + r * stride, to be written if kWrite.
template <int kRows, bool kWrite>
[[gnu::always_inline]] inline void fetch_rows(const float* p, int64_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) __builtin_prefetch(p + r * stride, kWrite);
}

// Call function(row, vector) for a tile's vectors, in code without a loop.
template <int kRows, int kWide, typename F>
[[gnu::always_inline]] inline void for_each_sum(const F& function) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) function(r, v);
  }
}

// The sums begin with what they are added to, and stay in registers to the end. Meanwhile the next tile's
// rows of A and C are fetched, which often come from memory. A function of its own, whose caller's
// variables take no registers from the sums.
template <int kRows, int kWide, Kind kKind>
[[gnu::noinline]] void multiply_tiles(const Tiles& t, int64_t tiles) {
  constexpr bool kTransposed = kKind == Kind::kTransposed;
  const float* rows[kRows];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = kTransposed ? t.a + r : t.a + r * t.a_stride;
    asm("" : "+r"(rows[r]));  // or GCC makes up more addresses than there are registers
  }
  const int64_t a_stride = t.a_stride, depth = t.depth, c_stride = t.c_stride;
  const int64_t part_stride = t.part_stride;
  const int64_t next = (kTransposed ? kRows : kRows * a_stride) - t.parts * part_stride;
  float* c = t.c;
  for (; tiles > 0; --tiles) {
    Vector sums[kRows][kWide] = {};
    if (t.bias != nullptr) {
      for_each_sum<kRows, kWide>(
          [&](int r, int v) { sums[r][v] = load<Vector>(t.bias + v * kLanes); });
    }
    if (t.add) {
      for_each_sum<kRows, kWide>(
          [&](int r, int v) { sums[r][v] += load<Vector>(c + r * c_stride + v * kLanes); });
    }
    const float *b = t.b, *column = rows[0];  // of A, if transposed
    if constexpr (kKind == Kind::kNear || kKind == Kind::kFar) {
      fetch_rows<kRows, true>(c + kRows * c_stride, c_stride);
    }
    const auto add_products = [&](int64_t k, int i) __attribute__((always_inline)) {  // of row k + i
      Vector right[kWide];
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) right[v] = load<Vector>(b + i * kPanel + v * kLanes);
      if constexpr (kKind == Kind::kFar) {
        fetch_rows<kPanelLines, false>(b + (i + kAhead) * kPanel, kLine);
      }
      for_each_sum<kRows, kWide>([&](int r, int v) {
        multiply_add(sums[r][v], kTransposed ? column[r] : rows[r][k + i], right[v]);
      });
      if constexpr (kTransposed) {
        column += a_stride;
        asm("" : "+r"(column));
      }
    };
    for (int64_t part = 0; part < t.parts; ++part) {
      int64_t k = 0;
      for (; k + kUnrolled <= depth; k += kUnrolled, b += kUnrolled * kPanel) {
        if constexpr (!kTransposed) {
          if (k % kLine == 0) fetch_rows<kRows, false>(rows[0] + kRows * a_stride + k, a_stride);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kUnrolled; ++i) add_products(k, i);
      }
      for (; k < depth; ++k, b += kPanel) add_products(k, 0);
      for (int r = 0; r < kRows; ++r) rows[r] += part_stride;
    }
    if (t.relu) for_each_sum<kRows, kWide>([&](int r, int v) { sums[r][v] = relu(sums[r][v]); });
    for_each_sum<kRows, kWide>([&](int r, int v) {
      float* const to = c + r * c_stride + v * kLanes;
      if constexpr (kKind == Kind::kStreamed) stream(to, sums[r][v]);
      else store(to, sums[r][v]);
    });
    c += kRows * c_stride;
    for (int r = 0; r < kRows; ++r) rows[r] += next;
  }
}

// The tiles at the right border of C, which has only `columns` there: by way of whole ones.
template <int kRows, int kWide, Kind kKind>
void multiply_border(Tiles t, int64_t tiles, int64_t columns) {
  constexpr bool kTransposed = kKind == Kind::kTransposed;
  constexpr Kind kWhole = kKind == Kind::kStreamed ? Kind::kNear : kKind;
  constexpr int64_t kColumns = kWide * kLanes;
  float whole[kRows * kColumns] = {}, bias[kColumns] = {};
  const auto copy = [=](const float* from, float* to) {
    for (int64_t i = 0; i < columns; ++i) to[i] = from[i];
  };
  if (t.bias != nullptr) {
    copy(t.bias, bias);
    t.bias = bias;
  }
  float* c = t.c;
  const int64_t c_stride = t.c_stride;
  t.c = whole, t.c_stride = kColumns;
  for (; tiles > 0; --tiles, c += kRows * c_stride, t.a += kTransposed ? kRows : kRows * t.a_stride) {
    if (t.add) {
      for (int r = 0; r < kRows; ++r) copy(c + r * c_stride, whole + r * kColumns);
    }
    multiply_tiles<kRows, kWide, kWhole>(t, 1);
    for (int r = 0; r < kRows; ++r) copy(whole + r * kColumns, c + r * c_stride);
  }
}

// The tiles' `columns` of C from t.c on; `b_size`: values of a panel.
template <int kRows, Kind kKind>
inline void multiply_panels(Tiles t, int64_t tiles, int64_t b_size, int64_t columns) {
  for (; columns >= kPanel; columns -= kPanel) {
    multiply_tiles<kRows, kVectors, kKind>(t, tiles);
    t.b += b_size, t.c += kPanel;
    if (t.bias != nullptr) t.bias += kPanel;
  }
  if (columns > kLanes) multiply_border<kRows, kVectors, kKind>(t, tiles, columns);
  else if (columns == kLanes) multiply_tiles<kRows, 1, kKind>(t, tiles);
  else if (columns > 0) multiply_border<kRows, 1, kKind>(t, tiles, columns);
}

// Call function<n>() for n = count, which is 1 .. kMost.
template <int kMost, typename F>
inline void with_constant(int64_t count, const F& function) {
  if constexpr (kMost > 0) {
    if (count == kMost) return function.template operator()<kMost>();
    with_constant<kMost - 1>(count, function);
  }
}

// Call function<n>(first row, tiles) for tiles of n rows, at most kTileRows and all about as many: a
// tile of few rows takes longer for each.
template <typename F>
inline void for_each_height(int64_t rows, const F& function) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  if (tiles == 0) return;
  const int64_t low = rows / tiles, higher = rows % tiles;
  const auto call = [&](int64_t height, int64_t first, int64_t count) {
    if (count == 0) return;
    with_constant<kTileRows>(
        height, [&]<int kRows>() { function.template operator()<kRows>(first, count); });
  };
  call(low + 1, 0, higher);
  call(low, higher * (low + 1), tiles - higher);
}

// A panel that fits the first-level cache stays there while all rows pass by; else the rows of a tile
// stay while all panels pass by.
inline void multiply(const Product& p) {
  const int64_t depth = p.parts * p.depth;
  for_each_height(p.rows, [&]<int kRows>(int64_t first, int64_t tiles) {
    const int64_t together = depth <= kPanelDepth ? tiles : 1;
    for (int64_t i = 0; i < tiles; i += together) {
      const int64_t row = first + i * kRows;
      const Tiles t{
          .a = p.a + row * p.a_stride, .a_stride = p.a_stride, .b = p.b, .depth = p.depth,
          .parts = p.parts, .part_stride = p.part_stride, .c = p.c + row * p.c_stride,
          .c_stride = p.c_stride, .bias = p.bias, .add = p.add, .relu = p.relu};
      const auto run = kStreams && p.stream ? multiply_panels<kRows, Kind::kStreamed>
                       : p.far              ? multiply_panels<kRows, Kind::kFar>
                                            : multiply_panels<kRows, Kind::kNear>;
      run(t, together, depth * kPanel, p.columns);
    }
  });
}

inline void multiply_transposed(const OuterProduct& p) {
  for_each_height(p.outputs, [&]<int kRows>(int64_t first, int64_t tiles) {
    const Tiles t{
        .a = p.a + first, .a_stride = p.a_stride, .b = p.b, .depth = p.rows, .parts = 1,
        .part_stride = 0, .c = p.c + first * p.c_stride, .c_stride = p.c_stride, .bias = nullptr,
        .add = p.add, .relu = false};
    multiply_panels<kRows, Kind::kTransposed>(t, tiles, p.b_rows * kPanel, p.columns);
  });
}

inline void pack(
    const float* b, int64_t stride, int64_t depth, int64_t columns, int64_t b_rows, float* packed) {
  for (int64_t j = 0; j < columns; j += kPanel) {
    const int64_t count = columns - j < kPanel ? columns - j : kPanel;
    for (int64_t k = 0; k < depth; ++k) {
      float* const row = packed + j * b_rows + k * kPanel;
      const float* const from = b + k * stride + j;
      if (count == kPanel) {
        std::memcpy(row, from, sizeof(float) * kPanel);
        continue;
      }
      for (int64_t i = 0; i < kPanel; ++i) row[i] = i < count ? from[i] : 0;
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
