// GEMM on AMX tiles, which multiply bf16 and accumulate in fp32. A float is split into a sum of
// bf16 terms, whose products are accumulated (Henry, Tang and Heinecke 2019, arXiv:1904.06376).
// Three terms (bf16x3) hold a float's 24 bits, two (bf16x2) hold 17. Terms below 2^-126 count as
// zero. Values from 3.39e38 on, which bf16 rounds to infinity, give NaN.
#pragma once

#include <cstdint>

namespace googlenet_fast::cpu {

// bf16 values in a row of an A tile; also the rows and columns of the block of C in the tile
// registers.
constexpr int64_t kSplitBlock = 32;

inline int64_t split_blocks(int64_t count) { return (count + kSplitBlock - 1) / kSplitBlock; }

// Depths are padded with zeros to whole blocks, and columns of B to 16.

// A (rows, depth), split. A chunk has 32 values of every row, one row after the other. Values 32 k
// to 32 k + 31 of term t of row r are at data + k * chunk_stride + t * term_stride + 32 r. The rows
// are allocated in whole blocks.
struct SplitA {
  uint16_t* data;
  int64_t chunk_stride, term_stride;
};

// B (depth, columns), split: groups of 16 columns, with pairs of rows interleaved (VNNI layout).
// Rows 2 k and 2 k + 1 of term t of columns 16 j to 16 j + 15 are at data + j * column_stride + t *
// term_stride + 32 k.
struct SplitB {
  uint16_t* data;
  int64_t column_stride, term_stride;
};

// C (rows, columns) = A · B. The depth is `taps` runs of `chunks` chunks. Tap t reads the rows of A
// that are shifts[t] rows further.
struct SplitGemmArgs {
  int terms;
  SplitA a;
  SplitB b;
  int64_t rows, columns;
  int64_t chunks, taps;
  const int64_t* shifts;
};

// Adds a bias, applies ReLU, and writes zero where a mask is zero or less.
struct SplitEpilogue {
  float* const* rows;         // of C; null rows are not written
  const float* bias;          // (columns,) or null
  const float* const* masks;  // pointers like the rows, or null
  bool relu, nontemporal_store;
};

struct Amx {
  // A from its rows: `count` rows of `depth` floats.
  void (*pack_a)(const float* const* rows, int64_t count, int64_t depth, int terms, SplitA to);

  // A from Aᵀ: `depth` rows (a multiple of 32) of `count` floats.
  void (*pack_at)(const float* const* rows, int64_t depth, int64_t count, int terms, SplitA to);

  // B from its rows: `depth` rows of `columns` floats.
  void (*pack_b)(const float* const* rows, int64_t depth, int64_t columns, int terms, SplitB to);

  // B from Bᵀ: `columns` rows of `depth` floats, `stride` apart.
  void (*pack_bt)(
      const float* bt, int64_t stride, int64_t depth, int64_t columns, int terms, SplitB to);

  void (*gemm)(const SplitGemmArgs& p, const SplitEpilogue& y);

  // C = A · B, plus C if `add`.
  void (*gemm_accumulate)(const SplitGemmArgs& p, float* c, int64_t c_stride, bool add);
};

// Null on machines without AMX, and where GOOGLENET_FAST_ISA chooses another instruction set.
const Amx* amx();

}  // namespace googlenet_fast::cpu
