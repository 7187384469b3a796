// Products of matrices on the tiles of AMX, which multiply bf16 and add up fp32: floats are split into
// parts of bf16, whose products are added up (Henry, Tang and Heinecke 2019, arXiv:1904.06376). Three
// parts hold a float's 24 bits, two hold 17. Parts below 2^-126 count as zero; values from 3.39e38 on,
// which bf16 rounds to infinity, give NaN.
#pragma once

#include <cstdint>

namespace googlenet_fast::cpu {

// A row of a tile of A, and a block of C's rows and columns, which are computed at once.
constexpr int64_t kSplitBlock = 32;

inline int64_t split_blocks(int64_t count) { return (count + kSplitBlock - 1) / kSplitBlock; }

// A (rows, depth) as tiles read it: 32 values of a row beside those of the next one. Values 32 k and on
// of part p of row r are at data + k * chunk_stride + p * part_stride + 32 r. There are rows to read up
// to a whole block.
struct SplitLeft {
  uint16_t* data;
  int64_t chunk_stride, part_stride;
};

// B (depth, columns): 16 columns beside each other, pairs of rows of which are interleaved. Rows 2 k and
// on of part p of columns 16 j and on are at data + j * column_stride + p * part_stride + 32 k.
struct SplitRight {
  uint16_t* data;
  int64_t column_stride, part_stride;
};

// A · B, of which the depth is `taps` runs of `chunks` times 32 values: tap t's rows of A begin
// shifts[t] rows further on.
struct SplitProduct {
  int parts;
  SplitLeft a;
  SplitRight b;
  int64_t rows, columns;
  int64_t chunks, taps;
  const int64_t* shifts;
};

// What becomes of a product's rows: plus a bias, clipped if `relu`, zero where a mask is zero or less;
// written past the caches if `stream`.
struct SplitOutput {
  float* const* rows;         // null ones are left out
  const float* bias;          // (columns,) or null
  const float* const* masks;  // like the rows, or null
  bool relu, stream;
};

// What is filled up is zero: depths to whole blocks, columns to 16.
struct Amx {
  // A from its rows, `count` rows of `depth` floats.
  void (*split_rows)(
      const float* const* rows, int64_t count, int64_t depth, int parts, SplitLeft to);

  // A from its transpose, `depth` rows (a multiple of 32) of `count` floats.
  void (*split_columns)(
      const float* const* rows, int64_t depth, int64_t count, int parts, SplitLeft to);

  // B from its rows, `depth` rows of `columns` floats.
  void (*pack)(
      const float* const* rows, int64_t depth, int64_t columns, int parts, SplitRight to);

  // B from its transpose, `columns` rows of `depth` floats, `stride` apart.
  void (*pack_transposed)(
      const float* b, int64_t stride, int64_t depth, int64_t columns, int parts, SplitRight to);

  void (*multiply)(const SplitProduct& p, const SplitOutput& y);

  // sums (rows, columns) = A · B, plus what is there if `add`.
  void (*add_up)(const SplitProduct& p, float* sums, int64_t stride, bool add);
};

// Null on machines without it, and where GOOGLENET_FAST_ISA asks for another instruction set.
const Amx* amx();

}  // namespace googlenet_fast::cpu
