// Stands in for torch's header of this name: all that the CPU kernels take from libtorch is its
// threads. As in torch, a parallel loop inside another one runs in its thread.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace torch::stable {

inline uint32_t get_num_threads() { return omp_get_max_threads(); }

template <typename F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& function) {
  if (begin >= end) return;
  const int64_t count = end - begin, least = std::max<int64_t>(grain, 1);
  const int64_t wanted = std::min<int64_t>(get_num_threads(), (count + least - 1) / least);
  if (wanted == 1 || omp_in_parallel()) return function(begin, end);
#pragma omp parallel num_threads(static_cast<int>(wanted))
  {
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t from = begin + count * thread / threads;
    const int64_t to = begin + count * (thread + 1) / threads;
    if (from < to) function(from, to);
  }
}

}  // namespace torch::stable
