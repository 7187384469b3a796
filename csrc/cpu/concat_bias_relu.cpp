// Bias and ReLU of branches, and the gradient: one pass over memory each.

#include "../concat_bias_relu.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common.h"

namespace googlenet_fast {
namespace {

using cpu::Accumulator;
using cpu::dispatch;
using cpu::kGrain;
using cpu::row_of;
using torch::stable::parallel_for;

template <typename T, bool kBias, bool kRelu>
void forward_row(
    const T* __restrict x, const Accumulator<T>* __restrict bias, T* __restrict y, int64_t n) {
  using A = Accumulator<T>;
  for (int64_t c = 0; c < n; ++c) {
    A value = static_cast<A>(x[c]);
    if constexpr (kBias) value += bias[c];
    if constexpr (kRelu) value = value < A(0) ? A(0) : value;  // keeps NaN
    y[c] = static_cast<T>(value);
  }
}

template <typename T, bool kRelu, bool kBias>
void backward_row(
    const T* __restrict grad_y, const T* __restrict y, T* __restrict grad_x,
    Accumulator<T>* __restrict sum, int64_t n) {
  using A = Accumulator<T>;
  const T zero(0);
  for (int64_t c = 0; c < n; ++c) {
    T value = grad_y[c];
    if constexpr (kRelu) value = static_cast<A>(y[c]) <= A(0) ? zero : value;
    if constexpr (kBias) sum[c] += static_cast<A>(value);
    grad_x[c] = value;
  }
}

template <typename T>
void forward(const ConcatBiasRelu& p) {
  using A = Accumulator<T>;
  const bool bias = p.branches[0].bias != nullptr;
  const auto row_kernel =
      bias ? (p.relu ? forward_row<T, true, true> : forward_row<T, true, false>)
           : (p.relu ? forward_row<T, false, true> : forward_row<T, false, false>);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, p.columns));
  parallel_for(0, p.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int i = 0; i < p.count; ++i) {
        const Branch& branch = p.branches[i];
        row_kernel(
            row_of<T>(branch.x, row), static_cast<const A*>(branch.bias),
            row_of<T>(branch.out, row), branch.channels);
      }
    }
  });
}

template <typename T>
void backward(const ConcatBiasReluBackward& p) {
  using A = Accumulator<T>;
  const bool bias = p.grad_bias != nullptr;
  const int64_t partials = bias_partials(p.rows);
  A* const partial = static_cast<A*>(p.partial);

  parallel_for(0, partials, 1, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      A* const sum = bias ? partial + k * p.columns : nullptr;
      if (bias) std::fill_n(sum, p.columns, A(0));
      for (int64_t row = k * p.rows / partials; row < (k + 1) * p.rows / partials; ++row) {
        for (int i = 0; i < p.count; ++i) {
          const GradBranch& branch = p.branches[i];
          const bool relu = branch.y.data != nullptr;
          const auto row_kernel =
              relu ? (bias ? backward_row<T, true, true> : backward_row<T, true, false>)
                   : (bias ? backward_row<T, false, true> : backward_row<T, false, false>);
          row_kernel(
              row_of<T>(branch.grad, row), relu ? row_of<T>(branch.y, row) : nullptr,
              row_of<T>(branch.out, row), bias ? sum + branch.begin : nullptr, branch.channels);
        }
      }
    }
  });

  if (!bias) return;
  A* const grad_bias = static_cast<A*>(p.grad_bias);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, partials));
  parallel_for(0, p.columns, grain, [&](int64_t begin, int64_t end) {
    std::fill(grad_bias + begin, grad_bias + end, A(0));
    for (int64_t k = 0; k < partials; ++k) {
      for (int64_t c = begin; c < end; ++c) grad_bias[c] += partial[k * p.columns + c];
    }
  });
}

}  // namespace

void run_cpu(Dtype dtype, const ConcatBiasRelu& p) {
  dispatch(dtype, [&](auto value) { forward<decltype(value)>(p); });
}

void run_cpu(Dtype dtype, const ConcatBiasReluBackward& p) {
  dispatch(dtype, [&](auto value) { backward<decltype(value)>(p); });
}

}  // namespace googlenet_fast
