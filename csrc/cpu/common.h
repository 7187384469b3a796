// Shared by the CPU kernels: element types, grain size, rows, rounding up, zeros, partial sums.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../kernels.h"
#include "scratch.h"

namespace googlenet_fast::cpu {

// The minimum number of values per task.
constexpr int64_t kGrain = 16384;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline float* take_zeros(int64_t count, Scratch& scratch) {
  float* const zeros = scratch.take(count);
  std::fill_n(zeros, count, 0.0f);
  return zeros;
}

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
T* row_of(const Matrix& matrix, int64_t row) {
  return static_cast<T*>(matrix.data) + row * matrix.stride;
}

// Call `function` with a value of the C++ type of `dtype`.
template <typename F>
void dispatch(Dtype dtype, const F& function) {
  switch (dtype) {
    case Dtype::kFloat16: return function(torch::headeronly::Half());
    case Dtype::kBFloat16: return function(torch::headeronly::BFloat16());
    case Dtype::kFloat32: return function(float());
    case Dtype::kFloat64: return function(double());
  }
}

// total (columns,) = the sum of the rows of partial (partials, columns), in order.
template <typename A>
void sum_partials(const A* partial, int64_t partials, int64_t columns, A* total) {
  std::fill_n(total, columns, A(0));
  for (int64_t p = 0; p < partials; ++p) {
    for (int64_t c = 0; c < columns; ++c) total[c] += partial[p * columns + c];
  }
}

}  // namespace googlenet_fast::cpu
