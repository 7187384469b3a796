// The memory for partial sums.
#pragma once

#include "kernels.h"

namespace googlenet_fast {

// Values of all parts of `kinds` sums per column, and of what kernels for GPUs keep behind them:
// counters of at most 33 groups of parts for each 32 columns.
inline int64_t partial_size(int64_t rows, int64_t columns, int64_t kinds = 1) {
  return bias_partials(rows) * kinds * columns + 33 * ((columns + 31) / 32);
}

}  // namespace googlenet_fast
