// How work is shared among torch's threads. Each value is computed alike in whichever part it is.
#pragma once

#include <torch/csrc/stable/ops.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "isa.h"

namespace googlenet_fast::cpu {

// Let all threads see what this one wrote past the caches.
inline void finish_streams() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

// Call function(begin, end) for ranges of `grain` of 0 .. count, on all threads. A thread that is done
// with one takes the next: one that another program disturbs does fewer.
template <typename F>
void for_each_range(int64_t count, int64_t grain, const F& function) {
  if (count == 0) return;  // and the grain may be 0
  const int64_t ranges = (count + grain - 1) / grain, threads = torch::stable::get_num_threads();
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, std::min(ranges, threads), 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < ranges;) {
      function(i * grain, std::min(count, (i + 1) * grain));
    }
    finish_streams();
  });
}

// Call function(i) for 0 .. count likewise, one by one.
template <typename F>
void for_each_task(int64_t count, const F& function) {
  for_each_range(count, 1, [&](int64_t i, int64_t) { function(i); });
}

struct Part {
  int64_t first, count;  // rows
  int64_t column, columns;
};

// Rows and columns of a product: as many blocks of rows for each thread as for the others. Where there
// are fewer blocks than threads, these share a block's columns: then each reads its part of the weights
// alone.
struct Parts {
  int64_t rows, columns, panels, blocks, groups;

  // `most`: rows of a block, unless there are few more of them in all.
  Parts(int64_t rows, int64_t most, int64_t columns)
      : rows(rows), columns(columns), panels(isa().panels(columns)),
        blocks(2 * rows < 3 * most ? 1 : (rows + most - 1) / most), groups(1) {
    const int64_t threads = torch::stable::get_num_threads();
    if (2 * blocks <= threads) {
      groups = std::clamp<int64_t>(threads / blocks, 1, panels);
      blocks = std::clamp<int64_t>(threads / groups, blocks, std::max(blocks, rows / kFewestRows));
    } else {
      blocks = std::min((blocks + threads - 1) / threads * threads, rows);
    }
  }

  int64_t count() const { return blocks * groups; }

  Part operator[](int64_t index) const {
    const int64_t block = index / groups, group = index % groups;
    const int64_t first = block * rows / blocks;
    const int64_t column = group * panels / groups * isa().panel;
    const int64_t end = std::min(columns, (group + 1) * panels / groups * isa().panel);
    return {first, (block + 1) * rows / blocks - first, column, end - column};
  }

 private:
  static constexpr int64_t kFewestRows = 4;  // that are worth reading a weight for
};

// Call function(part) for all parts of a product, on all threads.
template <typename F>
void for_parts(int64_t rows, int64_t most, int64_t columns, const F& function) {
  if (rows == 0 || columns == 0) return;
  const Parts parts(rows, most, columns);
  for_each_task(parts.count(), [&](int64_t i) { function(parts[i]); });
}

}  // namespace googlenet_fast::cpu
