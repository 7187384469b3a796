// GEMM: a register tile of mr x nr sums is kept over the whole depth.
#pragma once

#include <cstring>

#include "kernel_configs.h"
#include "simd.h"

namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA {

// Rows of B per iteration of the inner loop.
constexpr int kUnrolled = 4;

// Prefetch distance in rows of a panel: hardware prefetchers stop at page boundaries.
constexpr int kPrefetchRows = 16;

constexpr int kPanelRowLines = (kNr + kLine - 1) / kLine;  // cache lines in a row of a panel

// Rows of a panel that fits L1 together with the rows of A that are streamed through.
constexpr int64_t kL1PanelDepth = 5120 / kNr;

// gemm_at uses kTransposedA. gemm uses the others, depending on where B is and how C is stored.
enum class Variant { kBInL2, kPrefetchB, kNontemporalStore, kTransposedA };

// A column of register tiles of C, with their operands.
struct TileColumn {
  const float* a;
  int64_t a_stride;  // from one row to the next; of a transposed A, from one column to the next
  const float* b;    // a panel
  int64_t depth, segments, segment_stride;
  float* c;
  int64_t c_stride;
  const float* bias;  // or null
  bool add, relu;
};

// Prefetch the cache lines at p + r * stride, for a write if kWrite.
template <int kRows, bool kWrite>
[[gnu::always_inline]] inline void prefetch_rows(const float* p, int64_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) __builtin_prefetch(p + r * stride, kWrite);
}

// Call function(row, vector) for all vectors of a register tile, unrolled.
template <int kRows, int kWide, typename F>
[[gnu::always_inline]] inline void for_each_sum(const F& function) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kWide; ++v) function(r, v);
  }
}

// Compute `tiles` register tiles of kRows rows and kWide vectors. The sums start from the bias and
// C, and stay in registers. The next tile's rows of A and C often come from memory: they are
// prefetched. Not inlined, so that the caller's variables take no registers from the sums.
template <int kRows, int kWide, Variant kVariant>
[[gnu::noinline]] void compute_tiles(const TileColumn& t, int64_t tiles) {
  constexpr bool kTransposed = kVariant == Variant::kTransposedA;
  const float* rows[kRows];
  for (int r = 0; r < kRows; ++r) {
    rows[r] = kTransposed ? t.a + r : t.a + r * t.a_stride;
    asm("" : "+r"(rows[r]));  // or GCC precomputes more addresses than there are registers
  }
  const int64_t a_stride = t.a_stride, depth = t.depth, c_stride = t.c_stride;
  const int64_t segment_stride = t.segment_stride;
  const int64_t next = (kTransposed ? kRows : kRows * a_stride) - t.segments * segment_stride;
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
    if constexpr (kVariant == Variant::kBInL2 || kVariant == Variant::kPrefetchB) {
      prefetch_rows<kRows, true>(c + kRows * c_stride, c_stride);
    }
    const auto add_row = [&](int64_t k, int i) __attribute__((always_inline)) {  // row k + i of B
      Vector right[kWide];
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) right[v] = load<Vector>(b + i * kNr + v * kLanes);
      if constexpr (kVariant == Variant::kPrefetchB) {
        prefetch_rows<kPanelRowLines, false>(b + (i + kPrefetchRows) * kNr, kLine);
      }
      for_each_sum<kRows, kWide>([&](int r, int v) {
        multiply_add(sums[r][v], kTransposed ? column[r] : rows[r][k + i], right[v]);
      });
      if constexpr (kTransposed) {
        column += a_stride;
        asm("" : "+r"(column));
      }
    };
    for (int64_t segment = 0; segment < t.segments; ++segment) {
      int64_t k = 0;
      for (; k + kUnrolled <= depth; k += kUnrolled, b += kUnrolled * kNr) {
        if constexpr (!kTransposed) {
          if (k % kLine == 0) prefetch_rows<kRows, false>(rows[0] + kRows * a_stride + k, a_stride);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kUnrolled; ++i) add_row(k, i);
      }
      for (; k < depth; ++k, b += kNr) add_row(k, 0);
      for (int r = 0; r < kRows; ++r) rows[r] += segment_stride;
    }
    if (t.relu) for_each_sum<kRows, kWide>([&](int r, int v) { sums[r][v] = relu(sums[r][v]); });
    for_each_sum<kRows, kWide>([&](int r, int v) {
      float* const to = c + r * c_stride + v * kLanes;
      if constexpr (kVariant == Variant::kNontemporalStore) store_nontemporal(to, sums[r][v]);
      else store(to, sums[r][v]);
    });
    c += kRows * c_stride;
    for (int r = 0; r < kRows; ++r) rows[r] += next;
  }
}

