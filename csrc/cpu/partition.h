// Divides work among torch's threads. A value does not depend on the tile that computes it.
#pragma once

#include <torch/csrc/stable/ops.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "common.h"

namespace googlenet_fast::cpu {

// Make this thread's nontemporal stores visible to all threads.
inline void store_fence() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

// Call function(begin, end) for ranges of `grain` of 0 .. count, on all threads. Dynamic
// scheduling: idle threads take the next range.
template <typename F>
void parallel_for_ranges(int64_t count, int64_t grain, const F& function) {
  if (count == 0) return;  // and the grain may be 0
  const int64_t ranges = ceil_div(count, grain), threads = torch::stable::get_num_threads();
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, std::min(ranges, threads), 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < ranges;) {
      function(i * grain, std::min(count, (i + 1) * grain));
    }
    store_fence();
  });
}

// Call function(i) for 0 .. count, on all threads, with the same scheduling.
template <typename F>
void parallel_for_each(int64_t count, const F& function) {
  parallel_for_ranges(count, 1, [&](int64_t i, int64_t) { function(i); });
}

struct Tile2d {
  int64_t row, rows;  // the first, and how many
  int64_t column, columns;
};

// Divides a matrix into tiles, the same number for each thread. A tile has some rows and all
// columns. If that gives too few tiles for the threads, columns are divided too, by whole blocks:
// then each thread reads only its part of the weights.
class Partition2d {
 public:
  // `tile_rows`: the largest number of rows in a tile. Up to one and a half times as many are one
  // tile.
  Partition2d(int64_t rows, int64_t tile_rows, int64_t columns, int64_t column_block)
      : rows_(rows), columns_(columns), column_block_(column_block),
        column_blocks_(ceil_div(columns, column_block)),
        row_tiles_(2 * rows < 3 * tile_rows ? 1 : ceil_div(rows, tile_rows)) {
    const int64_t threads = torch::stable::get_num_threads();
    if (2 * row_tiles_ <= threads) {
      column_tiles_ = std::clamp<int64_t>(threads / row_tiles_, 1, column_blocks_);
      const int64_t most = std::max(row_tiles_, rows / kMinRows);
      row_tiles_ = std::clamp<int64_t>(threads / column_tiles_, row_tiles_, most);
    } else {
      row_tiles_ = std::min(ceil_div(row_tiles_, threads) * threads, rows);
    }
  }

  int64_t tiles() const { return row_tiles_ * column_tiles_; }

  Tile2d operator[](int64_t index) const {
    const int64_t i = index / column_tiles_, j = index % column_tiles_;
    const int64_t row = i * rows_ / row_tiles_, column = first_column(j);
    return {
        row, (i + 1) * rows_ / row_tiles_ - row, column,
        std::min(columns_, first_column(j + 1)) - column};
  }

 private:
  static constexpr int64_t kMinRows = 4;  // per tile: fewer do not amortize reading the weights

  int64_t first_column(int64_t tile) const {
    return tile * column_blocks_ / column_tiles_ * column_block_;
  }

  int64_t rows_, columns_, column_block_, column_blocks_, row_tiles_, column_tiles_ = 1;
};

// Call function(tile) for all tiles of a matrix, on all threads.
template <typename F>
void parallel_for_2d(
    int64_t rows, int64_t tile_rows, int64_t columns, int64_t column_block, const F& function) {
  if (rows == 0 || columns == 0) return;
  const Partition2d partition(rows, tile_rows, columns, column_block);
  parallel_for_each(partition.tiles(), [&](int64_t i) { function(partition[i]); });
}

}  // namespace googlenet_fast::cpu