// The tiles at the right edge of C, of `columns` columns: computed whole in a buffer.
template <int kRows, int kWide, Variant kVariant>
void compute_edge_tiles(TileColumn t, int64_t tiles, int64_t columns) {
  constexpr bool kTransposed = kVariant == Variant::kTransposedA;
  constexpr Variant kBuffered = kVariant == Variant::kNontemporalStore ? Variant::kBInL2 : kVariant;
  constexpr int64_t kColumns = kWide * kLanes;
  float buffer[kRows * kColumns] = {}, bias[kColumns] = {};
  const auto copy = [=](const float* from, float* to) {
    for (int64_t i = 0; i < columns; ++i) to[i] = from[i];
  };
  if (t.bias != nullptr) {
    copy(t.bias, bias);
    t.bias = bias;
  }
  float* c = t.c;
  const int64_t c_stride = t.c_stride;
  t.c = buffer, t.c_stride = kColumns;
  const int64_t a_step = kTransposed ? kRows : kRows * t.a_stride;
  for (; tiles > 0; --tiles, c += kRows * c_stride, t.a += a_step) {
    if (t.add) {
      for (int r = 0; r < kRows; ++r) copy(c + r * c_stride, buffer + r * kColumns);
    }
    compute_tiles<kRows, kWide, kBuffered>(t, 1);
    for (int r = 0; r < kRows; ++r) copy(buffer + r * kColumns, c + r * c_stride);
  }
}

// The tiles of all panels, for `columns` of C from t.c on. `panel_size`: values from one panel to
// the next.
template <int kRows, Variant kVariant>
inline void compute_panels(TileColumn t, int64_t tiles, int64_t panel_size, int64_t columns) {
  for (; columns >= kNr; columns -= kNr) {
    compute_tiles<kRows, kVectors, kVariant>(t, tiles);
    t.b += panel_size, t.c += kNr;
    if (t.bias != nullptr) t.bias += kNr;
  }
  if (columns > kLanes) compute_edge_tiles<kRows, kVectors, kVariant>(t, tiles, columns);
  else if (columns == kLanes) compute_tiles<kRows, 1, kVariant>(t, tiles);
  else if (columns > 0) compute_edge_tiles<kRows, 1, kVariant>(t, tiles, columns);
}

// Call function<n>() for n = count, which is 1 .. kMax.
template <int kMax, typename F>
inline void with_constant(int64_t count, const F& function) {
  if constexpr (kMax > 0) {
    if (count == kMax) return function.template operator()<kMax>();
    with_constant<kMax - 1>(count, function);
  }
}

// Call function<n>(first row, tiles) for tiles of n rows, n at most mr. Heights differ by at most
// one, because low tiles take more time per row.
template <typename F>
inline void for_each_tile_height(int64_t rows, const F& function) {
  const int64_t tiles = (rows + kMr - 1) / kMr;
  if (tiles == 0) return;
  const int64_t low = rows / tiles, higher = rows % tiles;
  const auto call = [&](int64_t height, int64_t first, int64_t count) {
    if (count == 0) return;
    with_constant<kMr>(
        height, [&]<int kRows>() { function.template operator()<kRows>(first, count); });
  };
  call(low + 1, 0, higher);
  call(low, higher * (low + 1), tiles - higher);
}

// A panel that fits L1 stays there for all rows of A; else a tile's rows of A stay for all panels.
inline void gemm(const GemmArgs& p) {
  const int64_t depth = p.segments * p.depth;
  for_each_tile_height(p.rows, [&]<int kRows>(int64_t first, int64_t tiles) {
    const int64_t tiles_per_panel = depth <= kL1PanelDepth ? tiles : 1;
    for (int64_t i = 0; i < tiles; i += tiles_per_panel) {
      const int64_t row = first + i * kRows;
      const TileColumn t{
          .a = p.a + row * p.a_stride,
          .a_stride = p.a_stride,
          .b = p.b,
          .depth = p.depth,
          .segments = p.segments,
          .segment_stride = p.segment_stride,
          .c = p.c + row * p.c_stride,
          .c_stride = p.c_stride,
          .bias = p.bias,
          .add = p.add,
          .relu = p.relu};
      const bool nontemporal_store = kHasNontemporalStore && p.nontemporal_store;
      const auto run = nontemporal_store ? compute_panels<kRows, Variant::kNontemporalStore>
                       : p.prefetch_b    ? compute_panels<kRows, Variant::kPrefetchB>
                                         : compute_panels<kRows, Variant::kBInL2>;
      run(t, tiles_per_panel, depth * kNr, p.columns);
    }
  });
}

inline void gemm_at(const GemmAtArgs& p) {
  for_each_tile_height(p.outputs, [&]<int kRows>(int64_t first, int64_t tiles) {
    const TileColumn t{
        .a = p.a + first,
        .a_stride = p.a_stride,
        .b = p.b,
        .depth = p.rows,
        .segments = 1,
        .segment_stride = 0,
        .c = p.c + first * p.c_stride,
        .c_stride = p.c_stride,
        .bias = nullptr,
        .add = p.add,
        .relu = false};
    compute_panels<kRows, Variant::kTransposedA>(t, tiles, p.b_rows * kNr, p.columns);
  });
}

inline void pack_b(
    const float* b, int64_t stride, int64_t depth, int64_t columns, int64_t b_rows, float* packed) {
  for (int64_t j = 0; j < columns; j += kNr) {
    const int64_t count = columns - j < kNr ? columns - j : kNr;
    for (int64_t k = 0; k < depth; ++k) {
      float* const row = packed + j * b_rows + k * kNr;
      const float* const from = b + k * stride + j;
      if (count == kNr) {
        std::memcpy(row, from, sizeof(float) * kNr);
        continue;
      }
      for (int64_t i = 0; i < kNr; ++i) row[i] = i < count ? from[i] : 0;
    }
  }
}

// Transpose block by block, each of which fits L1.
inline void pack_bt(
    const float* bt, int64_t stride, int64_t depth, int64_t columns, float* packed) {
  constexpr int64_t kDepth = 16;
  for (int64_t j = 0; j < columns; j += kNr) {
    const int64_t count = columns - j < kNr ? columns - j : kNr;
    float* const panel = packed + j * depth;
    for (int64_t first = 0; first < depth; first += kDepth) {
      const int64_t end = first + kDepth < depth ? first + kDepth : depth;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t k = first; k < end; ++k) panel[k * kNr + i] = bt[(j + i) * stride + k];
      }
    }
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = count; i < kNr; ++i) panel[k * kNr + i] = 0;
    }
  }
}

constexpr GemmConfig kGemm{
    .mr = kMr,
    .nr = kNr,
    .has_nontemporal_store = kHasNontemporalStore,
    .gemm = gemm,
    .gemm_at = gemm_at,
    .pack_b = pack_b,
    .pack_bt = pack_bt,
};

}  // namespace googlenet_fast::cpu::GOOGLENET_FAST_ISA
